"""The codec `pq`: tables that are trained, what they make of maps, and how a codec states and checks them."""

import sys
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from gallery.test_codecs import LARGEST, MAPS
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.features.backbone import Backbone
from spade_index.gallery.store.codecs import codec_named
from spade_index.gallery.store.quantizer import LevelQuantizer, Quantized, sizes_for
from spade_index.gallery.store.quantizer_tables import Parts, Tables, nearest
from spade_index.gallery.store.storage import MapStorage
from spade_index.gallery.write.train import tables_of
from spade_index.settings import ExtractionSettings

SHAPES = [(1, 1), (157, 31), (196, 24), (7, 128), (300, 5)]


def quantizer(values: np.ndarray, size: int) -> LevelQuantizer:
    """Return a codec of one level, trained on a map."""
    tables = tables_of(values, Parts.of(values.shape[1], size).size)
    return LevelQuantizer("pq", tables.size, tables)


def normal(shape: tuple[int, ...], seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("<f2")


def decoded(codec: LevelQuantizer, stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    out = np.full(shape, np.nan, "<f2")
    codec.decode(stored, out)
    return out


@given(values=MAPS, other=MAPS, size=st.integers(1, 20))
@settings(max_examples=40)
def test_whatever_is_stored_comes_back_finite_and_the_same_bytes_each_time(
    values: np.ndarray, other: np.ndarray, size: int
) -> None:
    codec = quantizer(values, size)
    other = np.resize(other, (len(other), values.shape[1]))
    for stored_map in (values, other):
        stored = codec.encode(stored_map)
        assert (stored.dtype, stored.shape) == (np.dtype("|u1"), codec.stored_shape(*stored_map.shape))
        np.testing.assert_array_equal(codec.encode(np.asfortranarray(stored_map)), stored)
        assert np.isfinite(decoded(codec, stored, stored_map.shape)).all()


@given(values=MAPS, size=st.integers(1, 20))
@settings(max_examples=40)
def test_vectors_that_the_tables_have_room_for_come_back(values: np.ndarray, size: int) -> None:
    codec = quantizer(values, size)
    assert codec.tables is not None
    found = decoded(codec, codec.encode(values), values.shape).astype(np.float64)
    error = np.abs(found - values)
    assert (error <= codec.tables.unit + 2.0**-10 * np.abs(values.astype(np.float64))).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 3, 4, 40])
