"""Read text lists of image paths, from files, pipes and standard input."""

import codecs
import errno
import os
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

from spade_index.errors import ImageError, InputError
from spade_index.paths import path_of

from .files import ImageFile, as_spelled, as_text, has_image_suffix, is_drawn, is_regular, on_disk, status_of
from .passed_over import COMMENT, SPECIAL, PassedOver

LIST_SUFFIXES = frozenset({".txt", ".lst"})
STDIN = "-"
MOST_BYTES = 1 << 30  # of a list: ten million paths
STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # where shells put pipes: `<(find ...)`


@dataclass(frozen=True)
class TextList:
    """A list, which is read once: a pipe cannot be read again. A line takes its bytes, and no more memory."""

    name: str
    folder: str  # that the paths in it are relative to
    text: bytes = field(repr=False)  # of file names
    separator: bytes

    def lines(self) -> Iterator[str]:
        """Yield the lines."""
        at = 0
        while at <= len(self.text):
            end = self.text.find(self.separator, at)
            end = len(self.text) if end < 0 else end
            yield os.fsdecode(self.text[at:end])
            at = end + 1


def is_stream(path: str | Path) -> bool:
    """Return whether a path is a pipe or the like, which is read as a list, unless it has the name of an image."""
    status = status_of(str(path))
    named_so = str(path).startswith(STREAMS) and status is not None and not stat.S_ISDIR(status.st_mode)
    is_pipe = status is not None and stat.S_ISFIFO(status.st_mode)
    return named_so or (is_pipe and not has_image_suffix(str(path)))


def read_list(path: str | Path) -> TextList:
    """Read a list: a file, a pipe, or `-` for standard input. Raises InputError."""
    name = STDIN if path == STDIN else str(path_of(path, "the list"))
    shown = "standard input" if name == STDIN else as_text(name)
    try:
        text = _as_names(_standard_input() if name == STDIN else _contents(name))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{shown}: not a text list of image paths ({error})") from error
    piped = name == STDIN or is_stream(name)
    separator = b"\n" if b"\n" in text else b"\r"
    if piped and text.endswith(b"\0"):  # as `find -print0` writes names, which may hold line ends
        separator = b"\0"
    elif b"\0" in text:
        raise InputError(f"{shown}: not a text list of image paths (it has NUL bytes: write one path per line)")
    folder = "" if piped else os.path.dirname(name)
    return TextList(shown if name == STDIN else name, folder, text, separator)


def in_list(paths: TextList, passed_over: PassedOver) -> Iterator[ImageFile]:
    """Yield the images that a list names; those that are not there raise ImageError when they are read."""
    for number, line in enumerate(paths.lines(), start=1):
        name, status = _found(paths.folder, line.removesuffix("\r"))
        if not name:
            continue
        if status is None and name.startswith("#"):
            passed_over.add(COMMENT, f"{paths.name}, line {number}")
            continue
        if passed_over.excludes(name):
            continue
        path, id = os.path.join(paths.folder, name), Path(name).as_posix()
        if status is None:
            read = partial(_missing, as_text(os.path.abspath(path)), f"line {number} of {as_text(paths.name)}")
            yield ImageFile(as_text(id), as_text(os.path.abspath(path)), -1, -1, read)
        elif is_regular(status) or stat.S_ISDIR(status.st_mode):  # reading a folder will raise what is wrong
            if has_image_suffix(name) and is_drawn(path):
                passed_over.take_drawn(name)
            yield on_disk(path, id, status, named=True)
        else:
            passed_over.add(SPECIAL, f"{name} ({paths.name}, line {number})")


def _standard_input() -> bytes:
    return b"" if sys.stdin is None else _bounded(sys.stdin.buffer)


def _contents(path: str | Path) -> bytes:
    with open(path, "rb") as file:  # a pipe has no end before its writer is done
        return _bounded(file)


def _bounded(file: BinaryIO) -> bytes:
    """Return what is in a file or comes from a pipe. Raises OSError for more than any list: it may have no end."""
    data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"over the limit of {MOST_BYTES >> 20:,} MiB")
    return data


def _found(folder: str, line: str) -> tuple[str, os.stat_result | None]:
    """Return the path that a line names, and the file's status, or None if it is not there.

    The line itself comes first, then what is left without spaces at its ends, then that with `~` as the home folder,
    then that in another of Unicode's forms.
    """
    name = line.strip()
    home = os.path.expanduser(name)
    for candidate in dict.fromkeys((line, name, home)):
        if candidate and not candidate.isspace() and (status := status_of(os.path.join(folder, candidate))) is not None:
            return candidate, status
    spelled = as_spelled(folder, home).removeprefix(os.path.join(folder, "")) if home else home
    status = None if spelled == home else status_of(os.path.join(folder, spelled))
    return home if status is None else spelled, status


def _as_names(data: bytes) -> bytes:
    """Return the text of a list as names of files are stored: in UTF-8, whatever bytes are none."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return decoded(data).encode()
    return data.removeprefix(codecs.BOM_UTF8)


def decoded(data: bytes) -> str:
    """Return the text of a list or a table: UTF-8, or UTF-16 or 32 with a byte-order mark; other bytes stay."""
    if data.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return data.decode("utf-32")
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def _missing(path: str, place: str) -> bytes:
    """Raise ImageError for a file that was not there when the list was read."""
    try:
        with open(path, "rb"):
            reason = "it was not there when the list was read"
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    raise ImageError(f"{path}: cannot be read ({reason}; {place})")
