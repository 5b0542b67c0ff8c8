"""Average feature maps to a coarser grid of cells."""

import torch.nn.functional as F
from torch import Tensor

Size = tuple[int, int]


def averaged(size: Size, grid: int | None) -> Size:
    """Return the size (H, W) of a level that is averaged to at most `grid` cells along its longer edge."""
    if grid is None or max(size) <= grid:
        return size
    height, width = (max(1, round(edge * grid / max(size))) for edge in size)
    return height, width


def average(level: Tensor, size: Size, wanted: Size) -> Tensor:
    """Average a level [B, H*W, C] of `size` (H, W) to `wanted`."""
    if size == wanted:
        return level
    image = level.unflatten(1, size).permute(0, 3, 1, 2)  # [B, C, H, W]
    return F.adaptive_avg_pool2d(image, wanted).permute(0, 2, 3, 1).flatten(1, 2)
