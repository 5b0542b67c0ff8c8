"""The files that a gallery's images were added from, where they can still be read and have not changed."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import xxhash
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.images.decode import AS_STORED
from spade_index.images.files import as_path, is_regular, read_any, status_of
from spade_index.images.find import ImageFile, find_images
from spade_index.images.pages import without_page
from spade_index.images.plain import picture_of
from spade_index.images.tiles import Piece, crop, piece_of
from spade_index.images.workers import Held
from spade_index.settings import Preprocessing


def originals(rows: Sequence[ImageRow], how: Preprocessing = AS_STORED) -> Iterator[tuple[ImageRow, Image.Image]]:
    """Yield those of the images whose files are as they were, upright RGB; those within other files come last.

    Of a tile that is its part of the picture; a picture is decoded once for all of its tiles. `how` is the gallery's
    preprocessing: the range that pixels are read by, and the tiles.
    """
    of_path: dict[str, list[ImageRow]] = defaultdict(list)
    for row in rows:
        of_path[row.path].append(row)
    for path, data in _contents(list(of_path)):
        digest = xxhash.xxh3_128_digest(data)
        same = [row for row in of_path[path] if row.digest == _digest(digest, row, how)]
        if not same:
            continue
        try:
            image = picture_of(ImageFile(path, path, len(data), 0, Held(data)), how)
        except ImageError:
            continue
        for row in same:
            yield row, image if how.tile is None else crop(image, _piece(row, how).box)


def _digest(file: bytes, row: ImageRow, how: Preprocessing) -> bytes:
    """Return the digest that an image has in the gallery, if its file has this one."""
    return file if how.tile is None else _piece(row, how).digest(file)


def _piece(row: ImageRow, how: Preprocessing) -> Piece:
    return piece_of(row.id, row.width, row.height, how)


def _contents(paths: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the bytes of files, also of those within others: ARCHIVE::MEMBER, and pages, FILE#2."""
    within: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        if (whole := _whole(path)) is not None:
            within[whole].add(path)
            continue
        if not _is_file(path):  # paths come from the catalog, which may come from anyone
            continue
        try:
            yield path, read_any(as_path(path))
        except (ImageError, OSError):
            continue
    for whole, wanted in within.items():
        try:
            if not _is_file(whole):  # else all of a folder would be looked through
                continue
            for file in find_images(as_path(whole)):
                if file.path in wanted:
                    yield file.path, file.read()
        except (ImageError, InputError, OSError):
            continue


def _is_file(path: str) -> bool:
    status = status_of(as_path(path))
    return status is not None and is_regular(status)


def _whole(path: str) -> str | None:
    """Return the file that an image is within, None if it is a file of its own."""
    if Path(as_path(path)).exists():
        return None
    archive, inside, _ = path.partition("::")
    whole = archive if inside else without_page(path)
    return None if whole == path else whole
