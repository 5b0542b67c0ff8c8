"""Checking every file of a gallery against what was committed."""

import errno
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spade_index.errors import GalleryDamaged, StorageError
from spade_index.gallery.catalog.catalog import IndexRow
from spade_index.gallery.catalog.images import ImageRow
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.store.layout import ShardLayout
from spade_index.gallery.store.shard import Shard, file_digest

if TYPE_CHECKING:
    from .reader import Gallery

NAMED = 5  # images of a shard, in one line


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was committed."""

    line: str  # names the file
    shard: int | None = None  # that is damaged, and can be replaced
    lost: tuple[ImageRow, ...] = ()  # what cannot be read of it, removed or not
    index: bool = False  # whether it is the index, which can be built again
    layout: int | None = None  # the shard whose kept layout is wrong, and nothing else


def find_problems(gallery: "Gallery", progress: Callable[[int], None]) -> Iterator[Problem]:
    """All problems of a gallery; `progress` is told of the bytes that are checked, `bytes_to_check` in all."""
    try:
        yield from map(Problem, gallery.catalog.problems())
        shards = gallery.catalog.shards()
        for number, shard in shards.items():
            # Without images it is left to be deleted.
            if images := gallery.catalog.images_in(number):
                yield from _shard_problems(gallery, number, shard["file"], shard["digest"], images, progress)
        yield from _index_problems(gallery, progress)
    except GalleryDamaged as error:  # the catalog
        yield Problem(str(error))


def bytes_to_check(gallery: "Gallery") -> int:
    """The size of all shards and of the index."""
    row = gallery.catalog.index(gallery.snapshot)
    files = [path for path, _ in _index_files(gallery, row)] if row else []
    return sum(path.stat().st_size for path in files if path.is_file()) + sum(
        shard["bytes"] for shard in gallery.catalog.shards().values()
    )


def _shard_problems(
    gallery: "Gallery", number: int, file: str, digest: str, images: list[ImageRow], progress: Callable[[int], None]
) -> Iterator[Problem]:
    path = gallery.path / "shards" / file
    try:
        if file_digest(path, progress) == digest:
            yield from _layout_problems(gallery, number, path)
            return
        damaged = set(Shard(path, gallery.settings).damaged_rows())
        if damaged and (layout := gallery.kept_layout(number, path)):  # may find what HDF5 does not find any more
            damaged &= set(Shard(path, gallery.settings, layout).damaged_rows())
    except FileNotFoundError:
        yield Problem(f"{path}: missing ({_named(images)})", number, tuple(images))
    except GalleryDamaged as error:
        yield Problem(f"{error} ({_named(images)})", number, tuple(images))
    except StorageError as error:
        yield Problem(str(error))
    except OSError as error:
        line = f"{path}: cannot be read ({error.strerror}; {_named(images)})"
        # Whatever else it is, it is not the file's fault, and not for `repair`.
        yield Problem(line, number, tuple(images)) if error.errno == errno.EIO else Problem(line)
    else:
        lost = tuple(image for image in images if image.row in damaged)
        where = _named(lost) if lost else "outside of its images"
        yield Problem(f"{path}: bytes have changed since it was written ({where})", number, lost)


def _layout_problems(gallery: "Gallery", number: int, path: Path) -> Iterator[Problem]:
    """Of a shard that is as it was written."""
    if gallery.catalog.layout(number) is None:
        return
    layout = gallery.kept_layout(number, path)
    if layout is None or not layout.equals(ShardLayout.read(path, gallery.settings)):
        line = f"{gallery.catalog.path}: says wrongly where the values of {path} lie; "
        yield Problem(line + f"`spade-index verify {gallery.path} --repair` notes it anew", layout=number)


def _index_problems(gallery: "Gallery", progress: Callable[[int], None]) -> Iterator[Problem]:
    row = gallery.catalog.index(gallery.snapshot)
    if row is None:
        return
    for path, digest in _index_files(gallery, row):
        if not path.is_file() or file_digest(path, progress) != digest:
            yield Problem(f"{path}: missing or altered; rebuild it with `spade-index index {gallery.path}`", index=True)


def _index_files(gallery: "Gallery", row: IndexRow) -> list[tuple[Path, str]]:
    """The files of an index, and their digests."""
    index = gallery.path / "index" / row.file
    descriptors = IndexDescription.from_json(row.description).descriptors
    return [(index, row.digest), *([(descriptors_file(index), descriptors)] if descriptors else [])]


def _named(images: list[ImageRow] | tuple[ImageRow, ...]) -> str:
    ids = list(dict.fromkeys(image.id for image in images))
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return f"image{'s' * (len(ids) > 1)} {', '.join(ids[:NAMED])}{more}"
