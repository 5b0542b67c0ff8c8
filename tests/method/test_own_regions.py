"""Images with regions of interest of their own: cells outside neither score nor are matched, as if not there."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spade_index.errors import GalleryDamaged, ImageError, InputError
from spade_index.gallery import Gallery
from spade_index.gallery.store.format import PLAIN as FLOAT16
from spade_index.gallery.store.format import REGIONS
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.files import MaskFile
from spade_index.images.find import find_images
from spade_index.images.geometry import Geometry
from spade_index.images.interest import RegionOfInterest
from spade_index.images.loading import load_all
from spade_index.images.region_rule import RegionRule
from spade_index.method.calibration import calibrate
from spade_index.method.detector import Detector
from spade_index.method.own_regions import regions_by_rule
from spade_index.settings import SearchSettings

from helpers.brute import PlainGallery, upsampled
from helpers.tiny import build, new_image, random_image, tiny_backbone, write_images

SETTINGS = tiny_backbone().settings  # levels of 8x8, 4x4 and 2x2
GRID = SETTINGS.sizes[0]
PLAIN = SearchSettings(gallery_neighbours=6, smoothing=0.0)


def features(random: np.random.Generator) -> list[np.ndarray]:
    """Return the levels of an image, float16 [H*W, C]."""
    return [random.normal(size=(h * w, c)).astype(np.float16) for c, h, w in SETTINGS.level_shapes]


def region(mask: np.ndarray) -> RegionOfInterest:
    return RegionOfInterest(mask, "test")


def gallery_of(path: Path, images: Sequence[list[np.ndarray]], masks: Sequence[np.ndarray | None]) -> Path:
    """Make a gallery of images with these maps, and regions with these cells."""
    random = np.random.default_rng(0)
    with GalleryWriter(path, SETTINGS, maps="float16") as writer:
        pooled = random.normal(size=(len(images), SETTINGS.pooled_dim)).astype(np.float32)
        writer.add_features(new_image(f"{n}", pooled[n], maps) for n, maps in enumerate(images))
        keys = [row.key for row in writer.gallery.images()]
        regions = zip(keys, masks, strict=True)
        writer.set_region_rule("{stem}", {key: None if m is None else region(m).packed for key, m in regions})
    return path


def detected(gallery: Gallery, search: SearchSettings, query: list[np.ndarray], mask: np.ndarray | None):
    pyramid = [torch.from_numpy(level).float()[None] for level in query]
    place = Geometry.of_size(32, 32) if mask is None else replace(Geometry.of_size(32, 32), region=region(mask))
    pooled = np.zeros((1, SETTINGS.pooled_dim), np.float32)
    (found,) = Detector(gallery, search=search).detect_features(pooled, pyramid, places=[place])
    return found


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("mode", "kappa"), [("concat-nearest", 1), ("concat-nearest", 3), ("concat-bilinear", 2)])
def test_distances_are_those_of_cells_inside_alone(tmp_path: Path, seed: int, mode: str, kappa: int) -> None:
    random = np.random.default_rng(seed)
    images = [features(random) for _ in range(6)]
    masks = [random.random(GRID) < share for share in (0.1, 0.5, 0.9, 0.3)] + [None, np.ones(GRID, bool)]
    for mask in masks[:4]:
        mask[3, 4] = True
    query, mine = features(random), random.random(GRID) < 0.5
    path = gallery_of(tmp_path / "g", images, masks)
    search = replace(PLAIN, mode=mode, pixel_neighbours=kappa)
    with Gallery(path) as gallery:
        found = detected(gallery, search, query, mine)
        weights = Detector(gallery, search=search).comparison.weights
    plain = PlainGallery(path)
    theirs = [upsampled(maps, plain.sizes, weights, mode == "concat-bilinear") for maps in plain.maps.values()]
    inside = [np.ones(GRID, bool) if mask is None else mask for mask in masks]
    pool = np.concatenate([of[mask.reshape(-1)] for of, mask in zip(theirs, inside, strict=True)])
    mine_up = upsampled(query, plain.sizes, weights, mode == "concat-bilinear")
    np.testing.assert_array_equal(found.pixels.cells, mine.reshape(-1))
    expected = np.sort(((mine_up[:, None] - pool) ** 2).sum(2), 1)[:, :kappa].mean(1)
    np.testing.assert_allclose(found.pixels.means[mine.reshape(-1)], expected[mine.reshape(-1)], rtol=2e-4)
    neighbour, pixel = np.divmod(found.pixels.matches[mine.reshape(-1), 0], GRID[0] * GRID[1])
    keys = [n.key for n in found.pixels.neighbours]
    assert all(inside[keys[n] - 1].reshape(-1)[p] for n, p in zip(neighbour, pixel, strict=True))
    assert found.score == found.scores["map"]


def test_the_gallerys_region_and_the_querys_own_count_together(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    shared, mine = np.zeros(GRID, bool), np.zeros(GRID, bool)
    shared[:, :5], mine[2:, :] = True, True
    path = gallery_of(tmp_path / "g", [features(random) for _ in range(6)], [None] * 6)
    with GalleryWriter(path) as writer:
        writer.set_interest(region(shared))
        found = detected(writer.gallery, PLAIN, features(random), mine)
        np.testing.assert_array_equal(found.pixels.cells.reshape(GRID), shared & mine)


def test_a_small_region_takes_the_cell_that_holds_most_of_it(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    speck = np.zeros((64, 64), bool)
    speck[8:11, 17:20] = True  # of a cell of 8x8 pixels
    path = gallery_of(tmp_path / "g", [features(random) for _ in range(6)], [speck] * 6)
    with Gallery(path) as gallery:
        found = detected(gallery, PLAIN, features(random), speck)
    assert np.argwhere(found.pixels.cells.reshape(GRID)).tolist() == [[1, 2]]


def test_calibration_is_of_what_counts_in_each(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    images = [features(random) for _ in range(12)]
    masks = [np.zeros(GRID, bool) for _ in images]
    for number, (mask, maps) in enumerate(zip(masks, images, strict=True)):
        mask[:, :4] = True
        if number % 2:
            mask[:] = ~mask
        maps[0].reshape(*GRID, -1)[~mask] *= 30  # whatever is outside
    with Gallery(gallery_of(tmp_path / "g", images, masks)) as gallery:
        within = calibrate(gallery, PLAIN)
        maps = within.found.maps_of(np.arange(12)).reshape(12, *GRID)
        assert all(not of[~mask].any() and of[mask].all() for of, mask in zip(maps, masks, strict=True))
        half = calibrate(gallery, replace(PLAIN, subtract_neighbours=0.5))
        assert half.found.scores["map"].max() < within.found.scores["map"].max()
    with Gallery(gallery_of(tmp_path / "whole", images, [None] * 12)) as gallery:
        assert calibrate(gallery, PLAIN).found.scores["map"].mean() > 1.5 * within.found.scores["map"].mean()


def test_where_nothing_can_be_compared_nothing_counts(tmp_path: Path) -> None:
    """With a window, a cell is compared with cells about its place, which may all be outside."""
    random = np.random.default_rng(2)
    images, here, there = [features(random) for _ in range(12)], np.zeros(GRID, bool), np.zeros(GRID, bool)
    here[0, 0] = there[7, 7] = True
    with Gallery(gallery_of(tmp_path / "g", images, [here] * 12)) as gallery:
        found = detected(gallery, replace(PLAIN, window=1), images[0], there)
        assert not found.pixels.counts
        assert (found.score, found.pixels.peak) == (0.0, 0.0)
    masks = [here] * 10 + [there] * 2
    with Gallery(gallery_of(tmp_path / "few", images, masks)) as gallery:
        assert len(calibrate(gallery, replace(PLAIN, window=1)).found) == 12
    with Gallery(gallery_of(tmp_path / "one", images, [here] * 11 + [there])) as gallery:
        assert len(calibrate(gallery, replace(PLAIN, window=1)).found) == 11


def test_regions_follow_their_images(tmp_path: Path) -> None:
    """Through removal, restoring, compaction and repair; a reader keeps those that it opened."""
    random = np.random.default_rng(3)
    masks = [random.random(GRID) < 0.5 for _ in range(4)]
    path = gallery_of(tmp_path / "g", [features(random) for _ in range(4)], masks)

    def regions(gallery: Gallery) -> dict[str, bytes | None]:
        of = {row.id: gallery.own_region(row.key) for row in gallery.images()}
        return {id: None if own is None else own.mask.tobytes() for id, own in of.items()}

    expected = {str(n): mask.tobytes() for n, mask in enumerate(masks)}
    with GalleryWriter(path) as writer:
        assert writer.gallery.catalog.meta("version") == str(FLOAT16 + REGIONS)
        assert regions(writer.gallery) == expected
        writer.remove(["1", "2"])
        writer.restore(["1"])
        writer.compact()
        del expected["2"]
        assert regions(writer.gallery) == expected
        assert len(writer.gallery.catalog._read("SELECT * FROM regions")) == 3
    with Gallery(path) as before, GalleryWriter(path) as writer:
        rule = before.region_rule
        writer.set_region_rule("{name}", {before.image("0").key: region(masks[3]).packed})
        assert regions(before) == expected
        assert regions(writer.gallery) == {"0": masks[3].tobytes(), "1": None, "3": None}
        assert writer.gallery.region_rule != rule
        assert before.calibration_key(PLAIN) != writer.gallery.calibration_key(PLAIN)
        writer.set_interest(None)
        assert regions(before) == expected
    with GalleryWriter(path) as writer:
        assert regions(writer.gallery) == dict.fromkeys(expected)
        assert not writer.gallery.is_limited
        assert writer.gallery.catalog.meta("version") == str(FLOAT16)
        assert writer.gallery.catalog._read("SELECT * FROM image_regions") == []
        assert writer.gallery.catalog._read("SELECT * FROM regions") == []
        assert list(writer.gallery.verify()) == []


def test_a_damaged_region_is_named(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    path = gallery_of(tmp_path / "g", [features(random) for _ in range(2)], [np.ones(GRID, bool)] * 2)
    with GalleryWriter(path) as writer, writer.gallery.catalog.transaction() as changes:
        changes._db.execute("UPDATE regions SET value = '{}'")
    with Gallery(path) as gallery:
        assert any("not a region of interest" in line for line in gallery.verify())
        with pytest.raises(GalleryDamaged, match="not a region of interest"):
            gallery.own_region(next(gallery.images()).key)


def test_an_image_with_a_region_is_not_whole(tmp_path: Path) -> None:
    """Where nothing else has a region, it is refused, not searched for as if it had none."""
    build(tmp_path / "g", write_images(tmp_path / "images", 4), tiny_backbone())
    files = [replace(file, region=MaskFile.at(tmp_path / "mask.png")) for file in find_images(tmp_path / "images")]
    Image.new("L", (40, 36), 255).save(tmp_path / "mask.png")
    errors: list[ImageError] = []
    images = list(load_all(files, SETTINGS.preprocessing, workers=1, ahead=4, on_error=errors.append))
    assert not errors
    with Gallery(tmp_path / "g") as gallery, pytest.raises(InputError, match="has none"):
        Detector(gallery, tiny_backbone()).detect(images)
    with (
        GalleryWriter(tmp_path / "other", SETTINGS) as writer,
        pytest.raises(InputError, match="no regions of interest for each image"),
    ):
        writer.add(iter(files), tiny_backbone())


def test_rules_are_refused_that_name_nothing(tmp_path: Path) -> None:
    path = gallery_of(tmp_path / "g", [features(np.random.default_rng(0))], [None])
    with GalleryWriter(path) as writer, pytest.raises(InputError, match="stands for nothing"):
        writer.set_region_rule("{nonsense}")


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_masks_of_an_archive_are_turned_as_its_images_also_later(tmp_path: Path, kind: str) -> None:
    """A mask has no orientation of its own; one of 180 degrees would fit wrongly without a word."""
    (tmp_path / "in" / "masks").mkdir(parents=True)
    for orientation in (1, 3, 6):
        mask, exif = Image.new("L", (48, 40)), Image.Exif()
        mask.paste(1, (0, 0, 12, 40))
        exif[0x112] = orientation
        random_image(orientation, (48, 40)).save(tmp_path / "in" / f"{orientation}.png", exif=exif)
        mask.save(tmp_path / "in" / "masks" / f"{orientation}.png")
    archive, rule = shutil.make_archive(str(tmp_path / "parts"), kind, tmp_path / "in"), RegionRule.of("masks/{name}")
    at_once, later = (GalleryWriter(tmp_path / name, SETTINGS) for name in ("at-once", "later"))
    with at_once, later:
        at_once.set_region_rule(rule.text)
        at_once.add(find_images(archive, rule=rule), tiny_backbone())
        images = [file for file in find_images(archive) if "masks" not in file.id]
        later.add(iter(images), tiny_backbone())
        ids = {row.key: row.id for row in later.gallery.images()}
        found = {ids[key]: region for key, region in regions_by_rule(later.gallery, rule).items()}
        expected = {row.id: at_once.gallery.own_region(row.key).packed for row in at_once.gallery.images()}
    assert found == expected
    assert len(expected) == 3
