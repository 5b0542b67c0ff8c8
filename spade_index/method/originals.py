"""The files that a gallery's images were added from, where they can still be read and have not changed."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import xxhash
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.images.decode import AS_STORED, decode
from spade_index.images.files import as_path
from spade_index.images.find import find_images
from spade_index.images.pages import without_page
from spade_index.settings import Preprocessing


def originals(rows: Sequence[ImageRow], how: Preprocessing = AS_STORED) -> Iterator[tuple[ImageRow, Image.Image]]:
    """Yield those of the images whose files are as they were, upright RGB; those within other files come last.

    `how` is the gallery's preprocessing: the range that pixels are read by.
    """
    for row, data in _contents(rows):
        if xxhash.xxh3_128_digest(data) != row.digest:
            continue
        try:
            yield row, decode(data, row.path, how=how)
        except ImageError:
            continue


def _contents(rows: Sequence[ImageRow]) -> Iterator[tuple[ImageRow, bytes]]:
    """Yield the bytes of the files of rows, also of those within others: ARCHIVE::MEMBER, and pages, FILE#2."""
    within: dict[str, list[ImageRow]] = defaultdict(list)
    for row in rows:
        if (whole := _whole(row.path)) is not None:
            within[whole].append(row)
            continue
        try:
            yield row, Path(as_path(row.path)).read_bytes()
        except OSError:
            continue
    for whole, some in within.items():
        wanted = {row.path: row for row in some}
        try:
            for file in find_images(as_path(whole)):
                if file.path in wanted:
                    yield wanted[file.path], file.read()
        except (ImageError, InputError, OSError):
            continue


def _whole(path: str) -> str | None:
    """Return the file that an image is within, None if it is a file of its own."""
    if Path(as_path(path)).exists():
        return None
    archive, inside, _ = path.partition("::")
    whole = archive if inside else without_page(path)
    return None if whole == path else whole
