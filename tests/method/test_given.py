"""What callers of the Python API give: other kinds and values are refused, in one line, and compute nothing."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from spade_index import Detector, Gallery, find_images
from spade_index.errors import InputError
from spade_index.images import load
from spade_index.settings import IndexSettings, SearchSettings

from helpers.tiny import build, tiny_backbone, write_images

NAN = float("nan")


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    folder = tmp_path_factory.mktemp("given")
    build(folder / "g", write_images(folder / "images", 4), tiny_backbone())
    return Gallery(folder / "g")


@pytest.mark.parametrize("of", [SearchSettings, IndexSettings])
@pytest.mark.parametrize("value", [True, NAN, float("inf"), 2**70, "5", np.float32(2), [1]])
def test_settings_take_numbers_of_their_kind_alone(of: type, value: object) -> None:
    for field in fields(of):
        if field.type in (int, float, int | None):
            with pytest.raises(InputError, match="must be"):
                of(**{field.name: value})


def test_whole_numbers_and_flags_are_not_taken_for_each_other() -> None:
    for values in ({"gallery_neighbours": 1.0}, {"same_place": 1}, {"window": False}):
        with pytest.raises(InputError, match="must be"):
            SearchSettings(**values)
    assert SearchSettings(smoothing=1).smoothing == 1


@pytest.mark.parametrize("snapshot", [True, 1.0, "1"])
def test_a_snapshot_is_a_whole_number(gallery: Gallery, snapshot: object) -> None:
    with pytest.raises(InputError, match="there is no snapshot"):
        Gallery(gallery.path, snapshot)


@pytest.mark.parametrize("given", [{"gallery": "g"}, {"backbone": "efficientnet-lite0"}, {"search": {"maps": "never"}}])
def test_a_detector_is_made_of_what_it_needs(gallery: Gallery, given: dict) -> None:
    with pytest.raises(TypeError, match=f"{next(iter(given))} is (str|dict), not a"):
        Detector(**{"gallery": gallery, **given})


def test_images_are_loaded_first(gallery: Gallery) -> None:
    detector = Detector(gallery, tiny_backbone())
    for image in ("a.png", Path("a.png"), np.zeros((8, 8, 3), np.uint8)):
        with pytest.raises(TypeError, match="load it first"):
            detector.detect([image])


def test_features_that_do_not_fit_are_refused(gallery: Gallery) -> None:
    """Of levels that are NaN, the score was 0: the most normal one."""
    detector = Detector(gallery, tiny_backbone())
    file = next(find_images(gallery.image("000.png").path))
    pooled, levels = detector.features([load(file, gallery.settings.preprocessing)])
    nan, more = torch.full_like(levels[1], NAN), torch.cat([levels[1], levels[1]])
    for pyramid, says in (
        (levels[:1], "1 levels of features"),
        ([*levels, levels[0]], "levels of features, but"),
        ([levels[0], nan, *levels[2:]], "level 1 has values that are NaN"),
        ([levels[0], more, *levels[2:]], r"level 1 is no tensor \[1, H\*W, C\]"),
        ([level.numpy() for level in levels], "level 0 is no tensor"),
    ):
        with pytest.raises(ValueError, match=says):
            detector.detect_features(pooled, pyramid)
    with pytest.raises(ValueError, match="descriptors have values that are NaN"):
        detector.detect_features(np.full_like(pooled, NAN), levels)
