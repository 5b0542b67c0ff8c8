"""The types of arguments and options: paths and numbers are checked where they enter."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.types import FloatParamType, IntParamType

from spade_index.errors import InputError
from spade_index.exact import first_second, last_second, number, whole

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LARGEST = 2**31 - 1  # integer; what FAISS, SQLite and the kernels take
MOST_IMAGES = 4096  # of a batch, several of which are in memory
MOST_WORKERS = 1024
CODECS = ("float16", "int8", "int4")  # `store.codecs.NAMES`, which take long to import
TRAINED = "pq"  # the one with tables that are trained on a gallery


class FilePath(click.Path):
    """A path, which is not empty; `~` is the home folder where a shell has not expanded it, as after `--out=`."""

    def __init__(self, *, utf8: bool = False) -> None:
        """With `utf8`, refuse paths that are not valid UTF-8, which FAISS cannot open."""
        super().__init__(path_type=Path)
        self._utf8 = utf8

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Path. Raises BadParameter."""
        text = os.fspath(value)
        if not text:
            self.fail("the path is empty; the current folder is `.`", param, ctx)
        if "\0" in text:
            self.fail("the path has a NUL character", param, ctx)
        if self._utf8 and os.fsencode(text).decode("utf-8", "replace") != text:
            self.fail(f"the path {text!a} is not valid UTF-8: choose another", param, ctx)
        if text.startswith("~") and not os.path.lexists(text):
            text = os.path.expanduser(text)
        return super().convert(text, param, ctx)


class GalleryPath(FilePath):
    """A gallery's folder or, to read, the URL of one in an object store."""

    def __init__(self, *, remote: bool = False) -> None:
        """With `remote`, a URL is taken, and a Location returned."""
        super().__init__(utf8=True)
        self._remote = remote

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Path or a Location. Raises BadParameter, InputError."""
        text = os.fspath(value)
        if not URL.match(text):
            return super().convert(value, param, ctx)
        from spade_index.gallery.location import Location  # takes long

        location = Location.parse(text)
        if not self._remote:
            raise InputError(
                f"{location}: a gallery in an object store can only be read there: `spade-index pull {location} "
                f"GALLERY`, use the command on GALLERY, and `spade-index push GALLERY {location}`"
            )
        return location


class Text(click.ParamType):
    """Text of which bytes that are not UTF-8 are escaped, as in the ids of images."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text."""
        return os.fsencode(value).decode("utf-8", "backslashreplace")


class Glob(click.ParamType):
    """A pattern of names, which is not empty."""

    name = "glob"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the pattern. Raises BadParameter."""
        pattern = str(value)
        if not pattern.strip("./"):
            self.fail(f"{pattern!r} is not a pattern of names", param, ctx)
        return pattern


def _read(value: Any, read: Callable[[str], float], param: click.Parameter | None, ctx: click.Context | None) -> float:
    """Return a number that `read` reads; a default is one already. Raises BadParameter."""
    try:
        return read(value) if isinstance(value, str) else value
    except ValueError as error:
        raise click.BadParameter(f"{error}.", ctx, param) from error


def any_number(text: str) -> float:
    """Return a number, or what is none or infinite, for others to refuse. Raises ValueError."""
    return float(text) if text in ("nan", "inf", "-inf") else number(text)


class _Bounded:
    """Refuses integers that are not written as one, or too large for what they are passed to."""

    largest = LARGEST

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return an integer. Raises BadParameter."""
        found: int = super().convert(_read(value, whole, param, ctx), param, ctx)  # type: ignore[misc]
        if abs(found) > self.largest:
            raise click.BadParameter(f"{found} is beyond {self.largest:,}.", ctx, param)
        return found


class _Finite:
    """Refuses numbers that are infinite, no numbers, or not written as one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return a number. Raises BadParameter."""
        found: float = super().convert(_read(value, number, param, ctx), param, ctx)  # type: ignore[misc]
        return found


class Whole(_Bounded, IntParamType):
    """An integer."""


class WholeRange(_Bounded, click.IntRange):
    """An integer in a range."""


class Bytes(WholeRange):
    """A number of bytes on a disk, at least 1."""

    largest = 2**62

    def __init__(self) -> None:
        super().__init__(1)


class Real(_Finite, FloatParamType):
    """A finite number."""


class AnyReal(FloatParamType):
    """A number that the settings check, with others that it belongs to; they refuse those that are not finite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return a number. Raises BadParameter."""
        return super().convert(_read(value, any_number, param, ctx), param, ctx)


class RealRange(_Finite, click.FloatRange):
    """A finite number in a range."""


class Second(click.ParamType):
    """A second, written as a date or time of UTC, which `read` reads."""

    name = "time"

    def __init__(self, read: Callable[[str], str]) -> None:
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the second as the gallery writes it. Raises BadParameter."""
        try:
            return self._read(str(value))
        except ValueError as error:
            raise click.BadParameter(f"{error}.", ctx, param) from error


CODEC = click.Choice((*CODECS, TRAINED))
PATH = FilePath()
GALLERY = GalleryPath()
ANY_GALLERY = GalleryPath(remote=True)
BYTES = Bytes()
WEIGHTS = FilePath(utf8=True)
GLOB = Glob()
TEXT = Text()
FIRST_SECOND = Second(first_second)
LAST_SECOND = Second(last_second)
WHOLE = Whole()
REAL = Real()
