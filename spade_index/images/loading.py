"""Load images in advance, several at once, in decoding processes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from spade_index.errors import ImageError
from spade_index.settings import Preprocessing

from .decode import DecodedImage
from .files import ImageFile
from .plain import decoded, loading
from .workers import Answer, Asker, DecoderPool, shared_pool

LOT = 8  # small images that a process loads at a time
LOT_BYTES = 64 << 10  # of their files
HELD_BYTES = 256 << 20  # of files within compressed archives, which are in memory from when they are found

T = TypeVar("T")
Loaded = list[list[DecodedImage] | ImageError]


def load_all(
    files: Iterable[ImageFile],
    how: Preprocessing,
    *,
    workers: int,
    ahead: int,
    on_error: Callable[[ImageError], None],
    decoders: DecoderPool | None = None,
) -> Generator[DecodedImage]:
    """Yield images in the order of `files`, about `ahead` of them loaded in advance, in `workers` processes.

    The processes are those of `decoders`, by default the program's own, whose limits hold for each image. `on_error` is
    called for an image that cannot be loaded, which is left out; it may raise to stop. The tiles of a picture follow
    each other, in raster order. Of such pictures few are in memory at a time. Raises InputError if there cannot be a
    process, and what iterating over `files` raises, after the images before it.
    """
    pool, asker = decoders or shared_pool(), Asker()
    if how.tile is not None:
        ahead = workers
    lot = min(LOT, max(1, ahead // (2 * workers)))

    def load(some: list[ImageFile]) -> Loaded:
        return _loaded(pool, asker, some, how)

    threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        for future in _started_ahead(_lots(files, lot), lambda some: threads.submit(load, some), ahead + 1 - lot):
            for loaded in future.result():
                if isinstance(loaded, ImageError):
                    on_error(loaded)
                else:
                    yield from loaded
    finally:
        pool.leave(asker)
        threads.shutdown(wait=True, cancel_futures=True)


def _loaded(pool: DecoderPool, asker: Asker, files: Sequence[ImageFile], how: Preprocessing) -> Loaded:
    answers = pool.answers([loading(file, how, pool.limits.pixels) for file in files], asker)
    return [_image(file, answer, how) for file, answer in zip(files, answers, strict=True)]


def _image(file: ImageFile, answer: Answer | ImageError, how: Preprocessing) -> list[DecodedImage] | ImageError:
    try:
        return answer if isinstance(answer, ImageError) else decoded(file, answer, how)
    except ImageError as error:
        return error


def _started_ahead(
    lots: Iterator[list[ImageFile]], start: Callable[[list[ImageFile]], Future[Loaded]], count: int
) -> Iterator[Future[Loaded]]:
    """Yield the work that is started on lots of files, as long as there are fewer than `count` files in advance.

    An error of `lots`, as of a damaged archive, is raised after the files before it.
    """
    pending: deque[tuple[int, int, Future[Loaded]]] = deque()
    failure: Exception | None = None
    while True:
        while failure is None and sum(n for n, _, _ in pending) < count and sum(b for _, b, _ in pending) < HELD_BYTES:
            try:
                lot = next(lots)
            except StopIteration:
                break
            except Exception as error:
                failure = error
            else:
                pending.append((len(lot), sum(map(_held, lot)), start(lot)))
        if not pending:
            break
        yield pending.popleft()[-1]
    if failure is not None:
        raise failure


def _held(file: ImageFile) -> int:
    """Return the bytes of a file that are in memory, or may be, before it is loaded."""
    return max(file.size, 0) if file.part is None else 0


def _lots(files: Iterable[ImageFile], most: int) -> Iterator[list[ImageFile]]:
    """Yield files alone, or up to `most` that are small; if the files raise, those before that first."""
    lot: list[ImageFile] = []
    room = LOT_BYTES
    try:
        for file in files:
            size = file.size if file.size >= 0 else LOT_BYTES
            if lot and (size > room or len(lot) == most):
                yield lot
                lot, room = [], LOT_BYTES
            lot.append(file)
            room -= size
    except Exception:
        if lot:
            yield lot
        raise
    if lot:
        yield lot


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
