"""The grids of cells that feature maps are averaged to."""

from collections.abc import Sequence

from spade_index.kernels.pyramid import Size


def averaged(sizes: Sequence[Size], grid: int | None) -> list[Size]:
    """Return the sizes (H, W) of levels, the finest first, that are averaged to at most `grid` cells.

    The cells are counted along the longer edge. What is rounded at the shorter one makes no level finer than the one
    before it, along either edge: at a grid of 14, levels of 32x96 and 8x24 pixels both have 5x14 cells, and levels of
    9x28 and 8x24 pixels 4x14.
    """
    if grid is None:
        return list(sizes)
    found = list[Size]()
    for size in sizes:
        if (longer := max(size)) > grid:
            size = (max(1, round(size[0] * grid / longer)), max(1, round(size[1] * grid / longer)))
        before = found[-1] if found else size
        found.append((min(size[0], before[0]), min(size[1], before[1])))
    return found
