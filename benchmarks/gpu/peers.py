"""The contenders of the GPU benchmark: ours with resident maps, and what else a GPU can be made to do.

A contender is prepared for some batches, outside the time, and then called with what was prepared for each.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from spade_index import kernels
from spade_index.benchmarks import pixel_peers
from spade_index.benchmarks.gpu.published import flash_kmeans, flashlib
from spade_index.benchmarks.gpu.runner import Missing
from spade_index.benchmarks.gpu.unfused import (
    compiled,
    map_bytes,
    product,
    roomy,
    unfused,
)
from spade_index.benchmarks.gpu.workload import MODE, Found, Inputs, Prepared, Workload, fused_maps

FUSED = ("triton", "cupy")


@dataclass(frozen=True)
class Contender:
    """One way to search."""

    key: str
    title: str
    prepare: Callable[[Workload, Sequence[Inputs]], Prepared]
    once: bool = False  # in the first cell only
    alone: bool = False  # for batches of 1 only
    graph: bool = True  # never waits for the GPU, so that a CUDA graph of it may be captured


def backend_module(name: str) -> Any:
    """Return a backend's module, if it can run here. Raises Missing."""
    if name in FUSED and not torch.cuda.is_available() and (name != "triton" or not os.environ.get("TRITON_INTERPRET")):
        raise Missing(f"{name} needs a CUDA GPU")
    if name in FUSED and find_spec(name) is None:
        raise Missing(f"{name} is not installed")
    try:
        module = importlib.import_module(f"spade_index.kernels.{kernels.BACKENDS[name]}")
    except ImportError as error:
        raise Missing(f"{name} cannot be imported ({error})") from error
    if not torch.cuda.is_available() and getattr(module, "INTERPRETED", True) is False:
        raise Missing(f"{name} was imported to compile: it needs a CUDA GPU")
    return module


def _fused(name: str, work: Workload, batches: Sequence[Inputs]) -> Prepared:
    search, maps = backend_module(name).nearest_pixels, fused_maps(work.scale, work.device)
    return (lambda one: search(one.query, maps, one.pages, 1, **work.options)), list(batches), {}


def _public(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """Call as a program does, with arguments checked; pages on the CPU need no wait for that."""
    backend_module("triton")
    maps, sizes = fused_maps(work.scale, work.device), work.scale.sizes
    given = [Inputs(one.query, one.pages.cpu()) for one in batches]
    return (lambda one: kernels.nearest_pixels(one.query, maps, one.pages, sizes=sizes, backend="triton")), given, {}


def _torch(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    options: dict[str, Any] = {"sizes": work.scale.sizes, "backend": "torch"}
    return (lambda one: kernels.nearest_pixels(one.query, work.pool, one.pages, **options)), list(batches), {}


def _cdist(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """Prepare torch.cdist of pixel_peers.py, which goes map by map, from float32."""
    contender = pixel_peers.CONTENDERS["cdist"]

    def search(query: Sequence[Tensor], page: Tensor) -> tuple[pixel_peers.Search, Any]:
        pool, weights = [level[page] for level in work.pool], work.options["weights"]
        one = pixel_peers.Search([level[None] for level in query], pool, work.scale.sizes, weights, 1, MODE)
        return one, contender.prepare(one)

    given = [
        [search([level[number] for level in one.query], page) for number, page in enumerate(one.pages)]
        for one in roomy(batches, map_bytes(work, 4))
    ]

    def call(each: Any) -> Found:
        found = [contender.run(*one) for one in each]
        return torch.stack([d for d, _ in found]), torch.stack([m for _, m in found])

    return call, given, {}


_ALL = (
    Contender("triton", "ours, Triton", partial(_fused, "triton")),
    Contender("public", "ours, nearest_pixels", _public, once=True, graph=False),
    Contender("cupy", "ours, CuPy", partial(_fused, "cupy")),
    Contender("unfused", "torch, decomposed, unfused, float16", unfused),
    Contender("concatenated", "torch, concatenated product + min, float16", product, alone=True),
    Contender("cdist", "torch.cdist + topk, float32", _cdist, alone=True),
    Contender("torch", "our torch backend, float32", _torch, alone=True, graph=False),
    Contender("flashlib", "flashlib, concatenated, float16", flashlib, alone=True, graph=False),
    Contender("flash-kmeans", "flash-kmeans, concatenated, float16", flash_kmeans, alone=True, graph=False),
    Contender("compiled", "torch, decomposed, min by torch.compile", compiled, once=True),
)
CONTENDERS = {contender.key: contender for contender in _ALL}
