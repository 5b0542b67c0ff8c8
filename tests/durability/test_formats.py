"""Galleries of every released format version open and give the scores that they gave then."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from spade_index import Detector, Gallery, SearchSettings, find_images, load_backbone
from spade_index.gallery.store.format import VERSION
from spade_index.images import load

DATA = Path(__file__).parents[1] / "data"
SEARCH = SearchSettings(score_neighbours=2, gallery_neighbours=3, smoothing=1.0)


def test_every_version_is_frozen() -> None:
    assert all((DATA / f"format_{version}" / "catalog.sqlite").is_file() for version in range(1, VERSION + 1))


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_frozen_gallery_gives_the_same_scores(version: int, tmp_path: Path) -> None:
    path = tmp_path / "gallery"
    shutil.copytree(DATA / f"format_{version}", path)
    expected = json.loads((DATA / f"format_{version}.json").read_text())
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        own = gallery.settings.preprocessing
        backbone = load_backbone(
            gallery.settings.backbone, preprocessing=lambda default: replace(default, input_size=own.input_size)
        )
        levels = expected.get("compared_levels")
        search = SEARCH if levels is None else replace(SEARCH, compared_levels=tuple(levels))
        detector = Detector(gallery, backbone, search)
        (found,) = detector.detect([load(next(find_images(DATA / "query.png")), own)])
    assert found.snapshot == expected["snapshot"]
    assert [n.id for n in found.neighbours] == [id for id, _ in expected["neighbours"]]
    assert [n.distance for n in found.neighbours] == pytest.approx([d for _, d in expected["neighbours"]], rel=1e-3)
    assert found.scores == pytest.approx(expected["scores"], rel=1e-3)  # processors round features differently
