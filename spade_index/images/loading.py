"""Load images in advance, several at once, in threads or in processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

import numpy as np

from spade_index.errors import ImageError, InputError
from spade_index.settings import Preprocessing

from .decode import DecodedImage, Geometry, load
from .find import ImageFile

LOT = 8  # images that a process loads at a time

T = TypeVar("T")
Packed = tuple[bytes, bytes, tuple[int, int, tuple[float, float, float, float]], bytes]
Loaded = DecodedImage | Packed | ImageError


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

    Processes decode small images faster, since Python's threads take turns, but need half a second to start, and the
    calling program must be importable (`if __name__ == "__main__"`). `on_error` is called for an image that cannot be
    loaded, which is left out; it may raise to stop. Raises InputError if a process dies, and what iterating over
    `files` raises, after the images before it.
    """
    lot = LOT if processes else 1
    lots = max(ahead // lot, 2 * workers) if processes else ahead
    pool = _processes(workers) if processes else ThreadPoolExecutor(workers, thread_name_prefix="decode")
    work: Callable[[list[ImageFile], Preprocessing], Sequence[Loaded]] = _load_packed if processes else _load
    pending: deque[tuple[list[ImageFile], Future[Sequence[Loaded]]]] = deque()
    source = in_lots(files, lot)
    failure: Exception | None = None
    try:
        while True:
            while failure is None and len(pending) < lots:
                try:
                    some = next(source)
                except StopIteration:
                    break
                except Exception as error:  # a damaged archive, for example; the images before it are loaded first
                    failure = error
                else:
                    pending.append((some, pool.submit(work, some, how)))
            if not pending:
                break
            some, future = pending.popleft()
            for file, loaded in zip(some, future.result(), strict=True):
                if isinstance(loaded, ImageError):
                    on_error(loaded)
                else:
                    yield loaded if isinstance(loaded, DecodedImage) else _unpacked(file, loaded, how)
        if failure is not None:
            raise failure
    except BrokenProcessPool as error:
        raise InputError("a decoding process died (out of memory?): try fewer --workers") from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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


def _load(files: list[ImageFile], how: Preprocessing) -> list[DecodedImage | ImageError]:
    found: list[DecodedImage | ImageError] = []
    for file in files:
        try:
            found.append(load(file, how))
        except ImageError as error:
            found.append(error)
    return found


def _load_packed(files: list[ImageFile], how: Preprocessing) -> list[Packed | ImageError]:
    """Load as `_load` does, but return plain values, which are pickled in half the time; the caller has the files."""
    return [image if isinstance(image, ImageError) else _packed(image) for image in _load(files, how)]


def _packed(image: DecodedImage) -> Packed:
    geometry = image.geometry
    return image.digest, image.pixels.tobytes(), (geometry.width, geometry.height, geometry.box), image.thumbnail


def _unpacked(file: ImageFile, packed: Packed, how: Preprocessing) -> DecodedImage:
    digest, pixels, geometry, thumbnail = packed
    return DecodedImage(
        file, digest, np.frombuffer(pixels, np.uint8).reshape(*how.input_size, 3), Geometry(*geometry), thumbnail
    )


def _processes(workers: int) -> Executor:
    # Not forked: torch has threads, and a process with threads cannot be forked safely.
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _prepare_process)


def _prepare_process() -> None:
    """Prepare a new process: its parent handles interrupts, and it ends when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="watch-parent", daemon=True).start()
