"""Secrets come from a file that others cannot read, or from the environment, and never from the command line."""

import os
from pathlib import Path

from spade_index.private_files import read_private

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
    return read_private(path).strip(), str(path)
