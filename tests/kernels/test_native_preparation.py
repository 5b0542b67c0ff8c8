"""Maps decoded and prepared by the native backend: by definition, the same bits by every instruction set."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spade_index.kernels.codes import Coding, Values
from spade_index.kernels.native.codes import decode_level, decode_rows, encode_level, moments
from spade_index.kernels.native.library import instruction_sets
from spade_index.kernels.native.parts import Decoder
from spade_index.kernels.preparation import SCALINGS, Preparation, Scaled

SIZES = st.tuples(st.integers(1, 9), st.integers(1, 9))
BESIDE = np.float16(7)


def drawn(random, shape, spread=1.0):
    """Return random values, float16."""
    return (random.normal(size=shape) * spread).astype(np.float16)


def expected(level: Scaled, values: np.ndarray) -> np.ndarray:
    """Return a prepared level in float64, by the definition in kernels/preparation.py."""
    image = torch.from_numpy(values).double().unflatten(0, level.size).permute(2, 0, 1)
    cells = torch.nn.functional.adaptive_avg_pool2d(image, level.grid).permute(1, 2, 0).flatten(0, 1).numpy()
    if level.scaling == "channel":
        cells = (cells - level.mean.numpy()) / level.deviation.numpy()
    length = np.linalg.norm(cells, axis=1, keepdims=True)
    if level.scaling == "root":
        cells = cells / np.sqrt(length * level.length).clip(1e-6)
    elif level.scaling != "none":
        cells = cells / length.clip(1e-12)
    return cells * level.factor


def decoder(levels, joined, instructions=None):
    """Return what prepares maps that are stored as values."""
    return Decoder(Coding((Values(),) * len(levels), Preparation(tuple(levels), tuple(joined))), instructions)


def written(levels, joined, values, instructions):
    """Return what is written for an image, between values that must stay."""
    out = []
    for of in joined:
        rows, columns = levels[of[0]].grid
        out.append(np.full((rows * columns + 2, sum(levels[level].channels for level in of)), BESIDE))
    decoder(levels, joined, instructions).write(values, [result[1:-1] for result in out])
    for result in out:
        assert (result[[0, -1]] == BESIDE).all()
    return [result[1:-1] for result in out]


@st.composite
def preparations(draw):
    """Draw levels, and which are joined."""
    random = np.random.default_rng(draw(st.integers(0, 99)))
    levels, joined = [], []
    for _ in range(draw(st.integers(1, 3))):
        grid, count = draw(SIZES), draw(st.integers(1, 2))
        joined.append(range(len(levels), len(levels) + count))
        for _ in range(count):
            size = tuple(edge + draw(st.integers(0, 9)) for edge in grid)
            channels, scaling = draw(st.sampled_from([1, 3, 15, 16, 17, 40])), draw(st.sampled_from(SCALINGS))
            moments = ()
            if scaling == "channel":
                moments = random.normal(size=channels), random.uniform(0.1, 2, channels)
            moments = [torch.from_numpy(values).float() for values in moments]
            levels.append(Scaled(size, grid, channels, scaling, random.uniform(0.1, 3), 2.5, *moments))
    return levels, joined, [drawn(random, (h * w, of.channels)) for of in levels for h, w in [of.size]]


@settings(deadline=None, derandomize=True)
@given(preparations())
def test_cells_are_averaged_scaled_and_joined(preparation):
    levels, joined, values = preparation
    first, *others = [written(levels, joined, values, name) for name in instruction_sets()]
    in_torch = Preparation(tuple(levels), tuple(joined)).of([torch.from_numpy(of)[None].float() for of in values])
    for of, result, (other,) in zip(joined, first, in_torch, strict=True):
        right = np.concatenate([expected(levels[level], values[level]) for level in of], 1)
        np.testing.assert_allclose(result, right, rtol=2e-3, atol=1e-4)
        np.testing.assert_allclose(other, right, rtol=1e-3, atol=1e-4)
    for other in others:
        for result, found in zip(first, other, strict=True):
            np.testing.assert_array_equal(result.view(np.uint16), found.view(np.uint16))


@pytest.mark.parametrize("scaling", SCALINGS)
def test_cells_of_zeros_stay_zeros(scaling):
    moments = [torch.zeros(5), torch.ones(5)] if scaling == "channel" else []
    level = Scaled((4, 4), (2, 2), 5, scaling, 1.0, 1.0, *moments)
    for name in instruction_sets():
        (found,) = written([level], [range(1)], [np.zeros((16, 5), np.float16)], name)
        assert not found.any()


def test_only_maps_of_the_right_bytes_are_taken():
    prepare = decoder([Scaled((2, 2), (2, 2), 3)], [range(1)])
    maps = np.zeros((4, 3), np.float16)
    apart = np.zeros((4, 6), np.float16)[:, ::2]
    for values, out in ((maps, apart), (apart, maps), (maps, maps.astype(np.float32))):
        with pytest.raises(ValueError, match=r"^maps must be contiguous, and those that are written float16$"):
            prepare.write([values], [out])
    with pytest.raises(ValueError, match=r"^levels of \[48\] bytes are not of \[24\]$"):
        prepare.write([maps.astype(np.float32)], [maps])


@settings(deadline=None, derandomize=True)
@example(1.0)
@example(2.0**-20)
@example(1e6)
@given(st.floats(2.0**-20, 1e3, width=32))
def test_values_are_rounded_to_float16_as_numpy_rounds(factor):
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)].reshape(-1, 1024)
    level = Scaled((len(every), 1), (len(every), 1), 1024, factor=factor)
    with np.errstate(over="ignore"):
        right = (every.astype(np.float32) * np.float32(factor)).astype(np.float16)
    for name in instruction_sets():
        (found,) = written([level], [range(1)], [every], name)
        np.testing.assert_array_equal(found, right)


SHAPES = pytest.mark.parametrize("shape", [(1, 1), (7, 3), (16, 16), (9, 40), (5, 33)])


def packed(codes, bits):
    """Return whole numbers uint8 as bytes: as they are, or two in a byte, the first one in the low half."""
    if bits == 8:
        return codes.ravel()
    twos = np.append(codes.ravel(), np.uint8(0))[: (codes.size + 1) // 2 * 2].reshape(-1, 2)
    return twos[:, 0] | twos[:, 1] << 4


@SHAPES
@pytest.mark.parametrize("bits", [8, 4])
def test_maps_are_encoded_and_decoded_as_numpy_does(shape, bits):
    values, steps = drawn(np.random.default_rng(0), shape), np.float32((1 << bits) - 1)
    values[:, 0] = -0.0  # constant
    values[-1, -1] = 6e4
    wide = values.astype(np.float32)
    low, high = wide.min(0) + np.float32(0), wide.max(0) + np.float32(0)
    extent = np.where(high > low, high - low, np.float32(np.inf))
    codes = np.rint((wide - low) * (steps / extent)).astype(np.uint8)
    right = np.concatenate([np.stack([low, high]).astype("<f2").view(np.uint8).ravel(), packed(codes, bits)])
    decoded = (codes.astype(np.float32) * ((high - low) / steps) + low).astype(np.float16)
    for name in instruction_sets():
        stored = np.full(len(right) + 2, 77, np.uint8)
        encode_level(values, bits, stored[1:-1], name)
        np.testing.assert_array_equal(stored[1:-1], right)
        assert (stored[[0, -1]] == 77).all()
        out = np.full((shape[0] + 2, shape[1]), BESIDE)
        assert decode_level(right, bits, out[1:-1], name)
        np.testing.assert_array_equal(out[1:-1].view(np.uint16), decoded.view(np.uint16))
        assert (out[[0, -1]] == BESIDE).all()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf, 3.0])
@pytest.mark.parametrize("place", [0, 32])
def test_ranges_that_are_none_are_not_decoded(wrong, place):
    """The lowest value of a channel of 33, or the highest of its last one."""
    for name in instruction_sets():
        stored, out = np.zeros(2 * 33 + 4 * 33, np.uint8), np.empty((2, 33), np.float16)
        assert decode_level(stored, 8, out, name)
        stored.view(np.float16)[place if wrong == 3 else place + 33] = wrong
        assert not decode_level(stored, 8, out, name)


@pytest.mark.parametrize("bits", [8, 4])
def test_bytes_of_another_size_are_not_decoded(bits):
    stored = np.zeros(4 * 3 + 7 * 3 * bits // 8 + bits % 8 // 4, np.uint8)
    for size in (len(stored) - 1, len(stored) + 2):
        assert not decode_level(np.zeros(size, np.uint8), bits, np.empty((7, 3), np.float16))
    assert decode_level(stored, bits, np.empty((7, 3), np.float16))


@pytest.mark.parametrize("size", [*range(1, 20), 127, 128, 129, 200, 255, 257, 264, 1000, 1025, 4099, 28_001])
def test_sums_are_numpys_to_the_bit(size):
    values = drawn(np.random.default_rng(size), size, 30)
    wide = values.astype(np.float64)
    for name in instruction_sets():
        assert moments(values, name) == (wide.sum(), (wide * wide).sum())


@pytest.mark.parametrize(
    ("channels", "whole", "number", "width"), [(1, 1, 0, 0), (9, 3, 0, 0), (9, 3, 3, 4), (40, 2, 2, 20), (33, 0, 9, 4)]
)
def test_codes_of_rows_are_decoded_as_numpy_does(channels, whole, number, width):
    random = np.random.default_rng(0)
    codes = random.integers(0, 256, (11, whole + number), np.uint8)
    tables = random.integers(-20_000, 20_000, (whole, 256, channels)).astype(np.float32)
    parts = random.integers(-20_000, 20_000, (number * 256, width)).astype(np.float32)
    values = np.zeros((11, channels), np.float32)
    for n in range(number):
        some = slice(n * width, min((n + 1) * width, channels))
        values[:, some] = parts[n * 256 + codes[:, whole + n].astype(int), : some.stop - some.start]
    for n in range(whole):
        values += tables[n, codes[:, n]]
    right = values.clip(-65504, 65504).astype(np.float16)
    for name in instruction_sets():
        out = np.full((13, channels), BESIDE)
        decode_rows(codes, tables, parts, out[1:-1], name)
        np.testing.assert_array_equal(out[1:-1], right)
        assert (out[[0, -1]] == BESIDE).all()
