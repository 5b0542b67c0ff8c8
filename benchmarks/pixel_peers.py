"""The contenders of the pixel search, under one signature: `torch.cdist`, FAISS and `nearest_pixels`.

Each takes a `Search` and returns (distances [P, k], matches [P, k]) as `nearest_pixels` does. What `prepare` returns is
not timed. `torch.cdist` and FAISS `knn` get both sides converted, upsampled and concatenated to float32. No gallery
stores that, since it would be ten times as large, but it is how such code is usually timed. The other contenders read
and convert the gallery's float16 maps within the time.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from spade_index.kernels import nearest_pixels, torch_backend
from spade_index.kernels.dispatch import hindrance_of
from spade_index.kernels.pyramid import Size, nearest_index, upsample_bilinear

Found = tuple[Tensor, Tensor]  # squared distances float32 [P, k], matches int64 [P, k]: position * P + pixel
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

    @property
    def maps(self) -> int:
        """K."""
        return len(self.pool[0])

    @property
    def pixels(self) -> int:
        """P, the pixels of the finest level."""
        return self.query[0].shape[1]

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `nearest_pixels`, which have the names of the fields."""
        return {**vars(self), "pages": torch.arange(self.maps, device=self.pool[0].device)[None]}

    def concatenated(self, dtype: torch.dtype) -> tuple[Tensor, Iterator[Tensor]]:
        """Return the query on the finest grid, weighted, [P, D], and an iterator over the gallery's maps, too."""
        maps = (self._concatenate([level[slot] for level in self.pool], dtype) for slot in range(self.maps))
        return self._concatenate([level[0] for level in self.query], dtype), maps

    def _concatenate(self, levels: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        up = []
        for level, size, weight in zip(levels, self.sizes, self.weights, strict=True):
            level = level.to(dtype) * weight**0.5
            if self.mode == "concat-bilinear":
                up.append(upsample_bilinear(level, size, self.sizes[0]))
            else:
                up.append(level[nearest_index(size, self.sizes[0]).to(level.device)])
        return torch.cat(up, 1)


@dataclass(frozen=True)
class Contender:
    """One way to do the search."""

    key: str  # as --peers takes it
    title: str
    run: Callable[[Search, Any], Found]  # the second argument is the result of `prepare`
    prepare: Callable[[Search], Any] = lambda search: None
    modes: Sequence[str] = ("concat-nearest", "concat-bilinear")
    own_mode: str | None = None  # its mode, whatever is asked for
    options: dict[str, Any] | None = None  # of `nearest_pixels`; None for the others
    prunes: bool = False  # whether the share of pairs that it compares is known
    missing: Callable[[torch.device], str | None] = lambda device: None  # returns why it cannot run there

    @property
    def fast(self) -> bool:
        """Whether it may round, so that it is checked with a wider tolerance."""
        return self.options is not None and self.options["precision"] == "fast"

    def takes(self, search: Search, maps: int) -> Search:
        """Return the part of a search that this contender runs for: ours all of it, others the first `maps` maps."""
        pool = search.pool if self.options is not None else [level[:maps] for level in search.pool]
        return replace(search, mode=self.own_mode or search.mode, pool=pool)

    def unfit(self, part: Search) -> str | None:
        """Return why this contender cannot do a search."""
        if part.mode not in (*self.modes, self.own_mode):
            return f"does not search {part.mode}"
        return self.missing(part.query[0].device)


def prepared(search: Search) -> tuple[Tensor, list[Tensor]]:
    """Concatenate both sides: the query [P, D] and the maps [P, D]."""
    query, maps = search.concatenated(torch.float32)
    return query, list(maps)


def map_by_map(find: Callable[[Tensor, Tensor, int], Found], search: Search, given: Any) -> Found:
    """Find the k nearest of query [P, D] in each map [P, D], and then the nearest of those."""
    query, maps = given
    found = [find(query, g, search.k) for g in maps]
    values = torch.cat([of_map for of_map, _ in found], 1)  # [P, K*k]
    matches = torch.cat([pixels + number * search.pixels for number, (_, pixels) in enumerate(found)], 1)
    best, order = values.topk(search.k, largest=False)
    return best, matches.gather(1, order)


def cdist_topk(query: Tensor, g: Tensor, k: int) -> Found:
    """Use torch.cdist, which multiplies matrices, and topk."""
    values, pixels = torch.cdist(query, g).topk(k, largest=False)
    return values.square_(), pixels


def faiss_knn(query: Tensor, g: Tensor, k: int) -> Found:
    """Use faiss.knn."""
    values, pixels = _faiss().knn(query.numpy(), g.numpy(), k)
    return torch.from_numpy(values), torch.from_numpy(pixels)


def faiss_per_level(search: Search, given: None) -> Found:
    """Search a flat index of each level's gallery pixels; upsample and average the distances, as SPADE-fast does."""
    total = torch.zeros(search.pixels, search.k)
    matches = []
    for q, pool, size, weight in zip(search.query, search.pool, search.sizes, search.weights, strict=True):
        index = _faiss().IndexFlatL2(pool.shape[2])
        for g in pool:
            index.add(g.float().numpy())
        d, nearest = map(torch.from_numpy, index.search(q[0].numpy(), search.k))
        total += weight / len(search.query) * upsample_bilinear(d, size, search.sizes[0])
        matches.append(nearest)
    return total, matches[0]


def _faiss() -> Any:
    """Return the module, with as many threads as torch has."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def _no_faiss(device: torch.device) -> str | None:
    if find_spec("faiss") is None:
        return "FAISS is not installed"
    runs = device.type == "cpu" or hasattr(_faiss(), "StandardGpuResources")
    return None if runs else "this FAISS has no GPU code"


def survivors(search: Search, options: dict[str, Any]) -> float | None:
    """Return the share of level 0's pairs of pixels whose product `nearest_pixels` computes."""
    stats = torch_backend.SearchStats()
    torch_backend.nearest_pixels(**search.arguments(), **options, stats=stats)
    return stats.compared / stats.pairs if stats.pairs else None


def _ours(key: str, backend: str, precision: str = "float32", prune: bool | None = None) -> Contender:
    options: dict[str, Any] = {"precision": precision, "prune": prune}

    def run(search: Search, given: None) -> Found:
        distances, matches = nearest_pixels(**search.arguments(), backend=backend, **options)
        return distances[0], matches[0]

    return Contender(
        key,
        f"ours {key}",
        run,
        modes=(*Contender.modes, PER_LEVEL),
        options=options,
        prunes=backend == "torch",
        missing=lambda device: hindrance_of(backend, device),
    )


PEERS = (
    Contender("cdist", "torch.cdist + topk", partial(map_by_map, cdist_topk), prepared),
    Contender("faiss", "faiss.knn", partial(map_by_map, faiss_knn), prepared, missing=_no_faiss),
    Contender("faiss-per-level", "FAISS flat, per level", faiss_per_level, own_mode=PER_LEVEL, missing=_no_faiss),
)
OURS = (
    _ours("dense", "torch", prune=False),
    _ours("torch", "torch"),
    _ours("fast", "torch", precision="fast"),
    _ours("native", "native"),
)
CONTENDERS = {contender.key: contender for contender in (*PEERS, *OURS)}
