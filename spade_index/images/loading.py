"""Load images in advance, several at once, in decoding processes."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TypeVar

from PIL import Image

from spade_index.errors import ImageError
from spade_index.settings import Preprocessing

from .decode import DecodedImage, cut
from .files import HELD, ImageFile
from .geometry import Geometry
from .interest import RegionOfInterest
from .plain import decoded, loading, picture, picturing
from .region_files import own_region
from .tiles import pieces_of
from .workers import Answer, Asker, DecoderPool, shared_pool

LOT = 8  # small images that a process loads at a time
LOT_BYTES = 64 << 10  # of their files
PICTURES = 3  # that are cut into tiles: decoded at a time, at most
TILES = 16  # that a thread cuts at a time

T = TypeVar("T")
F = TypeVar("F")
Loaded = list[DecodedImage | ImageError]


def load_all(
    files: Iterable[ImageFile],
    how: Preprocessing,
    *,
    workers: int,
    ahead: int,
    on_error: Callable[[ImageError], None],
    decoders: DecoderPool | None = None,
    thumbnails: bool = True,
) -> Generator[DecodedImage]:
    """Yield images in the order of `files`, about `ahead` of them loaded in advance, in `workers` processes.

    The tiles of a picture follow each other, in raster order; see `load_tiles`.

    The processes are those of `decoders`, by default the program's own, whose limits hold for each image. `on_error` is
    called for an image that cannot be loaded, which is left out; it may raise to stop. Thumbnails are for images that
    are kept. Raises InputError if there cannot be a process, and what iterating over `files` raises, after the images
    before it.
    """
    pool, asker = decoders or shared_pool(), Asker()
    if how.tile is not None:
        yield from load_tiles(files, how, workers=workers, on_error=on_error, decoders=pool, thumbnails=thumbnails)
        return
    lot = min(LOT, max(1, ahead // (2 * workers)))

    def load(some: list[ImageFile]) -> Loaded:
        return _loaded(pool, asker, some, how, thumbnails)

    def cost(some: list[ImageFile]) -> float:
        return len(some) + sum(map(_held, some)) / HELD * ahead

    threads = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    lots = in_lots(files, lot, LOT_BYTES, _size)
    started = started_ahead(lots, lambda some: threads.submit(load, some), ahead + 1 - lot, cost)
    try:
        for _, future in started:
            for loaded in future.result():
                if isinstance(loaded, ImageError):
                    on_error(loaded)
                else:
                    yield loaded
    finally:
        pool.leave(asker)
        threads.shutdown(wait=True, cancel_futures=True)


def load_tiles(
    files: Iterable[ImageFile],
    how: Preprocessing,
    *,
    workers: int,
    on_error: Callable[[ImageError], None],
    decoders: DecoderPool,
    thumbnails: bool,
) -> Generator[DecodedImage]:
    """Yield the tiles of pictures, in the order of `files` and in raster order; of two scales, the whole one last.

    Pictures are decoded in other processes. At most PICTURES are in memory at a time, and, of each worker, a few tiles:
    threads take no turns in what takes long, cutting and resizing, so one picture keeps all of them busy.
    """
    asker = Asker()

    def load(file: ImageFile) -> tuple[Image.Image, bytes, str | None] | ImageError:
        (answer,) = decoders.answers([picturing(file, how, decoders.limits.pixels)], asker)
        return answer if isinstance(answer, ImageError) else _or_error(picture, file, answer)

    # The C library keeps freed memory by thread: few of them have whole pictures.
    readers = ThreadPoolExecutor(min(workers, PICTURES - 1), thread_name_prefix="decode")
    cutters = ThreadPoolExecutor(workers, thread_name_prefix="cut")
    try:
        for file, future in started_ahead(iter(files), lambda file: readers.submit(load, file), PICTURES):
            loaded = future.result()
            if isinstance(loaded, ImageError):
                on_error(loaded)
                continue
            region = _or_error(own_region, file, Geometry.of_size(*loaded[0].size))
            if isinstance(region, ImageError):
                on_error(region)
                continue
            for tile in _tiles_of(loaded, file, how, cutters, 2 * workers, thumbnails):
                yield limited(tile, region)
            del loaded, future  # before the next one is waited for
    finally:
        decoders.leave(asker)
        for pool in (readers, cutters):
            pool.shutdown(wait=True, cancel_futures=True)


def _tiles_of(
    picture: tuple[Image.Image, bytes, str | None],
    file: ImageFile,
    how: Preprocessing,
    pool: Executor,
    ahead: int,
    thumbnails: bool,
) -> Iterator[DecodedImage]:
    image, digest, notice = picture
    make = partial(cut, image, file, how, digest, notice, thumbnails=thumbnails)
    lots = in_lots(range(len(pieces_of(image.width, image.height, how))), TILES)
    for _, future in started_ahead(lots, lambda lot: pool.submit(make, lot), ahead):
        yield from future.result()


def _loaded(
    pool: DecoderPool, asker: Asker, files: Sequence[ImageFile], how: Preprocessing, thumbnails: bool
) -> Loaded:
    calls = [loading(file, how, pool.limits.pixels, thumbnail=thumbnails) for file in files]
    answers = pool.answers(calls, asker)
    return [
        answer if isinstance(answer, ImageError) else _or_error(_with_region, file, answer, how)
        for file, answer in zip(files, answers, strict=True)
    ]


def _with_region(file: ImageFile, answer: Answer, how: Preprocessing) -> DecodedImage:
    """Return the image of an answer, with the region of interest that is its own. Raises ImageError."""
    image = decoded(file, answer, how)
    return limited(image, own_region(file, image.geometry))


def limited(image: DecodedImage, region: RegionOfInterest | None) -> DecodedImage:
    """Return an image, or a tile, with the region of interest that is its own, if it has one."""
    if region is None:
        return image
    return replace(image, geometry=replace(image.geometry, region=region))


def _or_error(function: Callable[..., T], *arguments: object) -> T | ImageError:
    """Call a function; return what it returns, or the ImageError that it raises."""
    try:
        return function(*arguments)
    except ImageError as error:
        return error


def started_ahead(
    items: Iterator[T], start: Callable[[T], Future[F]], most: float, cost: Callable[[T], float] = lambda item: 1
) -> Iterator[tuple[T, Future[F]]]:
    """Yield items with the work started on each, in advance as long as those cost less than `most` in all.

    An error of `items`, as of a damaged archive, is raised after the items before it.
    """
    pending: deque[tuple[T, Future[F]]] = deque()
    failure: Exception | None = None
    while True:
        while failure is None and sum(cost(item) for item, _ in pending) < most:
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


def _held(file: ImageFile) -> int:
    """Return the bytes of a file that are in memory, or may be, before it is loaded."""
    return max(file.size, 0) if file.part is None else 0


def _size(file: ImageFile) -> int:
    """Return the bytes of a file; where they are not known, as many as those of a lot."""
    return file.size if file.size >= 0 else LOT_BYTES


def in_lots(
    items: Iterable[T], size: int, room: float = math.inf, cost: Callable[[T], float] = lambda item: 0
) -> Iterator[list[T]]:
    """Yield lists of `size` items, or of fewer that cost no more than `room` in all, unless one does alone.

    If the items raise, the last items before that come first, as a shorter list.
    """
    lot: list[T] = []
    left = room
    try:
        for item in items:
            if lot and cost(item) > left:
                yield lot
                lot, left = [], room
            lot.append(item)
            left -= cost(item)
            if len(lot) == size:
                yield lot
                lot, left = [], room
    except Exception:
        if lot:
            yield lot
        raise
    if lot:
        yield lot
