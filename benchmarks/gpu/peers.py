"""The contenders of benchmarks/gpu.sh: ours with resident maps, and what else a GPU can be made to do.

A contender is prepared for some batches, outside the time, and then called with what was prepared for each.
"""

import importlib
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch

from spade_index import kernels
from spade_index.benchmarks import pixel_peers
from spade_index.benchmarks.gpu.data import Found, Inputs, Prepared, Workload, fused_maps, milliseconds
from spade_index.benchmarks.gpu.runner import Missing
from spade_index.benchmarks.gpu.unfused import Side, compiled, concatenate, measured, product, roomy, stack, unfused

FUSED = ("triton", "cupy")
MODE = "concat-nearest"


@dataclass(frozen=True)
class Contender:
    """One way to do the search."""

    key: str
    title: str
    prepare: Callable[[Workload, Sequence[Inputs]], Prepared]
    ours: bool = False
    concatenated: bool = False  # does the products of concatenated features
    once: bool = False  # in the first cell only
    alone: bool = False  # for batches of 1
    graph: bool = True  # never waits for the GPU, so that a CUDA graph of it may be captured


def fused_search(name: str) -> Callable[..., Found]:
    """A fused backend's search, that takes resident maps. Raises Missing."""
    module = backend_module(name)
    found: Callable[..., Found] = module.nearest_pixels
    return found


def backend_module(name: str) -> Any:
    """A backend's module, if it can be run here. Raises Missing."""
    if name not in kernels.BACKENDS:
        raise Missing(f"there is no backend {name!r}")
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
    search, maps = fused_search(name), fused_maps(work.scale, work.device)
    options = {"sizes": list(work.scale.sizes), "weights": work.weights, "mode": MODE}
    return (lambda given: search(given.query, maps, given.pages, 1, **options)), list(batches), {}


def _public(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """As a program calls it, arguments checked; pages that are on the CPU need no wait for that."""
    backend_module("triton")
    maps, options = fused_maps(work.scale, work.device), {"sizes": list(work.scale.sizes), "backend": "triton"}
    given = [Inputs(one.query, one.pages.cpu()) for one in batches]
    return (lambda one: kernels.nearest_pixels(one.query, maps, one.pages, **options)), given, {}


def _torch(precision: str, work: Workload, batches: Sequence[Inputs]) -> Prepared:
    options = {"sizes": list(work.scale.sizes), "backend": "torch", "precision": precision}
    return (lambda given: kernels.nearest_pixels(given.query, work.pool, given.pages, **options)), list(batches), {}


def _argmin(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    if work.device.type != "cuda" and not os.environ.get("TRITON_INTERPRET"):
        raise Missing("triton needs a CUDA GPU")
    try:
        from spade_index.benchmarks.gpu import argmin as gpu_argmin
    except ImportError as error:
        raise Missing(f"triton cannot be imported ({error})") from error
    batches = roomy(batches, 4 * work.scale.pixels * sum(work.scale.channels))
    given = []
    for one in batches:
        sides = []
        for number, page in enumerate(one.pages):
            levels = [level[page] for level in work.pool]
            exact = concatenate(work, [level[number : number + 1] for level in one.query])[0]
            gallery = concatenate(work, levels)
            norms = torch.linalg.vector_norm(gallery, dim=2, dtype=torch.float32).square_()
            sides.append((Side([exact.half()], [gallery], exact, page), norms))
        given.append(sides)

    def call(tiles: Any, sides: Any) -> Found:
        nearest = [gpu_argmin.nearest_rows(s.query[0], s.maps[0], norms, tiles)[1] for s, norms in sides]
        return stack([measured(work, s, m) for (s, _), m in zip(sides, nearest, strict=True)])

    if work.device.type != "cuda":
        return partial(call, (16, 16, 16, 4, 1)), given, {}
    times: dict[Any, float] = {}
    for tiles in gpu_argmin.TILES:
        try:
            call(tiles, given[0])
            times[tiles] = statistics.median(milliseconds(partial(call, tiles), [given[0]], work.device, 0.03))
        except Exception as error:  # too large for this GPU
            last = error
    if not times:
        raise last
    best = min(times, key=lambda tiles: times[tiles])
    return partial(call, best), given, {"tiles": best, "tiles_ms": {str(t): ms for t, ms in times.items()}}


def _searches(work: Workload, one: Inputs) -> list[pixel_peers.Search]:
    """A batch's queries one by one, as pixel_peers takes them."""
    pools = [[level[page] for level in work.pool] for page in one.pages]
    return [
        pixel_peers.Search(
            [level[number : number + 1] for level in one.query], pool, work.scale.sizes, work.weights, 1, MODE
        )
        for number, pool in enumerate(pools)
    ]


def _as_on_cpu(key: str, work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """A contender of pixel_peers.py, map by map, from float32."""
    contender = pixel_peers.CONTENDERS[key]
    if reason := contender.missing(work.device):
        raise Missing(reason)
    batches = roomy(batches, 4 * work.scale.pixels * sum(work.scale.channels))
    given = [[(search, contender.prepare(search)) for search in _searches(work, one)] for one in batches]
    return (lambda each: stack([contender.run(*one) for one in each])), given, {}


def _faiss(work: Workload, batches: Sequence[Inputs]) -> Prepared:
    """FAISS's brute force on the GPU, over all maps at once, from float16."""
    if reason := pixel_peers.CONTENDERS["faiss"].missing(work.device):
        raise Missing(reason)
    if work.device.type != "cuda":
        return _as_on_cpu("faiss", work, batches)
    import faiss
    import faiss.contrib.torch_utils

    batches = roomy(batches, 2 * work.scale.pixels * sum(work.scale.channels))
    resources = faiss.StandardGpuResources()
    given = []
    for one in batches:
        sides = []
        for number, page in enumerate(one.pages):
            levels = [level[page] for level in work.pool]
            exact = concatenate(work, [level[number : number + 1] for level in one.query])[0]
            sides.append(Side([exact.half()], [concatenate(work, levels).flatten(0, 1)], exact, page))
        given.append(sides)

    def call(sides: Any) -> Found:
        nearest = [faiss.knn_gpu(resources, side.query[0], side.maps[0], 1)[1][:, 0] for side in sides]
        return stack([measured(work, side, matches) for side, matches in zip(sides, nearest, strict=True)])

    return call, given, {}


CONTENDERS = {
    contender.key: contender
    for contender in (
        Contender("triton", "ours, Triton", partial(_fused, "triton"), ours=True),
        Contender("public", "ours, nearest_pixels", _public, ours=True, once=True, graph=False),
        Contender("cupy", "ours, CuPy", partial(_fused, "cupy"), ours=True),
        Contender("unfused", "torch, decomposed, unfused, float16", unfused),
        Contender("concatenated", "torch, concatenated product + min, float16", product, concatenated=True, alone=True),
        Contender("argmin", "Triton online argmin, concatenated, float16", _argmin, concatenated=True, alone=True),
        Contender("cdist", "torch.cdist + topk, float32", partial(_as_on_cpu, "cdist"), concatenated=True, alone=True),
        Contender("faiss", "FAISS knn, concatenated", _faiss, concatenated=True, alone=True, graph=False),
        Contender("torch-fast", "our torch backend, fast", partial(_torch, "fast"), ours=True, alone=True, graph=False),
        Contender(
            "torch", "our torch backend, float32", partial(_torch, "float32"), ours=True, alone=True, graph=False
        ),
        Contender("compiled", "torch, decomposed, min by torch.compile", compiled, once=True),
    )
}
