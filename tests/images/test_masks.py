"""Masks are resized and cropped as their images are."""

import numpy as np
from PIL import Image

from spade_index.images import covered
from spade_index.images.masks import read_mask
from spade_index.settings import Preprocessing


def test_a_mask_is_defective_from_grey_level_128(tmp_path):
    Image.fromarray(np.array([[0, 1, 127, 128, 129, 255]], np.uint8)).save(tmp_path / "m.png")
    geometry = covered(6, 1, Preprocessing(input_size=(16, 16)))
    mask = read_mask(tmp_path / "m.png", geometry, (1, 6))
    assert mask.tolist() == [[False, False, False, True, True, True]]


def test_a_mask_is_cropped_as_its_image_is(tmp_path):
    mask = np.zeros((100, 200), np.uint8)
    mask[10:90, 60:140] = 255  # what is left of the crop: 80 of 100 pixels, from the middle
    Image.fromarray(mask).save(tmp_path / "m.png")
    geometry = covered(200, 100, Preprocessing(input_size=(64, 64), resize=80))
    assert geometry.box == (60, 10, 140, 90)
    assert read_mask(tmp_path / "m.png", geometry, (64, 64)).all()
    mask[10, 60] = 0
    Image.fromarray(mask).save(tmp_path / "m.png")
    cropped = read_mask(tmp_path / "m.png", geometry, (80, 80))
    assert not cropped[0, 0]
    assert cropped.sum() == 80 * 80 - 1


def test_an_image_without_a_mask_has_no_defective_pixel():
    geometry = covered(6, 4, Preprocessing(input_size=(16, 16)))
    assert not read_mask(None, geometry, (16, 16)).any()
