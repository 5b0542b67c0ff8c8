"""Float16 values in a wider type."""

import sys
from typing import Any

import numpy as np


def widened(values: np.ndarray, dtype: type[np.floating[Any]]) -> np.ndarray:
    """Return float16 values as float32 or float64 in raster order, in memory of its own.

    PyTorch takes a tenth of numpy's time; where it is not loaded, loading it would take longer.
    """
    if (torch := sys.modules.get("torch")) is None:
        return values.astype(dtype, order="C")
    wide: np.ndarray = torch.from_numpy(np.require(values, "<f2", ["C", "W"])).float().numpy()
    return wide.astype(dtype, copy=False)
