"""Decode gallery maps in codes into the fused kernels' layout, in Triton: prepared, and in one pass over the codes.

So a search of codes makes no values of maps but those that its products read. What is computed is `codes.LevelCode`,
to the bit, and `preparation.Scaled`, to the rounding of float32.
"""

from typing import Any

import torch
import triton
from torch import Tensor

from ..codes import CodedMaps, LevelCode, Scalars, TableRows
from ..preparation import Scaled
from . import triton_decode
from .maps import FusedMaps

FOUR_WARPS = 512  # channels from which a program has four warps in place of one


def decode(coded: CodedMaps, slots: Tensor, maps: FusedMaps) -> None:
    """Write the maps of slots int64 [n], decoded and prepared, into the first n slots of float16 maps.

    The columns beyond a level's channels are left as they are.
    """
    preparation = coded.coding.preparation
    for level, joined in enumerate(preparation.joined):
        out, norms = maps.levels[level], maps.norms[level]
        cells = maps.members.int() if level == 0 else torch.arange(out.shape[1], dtype=torch.int32, device=out.device)
        first_column = 0
        for part in joined:
            how, stored = preparation.levels[part], coded.stored[part]
            triton_decode.decode_level[(out.shape[1] * len(slots),)](
                stored=stored,
                halves=stored.view(torch.float16),
                slots=slots,
                cells=cells,
                out=out,
                norms=norms,
                stride=stored.shape[1],
                rows=out.shape[1],
                columns=out.shape[2],
                first_column=first_column,
                channels=how.channels,
                ADD=part != joined[0],
                BC=triton.next_power_of_2(how.channels),
                **_code(coded.coding.codes[part], stored),
                **_preparation(how, stored),
                num_warps=4 if how.channels >= FOUR_WARPS else 1,
                enable_fp_fusion=False,  # decoded to the bits of torch and numpy
            )
            first_column += how.channels


def _code(code: LevelCode, anything: Tensor) -> dict[str, Any]:
    """Return the arguments that say how values are stored; `anything` stands for tables that are not read."""
    if isinstance(code, TableRows):
        return {
            "whole": code.whole,
            "parts": code.parts,
            "unit": code.unit,
            "KIND": "rows",
            "BITS": 8,
            "WHOLE": len(code.whole),
            "PARTS": len(code.parts),
            "WIDTH": code.parts.shape[2] if len(code.parts) else 1,
        }
    kind, bits = ("scalars", code.bits) if isinstance(code, Scalars) else ("values", 16)
    tables = {"whole": anything, "parts": anything, "unit": 1.0, "WHOLE": 0, "PARTS": 0, "WIDTH": 1}
    return {**tables, "KIND": kind, "BITS": bits}


def _preparation(how: Scaled, anything: Tensor) -> dict[str, Any]:
    """Return the arguments that say how a level is prepared; `anything` stands for moments that are not read."""
    moments = (how.mean, how.deviation)
    mean, deviation = (anything if of is None else of.to(anything.device, torch.float32) for of in moments)
    return {
        "mean": mean,
        "deviation": deviation,
        "height": how.size[0],
        "width": how.size[1],
        "grid_height": how.grid[0],
        "grid_width": how.grid[1],
        "length": how.length,
        "factor": how.factor,
        "SCALING": how.scaling,
    }
