"""A gallery's own images, as queries: what their codec left of them comes back as noise."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import alone
from spade_index.method.as_new import maps_as_new
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

from helpers.tiny import build, write_images

IMAGES = 60  # more vectors than tables have rows
FINE = SearchSettings(compared_levels=(0,), gallery_neighbours=10)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory, backbone: Backbone) -> Path:
    """A gallery of float16 maps."""
    folder = tmp_path_factory.mktemp("as-new")
    build(folder / "gallery", write_images(folder / "images", IMAGES), backbone)
    return folder / "gallery"


def stored_as(maps: str, exact: Path, tmp_path: Path, levels: tuple[int, ...] | None = None) -> Path:
    """Return a copy of the gallery whose maps are stored so."""
    path = shutil.copytree(exact, tmp_path / maps)
    with GalleryWriter(path) as writer:
        if levels is not None:  # that are searched
            search = {"compared_levels": levels}
            writer.set_tuned({"search": search, "images": IMAGES, "snapshot": writer.gallery.snapshot})
        writer.compact(maps=maps, levels=levels)
    return path


@pytest.mark.parametrize("maps", ["float16", "int8", "int4"])
def test_maps_that_lost_little_are_what_is_stored(maps: str, exact: Path, tmp_path: Path) -> None:
    with Gallery(stored_as(maps, exact, tmp_path)) as gallery:
        rows = list(gallery.images())[:3]
        for level, stored in zip(maps_as_new(gallery, rows), gallery.maps([row.key for row in rows]), strict=True):
            np.testing.assert_array_equal(level.numpy(), stored.astype(np.float32))


def test_noise_has_the_deviation_of_what_was_lost_and_is_the_same_each_time(exact: Path, tmp_path: Path) -> None:
    with Gallery(exact) as gallery:
        before = gallery.maps([row.key for row in gallery.images()], [0])[0].astype(np.float32)
    with Gallery(stored_as("pq", exact, tmp_path, levels=(0, 2))) as gallery:
        rows = list(gallery.images())
        stored = gallery.maps([row.key for row in rows])
        found = maps_as_new(gallery, rows)
        for number in (7, 21):
            for level, alone in zip(found, maps_as_new(gallery, [rows[number]]), strict=True):
                np.testing.assert_array_equal(level[number], alone[0])
    assert found[1].shape == (IMAGES, 0, stored[1].shape[2]), "a level that was dropped"
    noise = found[0].numpy() - stored[0]
    lost = before - stored[0]
    np.testing.assert_allclose(noise.std((0, 1)), lost.std((0, 1)), rtol=0.1)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.15, "images have noise of their own"


def test_an_image_scores_as_a_new_one_does(exact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not lower: thresholds of what smoother images score would call too many new ones anomalous."""
    with Gallery(exact) as gallery:
        rows = list(gallery.images())
        places = {row.id: place for place, row in enumerate(rows)}
        new = [torch.from_numpy(level).float() for level in gallery.maps([row.key for row in rows])]

    with Gallery(stored_as("pq", exact, tmp_path)) as gallery:
        detector = Detector(gallery, search=FINE, calibrated=False)

        def score(maps: Callable[[Gallery, Sequence[ImageRow]], list[Tensor]]) -> float:
            monkeypatch.setattr(alone, "maps_as_new", maps)
            found = alone.search_alone(detector, gallery.images(), lambda number: True)
            assert len(found) == IMAGES
            return float(np.mean([image.distances.mean() for image in found]))

        of_new = score(lambda _, rows: [level[[places[row.id] for row in rows]] for level in new])
        as_stored = score(lambda _, rows: [torch.from_numpy(m).float() for m in gallery.maps([r.key for r in rows])])
        as_new = score(maps_as_new)
    assert as_stored < 0.25 * of_new, "what is left of new images is most of what they score"
    assert as_new == pytest.approx(of_new, rel=0.1)
