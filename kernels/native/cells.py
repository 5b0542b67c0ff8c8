"""How the native search stores the pixels of a pyramid: in tiles of 16 rows, near ones together."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from ..pyramid import Size, make_layout
from .library import SIDE

PATCH = 4  # cells of a tile's edge: near cells are alike, so that whole tiles are ruled out


@dataclass(frozen=True)
class Cells:
    """How the pixels of a pyramid are stored: see `Level` in nearest.h. Cells are in patches, padded to whole tiles."""

    orders: list[Tensor]  # of each level: int32 [rows], the pixel of each row; -1: none
    places: list[Tensor | None]  # of each level: int32 [cells], the row over each cell; None: row c is over cell c
    planes: int
    cells: int


@lru_cache(maxsize=64)
def cells_of(sizes: tuple[Size, ...]) -> Cells:
    """Return how the pixels of levels of these sizes are stored, the finest first. Do not change its tensors."""
    layout = make_layout(sizes, raster=True)
    first = layout.members[0]
    y, x = ((axis.unique(return_inverse=True)[1]) for axis in (first // sizes[0][1], first % sizes[0][1]))
    width = int(x.max()) + 1
    patches = -(-width // PATCH)
    key = ((y // PATCH * patches + x // PATCH) * PATCH + y % PATCH) * PATCH + x % PATCH
    order = key.argsort()
    members = layout.members[:, order]
    repeats = torch.zeros_like(members, dtype=torch.bool)
    for plane in range(1, len(members)):  # smaller cells repeat their last pixel
        repeats[plane] = (members[:plane] == members[plane]).any(0)
    orders = [_padded(members.masked_fill(repeats, -1)).flatten()]
    places: list[Tensor | None] = [None]
    for rows, of_level in zip(layout.rows, layout.places, strict=True):
        covers = rows[of_level][order]  # the level's pixel over each cell
        if len(rows) == len(order) and len(covers.unique()) == len(rows):
            orders.append(_padded(covers))
            places.append(None)
        else:
            orders.append(_padded(torch.arange(len(rows))))
            places.append(_padded(covers, 0).int())
    return Cells([one.int() for one in orders], places, len(members), _tiles(len(order)) * SIDE)


def _tiles(rows: int) -> int:
    return -(-rows // SIDE)


def _padded(values: Tensor, by: int = -1) -> Tensor:
    """Pad the last axis to whole tiles."""
    count = values.shape[-1]
    return F.pad(values, (0, _tiles(count) * SIDE - count), value=by)
