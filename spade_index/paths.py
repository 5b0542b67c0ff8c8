"""Paths that people and programs give: what is none, or cannot be looked for, is refused in one line."""

import errno
import os
from pathlib import Path

from .errors import InputError

SHOWN = 100  # characters of a path that cannot be
ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # nothing is there: whoever needs it says what


def path_of(given: object, what: str = "the path") -> Path:
    """Return a path, whether something is there or not; `what` is its name in messages.

    Raises InputError for what is no text or Path, is empty, or no file can have as its name, and where the system
    cannot tell what is there: the name is too long, or its folder is closed to this user.
    """
    text = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(text, str):
        raise InputError(f"{what} must be a str or a Path, not {given!r:.100}")
    if not text:
        raise InputError(f"{what} is empty; the current folder is `.`")
    try:
        os.stat(text)
    except OSError as error:
        if error.errno not in ABSENT:
            raise InputError(f"{_shown(text)}: cannot be looked for ({error.strerror})") from error
    except ValueError as error:  # of a NUL character, or of one that is none
        raise InputError(f"{_shown(text)}: no file can have this name") from error
    return Path(text)


def _shown(text: str) -> str:
    """Return a path in ASCII, cut off in the middle: its end tells most."""
    plain = ascii(text)[1:-1]
    return plain if len(plain) <= SHOWN else f"{plain[: SHOWN // 2]}...{plain[-SHOWN // 2 :]}"
