"""Find the images in a tar archive."""

import bz2
import gzip
import io
import lzma
import math
import os
import tarfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from spade_index.errors import ImageError, InputError

from .files import HELD, LARGEST, LATEST, ImageFile, as_text, has_image_suffix, photograph, read_part, require_size
from .links import folders_of, followed, link_target, member_path
from .passed_over import AFTER_END, DEAD_LINK, MASK, SPECIAL, SUFFIX, TWICE, PassedOver
from .region_rule import no_mask

DAMAGE = (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError, zlib.error, lzma.LZMAError)
COMPRESSED: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
AT_ONCE = 1 << 20  # bytes
HEAD = 64  # bytes; an image does not begin with so many zeros
PADDING = AT_ONCE  # of zeros, at most, that programs write after the end marker


class Member(tarfile.TarInfo):
    """A member of an archive; tarfile takes a damaged or missing header after the first as the archive's end."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> "Member":
        """Return the next member. Raises tarfile.ReadError where there is neither a header nor the end's zeros."""
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            if tarfile_.offset == 0:  # it may be compressed
                raise
            raise tarfile.ReadError(f"{error} at byte {tarfile_.offset:,}, before its end marker") from error


def is_tar(path: Path) -> bool:
    """Return whether a file is a tar archive, or begins as a compressed one does and is damaged. Raises OSError."""
    try:
        with _raw(path):
            return True
    except _HugeHeader:
        return True
    except tarfile.ReadError:
        return False
    except DAMAGE:
        return True


def in_tar(
    path: Path,
    passed_over: PassedOver,
    is_mask: Callable[[str], bool] = no_mask,
    wanted: Callable[[str], bool] = has_image_suffix,
) -> Iterator[ImageFile]:
    """Yield the images of a tar archive in its order, then those that links in it lead to. Raises InputError.

    `is_mask` says which members are masks of others, and no images; `wanted` which others are taken.
    """
    shown = as_text(os.path.abspath(path))
    links: list[tarfile.TarInfo] = []
    with _opened(path) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if member.isdir() or passed_over.leaves_out_member(name, shown):
                continue
            if is_mask(name):
                passed_over.add(MASK, f"{shown}::{name}")
            elif member.islnk() or member.issym():
                links.append(member)
            elif not wanted(name):
                passed_over.add(SUFFIX, f"{shown}::{name}")
            elif not member.isfile():
                passed_over.add(SPECIAL, f"{shown}::{name}")
            else:
                yield _image(archive, member, name, path)
        if archive.fileobj is not None and any(archive.fileobj.read(PADDING)):
            passed_over.add(AFTER_END, shown)
        linked = _linked_to(links, archive.getmembers(), shown, passed_over, wanted) if links else {}
    if linked:
        yield from _linked(path, linked)


def _linked_to(
    links: list[tarfile.TarInfo],
    members: list[tarfile.TarInfo],
    shown: str,
    passed_over: PassedOver,
    is_wanted: Callable[[str], bool],
) -> dict[str, list[str]]:
    """Return the names of links to images, by the path of the file that they lead to."""
    files = {member_path(member.name) for member in members if member.isfile()}
    folders = {member_path(member.name) for member in members if member.isdir()}
    folders |= folders_of(files)
    targets = {
        member_path(link.name): member_path(link.linkname) if link.islnk() else link_target(link.name, link.linkname)
        for link in links
    }
    wanted: dict[str, list[str]] = defaultdict(list)
    for link in links:
        name = link.name.removeprefix("./")
        target = followed(member_path(link.name), targets, files)
        if target in files and is_wanted(name):
            wanted[target].append(name)
        else:
            kind = TWICE if target in folders else SUFFIX if target in files else DEAD_LINK
            passed_over.add(kind, f"{shown}::{name}")
    return wanted


