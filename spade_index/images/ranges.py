"""Find how many bits the pixels of a source use, on a sample of its images, and how large these are."""

import heapq
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import xxhash

from spade_index.errors import ImageError, InputError
from spade_index.settings import BITS, WORKERS

from .deep_files import read_deep
from .depth import bits_of
from .files import HELD, ImageFile
from .formats import open_image
from .workers import Call, Plain, shared_pool

SAMPLE = 64  # images


@dataclass(frozen=True)
class FoundBits:
    """How many bits the pixels of a source use."""

    bits: int
    highest: int = 0  # value of the pixels stored in 16 bits; 0 where none are
    images: int = 0  # of the sample that have such pixels

    @property
    def why(self) -> str:
        """One line for a person."""
        of = f"{self.images} of the images" if self.images > 1 else "one of the images"
        return f"pixels are read as {self.bits} bits: the highest value in {of} is {self.highest:,} (--bits overrides)"


def find_bits(files: Iterable[ImageFile]) -> FoundBits:
    """Return the bits of the highest value in a sample of images: 8, 10, 12, 14 or 16.

    Pixels stored in 8 bits, and those of no known range, do not count; files that cannot be decoded neither. Raises
    InputError if all images are of no known range.
    """
    sample = spread(files, SAMPLE)
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="find-bits") as pool:
        values = list(pool.map(_highest, sample))
    found = [value for value in values if isinstance(value, int)]
    unknown = [value for value in values if isinstance(value, str)]
    if sample and len(unknown) == len(sample):
        raise InputError(unknown[0])
    return FoundBits(bits_of(max(found)), max(found), len(found)) if found else FoundBits(BITS[0])


def spread(files: Iterable[ImageFile], count: int) -> list[ImageFile]:
    """Return up to `count` files, spread evenly, the same each time, in their order; reads names only.

    Fewer are returned of those whose contents are in memory, if together they take more than `HELD` bytes.
    """
    chosen: list[tuple[int, int, ImageFile]] = []  # a heap, whose first is dropped first
    held = 0
    for place, file in enumerate(files):
        heapq.heappush(chosen, (-xxhash.xxh3_64_intdigest(file.id.encode()), -place, file))
        held += file.size * file.held
        while len(chosen) > count or (held > HELD and len(chosen) > 1):
            *_, dropped = heapq.heappop(chosen)
            held -= dropped.size * dropped.held
    return [file for *_, file in sorted(chosen, key=lambda item: -item[1])]


def _highest(file: ImageFile) -> int | str | None:
    """Return the highest value of an image stored in 16 bits, or what to say of one without a known range.

    None for others, and for what cannot be decoded.
    """
    pool = shared_pool()
    try:
        found = pool.answer(Call(_find_highest, file.path, file.read, (file.path, pool.limits.pixels))).facts["found"]
    except ImageError:  # adding the image names it
        return None
    return found if isinstance(found, int | str) else None


def _find_highest(read: Callable[[], bytes], path: str, pixels: int) -> Plain:
    """Do what `_highest` does, in a decoding process."""
    try:
        data = read()
        with open_image(data) as image:
            deep = read_deep(image, data) if image.width * image.height <= pixels else None
    except Exception:  # Pillow raises exceptions of many kinds on damaged files
        return {"found": None}, []
    if deep is None or deep.white is not None:
        return {"found": None}, []
    return {"found": deep.highest if deep.kind is None else f"{path}: {deep.unknown}"}, []


def longer_edge(file: ImageFile) -> int:
    """Return the longer edge of an image in pixels, 0 if it cannot be read."""
    try:
        return int(shared_pool().answer(Call(_find_edge, file.path, file.read)).facts["edge"])
    except ImageError:  # adding the image names it
        return 0


def _find_edge(read: Callable[[], bytes]) -> Plain:
    try:
        with open_image(read()) as image:
            return {"edge": max(image.size)}, []
    except Exception:  # Pillow raises exceptions of many kinds on damaged files
        return {"edge": 0}, []