def test_codes_and_values_have_the_same_bits_without_pytorch_and_place_by_place(
    shape: tuple[int, int], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch  # noqa: F401

    values = normal(shape)
    values.flags.writeable = False
    codec = quantizer(normal((2000, shape[1]), 4), size)
    stored = codec.encode(values)
    fast = decoded(codec, stored, shape)
    np.testing.assert_array_equal(np.concatenate([codec.encode(place[None]) for place in values]), stored)
    monkeypatch.delitem(sys.modules, "torch")
    np.testing.assert_array_equal(codec.encode(values), stored)
    np.testing.assert_array_equal(decoded(codec, stored, shape).view("<u2"), fast.view("<u2"))


def test_more_bytes_lose_less() -> None:
    values = normal((3000, 24))
    errors = []
    for size in (1, 2, 3, 5, 9):
        codec = quantizer(values, size)
        assert codec.size == size
        errors.append(float(np.square(decoded(codec, codec.encode(values), values.shape) - values).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.15 < 0.5 < errors[0] < 1


@pytest.mark.parametrize("values", [np.zeros((9, 5)), np.full((300, 7), -LARGEST), np.full((5, 1), 6e-8)])
def test_constant_channels_come_back(values: np.ndarray) -> None:
    halves = values.astype("<f2")
    codec = quantizer(halves, 4)
    found = decoded(codec, codec.encode(halves), halves.shape)
    np.testing.assert_allclose(found, halves, rtol=1e-3)


def test_zeros_of_either_sign_give_the_same_bytes() -> None:
    codec = quantizer(normal((500, 2)), 3)
    values = np.array([[0.0, -0.0], [-0.0, 1.0], [0.0, -0.0]], "<f2")
    np.testing.assert_array_equal(codec.encode(values), codec.encode(np.abs(values)))


def test_tables_are_the_same_each_time() -> None:
    values = normal((1000, 9))
    assert tables_of(values, 5).to_bytes() == tables_of(values.copy(), 5).to_bytes()


def test_a_stranger_decodes_a_row_by_what_its_attributes_and_the_catalog_say() -> None:
    values, size = normal((600, 11)), 5
    codec = quantizer(values, size)
    assert codec.tables is not None
    stored, facts, data = codec.encode(values), codec.attributes(600, 11), codec.tables.to_bytes()
    assert "a row of each of 3 tables [256, 11], then for each 6 channels a row of a table [256, 6]" in facts["value"]
    points, channels = facts["shape"]
    assert facts["value"].endswith("then of each channel the root mean square <f4 of what they leave")
    data, errors = data[: -4 * channels], np.frombuffer(data[-4 * channels :], "<f4")
    left = values.astype(float) - decoded(codec, stored, values.shape)
    np.testing.assert_allclose(errors, np.sqrt((left**2).mean(0)), rtol=1e-2)
    unit, numbers = np.frombuffer(data[:8], "<f8")[0], np.frombuffer(data[8:], "<i2")
    whole = numbers[: 3 * 256 * channels].reshape(3, 256, channels)
    parts = numbers[3 * 256 * channels :].reshape(2, 256, 6)
    codes = stored.reshape(points, size)
    sums = sum(whole[n][codes[:, n]].astype(int) for n in range(3))
    sums = sums + np.concatenate([parts[n][codes[:, 3 + n]] for n in range(2)], 1)[:, :channels]
    np.testing.assert_array_equal((unit * sums).astype("<f2"), decoded(codec, stored, values.shape))


@pytest.mark.parametrize(
    "shapes",
    [
        ((24, 56, 56), (40, 28, 28), (112, 14, 14)),
        ((256, 56, 56), (512, 28, 28), (1024, 14, 14)),
        ((24, 28, 28), (40, 28, 28), (112, 28, 28)),
        ((768, 16, 16),),
    ],
)
def test_codes_take_a_twentieth_whatever_levels_are_stored(
    shapes: tuple[tuple[int, int, int], ...], backbone: Backbone
) -> None:
    extraction = replace(backbone.settings, levels=tuple(map(str, range(len(shapes)))), level_shapes=shapes)
    every = range(len(shapes))
    for levels in [some for count in every for some in combinations(every, count + 1)]:
        sizes = sizes_for(extraction, levels)
        assert [size > 0 for size in sizes] == [level in levels for level in every]
        taken = sum(size * height * width for size, (_, height, width) in zip(sizes, shapes, strict=True))
        assert 20 * taken <= 2 * sum(channels * height * width for channels, height, width in shapes)
        for size, (channels, _, _) in zip(sizes, shapes, strict=True):
            assert not size or Parts.of(channels, size).size == size


def test_a_name_states_shapes_and_tables(backbone: Backbone) -> None:
    codec = of_levels(backbone.settings)
    storage = MapStorage(codec).of_levels((1, 2), backbone.settings)
    assert codec.name.startswith("pq.0.3.5.")
    assert MapStorage.named(storage.name) == storage
    assert storage.version == codec.version == 4
    again = codec_named(codec.name)
    assert isinstance(again, Quantized)
    assert again.with_tables(codec.to_bytes(), backbone.settings).to_bytes() == codec.to_bytes()
    for name in (
        "pq",
        "pq.3.5",
        codec.name[:-1],
        codec.name.replace(".3.", ".03."),
        codec.name + ".1",
        "pq.." + "0" * 32,
    ):
        with pytest.raises(ValueError, match="does not know"):
            codec_named(name)


@pytest.mark.parametrize("sizes", [(1, 3), (0, 3, 0), (0, 3, 5, 1), (0, 3, 99), (0, 0, 0)])
def test_a_codec_of_other_levels_does_not_fit(sizes: tuple[int, ...], backbone: Backbone) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        MapStorage(Quantized(sizes, "0" * 32), (1, 2)).levels_of(backbone.settings)


def test_tables_that_have_changed_are_refused(backbone: Backbone) -> None:
    codec = of_levels(backbone.settings)
    data = codec.to_bytes()
    assert len(data) == codec.bytes_for(backbone.settings)[0]
    random = np.random.default_rng(0)
    for place in [0, 7, len(data) - 1, *random.integers(len(data), size=10).tolist()]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << int(random.integers(8))
        with pytest.raises(ValueError, match="have changed"):
            codec.with_tables(bytes(damaged), backbone.settings)
    for other in (b"", data[:-1], data + b"\0"):
        with pytest.raises(ValueError, match="have changed"):
            codec.with_tables(other, backbone.settings)


def test_tables_that_say_nothing_of_their_errors_are_read(backbone: Backbone) -> None:
    now = of_levels(backbone.settings)
    earlier = Quantized.by([of and replace(of, errors=None) for of in now.tables])
    again = Quantized(earlier.sizes, earlier.digest).with_tables(earlier.to_bytes(), backbone.settings)
    assert again.to_bytes() == earlier.to_bytes()
    assert len(earlier.to_bytes()) == earlier.bytes_for(backbone.settings)[1]
    values = normal((50, backbone.settings.level_shapes[1][0]))
    for level in range(3):
        assert again.of_level(level).errors is None
    np.testing.assert_array_equal(again.of_level(1).encode(values), now.of_level(1).encode(values))


@pytest.mark.parametrize("error", [np.nan, np.inf, -0.5])
def test_errors_that_training_never_gives_are_refused(error: float) -> None:
    tables = tables_of(normal((300, 5)), 3)
    assert tables.errors is not None
    data = replace(tables, errors=np.where(np.arange(5) == 3, np.float32(error), tables.errors)).to_bytes()
    with pytest.raises(ValueError, match="errors"):
        Tables.from_bytes(data, 5, 3)


@pytest.mark.parametrize("unit", [np.nan, np.inf, 0.0, -0.5, 0.75, 2.0**-41, 2.0**9])
def test_a_unit_that_training_never_gives_is_refused(unit: float) -> None:
    data = np.array([unit], "<f8").tobytes() + bytes(Tables.bytes_for(5, 3) - 8)
    with pytest.raises(ValueError, match="unit"):
        Tables.from_bytes(data, 5, 3)


def test_without_tables_nothing_is_encoded_or_decoded() -> None:
    codec = Quantized((3,), "0" * 32).of_level(0)
    assert codec.stored_shape(10, 5) == (30,)
    for use in (lambda: codec.encode(np.zeros((10, 5), "<f2")), lambda: decoded(codec, np.zeros(30, "|u1"), (10, 5))):
        with pytest.raises(ValueError, match="not at hand"):
            use()


def of_levels(extraction: ExtractionSettings) -> Quantized:
    """Return a codec with tables for two of three levels."""
    channels = [shape[0] for shape in extraction.level_shapes]
    return Quantized.by([None, tables_of(normal((300, channels[1])), 3), tables_of(normal((300, channels[2])), 5)])


def test_rows_are_the_nearest_however_many_vectors_there_are() -> None:
    random = np.random.default_rng(3)
    table = random.integers(-900, 900, (256, 24)).astype("<i2")
    table[7] = table[3]  # equals: the lowest is taken
    for count in (0, 1, 41, 42, 43, 1000):
        values = np.round(random.normal(size=(count, 24)) * 500)
        values[::5] = table[7]
        expected = [int(np.square(table.astype(np.int64) - value.astype(np.int64)).sum(1).argmin()) for value in values]
        assert nearest(values, table).tolist() == expected
