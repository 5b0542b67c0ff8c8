"""The grids of cells that feature maps are averaged to."""

from spade_index.kernels.pyramid import Size


def averaged(size: Size, grid: int | None) -> Size:
    """Return the size (H, W) of a level that is averaged to at most `grid` cells along its longer edge."""
    if grid is None or max(size) <= grid:
        return size
    height, width = (max(1, round(edge * grid / max(size))) for edge in size)
    return height, width
