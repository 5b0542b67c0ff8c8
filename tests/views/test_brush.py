"""Brush masks of Label Studio: what is packed is the mask of a region, as a decoder of the format reads it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.errors import InputError
from spade_index.images.geometry import Geometry
from spade_index.method.regions import find_regions
from spade_index.views import brush as brush_module
from spade_index.views.brush import brush, packed, painted_box
from spade_index.views.regions import mask

from helpers.label_studio import unpacked

masks = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**144 - 1)).map(
    lambda drawn: np.array([bool(drawn[2] >> n & 1) for n in range(drawn[0] * drawn[1])]).reshape(drawn[:2])
)


@settings(max_examples=60, deadline=None)
@given(masks, *[st.integers(0, 5)] * 4)
def test_a_mask_comes_back_in_each_channel(part, left: int, top: int, right: int, below: int) -> None:
    whole = np.pad(part, ((top, below), (left, right)))
    values = unpacked(packed(part, (left, top), whole.shape[::-1])).reshape(*whole.shape, 4)
    assert {*np.unique(values)} <= {0, 255}
    rows, columns = np.nonzero(whole)
    around = (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1) if len(rows) else None
    assert painted_box(packed(part, (left, top), whole.shape[::-1]), whole.shape[::-1]) == around
    assert ((values == 255) == whole[..., None]).all()


@pytest.mark.parametrize("value", [False, True])
@pytest.mark.parametrize("pixels", [1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385, 32769])
def test_runs_of_each_length_come_back(pixels: int, value: bool) -> None:
    values = unpacked(packed(np.full((1, pixels), value), (0, 0), (pixels, 1)))
    assert (len(values), {*np.unique(values)}) == (4 * pixels, {255 * value})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 0.9), st.integers(20, 90), st.integers(20, 90))
def test_the_masks_of_regions_are_what_is_drawn_of_them(seed: int, share: float, width: int, height: int) -> None:
    rough = np.random.default_rng(seed).normal(size=(8, 8)).astype(np.float32).repeat(4, 0).repeat(4, 1)
    geometry = Geometry.of_size(width, height)
    regions = find_regions(rough, float(np.quantile(rough, share)), geometry, (8, 8))
    found = np.zeros((height, width), bool)
    for region in regions:
        one = unpacked(brush(region, geometry)).reshape(height, width, 4)[:, :, 3] > 0
        assert (one == (np.asarray(mask([region], geometry)) > 0)).all()
        found |= one
    assert (found == (np.asarray(mask(regions, geometry)) > 0)).all()


def test_runs_of_different_values_are_read() -> None:
    values = (9, 9, 9, 0, 0, 0, 0, 5)  # of two pixels
    bits = f"{len(values):032b}{7:05b}" + f"{2:04b}" * 4 + f"000{len(values) - 1:03b}"
    bits += "".join(f"{value:08b}" for value in values)
    bits += "0" * (-len(bits) % 8)
    assert painted_box(list(int(bits, 2).to_bytes(len(bits) // 8)), (2, 1)) == (1, 0, 1, 1)


def test_a_mask_of_too_many_runs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(brush_module, "MOST_RUNS", 10)
    rows = np.arange(11)[:, None] % 2 == 0
    assert painted_box(packed(rows[:10], (0, 0), (1, 10)), (1, 10)) == (0, 0, 1, 9)
    with pytest.raises(ValueError, match="more than 10 runs"):
        painted_box(packed(rows, (0, 0), (1, 11)), (1, 11))


def test_a_picture_too_large_for_the_format_is_refused() -> None:
    with pytest.raises(InputError, match="32768x32768"):
        packed(np.ones((1, 1), bool), (0, 0), (1 << 15, 1 << 15))
