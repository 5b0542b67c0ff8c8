"""Gallery maps and queries as the fused kernels read them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from ..codes import CodedMaps
from ..pyramid import Size
from .geometry import raster_layout

ALIGNED = 16  # bytes: rows start at multiples of it, as tensor descriptors and wide loads require


@dataclass(frozen=True)
class FusedMaps:
    """Gallery maps in the fused kernels' layout, one slot per image."""

    levels: list[Tensor]  # [slots, rows, columns]: level 0 in the order of `members`, columns padded with zeros
    norms: list[Tensor]  # float32 [slots, rows]: squared norms
    channels: list[int]
    members: Tensor  # int64 [rows of level 0]: the finest pixel of each row

    @staticmethod
    def empty(
        slots: int, sizes: Sequence[Size], channels: Sequence[int], dtype: torch.dtype, device: torch.device
    ) -> "FusedMaps":
        """Return room for `slots` maps of a pyramid, filled with zeros."""
        members = raster_layout(tuple(sizes)).members.flatten()
        rows = [len(members), *(h * w for h, w in sizes[1:])]
        levels = [
            torch.zeros(slots, n, padded(c, dtype), dtype=dtype, device=device)
            for n, c in zip(rows, channels, strict=True)
        ]
        norms = [torch.zeros(slots, n, device=device) for n in rows]
        return FusedMaps(levels, norms, list(channels), members.to(device))

    @staticmethod
    def slot_bytes(sizes: Sequence[Size], channels: Sequence[int], dtype: torch.dtype) -> int:
        """Return the bytes of one slot."""
        one = FusedMaps.empty(1, sizes, channels, dtype, torch.device("meta"))
        return sum(t.numel() * t.element_size() for t in (*one.levels, *one.norms))

    @staticmethod
    def of(
        pool: Sequence[Tensor], pages: Tensor, sizes: Sequence[Size], dtype: torch.dtype
    ) -> tuple["FusedMaps", Tensor]:
        """Copy the maps of a pool that pages name, as `dtype`; return them and the pages [B, K] of their slots."""
        slots, pages = pages.to(pool[0].device).unique(return_inverse=True)
        maps = FusedMaps.empty(len(slots), sizes, [level.shape[2] for level in pool], dtype, pool[0].device)
        maps.write(torch.arange(len(slots), device=slots.device), [level[slots] for level in pool])
        return maps, pages

    def write_decoded(self, coded: CodedMaps, slots: Tensor) -> None:
        """Write the maps of slots int64 [n], which torch decodes and prepares, into the first n slots."""
        self.write(torch.arange(len(slots), device=slots.device), coded.decoded(slots))

    def write(self, slots: Tensor, maps: Sequence[Tensor]) -> None:
        """Write maps, levels [n, H*W, C] in raster order, into slots int64 [n]."""
        for number, level in enumerate(maps):
            rows = level.index_select(1, self.members) if number == 0 else level
            self.levels[number][slots, :, : self.channels[number]] = rows.to(self.levels[number].dtype)
            self.norms[number][slots] = torch.linalg.vector_norm(rows, dim=2, dtype=torch.float32).square_()


def common_type(levels: Sequence[Tensor]) -> torch.dtype:
    """Return the type that holds the values of all levels."""
    return reduce(torch.promote_types, (level.dtype for level in levels))


def padded(channels: int, dtype: torch.dtype) -> int:
    """Return the columns of a row of `channels` values that ends at a multiple of ALIGNED bytes."""
    step = ALIGNED // dtype.itemsize
    return math.ceil(channels / step) * step


@dataclass(frozen=True)
class ScaledRows:
    """A query's side of products: each row scaled by a power of two, so that float16 holds it."""

    values: Tensor  # [B, rows, columns], in the type of products
    factors: Tensor  # float32 [B, rows], 2 / scale


def scale_rows(features: Tensor, columns: int, dtype: torch.dtype) -> ScaledRows:
    """Scale features [B, rows, C] so that each row's largest value lies in 2^11..2^12, and pad them to `columns`."""
    features = features.float()
    exponent = features.abs().amax(2, keepdim=True).frexp().exponent  # features < 2^exponent
    values = features.new_zeros(*features.shape[:2], columns, dtype=dtype)  # [B, rows, columns]
    values[:, :, : features.shape[2]] = torch.ldexp(features, 12 - exponent)
    twos = torch.full_like(exponent, 2.0, dtype=torch.float32)
    return ScaledRows(values, torch.ldexp(twos, exponent - 12).squeeze(2))
