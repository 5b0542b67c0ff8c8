"""ROC AUC and PRO against their definitions, adeval and scikit-learn."""

import math
from itertools import pairwise

import numpy as np
import pytest
from adeval.au_pro import calculate_au_pro
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from spade_index.method.metrics import pixel_metrics, roc_auc

Maps = list[NDArray[np.float32]]
Masks = list[NDArray[np.bool_]]


def random_case(seed: int, levels: int | None = None, one_size: bool = False) -> tuple[Masks, Maps]:
    """Return small images with blobs; scores are rounded to `levels` values, so that many tie."""
    rng = np.random.default_rng(seed)
    masks, score_maps = [], []
    for _ in range(int(rng.integers(2, 6))):
        shape = (12, 9) if one_size else tuple(rng.integers(5, 14, size=2))
        mask = ndimage.gaussian_filter(rng.normal(size=shape), 1.0) > 0.25
        scores = rng.random(shape) + 0.4 * mask
        if levels is not None:
            scores = np.floor(scores * levels)
        masks.append(mask)
        score_maps.append(scores.astype(np.float32))
    return masks, score_maps


def pro_by_definition(masks: Masks, score_maps: Maps, fpr_limit: float = 0.3) -> float:
    """Compute the figures from every distinct threshold and every region, with trapezoids cut off at the limit."""
    regions = []
    for mask, scores in zip(masks, score_maps, strict=True):
        numbered, count = ndimage.label(mask, np.ones((3, 3)))
        regions += [scores[numbered == region] for region in range(1, count + 1)]
    normal = np.concatenate([scores[~mask] for mask, scores in zip(masks, score_maps, strict=True)])
    curve = [(0.0, 0.0)]
    for threshold in np.unique(np.concatenate([scores.ravel() for scores in score_maps]))[::-1]:
        overlap = np.mean([np.mean(region >= threshold) for region in regions])
        curve.append((float(np.mean(normal >= threshold)), float(overlap)))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(curve):
        end = min(x1, fpr_limit)
        if end > x0:
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / fpr_limit


