"""A gallery of tiles: a picture's tiles do not stand in for each other, and each is judged by its own part."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.errors import InputError
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.decode import load, load_parts
from spade_index.images.files import ImageFile
from spade_index.images.tiles import box_of, own_part, picture_of
from spade_index.method import calibration
from spade_index.method.alone import nearest_others
from spade_index.method.audit import audit, without_themselves
from spade_index.method.detector import Detector
from spade_index.method.normal_scores import stored_calibration
from spade_index.method.pictures import detect_parts
from spade_index.method.siblings import nearest_besides, own_slices, picture_numbers, place_of_row, siblings
from spade_index.method.tuned import tuned_search
from spade_index.settings import SearchSettings

from helpers.tiled import SIZES, picture, tiled_settings, tiles
from helpers.tiny import build, image_file, tiny_backbone, write_images

PICTURES = 12
SEARCH = SearchSettings(gallery_neighbours=5, smoothing=1.0, image_score="map")
PLACE = SearchSettings(gallery_neighbours=5, smoothing=1.0, image_score="map", same_place=True)


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gallery of twelve pictures of one size, and one of another."""
    path = tmp_path_factory.mktemp("tiled") / "gallery"
    with GalleryWriter(path, tiled_settings()) as writer:
        pictures = [picture(f"{number:02}.png", 0, seed=number) for number in range(PICTURES)]
        writer.add([*pictures, picture("other.png", 1, seed=99)], tiny_backbone())
    return path


def test_a_tile_is_searched_for_without_its_picture(tiled: Path) -> None:
    with Gallery(tiled) as gallery:
        detector = Detector(gallery, tiny_backbone(), SEARCH)
        for row in gallery.sample(20):
            own = siblings(gallery, row)
            assert [sibling.id for sibling in own] == tiles(picture_of(row.id), 1 if "other" in row.id else 0)
            (nearest,) = nearest_others(detector, [row], near=0.0)
            assert len(nearest) == SEARCH.gallery_neighbours
            assert picture_of(row.id) not in {picture_of(neighbour.id) for neighbour in nearest}


