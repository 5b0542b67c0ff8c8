"""Sums: digests of an object's blocks, in an object beside it, so that a part of it can be checked.

URL/shards/000001-DIGEST.sums    the xxh3_64 of each 64 KiB of the shard, and of the rest, <u8; its size, <u8;
                                 the xxh3_64 of DIGEST and of all that is before, <u8
"""

import numpy as np
import xxhash

from .files import NamedFile

BLOCK = 1 << 16  # bytes
MOST_BYTES = 64 << 20  # of sums: of a shard of 512 GiB


class SumsOfBytes:
    """Makes the sums of bytes that come in parts."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin again."""
        self._sums: list[int] = []
        self._size = 0
        self._digest = xxhash.xxh3_64()

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        left = memoryview(data)
        while left:
            part, left = left[: (room := BLOCK - self._size % BLOCK)], left[room:]
            self._digest.update(part)
            self._size += len(part)
            if self._size % BLOCK == 0:
                self._end_block()

    def _end_block(self) -> None:
        self._sums.append(self._digest.intdigest())
        self._digest.reset()

    def to_bytes(self, digest: str) -> bytes:
        """Return the contents of the object, once all bytes of a file with this digest were taken."""
        if self._size % BLOCK:
            self._end_block()
        values = np.array([*self._sums, self._size], "<u8").tobytes()
        return values + _seal(digest, values)


class Sums:
    """The sums of an object."""

    def __init__(self, data: bytes, file: NamedFile) -> None:
        """Read what `SumsOfBytes.to_bytes` returned. Raises ValueError for anything else."""
        if len(data) % 8 or data[-8:] != _seal(file.digest, data[:-8]):
            raise ValueError("not the sums of this object")
        *self._sums, self.size = np.frombuffer(data[:-8], "<u8").tolist()
        if len(self._sums) != -(-self.size // BLOCK):
            raise ValueError("not the sums of an object of this size")

    def length(self, block: int) -> int:
        """Return the bytes of a block: all have `BLOCK`, but for the last."""
        return min(BLOCK, self.size - block * BLOCK)

    def matches(self, block: int, data: memoryview) -> bool:
        """Return whether these are the bytes of a block."""
        return xxhash.xxh3_64_intdigest(data) == self._sums[block]


def sums_bytes(size: int) -> int:
    """Return the size of the sums of an object of `size` bytes."""
    return 8 * (-(-size // BLOCK) + 2)


def _seal(digest: str, values: bytes) -> bytes:
    return xxhash.xxh3_64_intdigest(digest.encode() + values).to_bytes(8, "little")
