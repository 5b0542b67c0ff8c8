"""Datasets in MVTec layout: the test set is found with its masks, and what is missing is named."""

import pytest

from spade_index.errors import InputError
from spade_index.method.dataset import find_test_images

from helpers.datasets import write_dataset


def test_the_test_set_is_found_with_its_masks(dataset):
    found = find_test_images(dataset)
    assert [image.file.id for image in found] == [
        *(f"good/{n:03d}.png" for n in range(4)),
        *(f"{kind}/{n:03d}.png" for kind in ("hole", "scratch") for n in range(3)),
    ]
    assert [image.kind for image in found[4:]] == ["hole"] * 3 + ["scratch"] * 3
    assert all(image.mask is None for image in found[:4])
    assert found[4].mask == dataset / "ground_truth" / "hole" / "000_mask.png"


@pytest.mark.parametrize(
    ("folder", "words"),
    [("test/good", "test/good"), ("test", "test/good"), ("ground_truth/hole", "has no mask")],
)
def test_a_dataset_that_lacks_a_folder_is_refused(dataset, folder, words):
    (dataset / folder).rename(dataset.parent / "elsewhere")
    with pytest.raises(InputError, match=words) as raised:
        find_test_images(dataset)
    assert str(dataset) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_dataset_without_defects_is_refused(tmp_path):
    root = write_dataset(tmp_path / "dataset", bad=0)
    with pytest.raises(InputError, match="test/KIND"):
        find_test_images(root)


def test_a_missing_mask_names_its_image(dataset):
    (dataset / "ground_truth" / "hole" / "001_mask.png").unlink()
    with pytest.raises(InputError, match=r"test/hole/001\.png: has no mask"):
        find_test_images(dataset)


def test_without_a_folder_of_masks_there_are_none(dataset):
    (dataset / "ground_truth").rename(dataset.parent / "elsewhere")
    assert {image.mask for image in find_test_images(dataset)} == {None}


@pytest.mark.parametrize("name", ["000_MASK.PNG", "000.bmp", "000_gt.tif", "000_mask.gif"])
def test_a_mask_may_have_any_suffix_and_case(dataset, name):
    mask = dataset / "ground_truth" / "hole" / "000_mask.png"
    mask.rename(mask.with_name(name))
    assert find_test_images(dataset)[4].mask == mask.with_name(name)
