"""The search in a window: a query pixel is compared with the gallery's pixels near the same place only.

For one shift of rows, a backend measures each level at its own resolution, for all shifts of columns together. The
distance of a pair of finest pixels is then looked up on every level, and added. Shifts of rows come one after another,
so that buffers hold P * (2r + 1) pairs and not all (2r + 1)^2.

Source: RAD, arXiv 2601.22763.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from .pyramid import Size

FAR = torch.iinfo(torch.int64).max  # the key of no pixel

Measure = Callable[[int, int], Tensor]
"""Measures a level, given its number and a shift of rows: squared distances float32 [B, K, columns' shifts, H*W].

The distance of each of the level's pixels to the gallery's pixel `shift` rows below it and -reach..reach columns beside
it; infinity where that is outside the grid. `reach` is the level's, see `Window`.
"""


def cells_at_corner(size: Size, window: int | None) -> int:
    """Return the cells of the smallest window of a grid, that of its corners; of the whole grid if there is none."""
    h, w = size
    return h * w if window is None else min(h, window + 1) * min(w, window + 1)


def overlap(cells: int, shift: int) -> slice:
    """Return the cells of an axis whose shifted cell is on the grid."""
    return slice(max(0, -shift), max(0, cells - max(0, shift)))


@dataclass(frozen=True)
class Axis:
    """One axis of a level: how its coordinates move when those of the finest level do."""

    cells: int
    reach: int  # the level's shifts are -reach..reach
    under: Tensor  # int64 [finest cells]: the coordinate that covers each finest one
    moves: Tensor  # int64 [2r + 1, finest cells]: the shift under each finest shift; 0 where that leaves the grid


@dataclass(frozen=True)
class Window:
    """The pairs of pixels of a pyramid that are within `reach` cells of each other on the finest grid."""

    sizes: tuple[Size, ...]
    reach: Size  # in rows and columns: at most the window, and less than the grid
    axes: list[tuple[Axis, Axis]]  # of each level
    pixels: Tensor  # int64 [2r + 1, W]: where each column's shifted ones are, -1 outside the grid

    def pair_bytes(self) -> int:
        """Return the bytes that the search of one gallery map for one query takes."""
        tables = sum(16 * (2 * x.reach + 1) * h * w for (h, w), (_, x) in zip(self.sizes, self.axes, strict=True))
        return tables + 48 * self.pixels.numel() * self.sizes[0][0]


@lru_cache(maxsize=16)
def make_window(sizes: tuple[Size, ...], window: int, device: torch.device) -> Window:
    """Return the window of a pyramid whose level 0 is the finest, with its column tensors on a device."""
    h, w = sizes[0]
    reach = (min(window, h - 1), min(window, w - 1))
    axes = [(_axis(size[0], h, reach[0], None), _axis(size[1], w, reach[1], device)) for size in sizes]
    columns = torch.arange(w) + torch.arange(-reach[1], reach[1] + 1)[:, None]
    pixels = columns.masked_fill((columns < 0) | (columns >= w), -1)
    return Window(sizes, reach, axes, pixels.to(device))


def _axis(cells: int, finest: int, reach: int, device: torch.device | None) -> Axis:
    under = torch.arange(finest) * cells // finest
    there = torch.arange(finest) + torch.arange(-reach, reach + 1)[:, None]  # [2r + 1, finest]
    inside = (there >= 0) & (there < finest)
    moves = (under[there.clamp(0, finest - 1)] - under) * inside
    return Axis(cells, int(moves.max()), under.to(device), moves.to(device))


class Nearest:
    """The k nearest pixels so far of the pixels of B queries, as maps are added."""

    def __init__(self, window: Window, weights: Sequence[float], batch: int, k: int, device: torch.device) -> None:
        self.window, self.weights, self.k = window, weights, k
        h, w = window.sizes[0]
        # Keys order by distance, and equal distances by match: a distance of 0 or more orders like its bits.
        self.keys = torch.full((batch, k, h, w), FAR, device=device)

    def add(self, measure: Measure, maps: int, first_position: int) -> None:
        """Add the next `maps` maps of each page, the first at `first_position`, which `measure` measures."""
        window, (h, w) = self.window, self.window.sizes[0]
        positions = torch.arange(first_position, first_position + maps, device=self.keys.device)
        columns = positions.view(-1, 1, 1, 1) * (h * w) + window.pixels[:, None]  # [K, 2r + 1, 1, W]
        tables: list[dict[int, Tensor]] = [{} for _ in window.axes]
        for number, shift in enumerate(range(-window.reach[0], window.reach[0] + 1)):
            rows = overlap(h, shift)
            total = torch.zeros(1, device=self.keys.device)
            for level, weight in enumerate(self.weights):
                of_level = self._look_up(measure, level, number, rows, tables[level])
                total = of_level.mul_(weight) if level == 0 else total.add_(of_level, alpha=weight)
            there = torch.arange(rows.start + shift, rows.stop + shift, device=self.keys.device)[:, None] * w
            keys = total.view(torch.int32).long().bitwise_left_shift_(32).bitwise_or_(columns + there)
            keys.masked_fill_(window.pixels[:, None] < 0, FAR)
            self._keep(keys.flatten(1, 2), rows)

    def _look_up(self, measure: Measure, level: int, number: int, rows: slice, tables: dict[int, Tensor]) -> Tensor:
        """Return a level's distances of the pairs of finest `rows` and shift `number`: [B, K, 2r + 1, rows, W].

        `tables` are what was measured of this level at earlier shifts; what later ones do not need is dropped.
        """
        (y, x), width = self.window.axes[level], self.window.sizes[level][1]
        moves = y.moves[number, rows]
        wanted = range(int(moves.min()), int(moves.max()) + 1)  # one, or two where cells are cut unevenly
        for shift in [shift for shift in tables if shift not in wanted]:
            del tables[shift]
        for shift in wanted:
            if shift not in tables:
                tables[shift] = measure(level, shift)
        table = torch.stack([tables[shift] for shift in wanted], 2) if len(wanted) > 1 else tables[wanted[0]]
        columns, pixels = 2 * x.reach + 1, y.cells * width
        place = ((moves - wanted[0]) * columns * pixels + y.under[rows] * width).to(table.device)
        index = place[:, None] + ((x.moves + x.reach) * pixels + x.under)[:, None]  # [2r + 1, rows, W]
        found = table.flatten(2).index_select(2, index.flatten())
        return found.unflatten(2, index.shape)

    def _keep(self, keys: Tensor, rows: slice) -> None:
        """Keep the k least of the keys so far and these, [B, n, rows, W]."""
        keys = torch.cat([self.keys[:, :, rows], keys], 1)
        if self.k == 1:
            self.keys[:, :, rows] = keys.amin(1, keepdim=True)
        else:
            self.keys[:, :, rows] = keys.topk(self.k, dim=1, largest=False).values

    def result(self) -> tuple[Tensor, Tensor]:
        """Return distances float32 [B, P, k] and matches int64 [B, P, k]."""
        keys = self.keys.flatten(2).transpose(1, 2).contiguous()
        return (keys >> 32).int().view(torch.float32), keys & 0xFFFFFFFF
