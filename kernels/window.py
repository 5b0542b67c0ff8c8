"""The search in a window: a query pixel is compared with the gallery's pixels near the same place only.

For one shift of rows, a backend measures each level at its own resolution, for all shifts of columns together. The
distance of a pair of finest pixels is then looked up on every level, and added. Shifts of rows come one after another,
so that buffers hold P * (2r + 1) pairs and not all (2r + 1)^2.

Source: RAD, arXiv 2601.22763.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

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
class Step:
    """One shift of the finest rows, as it moves the rows of one level."""

    shifts: range  # of the level's rows: one, or two where coarse rows cover different numbers of finest ones
    places: Tensor  # int64 [rows]: where the level's distances of each finest row begin in the tables of `shifts`


@dataclass(frozen=True)
class Window:
    """The pairs of pixels of a pyramid that are near the same place, and where to look their distances up."""

    sizes: tuple[Size, ...]
    reaches: list[int]  # of each level: its columns are shifted by -reach..reach
    steps: dict[int, list[Step]]  # for every shift of the finest rows, one of each level
    columns: list[Tensor]  # of each level: int64 [2r + 1, W], to be added to a step's places
    pixels: Tensor  # int64 [2r + 1, W]: the column beside each finest column, -1 outside the grid

    def pair_bytes(self) -> int:
        """Return the bytes that the search of one gallery map for one query takes, apart from features."""
        tables = sum(16 * (2 * reach + 1) * h * w for (h, w), reach in zip(self.sizes, self.reaches, strict=True))
        return tables + 48 * self.pixels.numel() * self.sizes[0][0]

    def look_up(self, level: int, step: Step, tables: list[Tensor]) -> Tensor:
        """Return a level's distances of the pairs of a step, of what `Measure` returned for each of its shifts.

        float32 [B, K, 2r + 1, rows, W]; anything where the column is outside the grid.
        """
        table = torch.stack(tables, 2) if len(tables) > 1 else tables[0]
        index = step.places[:, None] + self.columns[level][:, None]
        return table.flatten(2).index_select(2, index.flatten()).unflatten(2, index.shape)


@lru_cache(maxsize=16)
def make_window(sizes: tuple[Size, ...], window: int, device: torch.device) -> Window:
    """Return the window of a pyramid whose level 0 is the finest, with its tensors on a device."""
    h, w = sizes[0]
    down, across = min(window, h - 1), min(window, w - 1)
    reaches, columns = [], []
    steps: dict[int, list[Step]] = {shift: [] for shift in range(-down, down + 1)}
    for height, width in sizes:
        under, moves = _axis(width, w, across)
        reaches.append(int(moves.max()))
        columns.append(((moves + reaches[-1]) * (height * width) + under).to(device))
        table = (2 * reaches[-1] + 1) * height * width
        under, moves = _axis(height, h, down)
        for shift, of_level, of_rows in zip(steps, steps.values(), moves, strict=True):
            rows = overlap(h, shift)
            least, most = int(of_rows[rows].min()), int(of_rows[rows].max())
            places = (of_rows[rows] - least) * table + under[rows] * width
            of_level.append(Step(range(least, most + 1), places.to(device)))
    beside = torch.arange(w) + torch.arange(-across, across + 1)[:, None]
    pixels = beside.masked_fill((beside < 0) | (beside >= w), -1)
    return Window(sizes, reaches, steps, columns, pixels.to(device))


def _axis(cells: int, finest: int, reach: int) -> tuple[Tensor, Tensor]:
    """Return a level's coordinate under each finest one, and by how much each finest shift moves it.

    int64 [finest] and [2 * reach + 1, finest]; no move where a finest shift leaves the grid.
    """
    under = torch.arange(finest) * cells // finest
    there = torch.arange(finest) + torch.arange(-reach, reach + 1)[:, None]
    inside = (there >= 0) & (there < finest)
    return under, (under[there.clamp(0, finest - 1)] - under) * inside


class Nearest:
    """The k nearest pixels so far of the pixels of B queries, as maps are added."""

    def __init__(self, window: Window, weights: Sequence[float], batch: int, k: int, device: torch.device) -> None:
        self.window, self.weights, self.k = window, weights, k
        h, w = window.sizes[0]
        # Keys order by distance, and equal distances by match: a distance of 0 or more orders like its bits.
        self.keys = torch.full((batch, k, h, w), FAR, device=device)

    def add(self, measure: Measure, maps: int, first_position: int) -> None:
        """Add the next `maps` maps of each page, the first at `first_position`, which `measure` measures."""
        window, (h, w), device = self.window, self.window.sizes[0], self.keys.device
        positions = torch.arange(first_position, first_position + maps, device=device)
        columns = positions.view(-1, 1, 1, 1) * (h * w) + window.pixels[:, None]  # [K, 2r + 1, 1, W]
        tables: list[dict[int, Tensor]] = [{} for _ in window.sizes]
        for shift, steps in window.steps.items():
            rows = overlap(h, shift)
            weighted = []
            for level, (step, weight, known) in enumerate(zip(steps, self.weights, tables, strict=True)):
                tables[level] = {s: known[s] if s in known else measure(level, s) for s in step.shifts}
                weighted.append(window.look_up(level, step, list(tables[level].values())).mul_(weight))
            total = reduce(Tensor.add_, weighted)  # [B, K, 2r + 1, rows, W]
            there = torch.arange(rows.start + shift, rows.stop + shift, device=device)[:, None] * w
            keys = total.view(torch.int32).long().bitwise_left_shift_(32).bitwise_or_(columns + there)
            keys.masked_fill_(window.pixels[:, None] < 0, FAR)
            self._keep(keys.flatten(1, 2), rows)

    def merge(self, other: "Nearest") -> None:
        """Add the maps that were added to another for the same queries."""
        self._keep(other.keys, slice(None))

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
