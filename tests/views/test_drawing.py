"""The files about queries: score maps as they come, then heat maps and a page."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import DecodedImage, Geometry
from spade_index.images.decode import load_parts
from spade_index.images.find import find_images
from spade_index.images.tiles import tile_size
from spade_index.method.detector import Detector
from spade_index.method.evidence import worst_evidence
from spade_index.method.pictures import detect_parts
from spade_index.method.regions import Region
from spade_index.settings import SearchSettings
from spade_index.views.drawing import Drawing
from spade_index.views.example import example_of
from spade_index.views.report import write_report

from helpers.tiled import tiled_settings
from helpers.tiny import TinyCNN, write_images

Decoded = Callable[..., list[DecodedImage]]


def test_files_are_where_save_said(gallery_path: Path, backbone: Backbone, decoded: Decoded, tmp_path: Path) -> None:
    images, told = decoded(2), []
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, backbone, SearchSettings(gallery_neighbours=3))
        drawing = Drawing(detector, tmp_path / "out")
        detections = detector.detect(images)
        saved = [drawing.save(image.file, found) for image, found in zip(images, detections, strict=True)]
        drawing.draw([image.file for image in images], pytest.fail, told.append)
    assert sum(told) == len(drawing) == 2
    for image, found, (score_map, heatmap) in zip(images, detections, saved, strict=True):
        np.testing.assert_array_equal(np.load(score_map), found.pixels.score_map)
        with Image.open(heatmap) as drawn, Image.open(image.file.path) as original:
            assert drawn.size == original.size
        assert image.file.id in (tmp_path / "out" / "report.html").read_text()


def test_an_image_that_is_gone_is_named_and_left_out(
    gallery_path: Path, backbone: Backbone, decoded: Decoded, tmp_path: Path
) -> None:
    images, notices = decoded(2), []
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, backbone, SearchSettings(gallery_neighbours=3))
        drawing = Drawing(detector, tmp_path / "out")
        saved = [drawing.save(image.file, found) for image, found in zip(images, detector.detect(images), strict=True)]
        Path(images[0].file.path).unlink()
        drawing.draw([image.file for image in images], notices.append, lambda count: None)
    assert [heatmap.exists() for _, heatmap in saved] == [False, True]
    assert len(notices) == 1
    assert images[0].file.path in notices[0]
    assert images[1].file.id in (tmp_path / "out" / "report.html").read_text()


def test_without_a_score_map_nothing_is_saved(
    gallery_path: Path, backbone: Backbone, decoded: Decoded, tmp_path: Path
) -> None:
    (image,) = decoded(1)
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, backbone, SearchSettings(maps="never"))
        drawing = Drawing(detector, tmp_path / "out")
        assert drawing.save(image.file, detector.detect([image])[0]) is None
        assert detector.pixel_search.map_bytes == 0
    assert len(drawing) == 0
    assert not (tmp_path / "out").exists()


def test_regions_are_drawn_and_written_as_masks_and_coco(
    gallery_path: Path, backbone: Backbone, decoded: Decoded, tmp_path: Path
) -> None:
    images, out = decoded(3), tmp_path / "out"
    square = Region(((4.0, 6.0), (12.0, 6.0), (12.0, 14.0), (4.0, 14.0)), (4.0, 6.0, 8.0, 8.0), 64.0, 2.0)
    regions: list[list[Region] | None] = [[square], [], None]
    with Gallery(gallery_path) as gallery:
        detector = Detector(gallery, backbone, SearchSettings(gallery_neighbours=3))
        drawing = Drawing(detector, out)
        for image, detection, found in zip(images, detector.detect(images), regions, strict=True):
            drawing.save(image.file, detection, found)
        drawing.draw([image.file for image in images], pytest.fail, lambda count: None)
    masks = [drawing.mask_path(image.file) for image in images]
    assert masks[0] == out / "masks" / f"{images[0].file.id}.mask.png"
    assert masks[2] is None
    assert sorted((out / "masks").rglob("*.*")) == sorted(path for path in masks if path is not None)
    for image, path, pixels in zip(images[:2], masks, (64, 0), strict=False):
        with Image.open(path) as drawn, Image.open(image.file.path) as original:
            assert drawn.size == original.size
            assert np.count_nonzero(drawn) == pixels
    written = json.loads((out / "regions.coco.json").read_text())
    assert [entry["file_name"] for entry in written["images"]] == [image.file.id for image in images[:2]]
    assert [entry["bbox"] for entry in written["annotations"]] == [[4.0, 6.0, 8.0, 8.0]]


def test_a_page_keeps_small_copies_of_large_pictures(gallery_path: Path, backbone: Backbone, decoded: Decoded) -> None:
    (image,) = decoded(1)
    with Gallery(gallery_path) as gallery:
        (found,) = Detector(gallery, backbone, SearchSettings(gallery_neighbours=3)).detect([image])
        shown = {}
        for edge in (300, 3000):
            original, mask = Image.new("RGB", (edge, edge // 3)), Image.new("L", (edge, edge // 3))
            geometry = Geometry.of_size(*original.size)
            shown[edge] = example_of(gallery, found, original, "x.png", geometry, (0.0, 1.0), mask=mask)
    for example in shown.values():
        pictures = example.image, example.heatmap, example.mask
        assert {picture.size for picture in pictures if picture is not None} == {example.image.size}
    assert shown[300].image.size == (300, 100)
    assert shown[3000].image.size == (640, 213)
    worst = {edge: np.divide(np.add(example.worst, 0.5), example.image.size) for edge, example in shown.items()}
    assert worst[3000] == pytest.approx(worst[300], abs=0.005)


def test_the_worst_place_of_a_picture_in_tiles_is_shown_close_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone("tiny-0", TinyCNN(0), tiled_settings().preprocessing, device="cpu", precision="float32")
    (tested,) = find_images(write_images(tmp_path / "tested", 1, size=(120, 90)))
    with GalleryWriter(tmp_path / "g", backbone.settings) as writer:
        writer.add(find_images(write_images(tmp_path / "images", 12, size=(120, 90))), backbone)
    with Gallery(tmp_path / "g") as gallery, Image.open(tested.path) as opened:
        detector = Detector(gallery, backbone, SearchSettings(gallery_neighbours=3), calibrated=False)
        found = detect_parts(detector, load_parts(tested, backbone.settings.preprocessing))
        original, geometry = opened.convert("RGB"), Geometry.of_size(120, 90)
        example = example_of(gallery, found, original, tested.id, geometry, (0.0, 1.0))
        evidence = worst_evidence(gallery, found, geometry)
        monkeypatch.setattr("spade_index.views.example.KEPT_EDGE", 20)  # as where tiles are large
        small = example_of(gallery, found, original, tested.id, geometry, (0.0, 1.0))
    assert example.close_up is not None
    assert small.close_up is not None
    assert max(small.close_up.size) == 20
    places = [np.divide(np.add(one.worst_close, 0.5), one.close_up.size) for one in (example, small)]
    assert places[0] == pytest.approx(places[1])
    assert example.close_up.size == tile_size(backbone.settings.preprocessing)
    x, y = map(round, example.worst_close)
    assert example.close_up.getpixel((x, y)) == original.getpixel(tuple(map(round, evidence.pixel)))
    for name, examples, columns in (("close", [example], 1), ("far", [replace(example, close_up=None)], 0)):
        write_report(tmp_path / f"{name}.html", title=name, summary=[], examples=examples)
        assert (tmp_path / f"{name}.html").read_text().count("<figcaption>Worst place") == columns
