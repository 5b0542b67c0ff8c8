"""Collections of HDF5's global heap, which hold texts and values of variable length: refused if HDF5 would never end.

    GCOL, version 1 [1 byte], zeros [3 bytes], size of the collection [8 bytes], objects, free space as object 0;
    each object: number [2 bytes], references and zeros [6 bytes], size [8 bytes], value, filled up to 8 bytes

HDF5 2.0 steps from an object to the next one by its size. A made-up or damaged size that makes this step zero keeps it
at the same object for ever, so the steps are taken here first.
"""

from typing import Protocol

BEGINNING = b"GCOL\x01"  # HDF5 refuses other versions
HEADER = 16  # bytes, of a collection and of an object
MOST_BYTES = 16 << 20  # of a collection: HDF5 makes them of 64 KiB, or as large as one value
MOST_OBJECTS = 1 << 16


class Bytes(Protocol):
    """What bytes are read from."""

    def read(self, out: memoryview, offset: int) -> bool:
        """Fill `out` from a byte offset; return False if the file ends before."""


def require_end(file: Bytes, offset: int) -> None:
    """Raise ValueError unless the objects of the collection at this byte offset lead to its end."""
    header = bytearray(HEADER)
    if not file.read(memoryview(header), offset) or not HEADER <= (size := _number(header, 8, 8)) <= MOST_BYTES:
        raise ValueError("a heap of an impossible size")
    heap = bytearray(size)
    if not file.read(memoryview(heap), offset):
        raise ValueError("a heap that is truncated")
    place = HEADER
    for _ in range(MOST_OBJECTS):
        if place + HEADER > size:  # what is left is too little for a free space
            return
        number, length = _number(heap, place, 2), _number(heap, place + 8, 8)
        step = HEADER + -(-length // 8) * 8 if number else length
        if not HEADER <= step <= size - place:
            break
        place += step
    raise ValueError("a heap whose objects do not lead to its end")


def _number(of: bytearray, place: int, length: int) -> int:
    return int.from_bytes(of[place : place + length], "little")
