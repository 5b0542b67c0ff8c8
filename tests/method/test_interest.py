"""A region of interest: cells outside neither score nor are matched, in every mode, as if they were not there."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spade_index.errors import InputError
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.interest import RegionOfInterest
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.brute import PlainGallery, upsampled
from helpers.tiny import new_image, tiny_backbone

SETTINGS = tiny_backbone().settings  # levels of 8x8, 4x4 and 2x2
GRID = SETTINGS.sizes[0]
numbers = count()

masks = st.lists(st.booleans(), min_size=64, max_size=64).map(lambda bits: np.array(bits).reshape(GRID))


def features(random: np.random.Generator, scale: float = 1.0) -> list[np.ndarray]:
    """Return the levels of an image, float16 [H*W, C]; the levels differ in scale."""
    shapes = zip(SETTINGS.level_shapes, (scale, 3 * scale, 0.1 * scale), strict=True)
    return [(size * random.normal(size=(h * w, c))).astype(np.float16) for (c, h, w), size in shapes]


def gallery_of(path: Path, images: Sequence[list[np.ndarray]], mask: np.ndarray | None) -> Path:
    """Make a gallery of images with these maps, and a region of interest with these cells."""
    random = np.random.default_rng(0)
    with GalleryWriter(path, SETTINGS, maps="float16") as writer:
        pooled = random.normal(size=(len(images), SETTINGS.pooled_dim)).astype(np.float32)
        writer.add_features(new_image(f"{n}", pooled[n], maps) for n, maps in enumerate(images))
        if mask is not None:
            writer.set_interest(RegionOfInterest(mask, "test"))
    return path


def detected(gallery: Gallery, search: SearchSettings, query: list[np.ndarray]):
    pyramid = [torch.from_numpy(level).float()[None] for level in query]
    (found,) = Detector(gallery, search=search).detect_features(np.zeros((1, SETTINGS.pooled_dim), np.float32), pyramid)
    assert found.pixels is not None
    return found, found.pixels


def without_cells(
    path: Path, query: list[np.ndarray], mask: np.ndarray, weights: Sequence[float], search: SearchSettings
) -> np.ndarray:
    """Return mean distances float64 [P] by definition: without cells outside, NaN for these."""
    plain, inside = PlainGallery(path), mask.reshape(-1)
    bilinear = search.mode == "concat-bilinear"
    mine = upsampled(query, plain.sizes, weights, bilinear)  # [P, D]
    theirs = [upsampled(maps, plain.sizes, weights, bilinear) for maps in plain.maps.values()]
    row, column = np.divmod(np.arange(len(mine)), GRID[1])
    means = np.full(len(mine), np.nan)
    for cell in np.flatnonzero(inside):
        near = inside
        if search.window is not None:
            near = near & (abs(row - row[cell]) <= search.window) & (abs(column - column[cell]) <= search.window)
        distances = np.concatenate([((image[near] - mine[cell]) ** 2).sum(1) for image in theirs])
        means[cell] = np.sort(distances)[: search.pixel_neighbours].mean()
    return means


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mask=masks,
    seed=st.integers(0, 1000),
    mode=st.sampled_from(["concat-nearest", "concat-bilinear"]),
    window=st.sampled_from([None, None, 0, 1, 3]),
    kappa=st.integers(1, 3),
    scale=st.sampled_from([0.01, 1.0, 10.0]),
    strange=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_distances_are_those_without_the_cells_outside(
    tmp_path: Path,
    mask: np.ndarray,
    seed: int,
    mode: str,
    window: int | None,
    kappa: int,
    scale: float,
    strange: float,
) -> None:
    """Also for a query with far longer vectors than the gallery's, and those of the gallery that are outside."""
    random = np.random.default_rng(seed)
    images = [features(random, scale) for _ in range(4)]
    query = [np.clip(level + strange * level, -3e4, 3e4).astype(np.float16) for level in features(random, scale)]
    search = SearchSettings(mode=mode, window=window, pixel_neighbours=kappa, gallery_neighbours=4, smoothing=0.0)
    path = gallery_of(tmp_path / str(next(numbers)), images, mask if mask.any() else ~mask)
    mask = mask if mask.any() else ~mask
    with Gallery(path) as gallery:
        if mask.sum() < kappa:
            with pytest.raises(InputError, match="cells of the grid of 8x8 are inside"):
                Detector(gallery, search=search)
            return
        _, pixels = detected(gallery, search, query)
        expected = without_cells(path, query, mask, Detector(gallery, search=search).comparison.weights, search)
    inside = mask.reshape(-1)
    assert pixels.cells is not None
    np.testing.assert_array_equal(pixels.cells, inside)
    np.testing.assert_allclose(pixels.means[inside], expected[inside], rtol=2e-4)
    assert not pixels.means[~inside].any()
    assert pixels.peak == pytest.approx(pixels.counted[np.isfinite(pixels.counted)].max())


