"""The types of arguments and options: paths and numbers are checked where they enter."""

import math
import os
import re
from pathlib import Path
from typing import Any

import click
from click.types import FloatParamType, IntParamType

from spade_index.errors import InputError

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
LARGEST = 2**31 - 1  # integer; what FAISS, SQLite and the kernels take
MOST_IMAGES = 4096  # of a batch, several of which are in memory
MOST_WORKERS = 1024
CODECS = ("float16", "int8", "int4")  # `store.codecs.NAMES`, which take long to import


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
        from spade_index.gallery.remote.location import Location  # takes long

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


class _Bounded:
    """Refuses integers that are too large for what they are passed to."""

    largest = LARGEST

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return an integer. Raises BadParameter."""
        number: int = super().convert(value, param, ctx)  # type: ignore[misc]
        if abs(number) > self.largest:
            raise click.BadParameter(f"{number} is beyond {self.largest:,}.", ctx, param)
        return number


class _Finite:
    """Refuses numbers that are infinite or no numbers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return a number. Raises BadParameter."""
        number: float = super().convert(value, param, ctx)  # type: ignore[misc]
        if not math.isfinite(number):
            raise click.BadParameter(f"{value} is not a finite number.", ctx, param)
        return number


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
    """A number that the settings check, with others that it belongs to."""


class RealRange(_Finite, click.FloatRange):
    """A finite number in a range."""


CODEC = click.Choice(CODECS)
PATH = FilePath()
GALLERY = GalleryPath()
ANY_GALLERY = GalleryPath(remote=True)
BYTES = Bytes()
WEIGHTS = FilePath(utf8=True)
GLOB = Glob()
TEXT = Text()
WHOLE = Whole()
REAL = Real()
