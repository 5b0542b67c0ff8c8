"""The backends of the pixel search, as the contract's tests see them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from hypothesis import strategies as st
from torch import Tensor

from spade_index.kernels import native, nearest_pixels
from spade_index.kernels.fused.search import search as fused_search
from spade_index.kernels.native.library import instruction_sets
from spade_index.kernels.pyramid import Size

from .interpreter import Interpreter
from .kernel_cases import LARGER, NESTED, OTHER, PRECISIONS, PRUNE, small_searches
from .kernel_cases import searches as any_searches
from .plain_kernels import PlainKernels

Found = tuple[Tensor, Tensor]
Way = dict[str, Any]
BACKENDS = [
    "torch",
    "native",
    "fused",
    "triton",
]  # CuPy needs a GPU: what its kernels launch and compile to is tested elsewhere


@dataclass(frozen=True)
class Backend:
    """One backend, the ways in which it can search, and the sizes that it can search in the time of a test."""

    find: Callable[..., Found]
    ways: Sequence[Way] = ({},)
    few_ways: Sequence[Way] = ({},)
    sizes: Sequence[Size] = ((8, 8), (4, 4))
    pyramids: Sequence[Sequence[Size]] = tuple(NESTED + OTHER + LARGER)
    examples: int = 80
    searches: st.SearchStrategy[dict[str, Any]] = field(default_factory=any_searches)
    drawn_ways: st.SearchStrategy[Way] = field(default_factory=lambda: st.just({}))

    def answers(self, search: dict[str, Any], ways: Sequence[Way] | None = None) -> list[tuple[Found, str]]:
        """Search in each way; return each answer with a note that names the way."""
        return [(self.find(**search, **way), f"with {way}") for way in ways or self.ways]


def torch_backend() -> Backend:
    """Return the torch backend, with and without pruning, in both precisions."""
    ways = [{"prune": prune, "precision": precision} for prune, precision in product(PRUNE, PRECISIONS)]
    few = [
        {"prune": None, "precision": "float32"},
        {"prune": True, "precision": "fast"},
        {"prune": False, "precision": "float32"},
    ]
    find = partial(nearest_pixels, backend="torch")
    return Backend(find, ways, few, drawn_ways=st.sampled_from(ways))


def native_backend() -> Backend:
    """Return the native backend with each instruction set that this processor has, the portable one at least.

    Raises OSError if it was not compiled: install g++ and run `make` again.
    """

    def find(query, pool, pages, k=1, *, sizes, weights=None, mode="concat-nearest", **options):
        weights = weights or [1.0] * len(sizes)
        return native.nearest_pixels(query, pool, pages, k, sizes=sizes, weights=weights, mode=mode, **options)

    ways = [{"instructions": name} for name in instruction_sets()]
    return Backend(find, ways, ways, drawn_ways=st.sampled_from(ways))


def fused_backend() -> Backend:
    """Return the fused search by plain kernels, in blocks of 1, 2 and 16 cells."""

    def find(query, pool, pages, k=1, *, sizes, weights=None, mode="concat-nearest", block_cells=16, **options):
        make = partial(PlainKernels, block_cells=block_cells)
        weights = weights or [1.0] * len(sizes)
        return fused_search(make, query, pool, pages, k, sizes=sizes, weights=weights, mode=mode, **options)

    blocks, memory = st.sampled_from([1, 2, 16]), st.sampled_from([None, 1, 20_000, 200_000])
    drawn = st.fixed_dictionaries({"block_cells": blocks, "working_memory": memory})
    return Backend(find, examples=60, drawn_ways=drawn)


def triton_backend(interpreter: Interpreter) -> Backend:
    """Return the Triton backend in the interpreter, with every kernel checked."""

    def find(query, pool, pages, k=1, *, tiles=(16, 16, 16, 4, 2), extra=0, **options):
        search = {"query": query, "pool": pool, "pages": pages, "k": k, "weights": None, "mode": "concat-nearest"}
        detached = {name: [level.detach() for level in search[name]] for name in ("query", "pool")}
        return interpreter.search(search | detached | options, tiles=tiles, extra=extra)

    tiles = st.tuples(st.sampled_from([16, 32]), st.just(16), st.sampled_from([16, 32]), st.just(4), st.just(2))
    return Backend(
        find,
        sizes=((2, 4), (1, 2)),
        pyramids=([(3, 4), (3, 2)], [(4, 4), (2, 2)], [(3, 3), (1, 1)], [(1, 18)]),
        examples=8,
        searches=small_searches(),
        drawn_ways=st.fixed_dictionaries({"tiles": tiles, "extra": st.just(1)}),
    )