def test_what_is_outside_is_never_matched(tmp_path: Path) -> None:
    """Nor does it matter: the query's best match lies outside, and changes nothing by being there."""
    random = np.random.default_rng(5)
    images, query = [features(random) for _ in range(3)], features(random)
    mask = np.zeros(GRID, bool)
    mask[:, :4] = True
    plain = gallery_of(tmp_path / "plain", images, mask)
    for maps in images:
        fine = maps[0].reshape(*GRID, -1)
        fine[:, 4:] = query[0].reshape(*GRID, -1)[:, :4]  # copies of what the query shows inside
    copied = gallery_of(tmp_path / "copied", images, mask)
    search = SearchSettings(gallery_neighbours=3, level_weights="equal")
    with Gallery(plain) as one, Gallery(copied) as other:
        (first, pixels), (second, others) = detected(one, search, query), detected(other, search, query)
    assert first.score == second.score
    np.testing.assert_array_equal(pixels.score_map, others.score_map)
    inside = mask.reshape(-1)
    assert inside[others.matches[inside] % inside.size].all()
    with Gallery(gallery_of(tmp_path / "all", images, None)) as everything:
        assert detected(everything, replace(search, image_score="map"), query)[0].score < second.score


def test_a_defect_outside_does_not_score_and_one_inside_does(tmp_path: Path) -> None:
    random = np.random.default_rng(6)
    images, query = [features(random) for _ in range(3)], features(random)
    mask = np.zeros(GRID, bool)
    mask[1:5, 2:6] = True
    search = SearchSettings(gallery_neighbours=3, top_share=0.1, smoothing=2.0)
    with Gallery(gallery_of(tmp_path / "g", images, mask)) as gallery:
        plain, _ = detected(gallery, search, query)
        assert plain.kind == "map"
        scores = {}
        for name, (row, column) in {"outside": (6, 0), "inside": (2, 3)}.items():
            defect = [level.copy() for level in query]
            defect[0].reshape(*GRID, -1)[row, column] = 50.0
            found, pixels = detected(gallery, search, defect)
            scores[name] = found.score
            place = pixels.worst()
            assert mask[int(place.y * 8), int(place.x * 8)]
            assert pixels.score_map[~pixels.inside].max() <= pixels.score_map[pixels.inside].min()
    assert scores["outside"] == plain.score
    assert scores["inside"] > 10 * plain.score


def test_smoothing_neither_spreads_from_outside_nor_fades_towards_it(tmp_path: Path) -> None:
    mask = np.zeros(GRID, bool)
    mask[:, :3] = True
    random = np.random.default_rng(7)
    with Gallery(gallery_of(tmp_path / "g", [features(random) for _ in range(3)], mask)) as gallery:
        detector = Detector(gallery, search=SearchSettings(gallery_neighbours=3, smoothing=5.0))
        cells = torch.from_numpy(mask.reshape(1, -1))
        (level,) = detector.score_maps(torch.full((1, 64), 7.0), cells)
        np.testing.assert_allclose(level[:, :12], 7.0, rtol=1e-6)
        assert not level[:, 12:].any()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"image_score": "pooled"}, "image score `pooled`"),
        ({"image_score": "both"}, "image score `both`"),
        ({"maps": "never"}, "maps `always`, not `never`"),
        ({"maps": "auto"}, "maps `always`, not `auto`"),
        ({"mode": "per-level"}, "separately"),
        ({"level_weights": (0.0, 1.0, 1.0)}, "finest level must have a weight"),
        ({"grid": 1}, "0 cells of the grid of 1x1 are inside"),
    ],
)
def test_what_does_not_go_with_a_region_is_refused_in_one_line(
    tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    mask = np.zeros(GRID, bool)
    mask[2:4, 2:5] = True
    random = np.random.default_rng(8)
    with Gallery(gallery_of(tmp_path / "g", [features(random) for _ in range(3)], mask)) as gallery:
        with pytest.raises(InputError, match=words) as raised:
            Detector(gallery, search=replace(SearchSettings(), **changed))
        assert "\n" not in str(raised.value)
        assert str(gallery.path) in str(raised.value)