def _linked(path: Path, wanted: dict[str, list[str]]) -> Iterator[ImageFile]:
    """Yield the images that links lead to, under the links' names; a compressed archive is read once more for them."""
    with _opened(path) as archive:
        for member in archive:
            if member.isfile():
                for name in wanted.pop(member_path(member.name), ()):
                    yield _image(archive, member, name, path)


def _image(archive: tarfile.TarFile, member: tarfile.TarInfo, name: str, path: Path) -> ImageFile:
    archive_path = os.path.abspath(path)
    shown = as_text(f"{archive_path}::{name}")
    read: Callable[[], bytes]
    part, data = None, None
    if not isinstance(archive.fileobj, io.BufferedReader) or member.issparse():
        data = _read_now(archive, member)
        read = partial(_contents, data, member.size, shown)
    else:
        read = partial(read_range, archive_path, member.offset_data, member.size, shown)
        part = partial(read_part, archive_path, member.offset_data)
    size, changed = min(max(member.size, -1), LARGEST + 1), _nanoseconds(member.mtime)
    return ImageFile(as_text(name), shown, size, changed, read, part, held=data is not None)


def _read_now(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """Return the contents of a compressed or sparse member; None if it is larger than is held, or begins with zeros.

    A few bytes can claim gigabytes of zeros.
    """
    if not 0 <= member.size <= HELD or (content := archive.extractfile(member)) is None:
        return None
    head = content.read(HEAD)
    return b"".join([head, *iter(partial(content.read, AT_ONCE), b"")]) if any(head) else None


def _contents(data: bytes | None, size: int, name: str) -> bytes:
    """Return what was read of a member. Raises ImageError."""
    if data is None:
        require_size(size, name)
        if size > HELD:
            raise ImageError(f"{name}: {size:,} bytes are more than is read of a packed file: unpack the archive first")
        raise ImageError(f"{name}: cannot be decoded (it begins with zeros)" if size else f"{name}: is empty")
    return photograph(data, name)


def read_range(path: str, offset: int, size: int, name: str) -> bytes:
    """Return a part of a file. Raises OSError, and ImageError if it is no photograph."""
    require_size(size, name)
    with open(path, "rb", buffering=0) as file:
        try:
            data = os.pread(file.fileno(), size, offset)
            while len(data) < size and (more := os.pread(file.fileno(), size - len(data), offset + len(data))):
                data += more
        except (OverflowError, ValueError) as error:
            raise OSError(f"{path}: no such place in it ({error})") from error
    if len(data) < size:
        raise OSError(f"{path} ends early")
    return photograph(data, name)


def _nanoseconds(seconds: float) -> int:
    """Return a time as a catalog takes it; an archive may state any number."""
    return -1 if math.isnan(seconds) else int(min(max(seconds * 1e9, -LATEST), LATEST))


class _HugeHeader(tarfile.ReadError):
    """A header in a compressed archive claims more than is read at once."""


class _Bounded:
    """A decompressed stream of which much is never read at once: a header in a few bytes could claim gigabytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        """Return so many bytes, or fewer at the end. Raises _HugeHeader for more than `AT_ONCE`."""
        if not 0 <= size <= AT_ONCE:
            raise _HugeHeader(f"a header claims {size:,} bytes")
        return self._stream.read(size)


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive. Raises InputError for what is wrong with it."""
    try:
        with _raw(path) as archive:
            yield archive
    except InputError:
        raise
    except (*DAMAGE, OSError) as error:
        raise InputError(f"{path}: damaged archive ({error})") from error


@contextmanager
def _raw(path: Path) -> Iterator[tarfile.TarFile]:
    with open(path, "rb") as file:
        beginning = file.read(HEAD)
    decompress = next((opener for start, opener in COMPRESSED.items() if beginning.startswith(start)), None)
    if decompress is None:
        with tarfile.open(path, tarinfo=Member) as archive:
            yield archive
    else:
        with decompress(path) as stream:
            bounded: Any = _Bounded(stream)
            with tarfile.open(fileobj=bounded, mode="r:", tarinfo=Member) as archive:
                yield archive
