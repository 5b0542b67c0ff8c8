"""The contenders of the pixel search, under one signature: what people use now, and `nearest_pixels`.

All of them take a `Search`, give (distances [n, k], matches [n, k]) as `nearest_pixels` does, and run where its tensors
lie. The gallery's float16 maps are read and converted within the time, one by one, by everyone but the contenders
called `prepared`: those find both sides converted, upsampled and concatenated to float32, which no gallery stores (it
would be ten times as large), but which is how such code is usually timed. Ratios are against `prepared` ones.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from spade_index.kernels import nearest_pixels
from spade_index.kernels.pyramid import Size, nearest_index, upsample_bilinear

Found = tuple[Tensor, Tensor]  # squared distances float32 [n, k], matches int64 [n, k]: position * P + pixel
CONCATENATED = ("concat-nearest", "concat-bilinear")
PER_LEVEL = "per-level"


@dataclass(frozen=True)
class Search:
    """What a contender is given."""

    query: list[Tensor]  # levels [1, H*W, C], float32, the finest first
    pool: list[Tensor]  # levels [K, H*W, C], float16
    sizes: Sequence[Size]
    weights: Sequence[float]
    k: int
    mode: str
    rows: Tensor | None = None  # int64 [n], the query pixels that are wanted; None for all P

    @property
    def maps(self) -> int:
        """K."""
        return len(self.pool[0])

    @property
    def pixels(self) -> int:
        """P, the pixels of the finest level."""
        return self.query[0].shape[1]

    @property
    def device(self) -> torch.device:
        """Where it is to be run."""
        return self.query[0].device

    def first(self, maps: int) -> "Search":
        """The same search among the first few maps."""
        return replace(self, pool=[level[:maps] for level in self.pool])

    def concatenated_query(self) -> Tensor:
        """The query on the finest grid, weighted: float32 [n, D]."""
        q = self._concatenated([level[0] for level in self.query])
        return q if self.rows is None else q[self.rows]

    def concatenated_maps(self) -> Iterator[Tensor]:
        """The gallery's maps likewise, one by one: float32 [P, D]."""
        for slot in range(self.maps):
            yield self._concatenated([level[slot] for level in self.pool])

    def _concatenated(self, levels: Sequence[Tensor]) -> Tensor:
        up = []
        for level, size, weight in zip(levels, self.sizes, self.weights, strict=True):
            level = level.float() * math.sqrt(weight) if weight != 1 else level.float()
            if size == self.sizes[0]:
                up.append(level)
            elif self.mode == "concat-bilinear":
                up.append(upsample_bilinear(level, size, self.sizes[0]))
            else:
                up.append(level[nearest_index(size, self.sizes[0]).to(level.device)])
        return torch.cat(up, 1)


@dataclass(frozen=True)
class Prepared:
    """Both sides as the concatenating contenders compare them."""

    query: Tensor  # float32 [n, D]
    maps: Sequence[Tensor]  # K of float32 [P, D]


@dataclass(frozen=True)
class Contender:
    """One way to do the search."""

    key: str  # as --peers takes it
    title: str
    run: Callable[[Search, Any], Found]  # the second argument is what `prepare` gave
    prepare: Callable[[Search], Any] = lambda search: None  # outside the time
    ours: bool = False
    fast: bool = False  # may round: it is checked by another tolerance
    dense: bool = False  # does every product of the decomposed form, so that it has a share of the GEMM peak
    modes: Sequence[str] = CONCATENATED
    own_mode: str | None = None  # it always searches so, whatever the mode is
    rows: int | None = None  # query pixels that it is run for, where each takes as much memory as a map
    missing: Callable[[torch.device], str | None] = lambda device: None  # why it cannot be run there

    def takes(self, search: Search, maps: int, rows: Tensor) -> Search:
        """The part of a search that this contender is run for: ours all of it, others the first `maps` maps."""
        search = replace(search, mode=self.own_mode or search.mode)
        search = search if self.ours else search.first(maps)
        return search if self.rows is None else replace(search, rows=rows[: self.rows])


def prepared(search: Search) -> Prepared:
    """Concatenate both sides beforehand."""
    return Prepared(search.concatenated_query(), list(search.concatenated_maps()))


def _sides(search: Search, given: Prepared | None) -> tuple[Tensor, Iterator[Tensor]]:
    if given is not None:
        return given.query, iter(given.maps)
    return search.concatenated_query(), search.concatenated_maps()


class _Nearest:
    """What is found map by map."""

    def __init__(self, search: Search) -> None:
        self.k, self.pixels = search.k, search.pixels
        self.found: list[Found] = []

    def add(self, values: Tensor, places: Tensor) -> None:
        """Take the k smallest values [n, k] of the next map, and its pixels [n, k]."""
        self.found.append((values, places + len(self.found) * self.pixels))

    def result(self) -> Found:
        """The k smallest of all maps."""
        values, matches = (torch.cat(parts, 1) for parts in zip(*self.found, strict=True))  # [n, K*k]
        best, order = values.topk(self.k, largest=False)
        return best, matches.gather(1, order)


def broadcast_difference(search: Search, given: Prepared | None) -> Found:
    """(q - g)^2 by broadcasting, and the sum over channels."""
    query, maps = _sides(search, given)
    nearest = _Nearest(search)
    for g in maps:
        d = (query[:, None] - g[None]).square_().sum(2)
        nearest.add(*d.topk(search.k, largest=False))
    return nearest.result()


def cdist_topk(search: Search, given: Prepared | None) -> Found:
    """torch.cdist, which multiplies matrices, and the k smallest."""
    query, maps = _sides(search, given)
    nearest = _Nearest(search)
    for g in maps:
        d, places = torch.cdist(query, g).topk(search.k, largest=False)
        nearest.add(d.square_(), places)
    return nearest.result()


