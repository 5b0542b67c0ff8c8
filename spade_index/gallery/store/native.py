"""The compiled functions of `kernels.native`, if they can be used without loading PyTorch for them.

Where it is not loaded yet, loading it would take longer than they save.
"""

import sys
from types import ModuleType

import numpy as np


def native_codes(*arrays: np.ndarray) -> ModuleType | None:
    """Return what encodes and decodes maps; None where it was not compiled, or an array is not contiguous."""
    if not _at_hand() or not all(array.flags.c_contiguous for array in arrays):
        return None
    from spade_index.kernels.native import codes

    return codes


def native_rows() -> ModuleType | None:
    """Return what compares with rows of files; None where it was not compiled."""
    if not _at_hand():
        return None
    from spade_index.kernels.native import rows

    return rows


def native_lists() -> ModuleType | None:
    """Return what scans inverted lists; None where it was not compiled."""
    if not _at_hand():
        return None
    from spade_index.kernels.native import lists

    return lists


def _at_hand() -> bool:
    if "torch" not in sys.modules:
        return False
    from spade_index.kernels.native import library

    return library.hindrance() is None
