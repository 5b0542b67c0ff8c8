"""The pages of TIFF files, each an image of its own.

A page after the first is read as the file with another start: its header names that page's directory.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Literal

from .files import ImageFile, suffix_of

PAGED = frozenset({".tif", ".tiff"})
MARK = "#"  # before the number of a page, in names
MOST = 10_000  # pages of a file
SUBFILE = 254  # tag that says what a page is
REDUCED, MASK = 1, 4  # bits of it: a smaller version of another page, or its transparency
HEAD = 8192  # bytes
ENTRIES = 1000  # of a directory, at most: real ones have some dozens
MOST_ENTRIES = 300_000  # of all directories, which may lie over each other

Part = Callable[[int, int], bytes]  # (offset, size) -> so many bytes of a file, or fewer at its end


def with_pages(file: ImageFile) -> Iterator[ImageFile]:
    """Yield a file and, as `name#2` and so on, its further pages."""
    yield file
    if suffix_of(file.path) not in PAGED:
        return
    try:
        offsets = page_offsets(partial(_slice, file.read()) if file.part is None else _buffered(file.part))
    except Exception:  # decoding the file tells what is wrong with it
        return
    for number, offset in enumerate(offsets[1:], start=2):
        end = f"{MARK}{number}"
        yield replace(file, id=file.id + end, path=file.path + end, read=partial(_read_page, file.read, offset))


def without_page(path: str) -> str:
    """Return the path of the file that a page's path is in."""
    whole, mark, number = path.rpartition(MARK)
    return whole if mark and number.isdecimal() and suffix_of(whole) in PAGED else path


def page_offsets(part: Part) -> list[int]:
    """Return where the directories of a TIFF's pages are, without those of smaller versions and transparencies.

    The first page counts whatever it is. Nothing is returned for other files; what is wrong ends the pages.
    """
    head = part(0, 16)
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    kind = struct.unpack(f"{order}H", head[2:4])[0] if order and len(head) >= 8 else 0
    if kind not in (42, 43):
        return []
    big = kind == 43
    (next_one,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", head, 8 if big else 4)
    found: list[int] = []
    seen: set[int] = set()
    entries = 0
    while next_one and next_one not in seen and len(seen) < MOST and entries < MOST_ENTRIES:
        seen.add(next_one)
        kind, following, count = _directory(part, next_one, str(order), big)
        entries += count
        if not found or not kind & (REDUCED | MASK):
            found.append(next_one)
        next_one = following
    return found


def pages_noted(data: bytes, name: str) -> str | None:
    """Return a notice about the pages of a TIFF that are not read."""
    pages = len(page_offsets(partial(_slice, data)))
    return (
        f"{name}: the first of its {pages} pages is read; send the others as files of their own" if pages > 1 else None
    )


def _directory(part: Part, offset: int, order: str, big: bool) -> tuple[int, int, int]:
    """Return what the page of a directory is, where the next directory is (0 at the end), and its entries."""
    counted, entry, pointer = ("Q", 20, "Q") if big else ("H", 12, "I")
    width = struct.calcsize(f"{order}{counted}")
    data = part(offset, width)
    if len(data) < width or not 0 < (count := struct.unpack(f"{order}{counted}", data)[0]) <= ENTRIES:
        return REDUCED, 0, 0
    size = count * entry + struct.calcsize(f"{order}{pointer}")
    data = part(offset + width, size)
    if len(data) < size - struct.calcsize(f"{order}{pointer}"):
        return REDUCED, 0, 0
    kinds = [
        struct.unpack_from(f"{order}I", data, at + entry - struct.calcsize(f"{order}{pointer}"))[0]
        for at in range(0, count * entry, entry)
        if struct.unpack_from(f"{order}H", data, at)[0] == SUBFILE
    ]
    following = struct.unpack_from(f"{order}{pointer}", data, count * entry)[0] if len(data) == size else 0
    return (kinds[0] if kinds else 0), following, count


def _read_page(read: Callable[[], bytes], offset: int) -> bytes:
    """Return a file that begins with the page whose directory is at an offset."""
    data = read()
    order: Literal["little", "big"] = "little" if data[:1] == b"I" else "big"
    start, width = (8, 8) if b"+" in data[2:4] else (4, 4)
    return data[:start] + offset.to_bytes(width, order) + data[start + width :]


def _buffered(part: Part) -> Part:
    """Return a function that reads the beginning of a file once: many programs write the directories there."""
    head = part(0, HEAD)

    def read(offset: int, size: int) -> bytes:
        return head[offset : offset + size] if offset + size <= len(head) else part(offset, size)

    return read


def _slice(data: bytes, offset: int, size: int) -> bytes:
    return data[offset : offset + size]
