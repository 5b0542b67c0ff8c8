"""The images that a command names: folders, tar archives, text lists and single files."""

from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from spade_index.errors import InputError

if TYPE_CHECKING:  # imports numpy and Pillow
    from spade_index.images.find import ImageFile


def require_images(sources: Iterable[Path]) -> None:
    """Raise InputError for the first source without images."""
    for source in sources:
        if next(files_of([source]), None) is None:
            raise InputError(f"{source}: no images in it (JPEG, PNG, BMP, TIFF, WebP)")


def files_of(sources: Iterable[Path], prefix: str = "") -> "Iterator[ImageFile]":
    """Yield the images of all sources; `prefix` is put before each id."""
    from spade_index.images.find import find_images

    return chain.from_iterable(find_images(source, prefix) for source in sources)
