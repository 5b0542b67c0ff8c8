"""Test sets: images with their ground truth, and the normal images to compare them with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spade_index.errors import InputError
from spade_index.images.files import as_path
from spade_index.images.find import ImageFile
from spade_index.images.masks import Marked, require_fit

GOOD = "good"
UNLABELLED = ""  # the kind of an image of which nobody says whether it is good


@dataclass(frozen=True)
class Saturation:
    """How much of a defect is enough to have found it (MVTec LOCO)."""

    threshold: float  # pixels of the mask, or a share of the defect
    relative: bool

    def enough(self, marked: Marked) -> float:
        """Return the number of a mask's resized pixels that is enough."""
        share = self.threshold if self.relative else min(self.threshold, marked.area) / max(marked.area, 1)
        return float(share * marked.pixels.sum())


@dataclass(frozen=True)
class LabelledImage:
    """An image of a test set, with its ground truth."""

    file: ImageFile
    kind: str  # "good", or the kind of defect: "crack"
    mask: Path | None  # a file or a folder of files; None for a good image, or where there are no masks
    saturations: Mapping[int, Saturation] | None = None  # by the value of a mask; None: whole defects are to be found

    def enough(self, marked: Marked) -> float | None:
        """Return how many of the pixels of a mask are enough to have found it; None where that is not stated."""
        if self.saturations is None:
            return None
        return self.saturations.get(marked.value, Saturation(1.0, relative=True)).enough(marked)


@dataclass(frozen=True)
class Dataset:
    """One category of a dataset: images of one object."""

    name: str
    layout: str
    path: Path  # the folder, or the file that lists the images
    test: list[LabelledImage] = field(repr=False)
    normal: list[ImageFile] = field(repr=False)
    unlabelled: list[LabelledImage] = field(repr=False, default_factory=list)  # of which only score maps are wanted
    normal_from: str = "train/good"  # where `normal` was looked for
    left_out: tuple[str, ...] = ()  # what was found and is not used: "30 images of validation"

    def require_test(self, good: str, defective: str, ground_truth: Path | None = None) -> "Dataset":
        """Return the dataset, if its test set can be judged.

        Args:
            good: where good images are, in words.
            defective: where defective images are, in words.
            ground_truth: folder of masks. If it is there, or any image has a mask, every defective one must have one.

        Raises:
            InputError: there are no good images, no defective ones, or a mask is missing.
        """
        for wanted, there in (
            (good, any(image.kind == GOOD for image in self.test)),
            (defective, any(image.kind != GOOD for image in self.test)),
        ):
            if not there:
                raise InputError(
                    f"{self.path}: no images in {wanted}: in the layout {self.layout}, a test set has {good} "
                    f"and {defective}"
                )
        given = ground_truth is not None and ground_truth.is_dir()
        if given or any(image.mask is not None for image in self.test):
            for image in self.test:
                if image.kind != GOOD and image.mask is None:
                    where = f" in {ground_truth / image.kind}" if ground_truth is not None else ""
                    raise InputError(
                        f"{image.file.path}: has no mask{where}; without any masks, images are judged alone"
                    )
        return self

    def require_masks_fit(self) -> None:
        """Raise InputError for the first mask that cannot be opened, or has not the size of its image."""
        for image in self.test:
            if image.mask is not None:
                require_fit(image.mask, Path(as_path(image.file.path)))

    def require_normal(self) -> list[ImageFile]:
        """Return the normal images. Raises InputError if there are none."""
        if not self.normal:
            raise InputError(f"{self.path}: no normal images in {self.normal_from} (or give --gallery)")
        return self.normal
