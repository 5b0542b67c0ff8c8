"""The compiled functions that encode and decode maps, if they can be used without loading PyTorch for them."""

import sys
from types import ModuleType

import numpy as np


def native_codes(*arrays: np.ndarray) -> ModuleType | None:
    """Return `kernels.native.codes`; None where it was not compiled, or an array is not contiguous.

    Where PyTorch is not loaded yet, loading it would take longer than they save.
    """
    if "torch" not in sys.modules or not all(array.flags.c_contiguous for array in arrays):
        return None
    from spade_index.kernels.native import codes, library

    return codes if library.hindrance() is None else None
