"""Check every file of a gallery against what was committed."""

import errno
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from spade_index.errors import GalleryDamaged, StorageError
from spade_index.gallery.catalog.tables import ImageRow, IndexRow, ShardRow
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.store.files import IRREGULAR, file_digest, is_hole
from spade_index.gallery.store.leave_one_out import FOLDER, remedy
from spade_index.gallery.store.shard import Shard

from .snapshot import SnapshotView

NAMED = 5  # images of a shard that one line names

Progress = Callable[[int], None]
Checks = Callable[[Iterable[ShardRow], Progress], "Iterator[Problem]"]  # as `shard_problems` does, of several shards


@dataclass(frozen=True)
class Problem:
    """Something that is not as it was committed."""

    line: str  # names the file
    shard: int | None = None  # a damaged shard, which can be replaced
    lost: tuple[ImageRow, ...] = ()  # the images of it that cannot be read, removed or not
    index: bool = False  # whether it is the index, which can be built again
    layout: int | None = None  # a shard whose kept layout is wrong, and nothing else
    calibration: str | None = None  # the file of a calibration, which can be made again


def find_problems(view: SnapshotView, progress: Progress, elsewhere: Checks | None = None) -> Iterator[Problem]:
    """Yield all problems of a gallery; `progress` is called with the bytes checked, `bytes_to_check` in all.

    Shards are checked `elsewhere`, or here.
    """
    try:
        yield from map(Problem, view.catalog.problems())
        shards = view.catalog.shards().values()
        if elsewhere is not None:
            yield from elsewhere(shards, progress)
        else:
            for row in shards:
                yield from shard_problems(view, row, progress)
        yield from _index_problems(view, progress)
        yield from _calibration_problems(view, progress)
    except GalleryDamaged as error:  # the catalog
        yield Problem(str(error))


def bytes_to_check(view: SnapshotView) -> int:
    """Return the size of all shards, of the index and of calibrations."""
    row = view.catalog.index(view.snapshot)
    files = [path for path, _ in _index_files(view, row)] if row else []
    files += [view.folder / FOLDER / file for file in view.catalog.calibration_files()]
    shards = sum(shard.bytes for shard in view.catalog.shards().values())
    return sum(path.stat().st_size for path in files if path.is_file()) + shards


def shard_problems(view: SnapshotView, row: ShardRow, progress: Progress) -> Iterator[Problem]:
    """Yield the problems of a shard; one without images waits to be deleted."""
    if not (images := view.catalog.images_in(row.shard)):
        return
    path = view.shards.folder / row.file
    try:
        if path.lstat().st_size == row.bytes and file_digest(path, progress) == row.digest:
            yield from _layout_problems(view, row.shard, path)
            return
        damaged = set(Shard(path, view.settings).damaged_rows())
        if damaged and (layout := view.shards.recalled_layout(row.shard, path)):
            damaged &= set(Shard(path, view.settings, layout).damaged_rows())  # HDF5 may not find all rows any more
    except FileNotFoundError:
        yield Problem(f"{path}: missing ({_named(images)})", row.shard, tuple(images))
    except GalleryDamaged as error:
        yield Problem(f"{error} ({_named(images)})", row.shard, tuple(images))
    except StorageError as error:
        yield Problem(str(error))
    except OSError as error:
        line = f"{path}: cannot be read ({error.strerror}; {_named(images)})"
        # Any other error is not the file's fault, and `repair` must not drop its images.
        yield Problem(line, row.shard, tuple(images)) if error.errno == errno.EIO else Problem(line)
    else:
        lost = tuple(image for image in images if image.row in damaged)
        where = _named(lost) if lost else "outside of its images"
        yield Problem(f"{path}: bytes have changed since it was written ({where})", row.shard, lost)


def _layout_problems(view: SnapshotView, shard: int, path: Path) -> Iterator[Problem]:
    """Check the layout that is kept of a shard whose bytes are as they were written."""
    if view.shards.layout_is_wrong(shard, path):
        line = f"{view.catalog.path}: the layout that it keeps of {path} is wrong; "
        yield Problem(line + f"`spade-index verify {view.path} --repair` replaces it", layout=shard)


def _index_problems(view: SnapshotView, progress: Progress) -> Iterator[Problem]:
    row = view.catalog.index(view.snapshot)
    if row is None:
        return
    for path, digest in _index_files(view, row):
        if not _has_digest(path, digest, progress):
            yield Problem(f"{path}: missing or altered; rebuild it with `spade-index index {view.path}`", index=True)


def _calibration_problems(view: SnapshotView, progress: Progress) -> Iterator[Problem]:
    for file, digest in view.catalog.calibration_files().items():
        path = view.folder / FOLDER / file
        if not _has_digest(path, digest, progress):
            yield Problem(f"{path}: missing or altered; {remedy(path)}", calibration=file)


def _has_digest(path: Path, digest: str, progress: Progress) -> bool:
    """Return whether a file is there, and is what was written. Raises OSError if it cannot be read now."""
    try:
        return not is_hole(path) and file_digest(path, progress) == digest
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, *IRREGULAR):
            return False
        raise


def _index_files(view: SnapshotView, row: IndexRow) -> list[tuple[Path, str]]:
    """Return the files of an index, and their digests."""
    index = view.folder / "index" / row.file
    descriptors = IndexDescription.from_json(row.description).descriptors
    return [(index, row.digest), *([(descriptors_file(index), descriptors)] if descriptors else [])]


def shown(id: str) -> str:
    """Return an id as one line shows it: one that was read from a file may have any characters."""
    return id if id.isprintable() else repr(id)


def _named(images: Sequence[ImageRow]) -> str:
    ids = list(dict.fromkeys(shown(image.id) for image in images))
    more = f" and {len(ids) - NAMED:,} more" if len(ids) > NAMED else ""
    return f"image{'s' * (len(ids) > 1)} {', '.join(ids[:NAMED])}{more}"
