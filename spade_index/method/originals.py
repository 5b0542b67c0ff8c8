"""The files that a gallery's images were added from, where they can still be read and have not changed."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import xxhash
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.images.decode import AS_STORED, decode
from spade_index.images.find import find_images
from spade_index.settings import Preprocessing


def originals(rows: Sequence[ImageRow], how: Preprocessing = AS_STORED) -> Iterator[tuple[ImageRow, Image.Image]]:
    """Yield those of the images whose files are as they were, upright RGB; those in archives come last.

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
    """Yield the bytes of the files of rows, also of those in an archive (ARCHIVE::MEMBER)."""
    in_archives = {row.path: row for row in rows if "::" in row.path and not Path(row.path).exists()}
    for row in rows:
        try:
            if row.path not in in_archives:
                yield row, Path(row.path).read_bytes()
        except OSError:
            continue
    for archive in dict.fromkeys(path.partition("::")[0] for path in in_archives):
        try:
            for file in find_images(archive):
                if file.path in in_archives:
                    yield in_archives[file.path], file.read()
        except (InputError, OSError):
            continue
