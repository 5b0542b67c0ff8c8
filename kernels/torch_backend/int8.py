"""The finest level's scan in 8-bit integers, by the C code in int8.c.

A processor with AVX-512 VNNI multiplies integers twice as fast as bfloat16, and the least distance of a cell's pixels
is taken in registers. Every row is rounded to 127 steps of its own largest value. What that takes away widens the
limits of candidates, which are measured in float32 as always. The library is built with the package on request
(setup.py): where hundreds of pixels are nearly equally far, candidates become so many that bfloat16 is faster.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from ..pyramid import Layout

LANES = 16  # cells of a panel, and the multiple to which channels are padded
PLANES = 4  # planes that are multiplied together


@cache
def library() -> ctypes.CDLL | None:
    """Return the C library; None where it was not built or the processor lacks its instructions."""
    found = find_spec(f"{__package__}._int8")
    return open_library(found.origin) if found is not None and found.origin is not None else None


def open_library(file: str) -> ctypes.CDLL | None:
    """Open a build of int8.c; return None if the processor lacks its instructions."""
    opened = ctypes.CDLL(file)
    if not opened.supported():
        return None
    opened.quantise_map.restype = ctypes.c_float
    return opened


def suits(layout: Layout) -> bool:
    """Return whether this processor and a pyramid's layout allow the scan in integers."""
    return library() is not None and bool(layout.places) and layout.planes % PLANES == 0


def _padded(n: int) -> int:
    return -(-n // LANES) * LANES


def _call(name: str, *arguments: Tensor | int) -> float:
    """Call a function of the library with tensors, whose memory it reads and writes, and numbers."""
    opened = library()
    assert opened is not None
    converted = [
        ctypes.c_long(value) if isinstance(value, int) else ctypes.c_void_p(value.data_ptr()) for value in arguments
    ]
    return float(getattr(opened, name)(*converted))


@dataclass(frozen=True)
class QueryCodes:
    """A query's rows of the finest level as integers."""

    codes: Tensor  # int8 [rows, padded channels]
    scales: Tensor  # float32 [rows]: a row is scale * codes
    norms: Tensor  # float32 [rows]: squared norms
    lost: Tensor  # float32 [rows]: squared norms of the rounding errors
    starts: Tensor  # int32 [rows]: -128 * the sum of codes

    @staticmethod
    def bytes_of(rows: int, channels: int) -> int:
        """Return the bytes that the codes of a query take."""
        return rows * (_padded(channels) + 16)


def quantise_query(rows: Tensor, channels: int) -> QueryCodes:
    """Round a query's rows bfloat16 [n, columns], which are -2 times its features."""
    n, depth = len(rows), _padded(channels)
    codes, starts = torch.empty(n, depth, dtype=torch.int8), torch.empty(n, dtype=torch.int32)
    scales, norms, lost = torch.empty(n), torch.empty(n), torch.empty(n)
    _call("quantise_query", rows, n, rows.shape[1], channels, depth, codes, scales, norms, lost, starts)
    return QueryCodes(codes, scales, norms / 4, lost / 4, starts)


class MapCodes:
    """Buffers for the finest level of some gallery maps as integers: see int8.c for their order."""

    def __init__(self, maps: int, layout: Layout, channels: int) -> None:
        self.layout, self.channels, self.depth = layout, channels, _padded(channels)
        rows = layout.planes * _padded(layout.cells)
        self.codes = torch.empty(maps, rows, self.depth, dtype=torch.uint8)
        self.scales, self.norms = torch.empty(maps, rows), torch.empty(maps, rows)

    @staticmethod
    def bytes_of(layout: Layout, channels: int) -> int:
        """Return the bytes that each map takes."""
        return layout.planes * _padded(layout.cells) * (_padded(channels) + 8)

    def put(self, place: int, rows: Tensor) -> float:
        """Round a map's rows bfloat16 [planes * cells, columns]; return the largest norm of a row's rounding error."""
        sizes = (self.layout.planes, self.layout.cells, rows.shape[1], self.channels, self.depth)
        codes, scales, norms = self.codes[place], self.scales[place], self.norms[place]
        return _call("quantise_map", rows, *sizes, codes, scales, norms) ** 0.5

    def distances(self, place: int, query: QueryCodes, rows: slice, coarse: Tensor, out: Tensor) -> None:
        """Write the least distances of a query's rows to each cell of a map, plus `coarse`, to `out`: [n, cells]."""
        sides = (query.codes[rows], query.scales[rows], query.norms[rows], query.starts[rows], len(out))
        codes = (self.codes[place], self.scales[place], self.norms[place])
        sizes = (self.layout.planes, self.layout.cells, self.depth)
        _call("least_distances", *sides, *codes, *sizes, coarse, coarse.stride(0), out, out.stride(0))
