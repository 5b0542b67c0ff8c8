"""Every codec of maps keeps the same contract: shapes, bytes, errors, and values that no encoder gives."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from spade_index.gallery.store.codecs import CODECS, Affine, Codec, codec_named
from spade_index.gallery.store.moments import image_moments

LARGEST = 65504.0  # the largest finite float16
MAPS = arrays.arrays(
    np.dtype("<f2"),
    arrays.array_shapes(min_dims=2, max_dims=2, max_side=13),
    elements=st.floats(-LARGEST, LARGEST, width=16),
)


def decoded(codec: Codec, stored: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    out = np.full(shape, np.nan, "<f2")
    codec.decode(stored, out)
    return out


def bound(codec: Codec, values: np.ndarray) -> np.ndarray:
    """Return the largest difference that a value may have, float64 [P, C]."""
    if not isinstance(codec, Affine):
        return np.zeros(values.shape)
    wide = values.astype(np.float64)
    extent = wide.max(0) - wide.min(0)
    rounding = 2.0**-10 * np.abs(wide) + 2.0**-24 + 2.0**-20 * extent
    return (0.5 * extent / codec.steps) * (1 + 2.0**-10) + np.where(extent > 0, rounding, 0)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@given(values=MAPS)
def test_values_come_back_within_the_stated_error(codec: Codec, values: np.ndarray) -> None:
    stored = codec.encode(values)
    assert (stored.dtype, stored.shape) == (np.dtype(codec.dtype), codec.stored_shape(*values.shape))
    np.testing.assert_array_equal(codec.encode(np.asfortranarray(values)), stored)
    found = decoded(codec, stored, values.shape)
    assert np.isfinite(found).all()
    assert (np.abs(found.astype(np.float64) - values) <= bound(codec, values)).all()


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    "values",
    [
        np.zeros((1, 1)),
        np.full((7, 3), -LARGEST),
        np.full((5, 1), 6e-8),
        np.tile([[-LARGEST], [LARGEST]], (3, 5)),
        np.tile([[0.0], [6e-8]], (1, 3)),
        np.tile([[1.0], [1.001]], (2, 1)),
    ],
)
def test_channels_of_two_values_come_back_exactly(codec: Codec, values: np.ndarray) -> None:
    halves = values.astype("<f2")
    np.testing.assert_array_equal(decoded(codec, codec.encode(halves), halves.shape), halves)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("shape", [(1, 1), (157, 31), (196, 24), (7, 128)])
def test_codes_values_and_moments_have_the_same_bits_without_pytorch(
    codec: Codec, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch  # noqa: F401

    values = np.random.default_rng(3).normal(size=shape).astype("<f2")
    values.flags.writeable = False
    stored, moments = codec.encode(values), image_moments(values)
    fast = decoded(codec, stored, shape)
    monkeypatch.delitem(sys.modules, "torch")
    np.testing.assert_array_equal(codec.encode(values), stored)
    np.testing.assert_array_equal(decoded(codec, stored, shape).view("<u2"), fast.view("<u2"))
    assert image_moments(values) == image_moments(np.asfortranarray(values)) == moments


@pytest.mark.parametrize("codec", CODECS[1:], ids=lambda codec: codec.name)
def test_zeros_of_either_sign_give_the_same_bytes(codec: Codec) -> None:
    values = np.array([[0.0, -0.0], [-0.0, 1.0], [0.0, -0.0]], "<f2")
    np.testing.assert_array_equal(codec.encode(values), codec.encode(np.abs(values)))


@pytest.mark.parametrize("codec", CODECS[1:], ids=lambda codec: codec.name)
def test_a_stranger_decodes_a_row_by_what_its_attributes_say(codec: Codec) -> None:
    values = np.random.default_rng(4).normal(size=(5, 7)).astype("<f2")
    stored, facts = codec.encode(values), codec.attributes(5, 7)
    points, channels = facts["shape"]
    lowest, highest = np.frombuffer(stored[: 4 * channels].tobytes(), "<f2").reshape(2, channels)
    codes = stored[4 * channels :]
    if "4 bits" in facts["row"]:
        codes = np.stack([codes & 15, codes >> 4], 1).ravel()
    steps = int(facts["value"].split("/")[-1])
    found = lowest + codes[: points * channels].reshape(points, channels) * (highest - lowest) / steps
    np.testing.assert_allclose(found, values, atol=2 * float(np.ptp(values)) / steps)


@pytest.mark.parametrize("codec", CODECS[1:], ids=lambda codec: codec.name)
@pytest.mark.parametrize("ends", [(np.nan, 0), (0, np.inf), (-np.inf, 0), (1, 0), (np.inf, np.inf)])
def test_ranges_that_no_map_has_are_refused(codec: Codec, ends: tuple[float, float]) -> None:
    stored = codec.encode(np.zeros((3, 2), "<f2"))
    stored[:8].view("<f2")[[1, 3]] = ends
    with pytest.raises(ValueError, match="range"):
        decoded(codec, stored, (3, 2))


def test_codes_take_a_half_and_a_quarter_of_the_bytes() -> None:
    sizes = [int(np.prod(codec.stored_shape(784, 40))) * np.dtype(codec.dtype).itemsize for codec in CODECS]
    assert sizes == [62_720, 31_520, 15_840]


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(ValueError, match=r"'pq'.*does not know"):
        codec_named("pq")
