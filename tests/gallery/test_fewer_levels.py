"""A gallery of an earlier version stores fewer levels than its backbone has by default now."""

from pathlib import Path

import numpy as np
import pytest

from spade_index.errors import SettingsMismatch
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images, load
from spade_index.method.detector import Detector
from spade_index.method.tuning import tune
from spade_index.settings import Preprocessing

from helpers.tiny import INPUT, TinyCNN, tiny_backbone, write_images


def of_levels(*levels: str) -> Backbone:
    return Backbone("tiny-0", TinyCNN(0), Preprocessing(input_size=(INPUT, INPUT)), levels=levels, device="cpu")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A gallery of 24 images and two levels."""
    earlier = of_levels("fine", "middle")
    with GalleryWriter(tmp_path / "gallery", earlier.settings) as writer:
        writer.add(list(find_images(write_images(tmp_path / "images", 24))), earlier)
    return tmp_path / "gallery"


def test_it_is_searched_with_the_levels_that_it_has(path: Path) -> None:
    with Gallery(path) as gallery:
        (image,) = [load(next(find_images(path.parent / "images")), gallery.settings.preprocessing)]
        earlier, now = (Detector(gallery, one) for one in (of_levels("fine", "middle"), tiny_backbone()))
        assert now.backbone is not None
        assert now.backbone.settings == gallery.settings
        (one,), (other,) = earlier.detect([image]), now.detect([image])
        assert one.scores == other.scores
        assert one.pixels is not None
        assert other.pixels is not None
        np.testing.assert_array_equal(one.pixels.score_map, other.pixels.score_map)
        tune(gallery, tiny_backbone(), ways=1, images=12)


def test_images_are_added_with_the_levels_that_it_has(path: Path) -> None:
    more = list(find_images(write_images(path.parent / "more" / "new", 2, seed=7).parent))
    with GalleryWriter(path, tiny_backbone().settings) as writer:
        writer.add(more, tiny_backbone())
        assert len(writer.gallery) == 26
    with Gallery(path) as gallery:
        assert list(gallery.verify()) == []
        assert gallery.settings.levels == ("fine", "middle")


def test_a_backbone_without_one_of_its_levels_is_refused(path: Path) -> None:
    with Gallery(path) as gallery, pytest.raises(SettingsMismatch, match="levels"):
        Detector(gallery, of_levels("fine", "coarse"))
