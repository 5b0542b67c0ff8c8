"""Audit: a gallery's odd images by their leave-one-out scores, and its near-duplicates."""

from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method.audit import _groups, audit
from spade_index.method.calibration import calibrate, store
from spade_index.method.tuned import tuned_search

from helpers.tiny import image_file, png


def scored(path: Path, **options: int) -> dict[str, float]:
    """Calibrate a gallery; return what its images score."""
    with GalleryWriter(path) as writer:
        search = tuned_search(writer.gallery)
        found = calibrate(writer.gallery, search, **options)
        store(writer, search, found)
        ids = writer.gallery.catalog.ids(found.found.keys.tolist())
        scores = found.found.scores[search.effective_image_score]
        return {ids[key]: float(score) for key, score in zip(found.found.keys.tolist(), scores, strict=True)}


def test_odd_images_are_those_with_the_highest_scores(gallery_path: Path) -> None:
    scores = scored(gallery_path)
    with Gallery(gallery_path) as gallery:
        found = audit(gallery, 5)
        assert found.odd[0].path == gallery.image(found.odd[0].id).path
    assert found.scored == 12
    assert [image.id for image in found.odd] == sorted(scores, key=lambda id: -scores[id])[:5]
    for image in found.odd:
        others = [score for id, score in scores.items() if id != image.id]
        assert image.p_value == (1 + sum(score >= image.score for score in others)) / 12


def test_all_images_are_scored_as_a_calibration_of_all_would(gallery_path: Path) -> None:
    scores = scored(gallery_path)
    assert len(scored(gallery_path, sample=10)) == 10
    seen: list[int] = []
    with Gallery(gallery_path) as gallery:
        assert (audit(gallery).scored, audit(gallery).images) == (10, 12)
        found = audit(gallery, every=True, progress=seen.append)
    assert {image.id: image.score for image in found.odd} == pytest.approx(scores)
    assert (found.scored, found.compared, sum(seen)) == (12, 12, 12)


def test_removed_images_are_left_out(gallery_path: Path) -> None:
    scores = scored(gallery_path)
    oddest = max(scores, key=lambda id: scores[id])
    with GalleryWriter(gallery_path) as writer:
        writer.remove([oddest])
    with Gallery(gallery_path) as gallery:
        found = audit(gallery, 100)
    assert found.scored == len(found.odd) == 11
    assert oddest not in [image.id for image in found.odd]
    assert found.odd[0].p_value == 1 / 11


def test_near_duplicates_are_grouped(gallery_path: Path, backbone: Backbone) -> None:
    with GalleryWriter(gallery_path) as writer:
        writer.add([image_file(f"same-{number}.png", png(50) + bytes(number)) for number in range(3)], backbone)
    scored(gallery_path)
    with Gallery(gallery_path) as gallery:
        assert audit(gallery).doubled == [["same-0.png", "same-1.png", "same-2.png"]]


def test_pairs_are_joined_to_groups() -> None:
    pairs = [("a", "b"), ("d", "c"), ("e", "f"), ("b", "c")]
    assert sorted(_groups(pairs)) == [["a", "b", "c", "d"], ["e", "f"]]
    assert _groups([]) == []


def test_a_gallery_that_is_not_calibrated_is_refused(gallery_path: Path) -> None:
    with Gallery(gallery_path) as gallery, pytest.raises(InputError, match="`spade-index calibrate "):
        audit(gallery)
