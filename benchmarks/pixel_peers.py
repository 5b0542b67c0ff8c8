"""The contenders of the pixel search, under one signature: common ways of doing it, and `nearest_pixels`.

Each takes a `Search`, returns (distances [n, k], matches [n, k]) as `nearest_pixels` does, and runs on the device of
its tensors. Contenders read and convert the gallery's float16 maps within the time, one by one, except those with
`prepare=prepared`: they get both sides converted, upsampled and concatenated to float32. No gallery stores that, since
it would be ten times as large, but it is how such code is usually timed. Ratios are against `prepared` contenders.
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
Run = Callable[["Search", Any], Found]  # the second argument is the result of `prepare`
CONCATENATED = ("concat-nearest", "concat-bilinear")
PER_LEVEL = "per-level"


@dataclass(frozen=True)
class Search:
    """The input of a contender."""

    query: list[Tensor]  # levels [1, H*W, C], float32, the finest first
    pool: list[Tensor]  # levels [K, H*W, C], float16
    sizes: Sequence[Size]
    weights: Sequence[float]
    k: int
    mode: str
    rows: Tensor | None = None  # int64 [n], the query pixels to search for; None for all P

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
        """The device to run on."""
        return self.query[0].device

    def first(self, maps: int) -> "Search":
        """Return the same search among the first maps."""
        return replace(self, pool=[level[:maps] for level in self.pool])

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `nearest_pixels`."""
        pages = torch.arange(self.maps, device=self.device)[None]
        return {
            **{"query": self.query, "pool": self.pool, "pages": pages, "k": self.k},
            **{"sizes": list(self.sizes), "weights": list(self.weights), "mode": self.mode},
        }

    def concatenated_query(self) -> Tensor:
        """Return the query on the finest grid, weighted: float32 [n, D]."""
        q = self._concatenated([level[0] for level in self.query])
        return q if self.rows is None else q[self.rows]

    def concatenated_maps(self) -> Iterator[Tensor]:
        """Yield the gallery's maps on the finest grid, weighted, one by one: float32 [P, D]."""
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
    run: Run
    prepare: Callable[[Search], Any] = lambda search: None  # is not timed
    ours: bool = False
    fast: bool = False  # may round: it is checked with a wider tolerance
    dense: bool = False  # computes every product of the decomposed form, so that it has a share of the GEMM peak
    modes: Sequence[str] = CONCATENATED
    own_mode: str | None = None  # its mode, whatever is asked for
    rows: int | None = None  # query pixels that it runs for, if each takes as much memory as a map
    missing: Callable[[torch.device], str | None] = lambda device: None  # returns why it cannot run there

    def takes(self, search: Search, maps: int, rows: Tensor) -> Search:
        """Return the part of a search that this contender runs for: ours all of it, others the first `maps` maps."""
        search = replace(search, mode=self.own_mode or search.mode)
        search = search if self.ours else search.first(maps)
        return search if self.rows is None else replace(search, rows=rows[: self.rows])


def prepared(search: Search) -> Prepared:
    """Concatenate both sides."""
    return Prepared(search.concatenated_query(), list(search.concatenated_maps()))


def map_by_map(find: Callable[[Tensor, Tensor, int], Found]) -> Run:
    """Return a contender that finds the k nearest of query [n, D] in each map [P, D], and then those of all maps."""

    def run(search: Search, given: Prepared | None) -> Found:
        query, maps = _sides(search, given)
        return _nearest(search, [find(query, g, search.k) for g in maps])

    return run


def _sides(search: Search, given: Prepared | None) -> tuple[Tensor, Iterator[Tensor]]:
    if given is not None:
        return given.query, iter(given.maps)
    return search.concatenated_query(), search.concatenated_maps()


def _nearest(search: Search, found: Sequence[Found]) -> Found:
    """Return the k smallest of all maps from those of each, whose matches are its pixels."""
    values = torch.cat([of_map for of_map, _ in found], 1)  # [n, K*k]
    matches = torch.cat([pixels + number * search.pixels for number, (_, pixels) in enumerate(found)], 1)
    best, order = values.topk(search.k, largest=False)
    return best, matches.gather(1, order)


def broadcast_difference(query: Tensor, g: Tensor, k: int) -> Found:
    """Compute (q - g)^2 by broadcasting, and sum over channels."""
    values, pixels = (query[:, None] - g[None]).square_().sum(2).topk(k, largest=False)
    return values, pixels


