"""A peer in Triton: the nearest concatenated row, kept while products are computed (as in flash-kmeans)."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

Tiles = tuple[int, int, int, int, int]  # rows, columns, channels, warps, stages
TILES: tuple[Tiles, ...] = ((128, 128, 64, 8, 4), (128, 256, 64, 8, 3), (128, 128, 64, 4, 3))
INTERPRETED_TILES: Tiles = (16, 16, 16, 4, 1)


@triton.jit
def online_argmin(
    query,  # descriptor [rows, C], blocks [BM, BD]
    gallery,  # descriptor [maps * columns, C], blocks [BN, BD]
    norms,  # float32 [maps * columns]
    least,  # float32 [maps, rows]
    where,  # int32 [maps, rows]: the column
    rows,
    columns,
    CHUNKS: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Find the least |g|^2 - 2 q.g of each query row among a map's columns: grid (row blocks, maps)."""
    first_row, number = tl.program_id(0) * BM, tl.program_id(1)
    best = tl.full((BM,), float("inf"), tl.float32)
    place = tl.zeros((BM,), tl.int32)
    for first in range(0, columns, BN):
        acc = tl.zeros((BM, BN), tl.float32)
        for chunk in tl.range(0, CHUNKS, num_stages=STAGES):
            q = query.load([first_row, chunk * BD])
            g = gallery.load([number * columns + first, chunk * BD])
            acc = tl.dot(q, g.T, acc)
        column = first + tl.arange(0, BN)
        norm = tl.load(norms + number * columns + column, mask=column < columns, other=float("inf"))
        distance = norm[None, :] - 2 * acc
        here = tl.min(distance, 1)
        at = tl.argmin(distance, 1).to(tl.int32) + first
        nearer = here < best
        best = tl.where(nearer, here, best)
        place = tl.where(nearer, at, place)
    row = first_row + tl.arange(0, BM)
    tl.store(least + number * rows + row, best, mask=row < rows)
    tl.store(where + number * rows + row, place, mask=row < rows)


def nearest_rows(query: Tensor, gallery: Tensor, norms: Tensor, tiles: Tiles) -> Tensor:
    """Return the nearest gallery row, int64 [P], of each query row, float16 [P, C].

    `gallery` is float16 [maps, P, C], `norms` its squared norms, float32 [maps, P].
    """
    (rows, channels), (maps, columns) = query.shape, norms.shape
    height, width, depth, warps, stages = tiles
    least = torch.empty(maps, rows, device=query.device)
    where = torch.empty(maps, rows, dtype=torch.int32, device=query.device)
    online_argmin[(math.ceil(rows / height), maps)](
        query=TensorDescriptor.from_tensor(query, [height, depth]),
        gallery=TensorDescriptor.from_tensor(gallery.flatten(0, 1), [width, depth]),
        norms=norms, least=least, where=where, rows=rows, columns=columns,
        CHUNKS=math.ceil(channels / depth), BM=height, BN=width, BD=depth, STAGES=stages, num_warps=warps,
    )  # fmt: skip
    of_map = least.argmin(0)
    return of_map * columns + where.gather(0, of_map[None])[0]
