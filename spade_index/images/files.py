"""An image file that was found and is not read yet, and the functions that read it."""

import errno
import os
import stat
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from spade_index.errors import ImageError

from .marks import HEAD, OwnOutput, is_own

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif"}
    | {".pgm", ".ppm", ".pbm", ".pnm", ".jp2", ".j2k", ".avif", ".heic", ".heif"}
)
LARGEST = 800_000_000  # bytes of a file: 100 million pixels of 4 bands and 16 bits, not compressed
LATEST = 9 * 10**18  # nanoseconds from 1970, a 64-bit integer: the year 2255; times before 1684 are not told apart
HELD = 256 << 20  # bytes of files that are in memory before they are decoded: the largest one, and all at a time


@dataclass(frozen=True)
class MaskFile:
    """The mask of an image, or polygons in JSON; it is not read yet."""

    path: str  # as errors name it
    read: Callable[[], bytes]  # returns its contents; can be pickled, to be called in another process
    polygons: bool  # whether it is JSON, not a picture

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> "MaskFile":
        """Return a file on the disk, whether it is there or not."""
        return cls.named(as_text(os.fspath(path)), partial(read_any, os.fspath(path)))

    @classmethod
    def named(cls, name: str, read: Callable[[], bytes]) -> "MaskFile":
        """Return a file whose name says what it is."""
        return cls(name, read, suffix_of(name) == ".json")


@dataclass(frozen=True)
class ImageFile:
    """An image that was found, and is not read yet."""

    id: str  # its name in a gallery: the path below the folder, archive or list that it was found in
    path: str  # absolute path; in an archive, ARCHIVE::MEMBER
    size: int  # bytes
    mtime_ns: int
    read: Callable[[], bytes]  # returns its contents; can be pickled, to be called in another process
    part: Callable[[int, int], bytes] | None = None  # returns as many bytes at an offset; None: `read` has to do
    region: MaskFile | None = None  # of what counts of it; None: it has no region of interest of its own
    held: bool = False  # its contents are in memory since it was found


def on_disk(path: str, id: str, status: os.stat_result | None, *, named: bool = False) -> ImageFile:
    """Return a file of this path; without `status` it is not there, and reading it will raise what is wrong.

    What this package drew is refused when it is read, unless the file is `named`.
    """
    size, mtime_ns = (-1, -1) if status is None else (status.st_size, changed_ns(status))
    shown = as_text(os.path.abspath(path))
    read = partial(read_any if named else read_photograph, path)
    return ImageFile(as_text(id), shown, size, mtime_ns, read, partial(read_part, path, 0))


def status_of(path: str) -> os.stat_result | None:
    """Return the status of a file, or None if it is not there or cannot be known."""
    try:
        return os.stat(path)
    except (OSError, ValueError):
        return None


def changed_ns(status: os.stat_result) -> int:
    """Return when a file was changed, in nanoseconds as catalogs take them: a clock that is wrong may be far beyond."""
    return min(max(status.st_mtime_ns, -LATEST), LATEST)


def is_regular(status: os.stat_result) -> bool:
    """Return whether a status is that of a file with contents: of a pipe, socket or device they would not end."""
    return stat.S_ISREG(status.st_mode)


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file to read. Raises OSError, also for pipes and devices, which may have no end."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        raise OSError(errno.EINVAL, "a pipe or a device, not a file", os.fspath(path))
    return open(fd, "rb")


def read_any(path: str) -> bytes:
    """Return the contents of a file. Raises OSError, and ImageError if it is larger than any image."""
    with opened(path) as file:
        require_size(os.fstat(file.fileno()).st_size, as_text(path))
        return file.read()


def read_photograph(path: str) -> bytes:
    """Return the contents of a file. Raises OwnOutput if this package drew it, else as `read_any`."""
    return photograph(read_any(path), as_text(path))


def read_regular(path: str, name: str) -> bytes:
    """Return the contents of a file that is neither a link nor a device. Raises OSError, ImageError as `read_any`."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        if not is_regular(os.fstat(fd)):
            raise ImageError(f"{name}: is not a file")
        require_size(os.fstat(fd).st_size, name)
        return file.read()


def photograph(data: bytes, name: str) -> bytes:
    """Return the contents of a file. Raises OwnOutput if this package drew it."""
    if is_own(data):
        raise OwnOutput(name)
    return data


def read_part(path: str, base: int, offset: int, size: int) -> bytes:
    """Return bytes of a file at `base + offset`; fewer at its end. Raises OSError."""
    with opened(path) as file:
        return os.pread(file.fileno(), size, base + offset)


def is_drawn(path: str) -> bool:
    """Return whether this package drew a file; reads its beginning only."""
    try:
        with opened(path) as file:
            return is_own(file.read(HEAD))
    except (OSError, ValueError):
        return False


def require_size(size: int, name: str) -> None:
    """Raise ImageError for a file of more bytes than any image that is decoded."""
    if size > LARGEST:
        raise ImageError(f"{name}: {size:,} bytes are more than any image takes ({LARGEST:,} at most)")


def has_image_suffix(name: str) -> bool:
    """Return whether a file is an image by its name."""
    return suffix_of(name) in SUFFIXES


def suffix_of(name: str) -> str:
    """Return the suffix of a name in lower case: `.png`."""
    return os.path.splitext(name)[1].lower()


def as_path(text: str) -> str:
    """Return a path as files are opened by it, of its UTF-8 text: in other locales too, whose encoding may lack it."""
    try:
        return os.fsdecode(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # half of a surrogate pair, which no file name has
        return text


def one_spelling(name: str) -> str:
    """Return a name in Unicode's composed form; macOS writes letters with accents as two characters."""
    return unicodedata.normalize("NFC", name)


def as_spelled(folder: str | os.PathLike[str], name: str) -> str:
    """Return the path of a name in a folder, in Unicode's form that each part has there; as given where none is."""
    path = os.path.join(folder, name)
    if name.isascii() or os.path.lexists(path):
        return path
    found = "/" if os.path.isabs(name) else os.fspath(folder)
    for part in filter(None, name.split("/")):
        forms = dict.fromkeys((part, one_spelling(part), unicodedata.normalize("NFD", part)))
        found = next((there for form in forms if os.path.lexists(there := os.path.join(found, form))), "")
        if not found:
            return path
    return found


def as_text(name: str) -> str:
    """Return a file name as valid UTF-8; invalid bytes become backslash escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