@pytest.mark.parametrize("few", [0, 1, 64])
def test_many_that_are_left_out_hide_no_neighbour(tiled: Path, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spade_index.method.siblings.FEW", few)
    with Gallery(tiled) as gallery:
        rows = gallery.sample(8)
        pooled = gallery.pooled(rows)
        without = {neighbour.key for neighbour in gallery.nearest(pooled[:1], 20)[0]}
        wanted = [[n for n in of if n.key not in without][:6] for of in gallery.nearest(pooled, len(gallery))]
        assert nearest_besides(gallery, pooled, 6, without) == wanted


def test_the_score_of_a_picture_is_calibrated(tiled: Path) -> None:
    with GalleryWriter(tiled) as writer:
        found = calibration.calibrate(writer.gallery, SEARCH, false_alarms=0.1)
        calibration.store(writer, SEARCH, found)
        assert found.images == PICTURES + 1
        assert len(found.found) == len(writer.gallery)
        stored = stored_calibration(writer.gallery, SEARCH)
        assert stored is not None
        assert stored.scores is not None
        detector = Detector(writer.gallery, tiny_backbone(), SEARCH)
        highest: dict[str, float] = {}
        for row, detection in without_themselves(detector, writer.gallery.images()):
            name = picture_of(row.id)
            highest[name] = max(highest.get(name, 0.0), detection.scores["map"])
        assert len(stored.scores) == len(highest)
        ascending = sorted(highest.values())
        assert stored.thresholds["map"] == pytest.approx(ascending[-1], rel=1e-5)
        assert stored.scores.p_value("map", ascending[-1] * 1.01) == pytest.approx(1 / (len(highest) + 1))
        assert stored.scores.p_value("map", ascending[0] * 0.99) == 1


def test_a_score_is_of_the_part_that_no_other_tile_sees_better(tiled: Path) -> None:
    with Gallery(tiled) as gallery:
        how = gallery.settings.preprocessing
        detector = Detector(gallery, tiny_backbone(), SEARCH)
        cut = load_parts(picture("new.png", 0, seed=50), how)
        width, height = SIZES[0]
        seen = np.zeros((height, width), int)
        for tile, detection in zip(cut, detector.detect(cut), strict=True):
            assert detection.pixels is not None
            part = own_slices(tile.geometry, how.input_size, how)
            assert detection.scores["map"] == detection.pixels.score_map[part].max() == detection.pixels.peak
            left, top, right, bottom = own_part(tile.geometry.box, width, height, how)
            worst = detection.pixels.worst()
            x, y = tile.geometry.to_original(worst.x, worst.y)
            assert left - 1 <= x <= right + 1
            assert top - 1 <= y <= bottom + 1
            seen[round(top) : round(bottom), round(left) : round(right)] += 1
        assert (seen == 1).mean() > 0.95


def test_tiles_at_the_same_place_alone_are_compared(tiled: Path) -> None:
    with Gallery(tiled) as gallery:
        detector, free = Detector(gallery, tiny_backbone(), PLACE), Detector(gallery, tiny_backbone(), SEARCH)
        cut = load_parts(picture("new.png", 0, seed=60), gallery.settings.preprocessing)
        places = {}
        for tile, detection, other in zip(cut, detector.detect(cut), free.detect(cut), strict=True):
            assert detection.pixels is not None
            for neighbour in detection.pixels.neighbours:
                row = gallery.image(neighbour.id)
                box = box_of(row.id, row.width, row.height, gallery.settings.preprocessing)
                assert abs(np.subtract(box[:2], tile.geometry.box[:2])).max() < 16
            assert detection.scores["map"] >= other.scores["map"] - 1e-6 or len(detection.pixels.neighbours) == 5
            places[tile.id] = [neighbour.id for neighbour in detection.pixels.neighbours]
        # The nearest of those at the place, by brute force.
        rows = list(gallery.images())
        pooled = gallery.pooled(rows).astype(np.float64)
        features = tiny_backbone()(np.stack([cut[0].pixels]))
        distances = ((pooled - features.pooled.numpy().astype(np.float64)) ** 2).sum(1)
        near = [
            abs(np.subtract(place_of_row(gallery, row).box[:2], cut[0].geometry.box[:2])).max() < 16 for row in rows
        ]
        nearest = np.argsort(np.where(near, distances, np.inf))[:5]
        assert places[cut[0].id] == [rows[place].id for place in nearest]


def test_tiles_are_searched_for_together_where_places_have_different_numbers_of_tiles(tiled: Path) -> None:
    with Gallery(tiled) as gallery:
        detector = Detector(gallery, tiny_backbone(), replace(PLACE, gallery_neighbours=50))
        cut = load_parts(picture("new.png", 0, seed=60), gallery.settings.preprocessing)
        together = detector.detect(cut)
        assert len({len(found.pixels.neighbours) for found in together if found.pixels is not None}) > 1
        for tile, found in zip(cut, together, strict=True):
            (alone,) = detector.detect([tile])
            assert found.scores == pytest.approx(alone.scores, rel=1e-5)


def test_tiles_of_one_picture_are_no_near_duplicates(tmp_path: Path) -> None:
    """Of a picture of one colour, all tiles are the same."""
    grey = [plain("0.png", 90), *(picture(f"{n}.png", 0, seed=n) for n in range(1, 12))]
    with GalleryWriter(tmp_path / "gallery", tiled_settings()) as writer:
        writer.add(grey, tiny_backbone())
        tuned = {"gallery_neighbours": 5, "smoothing": 1.0}
        writer.set_tuned({"search": tuned, "images": len(writer.gallery), "snapshot": writer.gallery.snapshot})
        search = tuned_search(writer.gallery)
        calibration.store(writer, search, calibration.calibrate(writer.gallery, search))
        assert audit(writer.gallery).doubled == []
        writer.add([plain("1.jpg", 90)], tiny_backbone())
        (group, *_) = audit(writer.gallery).doubled
    assert {picture_of(id) for id in group} == {"0.png", "1.jpg"}


def plain(id: str, grey: int) -> ImageFile:
    """Return a picture of one colour, with a dot that makes its file another."""
    image = Image.new("RGB", (80, 56), (grey, grey, grey))
    image.putpixel((40, 28), (grey + int(id[0]), grey, grey))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return image_file(id, buffer.getvalue())


def test_the_parts_of_a_file_are_answered_together(tiled: Path) -> None:
    with Gallery(tiled) as gallery:
        detector, how = Detector(gallery, tiny_backbone(), SEARCH), gallery.settings.preprocessing
        file = picture("new.png", 0, seed=70)
        cut = load_parts(file, how)
        found = detect_parts(detector, cut)
        assert found.score == max(one.score for one in detector.detect(cut))
        assert found.pixels is not None
        assert found.pixels.score_map.shape == SIZES[0][::-1]
        for wrong in (cut[:-1], [*cut, *cut], []):
            with pytest.raises(ValueError, match="not of one"):
                detect_parts(detector, wrong)
        with pytest.raises(ValueError, match="load_parts"):
            detector.detect([load(file, how)])


def test_places_are_of_tiles_only(tmp_path: Path) -> None:
    build(tmp_path / "whole", write_images(tmp_path / "images", 3), tiny_backbone())
    with Gallery(tmp_path / "whole") as gallery, pytest.raises(InputError, match="not tiles"):
        Detector(gallery, tiny_backbone(), PLACE)


def test_pictures_are_numbered(tiled: Path) -> None:
    with Gallery(tiled) as gallery:
        rows = list(gallery.images())
        numbers = picture_numbers(gallery, np.array([row.key for row in rows]))
        assert numbers is not None
        assert len(set(numbers.tolist())) == PICTURES + 1
        of_picture = dict(zip((picture_of(row.id) for row in rows), numbers.tolist(), strict=True))
        assert [of_picture[picture_of(row.id)] for row in rows] == numbers.tolist()
