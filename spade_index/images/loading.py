"""Load images in advance, several at once, in threads or in processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import TypeVar

import numpy as np
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.settings import Preprocessing

from .decode import DecodedImage, Geometry, cut, load_parts, load_picture
from .files import ImageFile
from .tiles import Tile, tile_boxes

PROCESSES_FROM = 500  # images from which decoding in processes pays for their start of half a second
LOT = 8  # images that a process loads at a time
PICTURES = 3  # that are cut into tiles: decoded at a time, at most
TILES = 16  # that a thread cuts at a time

T = TypeVar("T")
F = TypeVar("F")
Packed = tuple[bytes, bytes, tuple[int, int, tuple[float, float, float, float]], bytes, str | None, Tile | None]
Loaded = list[DecodedImage] | list[Packed] | ImageError


def load_all(
    files: Iterable[ImageFile],
    how: Preprocessing,
    *,
    workers: int,
    ahead: int,
    on_error: Callable[[ImageError], None],
    processes: bool = False,
) -> Generator[DecodedImage]:
    """Yield images in the order of `files`, about `ahead` of them loaded in advance, on `workers` threads or processes.

    The tiles of a picture follow each other, in raster order; see `load_tiles`.

    Processes decode small images faster, since Python's threads take turns, but need half a second to start, and the
    calling program must be importable (`if __name__ == "__main__"`). `on_error` is called for an image that cannot be
    loaded, which is left out; it may raise to stop. Raises InputError if a process dies, and what iterating over
    `files` raises, after the images before it.
    """
    if how.tile is not None:
        yield from load_tiles(files, how, workers=workers, on_error=on_error)
        return
    lot = LOT if processes else 1
    lots = max(ahead // lot, 2 * workers) if processes else ahead
    pool = _processes(workers) if processes else ThreadPoolExecutor(workers, thread_name_prefix="decode")
    work: Callable[[list[ImageFile], Preprocessing], Sequence[Loaded]] = _load_packed if processes else _load
    try:
        for some, future in _started_ahead(in_lots(files, lot), lambda some: pool.submit(work, some, how), lots):
            for file, loaded in zip(some, future.result(), strict=True):
                if isinstance(loaded, ImageError):
                    on_error(loaded)
                else:
                    yield from (
                        image if isinstance(image, DecodedImage) else _unpacked(file, image, how) for image in loaded
                    )
    except BrokenProcessPool as error:
        raise InputError("a decoding process died (out of memory?): try fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def load_tiles(
    files: Iterable[ImageFile], how: Preprocessing, *, workers: int, on_error: Callable[[ImageError], None]
) -> Generator[DecodedImage]:
    """Yield the tiles of pictures, in the order of `files` and in raster order.

    At most PICTURES are in memory at a time, and, of each worker, a few tiles: threads take no turns in what takes
    long, cutting and resizing, so one picture keeps all of them busy.
    """
    # The C library keeps freed memory by thread: few of them decode whole pictures.
    decoders = ThreadPoolExecutor(min(workers, PICTURES - 1), thread_name_prefix="decode")
    cutters = ThreadPoolExecutor(workers, thread_name_prefix="cut")
    try:
        decoded = _started_ahead(iter(files), lambda file: decoders.submit(load_picture, file, how), PICTURES)
        for file, future in decoded:
            try:
                picture = future.result()
            except ImageError as error:
                on_error(error)
                continue
            yield from _tiles_of(picture, file, how, cutters, 2 * workers)
            del picture, future  # before the next one is waited for
    finally:
        for pool in (decoders, cutters):
            pool.shutdown(wait=True, cancel_futures=True)


def _tiles_of(
    picture: tuple[Image.Image, bytes, str | None], file: ImageFile, how: Preprocessing, pool: Executor, ahead: int
) -> Iterator[DecodedImage]:
    image, digest, notice = picture
    lots = in_lots(range(len(tile_boxes(image.width, image.height, how))), TILES)
    cut_ahead = _started_ahead(lots, lambda lot: pool.submit(cut, image, file, how, digest, notice, lot), ahead)
    for _, future in cut_ahead:
        yield from future.result()


def _started_ahead(items: Iterator[T], start: Callable[[T], Future[F]], count: int) -> Iterator[tuple[T, Future[F]]]:
    """Yield items with the work started on each, up to `count` of them in advance.

    An error of `items`, as of a damaged archive, is raised after the items before it.
    """
    pending: deque[tuple[T, Future[F]]] = deque()
    failure: Exception | None = None
    while True:
        while failure is None and len(pending) < count:
            try:
                item = next(items)
            except StopIteration:
                break
            except Exception as error:
                failure = error
            else:
                pending.append((item, start(item)))
        if not pending:
            break
        yield pending.popleft()
    if failure is not None:
        raise failure


def pays_in_processes(files: Iterable[ImageFile]) -> bool:
    """Return whether there are so many images that `load_all` is faster with processes; reads no further than that."""
    return sum(1 for _ in islice(files, PROCESSES_FROM)) == PROCESSES_FROM


def in_lots(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; if the items raise, the last items before that first, as a shorter list."""
    lot: list[T] = []
    try:
        for item in items:
            lot.append(item)
            if len(lot) == size:
                yield lot
                lot = []
    except Exception:
        if lot:
            yield lot
        raise
    if lot:
        yield lot


def _load(files: list[ImageFile], how: Preprocessing) -> list[list[DecodedImage] | ImageError]:
    found: list[list[DecodedImage] | ImageError] = []
    for file in files:
        try:
            found.append(load_parts(file, how))
        except ImageError as error:
            found.append(error)
    return found


def _load_packed(files: list[ImageFile], how: Preprocessing) -> list[list[Packed] | ImageError]:
    """Load as `_load` does, but return plain values, which are pickled in half the time; the caller has the files."""
    return [
        loaded if isinstance(loaded, ImageError) else [_packed(image) for image in loaded]
        for loaded in _load(files, how)
    ]


def _packed(image: DecodedImage) -> Packed:
    geometry = image.geometry
    shown = (geometry.width, geometry.height, geometry.box)
    return image.digest, image.pixels.tobytes(), shown, image.thumbnail, image.notice, image.tile


def _unpacked(file: ImageFile, packed: Packed, how: Preprocessing) -> DecodedImage:
    digest, pixels, geometry, thumbnail, notice, tile = packed
    array = np.frombuffer(pixels, np.uint8).reshape(*how.input_size, 3)
    return DecodedImage(file, digest, array, Geometry(*geometry), thumbnail, notice, tile)


def _processes(workers: int) -> Executor:
    # Not forked: torch has threads, and a process with threads cannot be forked safely.
    try:
        return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _prepare_process)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"decoding processes cannot be started ({reason}): is /dev/shm full?") from error


def _prepare_process() -> None:
    """Prepare a new process: its parent handles signals, and it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # which may be sent to all processes of a group
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
