"""Counting pixels by score: exact while scores fit, within a stated bound beyond, in memory that does not grow."""

import math
import tracemalloc
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from adeval.au_pro import calculate_au_pro
from scipy import ndimage
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from spade_index.method.metrics import image_metrics, pixel_metrics, saturating_shares
from spade_index.method.tally import PixelTally

SHAPE = (48, 40)


def made(seed: int, count: int = 12, decimals: int | None = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return masks with blobs (every third is empty) and noisy score maps that follow them."""
    random = np.random.default_rng(seed)
    masks, maps = [], []
    for number in range(count):
        mask = ndimage.gaussian_filter(random.normal(size=SHAPE), 3.0) > (0.12 if number % 3 else 9.0)
        scores = random.gamma(2.0, 1.0, SHAPE) + 1.5 * mask - 0.3
        masks.append(mask)
        maps.append((scores if decimals is None else scores.round(decimals)).astype(np.float32))
    return masks, maps


def tallied(masks, maps, **options) -> PixelTally:
    tally = PixelTally(**options)
    for mask, score_map in zip(masks, maps, strict=True):
        tally.add(mask, score_map)
    return tally


def flat(masks, maps):
    return np.concatenate([m.ravel() for m in masks]), np.concatenate([m.ravel() for m in maps])


def f1_max(labels, scores) -> float:
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("seed", range(3))
def test_pixel_figures_equal_those_of_other_libraries(seed, decimals):
    masks, maps = made(seed, decimals=decimals)
    tally = tallied(masks, maps)
    assert tally.exact
    found = tally.metrics()
    labels, scores = flat(masks, maps)
    assert found.roc_auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert found.f1_max == pytest.approx(f1_max(labels, scores), abs=1e-12)
    assert all(error == 0 or math.isnan(error) for error in asdict(tally.errors()).values())
    if decimals is None:  # adeval joins the points of equal scores otherwise
        normal = int((~labels).sum())
        for limit, value in ((0.3, found.pro), (0.05, found.pro_05)):
            expected, _ = calculate_au_pro(masks, maps, integration_limit=limit, num_thresholds=normal)
            assert value == pytest.approx(expected, abs=0.5 / normal / limit + 1e-9)


def test_image_figures_equal_those_of_scikit_learn():
    random = np.random.default_rng(3)
    labels = random.random(400) < 0.3
    scores = (random.normal(size=400) + labels).round(1)
    found = image_metrics(labels, scores)
    assert found.roc_auc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    assert found.average_precision == pytest.approx(average_precision_score(labels, scores), abs=1e-12)
    assert found.f1_max == pytest.approx(f1_max(labels, scores), abs=1e-12)


@pytest.mark.parametrize("most", [50, 400, 3000])
@pytest.mark.parametrize("seed", range(3))
def test_figures_are_within_the_stated_error(seed, most):
    masks, maps = made(seed)
    exact, tally = pixel_metrics(masks, maps), tallied(masks, maps, most=most)
    assert not tally.exact
    found, errors = asdict(tally.metrics()), asdict(tally.errors())
    for name in ("roc_auc", "pro", "pro_05", "average_precision", "f1_max"):
        assert abs(found[name] - getattr(exact, name)) <= errors[name] + 1e-12
        assert errors[name] < (0.5 if most == 50 else 0.1 if most == 400 else 0.01)


def test_the_default_is_good_to_five_decimals():
    random = np.random.default_rng(0)
    masks = [np.zeros((224, 224), bool) for _ in range(12)]
    for mask in masks[:6]:
        mask[50:80, 60:100] = True
    maps = [(random.gamma(2, 1, mask.shape) + mask).astype(np.float32) for mask in masks]
    exact, tally = pixel_metrics(masks, maps), tallied(masks, maps)
    assert not tally.exact
    errors = asdict(tally.errors())
    for name in ("roc_auc", "pro", "pro_05", "average_precision", "f1_max"):
        assert getattr(tally.metrics(), name) == pytest.approx(getattr(exact, name), abs=errors[name])
        assert errors[name] < 5e-5


def test_order_of_images_and_parts_do_not_matter():
    masks, maps = made(5)
    whole = tallied(masks, maps)
    parts = tallied(masks[5:], maps[5:]).joined(tallied(masks[:5], maps[:5]))
    assert parts.images == whole.images == len(masks)
    assert asdict(parts.metrics()) == pytest.approx(asdict(whole.metrics()), abs=1e-12, nan_ok=True)
    coarse = tallied(masks[5:], maps[5:], most=200).joined(tallied(masks[:5], maps[:5], most=5000))
    assert coarse.metrics().roc_auc == pytest.approx(whole.metrics().roc_auc, abs=coarse.errors().roc_auc)


def test_zeros_negative_and_infinite_scores_are_in_order():
    scores = np.array([[-np.inf, -2.0, -1e-30, -0.0, 0.0, 1e-30, 3.0, np.inf]], np.float32)
    mask = np.array([[False, False, False, True, False, True, True, True]])
    tally = tallied([mask], [scores])
    assert tally.metrics().roc_auc == pytest.approx(roc_auc_score(mask[0], np.clip(scores[0], -9, 9)))


def test_memory_does_not_grow_with_the_number_of_images():
    random = np.random.default_rng(0)
    mask = np.zeros(SHAPE, bool)
    mask[3:9, 4:8] = True

    def peak(count: int) -> int:
        tally = PixelTally(most=5000)
        tracemalloc.start()
        for _ in range(count):
            tally.add(mask, random.random(SHAPE, np.float32))
        tally.metrics()
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(300) < 1.3 * peak(30)


def test_what_is_undefined_is_nan():
    scores = np.ones(SHAPE, np.float32)
    for mask in (np.zeros(SHAPE, bool), np.ones(SHAPE, bool)):
        assert math.isnan(tallied([mask], [scores]).metrics().pro)
        assert math.isnan(tallied([mask], [scores]).errors().pro)
    assert math.isnan(PixelTally().metrics().roc_auc)


def spro_by_definition(regions, masks, maps, limit) -> float:
    """Compute sPRO from every threshold, with trapezoids cut off at the limit."""
    labels, scores = flat(masks, maps)
    points = [(0.0, 0.0)]
    for threshold in np.unique(scores)[::-1]:
        overlap = [min(1.0, float((maps[at][pixels] >= threshold).sum()) / enough) for at, pixels, enough in regions]
        points.append((float((scores[~labels] >= threshold).mean()), float(np.mean(overlap))))
    area = 0.0
    for (x0, y0), (x1, y1) in pairwise(points):
        if min(x1, limit) > x0:
            end = min(x1, limit)
            area += (end - x0) * (y0 + y0 + (y1 - y0) * (end - x0) / (x1 - x0)) / 2
    return area / limit


@pytest.mark.parametrize("decimals", [None, 1])
def test_saturating_regions_follow_their_definition(decimals):
    masks, maps = made(2, count=6, decimals=decimals)
    tally, regions = PixelTally(), []
    for at, (mask, score_map) in enumerate(zip(masks, maps, strict=True)):
        left, right = mask.copy(), mask.copy()
        left[:, 20:], right[:, :18] = False, False  # two defects that overlap
        of_image = [(part, 0.4 * part.sum()) for part in (left, right) if part.any()]
        regions += [(at, *region) for region in of_image]
        tally.add(mask, score_map, of_image)
    found = tally.metrics()
    assert found.spro == pytest.approx(spro_by_definition(regions, masks, maps, 0.3), abs=1e-9)
    assert found.spro_05 == pytest.approx(spro_by_definition(regions, masks, maps, 0.05), abs=1e-9)


def test_a_region_saturates_at_the_pixels_that_are_enough():
    values = np.array([5, 1, 4, 4, 2], np.float32)
    assert saturating_shares(values, 5).tolist() == [0.2] * 5
    assert saturating_shares(values, 1).tolist() == [1, 0, 0, 0, 0]
    assert saturating_shares(values, 2).tolist() == [0.5, 0, 0.25, 0.25, 0]
    assert saturating_shares(values, 99).tolist() == [0.2] * 5
