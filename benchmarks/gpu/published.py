"""Peers that are published: nearest rows of concatenated features by flashlib and by flash-kmeans.

Both fuse the products with the search for the least, as ours do, but know no pyramid: each pixel's levels are upsampled
and concatenated. Neither is needed: where one is not installed, its rows say so.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from spade_index.benchmarks.gpu.runner import Missing
from spade_index.benchmarks.gpu.unfused import Side, concatenate, map_bytes, measured, prepare
from spade_index.benchmarks.gpu.workload import Found, Inputs, Prepared, Workload


def flashlib(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """Prepare flashlib's nearest neighbours (`flash_knn`)."""
    knn = _imported("flashlib", "flashlib.primitives.knn").flash_knn

    def nearest(side: Side) -> Tensor:
        found = knn(side.query[0][None], side.maps[0].flatten(0, 1)[None], 1, return_distances=False)
        rows: Tensor = found[0, :, 0].long()
        return rows

    return _call(work, nearest), _sides(work, batches), {}


def flash_kmeans(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """Prepare the assignment of flash-kmeans: gallery rows are the centroids, whose squared norms are given."""
    assign = _imported("flash-kmeans", "flash_kmeans.assign_euclid_triton").euclid_assign_triton
    if work.device.type != "cuda":
        raise Missing("flash-kmeans needs a CUDA GPU")
    given = _sides(work, batches)
    norms = {id(side): (_norms(side.query[0]), _norms(side.maps[0].flatten(0, 1))) for one in given for side in one}

    def nearest(side: Side) -> Tensor:
        of_query, of_maps = norms[id(side)]
        found = assign(side.query[0][None], side.maps[0].flatten(0, 1)[None], of_query[None], c_sq=of_maps[None])
        rows: Tensor = found[0].long()
        return rows

    return _call(work, nearest), given, {}


def _imported(name: str, module: str) -> Any:
    """Return a module of a library. Raises Missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Missing(f"{name} is not installed" if error.name in module.split(".") else str(error)) from error


def _sides(work: Workload, batches: Sequence[Inputs]) -> list[list[Side]]:
    """Concatenate queries and maps, in float16."""

    def both(query: list[Tensor], maps: list[Tensor], exact: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        return [exact.half()], [concatenate(work, maps)]

    return prepare(work, batches, map_bytes(work, 2), both)


def _call(work: Workload, nearest: Callable[[Side], Tensor]) -> Callable[[Sequence[Side]], Found]:
    """Return a search of the sides of a batch, whose matches are measured as ours are."""
    return lambda sides: measured(work, sides, [nearest(side) for side in sides])


def _norms(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).square_()
