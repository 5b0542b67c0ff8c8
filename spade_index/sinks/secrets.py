"""Secrets come from a file that others cannot read, or from the environment, and never from the command line."""

import os
from pathlib import Path

from spade_index.errors import InputError

LARGEST = 4096  # bytes


def read_secret(path: Path | None, variable: str) -> tuple[bytes, str] | None:
    """Return a secret, without blanks around it, and where it was found; None: nowhere. Raises InputError.

    Args:
        path: its file; None: it is in the environment, or there is none.
        variable: its name in the environment.
    """
    if path is None:
        text = os.environb.get(variable.encode())
        return None if text is None else (text.strip(), f"${variable}")
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise InputError(f"{path}: other users can use it: `chmod 600` it")
            return file.read(LARGEST + 1).strip(), str(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
