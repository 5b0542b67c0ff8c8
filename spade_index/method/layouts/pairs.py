"""KolektorSDD2: images and their masks side by side; the masks say what is normal."""

from pathlib import Path

from spade_index.errors import InputError
from spade_index.images.files import SUFFIXES
from spade_index.images.find import ImageFile, find_images
from spade_index.images.masks import marks_anything
from spade_index.images.passed_over import PassedOver

from ..labelled import GOOD, Dataset, LabelledImage
from .masks import Masks
from .names import below

ENDING = "_gt"
DEFECT = "defect"


def kolektor(root: Path, passed_over: PassedOver) -> Dataset:
    """Read train/*.png and test/*.png, each with *_GT.png; defective images of train are left out."""
    test = [
        LabelledImage(file, DEFECT if defective else GOOD, mask if defective else None)
        for file, mask, defective in _pairs(below(root, "test"), passed_over)
    ]
    train = _pairs(below(root, "train"), passed_over)
    normal = [file for file, _, defective in train if not defective]
    found = Dataset(
        root.resolve().name,
        "ksdd2",
        root,
        test,
        normal,
        normal_from="train, by the masks train/*_GT.png",
        left_out=(f"{len(train) - len(normal)} defective training images",) if len(normal) < len(train) else (),
    )
    return found.require_test("test/*.png with an empty test/*_GT.png", "test/*.png with a marked one")


def is_kolektor(root: Path) -> bool:
    """Return whether there are masks beside the images of the test set."""
    test = below(root, "test")
    return test.is_dir() and any(_is_mask(path) for path in test.iterdir())


def _pairs(folder: Path, passed_over: PassedOver) -> list[tuple[ImageFile, Path | None, bool]]:
    """Return each image of a folder, its mask, and whether that marks anything.

    Raises InputError if some images have masks and others not: nobody says whether those are normal.
    """
    if not folder.is_dir():
        return []
    masks = Masks(folder)
    found: list[tuple[ImageFile, Path | None, bool]] = []
    for file in find_images(folder, passed_over=passed_over, pages=False):
        if not _is_mask(Path(file.id)):
            mask = masks.of(Path(file.id), (ENDING,))
            found.append((file, mask, mask is not None and marks_anything(mask)))
    without = next((file for file, mask, _ in found if mask is None), None)
    if without is not None and any(mask for _, mask, _ in found):
        raise InputError(f"{without.path}: has no mask *_GT.png beside it, though other images of {folder} have one")
    return found


def _is_mask(path: Path) -> bool:
    return path.stem.casefold().endswith(ENDING) and path.suffix.lower() in SUFFIXES
