"""Find the images in a zip archive."""

import lzma
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from spade_index.errors import ImageError, InputError

from .files import LARGEST, ImageFile, as_text, has_image_suffix, photograph, require_size
from .links import folders_of, followed, link_target, member_path
from .passed_over import DEAD_LINK, MASK, SUFFIX, TWICE, PassedOver
from .region_rule import no_mask

WINDOWS = 0  # where a member comes from
ENCRYPTED = 0x1  # flag of a member
LOCAL_HEADER = struct.Struct("<4s22x2H")  # signature, then the lengths of name and extra field
LONGEST_LINK = 4096  # bytes
DAMAGE = (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OverflowError, zlib.error, lzma.LZMAError)
Place = tuple[int, int, int, int, int]  # of a member: header's offset, compression, compressed size, size, CRC


def in_zip(
    path: Path,
    passed_over: PassedOver,
    is_mask: Callable[[str], bool] = no_mask,
    wanted: Callable[[str], bool] = has_image_suffix,
) -> Iterator[ImageFile]:
    """Yield the images of a zip archive in its order, links followed within it. Raises InputError.

    `is_mask` says which members are masks of others, and no images; `wanted` which others are taken.
    """
    shown = as_text(os.path.abspath(path))
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not _name(member).endswith("/")]
    except (*DAMAGE, OSError) as error:
        raise InputError(f"{path}: damaged archive ({error})") from error
    files = {member_path(_name(member)): member for member in members}
    links = {
        member_path(_name(member)): link_target(_name(member), _link(path, member))
        for member in members
        if _is_link(member)
    }
    files = {name: member for name, member in files.items() if name not in links}
    folders = folders_of(files) if links else set()
    for member in members:
        name = _name(member)
        if passed_over.leaves_out_member(name, shown):
            continue
        if is_mask(name):
            passed_over.add(MASK, f"{shown}::{name}")
            continue
        target = followed(member_path(name), links, files)
        if target not in files:
            passed_over.add(TWICE if target in folders else DEAD_LINK, f"{shown}::{name}")
        elif not wanted(name):
            passed_over.add(SUFFIX, f"{shown}::{name}")
        else:
            yield _image(path, files[target] if _is_link(member) else member, name)


def _image(path: Path, member: zipfile.ZipInfo, name: str) -> ImageFile:
    archive_path = os.path.abspath(path)
    shown = as_text(f"{archive_path}::{name}")
    encrypted = bool(member.flag_bits & ENCRYPTED)
    read = partial(_refuse_encrypted, shown) if encrypted else partial(_read, archive_path, _place(member), shown)
    return ImageFile(as_text(name), shown, min(member.file_size, LARGEST + 1), _nanoseconds(member), read)


def _place(member: zipfile.ZipInfo) -> Place:
    return member.header_offset, member.compress_type, member.compress_size, member.file_size, member.CRC


def _refuse_encrypted(name: str) -> bytes:
    raise ImageError(f"{name}: is encrypted: decrypt the archive first")


def _read(path: str, place: Place, name: str) -> bytes:
    """Return the contents of a member. Raises OSError, and ImageError if it is damaged or no photograph."""
    return photograph(read_member(path, place, name), name)


def read_member(path: str, place: Place, name: str) -> bytes:
    """Return the contents of a member, without reading the archive's directory again. Raises OSError, ImageError."""
    offset, compression, compressed, size, crc = place
    require_size(size, name)
    member = zipfile.ZipInfo(name.replace("\0", ""))
    member.compress_type, member.compress_size, member.file_size, member.CRC = compression, compressed, size, crc
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            signature, name_length, extra_length = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
            if signature != b"PK\3\4":
                raise zipfile.BadZipFile("its place in the archive holds something else")
            file.seek(name_length + extra_length, os.SEEK_CUR)
            data = zipfile.ZipExtFile(file, "r", member).read(size + 1)  # never more, whatever it would expand to
            if len(data) != size:
                raise zipfile.BadZipFile(f"{len(data):,} bytes, not {size:,}")
    except (*DAMAGE, struct.error) as error:
        raise ImageError(f"{name}: cannot be read from its archive ({error})") from error
    return data


def _name(member: zipfile.ZipInfo) -> str:
    """Return the path of a member; some programs of Windows write it with backslashes."""
    return member.filename.replace("\\", "/") if member.create_system == WINDOWS else member.filename


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def _link(path: Path, member: zipfile.ZipInfo) -> str:
    """Return what a link says; nothing, which leads nowhere, if that cannot be read."""
    if member.file_size > LONGEST_LINK or member.flag_bits & ENCRYPTED:
        return "/"
    try:
        return os.fsdecode(read_member(os.path.abspath(path), _place(member), member.filename))
    except (ImageError, OSError):
        return "/"


def _nanoseconds(member: zipfile.ZipInfo) -> int:
    """Return when a member was changed, as if by UTC: a zip archive does not say where its clock was."""
    try:
        return int(datetime(*member.date_time, tzinfo=UTC).timestamp()) * 10**9
    except ValueError:
        return -1
