"""Find image files: folders, single files, text lists and tar archives."""

import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from spade_index.errors import InputError

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
    | {".pgm", ".ppm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif"}
)
LIST_SUFFIXES = frozenset({".txt", ".lst"})


@dataclass(frozen=True)
class ImageFile:
    """An image that was found, and is not read yet."""

    id: str  # its name in a gallery: the path below the folder, archive or list that it was found in
    path: str  # absolute path; in an archive, ARCHIVE::MEMBER
    size: int  # bytes
    mtime_ns: int
    read: Callable[[], bytes]  # returns its contents; can be pickled, to be called in another process


def find_images(source: str | Path, prefix: str = "") -> Iterator[ImageFile]:
    """Yield the images of a folder (recursive, sorted), a tar archive, a text list of paths, or a single file.

    `prefix` is put before each id. Raises InputError if `source` does not exist or cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        files = _in_folder(path)
    elif not path.exists():
        raise InputError(f"{path}: no such file or folder")
    elif path.suffix.lower() in LIST_SUFFIXES:
        files = _in_list(path)
    elif path.suffix.lower() not in SUFFIXES and tarfile.is_tarfile(path):
        files = _in_archive(path)
    else:
        files = iter([_on_disk(path, path.name)])
    for file in files:
        yield ImageFile(prefix + file.id, file.path, file.size, file.mtime_ns, file.read) if prefix else file


def _in_folder(folder: Path) -> Iterator[ImageFile]:
    seen = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if (
                path.suffix.lower() in SUFFIXES and not path.is_fifo() and not path.is_socket()
            ):  # reading one would block
                yield _on_disk(path, path.relative_to(folder).as_posix())


def _in_list(path: Path) -> Iterator[ImageFile]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a text list of image paths ({error})") from error
    for line in lines:
        name = line.strip()
        if "\0" in name:
            raise InputError(f"{path}: not a text list of image paths (it has NUL bytes: write one path per line)")
        if name and not name.startswith("#"):
            yield _on_disk(path.parent / name, Path(name).as_posix())


def _in_archive(path: Path) -> Iterator[ImageFile]:
    archive_path = os.path.abspath(path)
    try:
        with tarfile.open(path) as archive:
            compressed = not isinstance(archive.fileobj, io.BufferedReader)
            for member in archive:
                if not member.isfile() or Path(member.name).suffix.lower() not in SUFFIXES:
                    continue
                if compressed or member.issparse():
                    content = archive.extractfile(member)
                    data = content.read() if content else b""
                    read: Callable[[], bytes] = partial(bytes, data)
                else:
                    read = partial(_read_range, archive_path, member.offset_data, member.size)
                name = member.name.removeprefix("./")
                mtime_ns = int(member.mtime * 1e9)
                yield ImageFile(_text(name), f"{archive_path}::{_text(name)}", member.size, mtime_ns, read)
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path}: damaged archive ({error})") from error


def _on_disk(path: Path, name: str) -> ImageFile:
    try:
        status = path.stat()
        size, mtime_ns = status.st_size, status.st_mtime_ns
    except OSError:  # reading it will raise what is wrong
        size, mtime_ns = -1, -1
    return ImageFile(_text(name), _text(os.path.abspath(path)), size, mtime_ns, path.read_bytes)


def _read_range(path: str, offset: int, size: int) -> bytes:
    with open(path, "rb", buffering=0) as file:
        data = os.pread(file.fileno(), size, offset)
        while len(data) < size and (more := os.pread(file.fileno(), size - len(data), offset + len(data))):
            data += more
    if len(data) < size:
        raise OSError(f"{path} ends early")
    return data


def _text(name: str) -> str:
    """Return a file name as valid UTF-8; invalid bytes become backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