def pairs_won(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    difference = scores[labels][:, None] - scores[~labels][None, :]
    return float(np.mean((difference > 0) + 0.5 * (difference == 0)))


@pytest.mark.parametrize("levels", [None, 1, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_pixel_metrics_follow_their_definitions(seed: int, levels: int | None) -> None:
    masks, score_maps = random_case(seed, levels)
    result = pixel_metrics(masks, score_maps)
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([scores.ravel() for scores in score_maps]).astype(np.float64)
    assert result.roc_auc == pytest.approx(pairs_won(labels, scores), abs=1e-12)
    assert result.roc_auc == pytest.approx(roc_auc(labels, scores), abs=1e-12)
    assert result.pro == pytest.approx(pro_by_definition(masks, score_maps), abs=1e-12)


@pytest.mark.parametrize("limit", [0.001, 0.05, 0.3, 1.0])
def test_pro_at_other_limits(limit: float) -> None:
    masks, score_maps = random_case(11, levels=6)
    expected = pro_by_definition(masks, score_maps, limit)
    assert pixel_metrics(masks, score_maps, limit).pro == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_pro_agrees_with_adeval(seed: int) -> None:
    """adeval's copy of MVTec's own code joins the curve's points above each normal pixel by slanted lines: with
    every normal pixel as a threshold, that differs by at most half a normal pixel of the integral."""
    masks, score_maps = random_case(seed, one_size=True)
    normal_count = sum(int((~mask).sum()) for mask in masks)
    expected, _ = calculate_au_pro(masks, score_maps, num_thresholds=normal_count)
    half_a_pixel = 0.5 / normal_count / 0.3
    assert abs(pixel_metrics(masks, score_maps).pro - expected) <= half_a_pixel + 1e-9


def test_roc_auc_agrees_with_scikit_learn() -> None:
    rng = np.random.default_rng(5)
    labels = rng.random(300) < 0.2
    scores = np.round(rng.normal(size=300) + labels, 1)
    assert roc_auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_known_values() -> None:
    mask = np.zeros((10, 10), dtype=bool)
    mask[2:5, 3:6] = True
    perfect = pixel_metrics([mask], [mask.astype(np.float32)])
    assert (perfect.roc_auc, perfect.pro) == (1.0, 1.0)
    constant = pixel_metrics([mask], [np.ones((10, 10), dtype=np.float32)])
    # The curve is the diagonal: its area up to 0.3 is 0.045, and 0.045 / 0.3 = 0.15.
    assert (constant.roc_auc, constant.pro) == (pytest.approx(0.5), pytest.approx(0.15))
    inverted = pixel_metrics([mask], [-mask.astype(np.float32)])
    assert (inverted.roc_auc, inverted.pro) == (0.0, 0.0)


def test_regions_of_any_size_have_the_same_weight() -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[:10, :10] = True
    mask[15, 15] = True
    found_large = np.zeros((20, 20), dtype=np.float32)
    found_large[:10, :10] = 1.0
    # The missed region lies on the diagonal with all normal pixels, which tie with it.
    assert pixel_metrics([mask], [found_large]).pro == pytest.approx(0.5 + 0.5 * 0.15)


def test_regions_touch_at_corners_and_not_across_images() -> None:
    diagonal = np.eye(6, dtype=bool)
    first_pixel = np.zeros((6, 6), dtype=np.float32)
    first_pixel[0, 0] = 1.0
    one_region = pixel_metrics([diagonal], [first_pixel]).pro
    assert one_region == pytest.approx(1 / 6 + 5 / 6 * 0.15)
    both = pixel_metrics([diagonal, diagonal], [first_pixel, diagonal.astype(np.float32)]).pro
    assert both == pytest.approx(pro_by_definition([diagonal] * 2, [first_pixel, diagonal.astype(np.float32)]))


def test_images_without_defects_count_as_normal_pixels() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[0, 0] = True
    scores = mask.astype(np.float32)
    loud_normal = np.full((4, 4), 2.0, dtype=np.float32)
    # 16 of 31 normal pixels score higher than the defect: beyond the limit, nothing is left.
    result = pixel_metrics([mask, np.zeros((4, 4), dtype=bool)], [scores, loud_normal])
    assert result.pro == 0.0
    assert result.roc_auc == pytest.approx(15 / 31)


def test_figures_without_defects_or_without_normal_pixels_are_nan() -> None:
    scores = np.arange(9, dtype=np.float32).reshape(3, 3)
    for mask in (np.zeros((3, 3), dtype=bool), np.ones((3, 3), dtype=bool)):
        result = pixel_metrics([mask], [scores])
        assert math.isnan(result.roc_auc)
        assert math.isnan(result.pro)
        assert math.isnan(roc_auc(mask.ravel(), scores.ravel()))
    assert math.isnan(pixel_metrics([], []).pro)
    assert math.isnan(roc_auc([], []))


def test_inputs_that_do_not_fit_are_refused() -> None:
    mask, scores = np.eye(3, dtype=bool), np.zeros((3, 3), dtype=np.float32)
    with pytest.raises(ValueError, match="NaN"):
        roc_auc([True, False], [0.5, math.nan])
    with pytest.raises(ValueError, match="NaN"):
        pixel_metrics([mask], [np.full((3, 3), np.nan, dtype=np.float32)])
    with pytest.raises(ValueError, match="bool"):
        pixel_metrics([mask.astype(np.uint8) * 255], [scores])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="shape"):
        pixel_metrics([mask], [scores[:2]])
    with pytest.raises(ValueError, match="shorter"):
        pixel_metrics([mask, mask], [scores])
    with pytest.raises(ValueError, match="fpr_limit"):
        pixel_metrics([mask], [scores], fpr_limit=0.0)


def test_inputs_are_not_modified() -> None:
    masks, score_maps = random_case(3)
    before = [scores.copy() for scores in score_maps]
    pixel_metrics(masks, score_maps)
    for scores, copy in zip(score_maps, before, strict=True):
        np.testing.assert_array_equal(scores, copy)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), levels=st.one_of(st.none(), st.integers(1, 20)))
def test_only_the_order_of_scores_matters(seed: int, levels: int | None) -> None:
    masks, score_maps = random_case(seed, levels)
    result = pixel_metrics(masks, score_maps)
    # In float64, where these transforms keep distinct float32 scores distinct.
    wide = [scores.astype(np.float64) for scores in score_maps]
    for transformed in ([3 * s - 7 for s in wide], [np.exp(s / 4) for s in wide], [-1 / (1 + s) for s in wide]):
        other = pixel_metrics(masks, transformed)  # type: ignore[arg-type]
        np.testing.assert_allclose([other.roc_auc, other.pro], [result.roc_auc, result.pro], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), levels=st.one_of(st.none(), st.integers(1, 20)), limit=st.floats(1e-6, 1.0))
def test_stays_between_0_and_1(seed: int, levels: int | None, limit: float) -> None:
    masks, score_maps = random_case(seed, levels)
    result = pixel_metrics(masks, score_maps, limit)
    defined = any(mask.any() for mask in masks) and not all(mask.all() for mask in masks)
    for value in (result.roc_auc, result.pro):
        assert 0.0 <= value <= 1.0 if defined else math.isnan(value)
