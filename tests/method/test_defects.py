"""Synthetic defects: where they are, how they are drawn again, and images in which none can be seen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.method import defects
from spade_index.method.defects import KINDS, VISIBLE, paste

from helpers.tiny import random_image


def picture(seed: int, size: tuple[int, int] = (96, 80)) -> np.ndarray:
    return np.asarray(random_image(seed, size))


@given(seed=st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_a_defect_is_visible_within_its_mask_and_faint_outside(seed: int) -> None:
    image = picture(seed % 7)
    made = paste(image, picture(50), (seed,))
    assert made is not None
    assert made.kind in KINDS
    assert (made.pixels.dtype, made.pixels.shape, made.mask.shape) == (np.uint8, image.shape, image.shape[:2])
    change = abs(made.pixels.astype(int) - image)
    assert change[made.mask].mean() >= VISIBLE
    assert change[~made.mask].mean() < change[made.mask].mean()


def test_the_same_seed_pastes_the_same_defect() -> None:
    one, again, other = (paste(picture(1), picture(2), seed) for seed in ((3, 4), (3, 4), (3, 5)))
    assert one is not None
    assert again is not None
    assert other is not None
    np.testing.assert_array_equal(one.pixels, again.pixels)
    assert not np.array_equal(one.pixels, other.pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_drawn(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "KINDS", {kind: KINDS[kind]})
    made = [paste(picture(1), picture(2), (seed,)) for seed in range(10)]
    assert {one.kind for one in made if one} == {kind}


def test_nothing_is_pasted_where_nothing_can_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(defects, "KINDS", {"patch": KINDS["patch"], "missing": KINDS["missing"]})
    black = np.zeros((40, 40, 3), np.uint8)
    assert paste(black, black, (1,)) is None


def test_the_size_of_defects_follows_the_part_where_they_lie() -> None:
    small, whole = np.zeros((200, 200), bool), np.ones((200, 200), bool)
    small[80:120, 80:120] = True
    areas = []
    for inside in (small, whole):
        made = [paste(picture(1, (200, 200)), picture(2, (200, 200)), (seed,), inside) for seed in range(40)]
        areas.append(np.median([one.mask.sum() for one in made if one]))
    assert areas[0] < areas[1] / 3


def test_defects_of_half_the_usual_size_cover_a_quarter() -> None:
    areas = []
    for scale in (1.0, 0.5):
        made = [paste(picture(1, (400, 400)), picture(2, (400, 400)), (seed,), scale=scale) for seed in range(40)]
        areas.append(np.mean([one.mask.sum() for one in made if one]))
    assert 3 < areas[0] / areas[1] < 6
