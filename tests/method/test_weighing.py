"""Whole pictures are weighed against their tiles by synthetic defects in pictures."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images
from spade_index.images.interest import RegionOfInterest
from spade_index.method import weighing
from spade_index.method.detector import Detector
from spade_index.method.judgement import carry_on
from spade_index.method.scales import Scales
from spade_index.method.scores import PEAK
from spade_index.method.tuned import tuned_search
from spade_index.method.tuning import store, tune
from spade_index.method.weighing import Pieces, choose_weight, weigh
from spade_index.settings import SearchSettings

from helpers.discs import disc
from helpers.tiled import tiled_settings
from helpers.tiny import tiny_backbone

PICTURES = 12
SEARCH = SearchSettings(gallery_neighbours=5, smoothing=1.0, window=1, mapped_score="map")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weighing")
    (folder / "pictures").mkdir()
    for number in range(PICTURES):
        (folder / "pictures" / f"{number:02}.png").write_bytes(disc("", number).read())
    with GalleryWriter(folder / "gallery", tiled_settings(overlap=0.0, whole=True)) as writer:
        writer.add(find_images(folder / "pictures"), tiny_backbone())
    return folder / "gallery"


def pieces(seed: int, *, tiles: bool, whole: bool) -> Pieces:
    """Return four tiles and a whole picture; a copy's last tile, or the whole, scores higher than any normal one."""
    scores = np.random.default_rng(seed).uniform(1, 2, 5)
    copy = scores.copy()
    copy[3] += 3 * tiles
    copy[4] += 3 * whole

    def of(values: np.ndarray) -> list[dict[str, float]]:
        return [{kind: float(value) for kind in ("pooled", "map", "both", PEAK)} for value in values]

    return Pieces(np.arange(5) == 4, of(scores), [of(copy)])


def test_the_usual_weight_is_kept_unless_another_is_clearly_better() -> None:
    both = [pieces(seed, tiles=seed % 2 == 0, whole=seed % 2 == 1) for seed in range(20)]
    tried, weight = choose_weight(both, "map")
    figures = {one.weight: one.image_roc_auc for one in tried}
    assert (weight, figures[0.5]) == (0.5, 1.0)
    assert figures[0.0] < 0.9 > figures[1.0]
    assert choose_weight(both[:9], "map") == ([], 0.5)
    for one in tried:
        assert one.wins.sum() / 400 == pytest.approx(one.image_roc_auc)


@pytest.mark.parametrize("whole", [False, True])
def test_a_scale_that_tells_nothing_loses_its_weight(whole: bool) -> None:
    """Its normal scores are of long tails, which hide what the other scale tells."""
    found = []
    for seed in range(30):
        plain, copy = np.random.default_rng(seed).standard_cauchy((2, 2)) ** 2
        told = pieces(seed, tiles=not whole, whole=whole)
        for scores, noise in ((told.plain, plain[0]), (told.copies[0], copy[0])):
            for kind in scores[0]:
                scores[0 if whole else 4][kind] = float(noise)
        found.append(told)
    _, weight = choose_weight(found, "map")
    assert (weight > 0.5) == whole
    assert weight != 0.5


def test_pieces_that_a_defect_does_not_change_score_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Pieces] = []
    monkeypatch.setattr(weighing, "choose_weight", lambda found, kind: (seen.extend(found), 0.5))
    with Gallery(path) as gallery:
        weigh(gallery, tiny_backbone(), Scales(gallery), SEARCH, seconds=60)
        detector = Detector(gallery, search=SEARCH)
    assert len(seen) == PICTURES
    assert {len(one.copies) for one in seen} == {2}
    for one in seen:
        assert one.whole.tolist() == [False] * (len(one.whole) - 1) + [True]
        small, large = ([new != old for new, old in zip(copy, one.plain, strict=True)] for copy in one.copies)
        assert small[-1]
        assert large[-1]
        assert 1 <= sum(small[:-1]) <= 4
        assert sum(small) < len(small)
        assert sum(large) < len(large)
        assert all(scores["both"] == scores["pooled"] * scores["map"] for scores in one.plain)
    assert detector.kind == "map"


def test_fewer_tiles_are_searched_for_of_large_pictures(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weighing, "TILES", 3)
    with Gallery(path) as gallery:
        tried, weight = weigh(gallery, tiny_backbone(), Scales(gallery), SEARCH, seconds=0)
    assert [one.weight for one in tried] == [0, 0.25, 0.5, 0.75, 1]
    assert weight in {one.weight for one in tried}
    assert len(tried[0].wins) == 10  # pictures, however little time there is


def test_a_gallery_is_tuned_at_two_scales(path: Path) -> None:
    told: list[str] = []
    with GalleryWriter(path) as writer:
        found = tune(writer.gallery, tiny_backbone(), ways=2, images=20, seconds=2, progress=told.append)
        store(writer, found)
        search = tuned_search(writer.gallery)
        assert search == found.settings
        assert f"weight of whole pictures {search.whole_weight:g}" in found.why
        weights = {row["search"]["whole_weight"]: row for row in found.tried if "whole_weight" in row["search"]}
        assert [*weights] == [0, 0.25, 0.5, 0.75, 1]
        assert [weight for weight, row in weights.items() if row["chosen"]] == [search.whole_weight]
        json.dumps(found.record())
        carry_on(writer, search)
        detector = Detector(writer.gallery, tiny_backbone())
        assert detector.search == search
        assert detector.units.weight == search.whole_weight


def test_a_region_of_each_picture_weighs_as_the_same_region_of_all(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defects lie inside of it, and nothing outside of it scores."""
    seen: list[list[Pieces]] = []
    monkeypatch.setattr(weighing, "choose_weight", lambda found, kind: (seen.append(found), 0.5))
    mask = np.zeros((10, 10), bool)
    mask[:, :5] = True
    region = RegionOfInterest(mask, "left")
    for own in (False, True):
        gallery = Path(shutil.copytree(path, tmp_path / f"own {own}"))
        with GalleryWriter(gallery) as writer:
            if own:
                writer.set_region_rule("{stem}", {row.key: region.packed for row in writer.gallery.images()})
            else:
                writer.set_interest(region)
        with Gallery(gallery) as opened:
            weigh(opened, tiny_backbone(), Scales(opened), SEARCH, seconds=60)
    of_all, of_each = seen
    assert len(of_all) == len(of_each) > 0
    for one, other in zip(of_all, of_each, strict=True):
        assert np.array_equal(one.whole, other.whole)
        assert (one.plain, one.copies) == (other.plain, other.copies)
