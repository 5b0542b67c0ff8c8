"""What work is planned to take, so that neither what is tried nor what is chosen depends on the machine.

The constants are of two cores (AMD EPYC; a window's of Intel Xeon; 2026), `efficientnet-lite0`, and searches in tuning.
"""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from spade_index.features.backbone import Backbone
from spade_index.kernels.pyramid import Size

OPERATIONS = 200e9  # floating-point operations a second, in products of matrices
OF_A_VALUE = 0.4e-9  # seconds, of each value that an operation of a backbone gives: they go through memory
OF_A_CELL = 1.0e-6  # seconds of a search, for each cell of each neighbour, beside the products
OF_A_CELL_IN_A_WINDOW = 0.15e-6  # for each cell of the window
SLOWEST = 5.0  # times as long as planned: beyond that, the time that has passed counts


class PlannedClock:
    """Seconds of the work done since it was made, as they were planned.

    A fifth of the time that has passed is the least: a limit of this clock is one of time, too.
    """

    def __init__(self) -> None:
        self._planned = 0.0
        self._started = time.perf_counter()

    def spend(self, seconds: float) -> None:
        """Count work that was planned to take so long."""
        self._planned += seconds

    def seconds(self) -> float:
        """Return the seconds that the work was planned to take, or a fifth of what has passed if that is more."""
        return max(self._planned, (time.perf_counter() - self._started) / SLOWEST)


def seconds_of_backbone(backbone: Backbone, image: np.ndarray) -> float:
    """Return the seconds that a backbone is planned to take for an image uint8 [H, W, 3], which it computes here."""
    operations, values = FlopCounterMode(display=False), _Values()
    with operations, values:
        backbone(image[None])
    return operations.get_total_flops() / OPERATIONS + OF_A_VALUE * values.count


def seconds_of_search(sizes: Sequence[Size], channels: Sequence[int], neighbours: int, window: int | None) -> float:
    """Return the seconds that a pixel search of one query is planned to take.

    Args:
        sizes: (H, W) of the levels that are compared, the finest first.
        channels: C of these levels.
        neighbours: images that are searched.
        window: as in the search settings.
    """
    cells = [height * width for height, width in sizes]
    if window is not None:
        return OF_A_CELL_IN_A_WINDOW * (2 * window + 1) ** 2 * cells[0] * neighbours
    operations = sum(2.0 * count**2 * values for count, values in zip(cells, channels, strict=True)) * neighbours
    return OF_A_CELL * cells[0] * neighbours + operations / OPERATIONS


class _Values(TorchDispatchMode):
    """Counts the values that operations give."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = func(*args, **(kwargs or {}))
        if isinstance(given, Tensor):
            self.count += given.numel()
        return given
