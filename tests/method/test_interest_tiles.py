"""A region of interest of pictures that are cut into tiles: each tile sees its part of the region."""

from pathlib import Path

import numpy as np
import pytest
import torch

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.decode import load_parts
from spade_index.images.find import find_images
from spade_index.images.geometry import Geometry
from spade_index.images.interest import RegionOfInterest
from spade_index.method.calibration import calibrate
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.method.pictures import detect_parts
from spade_index.method.regions import find_regions, regions_of
from spade_index.settings import SearchSettings

from helpers.tiled import tiled_settings
from helpers.tiny import TinyCNN, random_image, write_images

SIZE = (120, 90)
SEARCH = SearchSettings(gallery_neighbours=8, smoothing=1.0, image_score="map")
MASK = np.zeros((3, 12), bool)  # of cells of 10x30 pixels
MASK[:2, 2:7] = True  # x in 20..70, y in 0..60


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return Backbone("tiny-0", TinyCNN(0), tiled_settings().preprocessing, device="cpu", precision="float32")


@pytest.fixture(scope="module")
def gallery(backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiles")
    with GalleryWriter(folder / "g", backbone.settings) as writer:
        writer.add(find_images(write_images(folder / "images", 12, size=SIZE)), backbone)
        writer.set_interest(RegionOfInterest(MASK, "test"))
    return folder / "g"


def detected(path: Path, backbone: Backbone, folder: Path, spot: tuple[int, int] | None) -> tuple[Detection, Geometry]:
    """Search for a picture, with a bright spot at (x, y)."""
    folder.mkdir()
    image = random_image(99, SIZE)
    if spot is not None:
        image.paste("white", (*spot, spot[0] + 12, spot[1] + 12))
    image.save(folder / "query.png")
    with Gallery(path) as gallery:
        detector = Detector(gallery, backbone, SEARCH)
        (file,) = find_images(folder)
        tiles = list(load_parts(file, backbone.settings.preprocessing))
        return detect_parts(detector, tiles), Geometry(*SIZE, (0.0, 0.0, *map(float, SIZE)))


def test_a_defect_counts_inside_alone(gallery: Path, backbone: Backbone, tmp_path: Path) -> None:
    spots = {"plain": None, "inside": (40, 30), "outside": (95, 30), "below": (40, 74)}
    found = {name: detected(gallery, backbone, tmp_path / name, spot)[0] for name, spot in spots.items()}
    assert found["outside"].score == pytest.approx(found["plain"].score, rel=1e-5)
    assert found["below"].score == pytest.approx(found["plain"].score, rel=1e-5)
    assert found["inside"].score > 1.5 * found["plain"].score
    for detection in found.values():
        pixels = detection.pixels
        assert pixels is not None
        assert pixels.inside is not None
        assert pixels.inside.shape == pixels.score_map.shape == (90, 120)
        expected = np.zeros((90, 120), bool)
        expected[:60, 20:70] = True
        assert (pixels.inside & ~expected).sum() == 0
        assert (expected & ~pixels.inside).mean() < 0.03  # cells at the edge of which less than half is inside
        assert pixels.score_map[~pixels.inside].max() <= pixels.score_map[pixels.inside].min()
        place = pixels.worst()
        assert 20 <= place.x * 120 <= 70
        assert place.y * 90 <= 60
        box = _place_in_picture(place.neighbour.id, place.neighbour_x, place.neighbour_y)
        assert 18 <= box[0] <= 72
        assert box[1] <= 62


def _place_in_picture(id: str, x: float, y: float) -> tuple[float, float]:
    """Return a matched place in pixels of its picture: mirrored where the tile reaches over the edge."""
    left, top = (int(edge) for edge in id.rpartition("@")[2].split(","))
    return abs(left + 32 * x), abs(top + 32 * y)


def test_regions_lie_inside(gallery: Path, backbone: Backbone, tmp_path: Path) -> None:
    detection, geometry = detected(gallery, backbone, tmp_path / "q", (64, 40))  # half of it is inside
    pixels = detection.pixels
    assert pixels is not None
    assert regions_of(detection, geometry) is None  # nothing was calibrated
    for region in find_regions(pixels.score_map, pixels.peak / 3, geometry, pixels.size):
        assert region.box[0] >= 19
        assert region.box[0] + region.box[2] <= 71


def test_tiles_outside_are_not_calibrated(gallery: Path) -> None:
    with Gallery(gallery) as opened:
        found = calibrate(opened, SEARCH, false_alarms=0.1)
        scored = set(found.found.keys.tolist())
        lefts = {int(row.id.rpartition("@")[2].split(",")[0]) for row in opened.images() if row.key in scored}
        assert found.images == 12
        assert 0 < len(scored) < len(opened)
        assert max(lefts) < 70
        for scores in found.found.scores.values():
            assert np.isfinite(scores).all()
        assert (found.found.scores["map"] > 0).all()


def test_a_picture_of_one_tile_is_as_a_whole_image(backbone: Backbone, tmp_path: Path) -> None:
    """The tile's cells are those of the region over the picture."""
    write_images(tmp_path / "images", 3, size=(32, 32))
    with GalleryWriter(tmp_path / "g", backbone.settings) as writer:
        writer.add(find_images(tmp_path / "images"), backbone)
        mask = np.zeros((4, 4), bool)
        mask[1:3, 1:] = True
        writer.set_interest(RegionOfInterest(mask, "test"))
        detector = Detector(writer.gallery, backbone, SEARCH)
        (file, *_) = find_images(tmp_path / "images")
        (found,) = detector.detect(list(load_parts(file, backbone.settings.preprocessing)))
    assert found.pixels is not None
    assert found.pixels.cells is not None
    np.testing.assert_array_equal(found.pixels.cells.reshape(8, 8), np.kron(mask, np.ones((2, 2))).astype(bool))
    assert torch.from_numpy(found.pixels.score_map).isfinite().all()