def concatenated_gemm(search: Search, given: Prepared | None) -> Found:
    """|q|^2 + |g|^2 - 2 q.g by one product into a buffer that is used again."""
    query, maps = _sides(search, given)
    nearest = _Nearest(search)
    buffer = query.new_empty(len(query), search.pixels)
    for g in maps:
        torch.addmm(g.square().sum(1), query, g.T, alpha=-2, out=buffer)
        if search.k == 1:
            values, places = buffer.min(1, keepdim=True)
        else:
            values, places = buffer.topk(search.k, largest=False)
        nearest.add(values, places)
    values, matches = nearest.result()
    return (values + query.square().sum(1, keepdim=True)).clamp_(min=0), matches


def faiss_knn(search: Search, given: Prepared | None) -> Found:
    """faiss.knn, or knn_gpu, map by map."""
    import faiss

    query, maps = _sides(search, given)
    nearest = _Nearest(search)
    if search.device.type == "cuda":
        import faiss.contrib.torch_utils  # lets it take torch's tensors

        resources = faiss.StandardGpuResources()
        for g in maps:
            nearest.add(*faiss.knn_gpu(resources, query, g, search.k))
    else:
        for g in maps:
            d, places = faiss.knn(query.numpy(), g.numpy(), search.k)
            nearest.add(torch.from_numpy(d), torch.from_numpy(places))
    return nearest.result()


def faiss_per_level(search: Search, given: None) -> Found:
    """A flat index of every level's gallery pixels, maps of distances upsampled and averaged, as SPADE-fast does it."""
    import faiss

    total = torch.zeros(search.pixels, search.k, device=search.device)
    finest = None
    for q, pool, size, weight in zip(search.query, search.pool, search.sizes, search.weights, strict=True):
        index: Any = faiss.IndexFlatL2(pool.shape[2])
        if search.device.type == "cuda":
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), search.device.index or 0, index)
        for g in pool:
            index.add(g.float().cpu().numpy())
        d, matches = (torch.from_numpy(found).to(q.device) for found in index.search(q[0].cpu().numpy(), search.k))
        total += weight / len(search.query) * upsample_bilinear(d, size, search.sizes[0])
        finest = matches if finest is None else finest
    assert finest is not None
    return total, finest


def keops_argkmin(search: Search, given: Prepared | None) -> Found:
    """KeOps' Kmin and argKmin."""
    from pykeops.torch import LazyTensor

    query, maps = _sides(search, given)
    nearest = _Nearest(search)
    for g in maps:
        d = ((LazyTensor(query[:, None]) - LazyTensor(g[None])) ** 2).sum(-1)
        nearest.add(*d.Kmin_argKmin(search.k, dim=1))
    return nearest.result()


def ours(**options: Any) -> Callable[[Search, Any], Found]:
    """`nearest_pixels` with these options."""

    def run(search: Search, given: None) -> Found:
        distances, matches = nearest_pixels(**_arguments(search), backend="torch", **options)
        return distances[0], matches[0]

    return run


def survivors(search: Search, options: dict[str, Any]) -> float | None:
    """The share of level 0's pairs of pixels whose product is taken, with these options."""
    from spade_index.kernels import torch_backend

    stats = torch_backend.SearchStats()
    torch_backend.nearest_pixels(**_arguments(search), **options, stats=stats)
    return stats.compared / stats.pairs if stats.pairs else None


def _arguments(search: Search) -> dict[str, Any]:
    """The arguments of `nearest_pixels`."""
    pages = torch.arange(search.maps, device=search.device)[None]
    sizes, weights = list(search.sizes), list(search.weights)
    return {
        **{"query": search.query, "pool": search.pool, "pages": pages, "k": search.k},
        **{"sizes": sizes, "weights": weights, "mode": search.mode},
    }


def _no_faiss(device: torch.device) -> str | None:
    if find_spec("faiss") is None:
        return "FAISS is not installed"
    import faiss

    return None if device.type == "cpu" or hasattr(faiss, "StandardGpuResources") else "this FAISS has no GPU code"


def _no_keops(device: torch.device) -> str | None:
    return None if find_spec("pykeops") else "pykeops is not installed"


CDIST = "cdist"  # what ratios are against
OURS: dict[str, dict[str, Any]] = {
    "dense": {"precision": "float32", "prune": False},
    "pruned": {"precision": "float32", "prune": True},
    "default": {"precision": "float32", "prune": None},
    "fast-dense": {"precision": "fast", "prune": False},
    "fast": {"precision": "fast", "prune": None},
}
PEERS = (
    Contender("difference", "broadcast difference", broadcast_difference, prepared, rows=8),
    Contender(CDIST, "torch.cdist + topk", cdist_topk, prepared),
    Contender("cdist-float16", "torch.cdist + topk, from float16", cdist_topk),
    Contender("gemm", "concatenated GEMM", concatenated_gemm, prepared),
    Contender("gemm-float16", "concatenated GEMM, from float16", concatenated_gemm),
    Contender("faiss", "faiss.knn", faiss_knn, prepared, missing=_no_faiss),
    Contender("faiss-per-level", "FAISS flat, per level", faiss_per_level, own_mode=PER_LEVEL, missing=_no_faiss),
    Contender("keops", "KeOps argKmin", keops_argkmin, prepared, missing=_no_keops),
)
CONTENDERS = {
    contender.key: contender
    for contender in (
        *PEERS,
        *(
            Contender(
                key,
                f"ours {key.replace('-', ' ')}",
                ours(**options),
                ours=True,
                fast=key.startswith("fast"),
                dense=options["prune"] is False,
                modes=(*CONCATENATED, PER_LEVEL),
            )
            for key, options in OURS.items()
        ),
    )
}