def cdist_topk(query: Tensor, g: Tensor, k: int) -> Found:
    """Use torch.cdist, which multiplies matrices, and topk."""
    values, pixels = torch.cdist(query, g).topk(k, largest=False)
    return values.square_(), pixels


def concatenated_gemm(search: Search, given: Prepared | None) -> Found:
    """Compute |q|^2 + |g|^2 - 2 q.g by one product into a buffer that is used again."""
    query, maps = _sides(search, given)
    buffer = query.new_empty(len(query), search.pixels)
    found: list[Found] = []
    for g in maps:
        torch.addmm(g.square().sum(1), query, g.T, alpha=-2, out=buffer)
        best = buffer.min(1, keepdim=True) if search.k == 1 else buffer.topk(search.k, largest=False)
        found.append((best[0], best[1]))
    values, matches = _nearest(search, found)
    return (values + query.square().sum(1, keepdim=True)).clamp_(min=0), matches


def faiss_knn(search: Search, given: Prepared | None) -> Found:
    """Use faiss.knn, or knn_gpu, map by map."""
    import faiss

    if search.device.type == "cuda":
        import faiss.contrib.torch_utils  # makes knn_gpu accept torch's tensors

        resources = faiss.StandardGpuResources()
        return map_by_map(lambda query, g, k: faiss.knn_gpu(resources, query, g, k))(search, given)

    def find(query: Tensor, g: Tensor, k: int) -> Found:
        values, pixels = faiss.knn(query.numpy(), g.numpy(), k)
        return torch.from_numpy(values), torch.from_numpy(pixels)

    return map_by_map(find)(search, given)


def faiss_per_level(search: Search, given: None) -> Found:
    """Search a flat index of each level's gallery pixels; upsample and average the distances, as SPADE-fast does."""
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


def keops_argkmin(query: Tensor, g: Tensor, k: int) -> Found:
    """Use KeOps' Kmin_argKmin."""
    from pykeops.torch import LazyTensor

    values, pixels = ((LazyTensor(query[:, None]) - LazyTensor(g[None])) ** 2).sum(-1).Kmin_argKmin(k, dim=1)
    return values, pixels


def ours(**options: Any) -> Run:
    """Return a contender that calls `nearest_pixels` with these options."""

    def run(search: Search, given: None) -> Found:
        distances, matches = nearest_pixels(**search.arguments(), backend="torch", **options)
        return distances[0], matches[0]

    return run


def survivors(search: Search, options: dict[str, Any]) -> float | None:
    """Return the share of level 0's pairs of pixels whose product is computed, with these options."""
    from spade_index.kernels import torch_backend

    stats = torch_backend.SearchStats()
    torch_backend.nearest_pixels(**search.arguments(), **options, stats=stats)
    return stats.compared / stats.pairs if stats.pairs else None


def _no_faiss(device: torch.device) -> str | None:
    if find_spec("faiss") is None:
        return "FAISS is not installed"
    import faiss

    return None if device.type == "cpu" or hasattr(faiss, "StandardGpuResources") else "this FAISS has no GPU code"


def _no_keops(device: torch.device) -> str | None:
    return None if find_spec("pykeops") else "pykeops is not installed"


CDIST = "cdist"  # the contender that ratios are against
OURS: dict[str, dict[str, Any]] = {
    "dense": {"precision": "float32", "prune": False},
    "pruned": {"precision": "float32", "prune": True},
    "default": {"precision": "float32", "prune": None},
    "fast-dense": {"precision": "fast", "prune": False},
    "fast": {"precision": "fast", "prune": None},
}
PEERS = (
    Contender("difference", "broadcast difference", map_by_map(broadcast_difference), prepared, rows=8),
    Contender(CDIST, "torch.cdist + topk", map_by_map(cdist_topk), prepared),
    Contender("cdist-float16", "torch.cdist + topk, from float16", map_by_map(cdist_topk)),
    Contender("gemm", "concatenated GEMM", concatenated_gemm, prepared),
    Contender("gemm-float16", "concatenated GEMM, from float16", concatenated_gemm),
    Contender("faiss", "faiss.knn", faiss_knn, prepared, missing=_no_faiss),
    Contender("faiss-per-level", "FAISS flat, per level", faiss_per_level, own_mode=PER_LEVEL, missing=_no_faiss),
    Contender("keops", "KeOps argKmin", map_by_map(keops_argkmin), prepared, missing=_no_keops),
)
_OURS = (
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
)
CONTENDERS = {contender.key: contender for contender in (*PEERS, *_OURS)}
