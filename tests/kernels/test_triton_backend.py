"""The Triton kernels on a CPU: each against the same kernel in plain torch, and all of them against the reference.

Triton decides when it is imported whether it interprets. Its interpreter therefore has a process of its own, whatever
this one has imported. It is slow, a program takes milliseconds: maps and tiles are tiny.
"""

import math
import multiprocessing
import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.kernels import nearest_pixels
from spade_index.kernels.fused import search as fused
from spade_index.kernels.fused.interface import split_keys
from spade_index.kernels.fused.maps import FusedMaps

from helpers.kernel_cases import KINDS, assert_right, pyramid_of, scale
from helpers.plain_kernels import PlainKernels

SMALL = (16, 16, 16, 4, 2)  # rows, columns, channels, warps, stages
SIZES = {
    "halves": [(4, 4), (2, 2)],
    "halves twice": [(4, 4), (2, 2), (1, 2)],
    "two planes of more cells than a block": [(2, 17), (1, 17)],
    "one level of more cells than a block": [(3, 7)],
    "one pixel": [(1, 1)],
    "nine planes": [(3, 6), (1, 2)],
    "one plane under coarse levels": [(3, 7), (3, 7), (1, 7)],
    "unequal cells": [(5, 5), (3, 3)],
    "does not nest": [(3, 4), (3, 3), (2, 2)],
    "five levels": [(2, 8), (1, 4), (1, 4), (1, 2), (1, 1)],
    "five levels that do not nest": [(5, 4), (3, 4), (3, 2), (2, 2), (1, 1)],
    "eight pixels": [(2, 4), (1, 2)],
    "nine pixels in unequal cells": [(3, 3), (2, 2)],
}
CHANNELS = (17, 1, 40, 3, 2)  # up to three of the small tiles
FEW_CHANNELS = (5, 3, 7, 2, 1)
TINY = [
    *([(1, 1)], [(3, 5)], [(4, 4), (2, 2)], [(3, 3), (1, 1)], [(3, 4), (2, 3)], [(2, 6), (1, 6), (1, 3)]),
    *([(1, 17), (1, 17)], [(4, 3), (3, 3), (2, 2), (2, 1), (1, 1)]),
]
POISON = {torch.float32: math.nan, torch.int32: 0, torch.int64: -(0x7F8 << 52)}  # the key of -3e38 and match 0
MARGIN = 64
WEIGHTS = [0.5, 2.0, 1.5, 1.0, 0.0]


class Poisoned:
    """Stand-in for torch.empty that fills each tensor with values a test would notice, and adds guard margins.

    It takes whatever torch.empty takes. Tensors of types without a poison, and tensors that are not on a CPU, come
    from torch.empty unchanged.
    """

    def __init__(self):
        self.buffers = []
        self.empty = torch.empty

    def __call__(self, *size, **options):
        asked = self.empty(*size, **options)
        if asked.dtype not in POISON or asked.device.type != "cpu" or asked.layout != torch.strided:
            return asked
        buffer = torch.full((asked.numel() + 2 * MARGIN,), POISON[asked.dtype], dtype=asked.dtype)
        self.buffers.append(buffer)
        return buffer[MARGIN:-MARGIN].view(asked.shape)

    def check(self):
        """Assert that no kernel wrote outside its tensors."""
        for buffer in self.buffers:
            margins = torch.cat([buffer[:MARGIN], buffer[-MARGIN:]])
            poison = torch.full_like(margins, POISON[buffer.dtype])
            torch.testing.assert_close(margins, poison, rtol=0, atol=0, equal_nan=True)


def by_match(keys, pages, pixels):
    """The finite distances of keys [B, P, n] by match, and how many there are of each pixel."""
    distances, matches = split_keys(keys)
    some = distances < math.inf
    places = matches.masked_fill(~some, 0)
    table = distances.new_full((*keys.shape[:2], pages * pixels), math.inf)
    return table.scatter_reduce_(2, places, distances, "amin"), some.sum(2)


def search_in_worker(search, tiles, extra, tolerance, slots, memory):
    """What the Triton kernels find for a search; every kernel is compared with a plain one on what it is given.

    Runs in the interpreter's process. `extra` is for fused.EXTRA. `slots` put the pool into those of FusedMaps, of
    which the others are poisoned; `memory` is what `fused.buffer_bytes` says, or None.
    """
    from spade_index.kernels.fused import triton_backend

    class Checked(triton_backend.TritonKernels):
        def __init__(self, dtype, cells):
            super().__init__(dtype, cells, triton_backend.Tiles(*tiles), triton_backend.Tiles(*tiles))
            self.plain = PlainKernels(None, None, self.tile_rows, self.block_cells)

        def coarse_distances(self, *given):
            found = super().coarse_distances(*given)
            return self.agreed("coarse_distances", found, self.plain.coarse_distances(*given))

        def block_minima(self, *given):
            found = super().block_minima(*given)
            return self.agreed("block_minima", found, self.plain.block_minima(*given))

        def rescan(self, launch, *given):
            found = super().rescan(launch, *given)
            pages, pixels = launch.first_position + launch.positions, launch.geometry.pixels
            tables = [by_match(keys, pages, pixels) for keys in (found, self.plain.rescan(launch, *given))]
            assert torch.equal(tables[0][1], tables[1][1]), "rescan looked at other pixels, or at some twice"
            self.agreed("rescan", tables[0][0], tables[1][0])
            return found

        def differences(self, *given):
            *others, distances = given
            expected = distances.clone()
            super().differences(*given)
            self.plain.differences(*others, expected)
            self.agreed("differences", distances, expected)

        def agreed(self, kernel, found, expected):
            torch.testing.assert_close(
                found, expected, rtol=1e-5, atol=tolerance, msg=lambda difference: f"{kernel}: {difference}"
            )
            return found

    assert triton_backend.INTERPRETED
    nearest, memory_given = partial(fused.search, Checked), Poisoned()
    with (
        mock.patch.object(torch, "empty", memory_given),
        mock.patch.object(fused, "EXTRA", extra),
        mock.patch.object(fused, "buffer_bytes", (lambda *_: memory) if memory else fused.buffer_bytes),
        mock.patch.object(triton_backend, "DEEP_CHANNELS", 16),
        mock.patch.object(triton_backend, "RESCAN_CHANNELS", 16),
        mock.patch.object(triton_backend, "nearest_pixels", nearest),
    ):
        if slots is not None:
            search = search | in_slots(search, slots)
        found = nearest_pixels(**search, backend="triton")
    memory_given.check()
    return found


def in_slots(search, slots):
    """The pool of a search in such slots of FusedMaps, among others of NaN, and its pages there."""
    pool, sizes = search["pool"], search["sizes"]
    channels = [level.shape[2] for level in pool]
    maps = FusedMaps.empty(max(slots) + 2, sizes, channels, pool[0].dtype, torch.device("cpu"))
    spare = torch.tensor(sorted(set(range(max(slots) + 2)) - set(slots)))
    for tensor in (*maps.levels, *maps.norms):
        tensor[spare] = math.nan
    maps.write(torch.tensor(slots), pool)
    return {"pool": maps, "pages": torch.tensor(slots)[search["pages"]]}


def unchanged_in_worker(search):
    """What the backend finds as it is."""
    from spade_index.kernels.fused import triton_backend

    assert triton_backend.INTERPRETED
    return nearest_pixels(**search, backend="triton")


def _call(pickled):
    """Tensors are sent as bytes, not as shared memory."""
    function, arguments = pickle.loads(pickled)
    return pickle.dumps(function(*arguments))


@pytest.fixture(scope="module")
def interpreter():
    """`interpreter(function, *arguments)`: what a function of this module gives where Triton interprets."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:
        with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):  # the process starts with the first call
            worker.submit(torch.set_num_threads, 1).result()
        yield lambda *call: pickle.loads(worker.submit(_call, pickle.dumps((call[0], call[1:]))).result())


@pytest.fixture(scope="module")
def searched(interpreter):
    """What Triton finds for a search, in small tiles, every kernel checked: see `search_in_worker`."""

    def find(search, tiles=SMALL, extra=0, slots=None, memory=None):
        return interpreter(search_in_worker, search, tiles, extra, 1e-6 * scale(search), slots, memory)

    return find


def integers(count, sizes, channels, seed, dtype=torch.float32):
    """Levels of small integers, whose products are exact in every type."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(-3, 4, (count, h * w, c), generator=generator).to(dtype)
        for (h, w), c in zip(sizes, channels, strict=False)
    ]


def integer_search(sizes, dtype=torch.float16, pages=((2, 0, 2),), k=1, channels=CHANNELS, weights=WEIGHTS):
    """A search of integers, with a map that a page has twice."""
    query, pool = integers(len(pages), sizes, channels, 1), integers(3, sizes, channels, 2, dtype)
    return {
        "query": query, "pool": pool, "pages": torch.tensor(pages), "k": k, "sizes": list(sizes),
        "weights": weights and weights[: len(sizes)], "mode": "concat-nearest",
    }  # fmt: skip


def random_search(sizes, dtype=torch.float16, pages=((2, 0), (1, 2)), k=2, channels=FEW_CHANNELS):
    """A search of random features, whose distances are all different."""
    query = pyramid_of("random", len(pages), sizes, channels[: len(sizes)], 1, torch.float32)
    pool = pyramid_of("random", 3, sizes, channels[: len(sizes)], 2, dtype)
    search = integer_search(sizes, dtype, pages, k, channels)
    return search | {"query": query, "pool": pool}


def assert_matches(search, found):
    """That an answer has the reference's very matches."""
    expected = nearest_pixels(**search, backend="reference")
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-7 * scale(search))
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("name", SIZES)
def test_every_kernel_is_the_plain_one(name, searched):
    search = integer_search(SIZES[name])
    assert_right(search, searched(search), nearest_pixels(**search, backend="reference")[0], 1e-5, 1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["halves twice", "does not nest"])
def test_batches_of_maps_of_every_type(name, dtype, searched):
    search = random_search(SIZES[name], dtype)
    assert_matches(search, searched(search))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_queries_of_less_than_float32(dtype, searched):
    search = random_search(SIZES["eight pixels"])
    search["query"] = [level.to(dtype) for level in search["query"]]
    assert_matches(search, searched(search))


@pytest.mark.parametrize(
    ("sizes", "channels", "dtype"),
    [
        ([(4, 4), (2, 2)], (24, 40), torch.float16),
        ([(3, 7), (3, 7)], (260, 70), torch.float16),  # more than one tile of channels
        ([(3, 3), (2, 2)], (130, 33), torch.float32),
        ([(1, 65)], (3,), torch.bfloat16),  # more cells than a block
    ],
    ids=str,
)
def test_the_backend_as_it_is(sizes, channels, dtype, interpreter):
    search = random_search(sizes, dtype, [[2, 0]], 1, channels)
    assert_matches(search, interpreter(unchanged_in_worker, search))


@pytest.mark.parametrize("mode", ["concat-bilinear", "per-level"])
def test_the_other_modes(mode, searched):
    search = random_search([(3, 4), (3, 2)]) | {"mode": mode}
    assert_matches(search, searched(search))


@pytest.mark.parametrize(("k", "extra"), [(3, 0), (10, 2)])
def test_many_matches(k, extra, searched):
    search = random_search([(1, 18)], pages=[[2, 0, 1, 2]], k=k)
    assert_matches(search, searched(search, extra=extra))


def test_weights_of_zero(searched):
    search = random_search(SIZES["eight pixels"]) | {"weights": [0.0, 1.0], "k": 4}
    found = searched(search)
    assert_right(search, found, nearest_pixels(**search, backend="reference")[0], 1e-5, 1e-6)


@pytest.mark.parametrize("size", [1e5, 1e15])
def test_queries_beyond_float16(size, searched):
    """The nearest is what lies furthest in the query's direction."""
    search = random_search(SIZES["eight pixels"], k=1)
    search["query"] = [size * level.sign() for level in search["query"]]
    search["pool"] = [(1e4 * level).clamp(-6e4, 6e4) for level in search["pool"]]
    if size < 1e10:
        assert_matches(search, searched(search))
    else:  # float32 no longer tells the distances apart
        expected, _ = nearest_pixels(**search, backend="reference")
        assert_right(search, searched(search), expected, 1e-5, 1e-6)


def test_queries_whose_distances_no_float_holds(searched):
    search = random_search(SIZES["eight pixels"])
    search["query"] = [1e30 * level for level in search["query"]]
    d, matches = searched(search)
    assert (d == math.inf).all()
    assert 0 <= matches.min() <= matches.max() < 2 * 8


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_features_that_float16_all_but_loses(dtype, searched):
    """Steps of the least number that float16 has."""
    search = integer_search(SIZES["eight pixels"], dtype, weights=None)
    search["query"] = [2.0**-24 * level for level in search["query"]]
    search["pool"] = [(2.0**-24 * level.float()).to(dtype) for level in search["pool"]]
    assert all(level.unique().numel() == 7 for level in search["pool"][:1])
    found = searched(search)
    expected, _ = nearest_pixels(**search, backend="reference")
    assert_right(search, found, expected, 1e-5, 1e-6)
    assert_matches(search, found)


def test_queries_of_next_to_nothing_are_nearest_to_what_is_small(searched):
    search = random_search(SIZES["eight pixels"], torch.float32)
    search["query"] = [1e-30 * level for level in search["query"]]
    assert_matches(search, searched(search))


@pytest.mark.parametrize(
    "name", ["eight pixels", "nine pixels in unequal cells", "one level of more cells than a block"]
)
def test_equal_distances_go_to_the_lowest_match(name, searched):
    """A gallery of one value: of the blocks that are equally near, the first ones are looked into."""
    search = integer_search(SIZES[name], pages=[[1, 0, 1, 2]], k=2, channels=FEW_CHANNELS)
    search["pool"] = [level[:1, :1].expand_as(level).contiguous() for level in search["pool"]]
    _, matches = searched(search)
    pixels = search["query"][0].shape[1]
    assert torch.equal(matches, torch.arange(2).expand(1, pixels, 2))


@pytest.mark.parametrize("pages", [[[0, 0, 0]], [[2, 1, 2]]], ids=str)
def test_the_same_map_twice_gives_the_lower_position(pages, searched):
    search = integer_search(SIZES["eight pixels"], pages=pages, k=4)
    search["pool"] = [level[:1].repeat(3, 1, 1) for level in search["pool"]]
    assert_matches(search, searched(search))


@pytest.mark.parametrize("memory", [(1, 1), (1, 100)], ids=["pages in parts of two", "queries and maps alone"])
@pytest.mark.parametrize("name", ["eight pixels", "nine pixels in unequal cells"])
def test_parts_of_batches_and_pages_give_the_same(name, memory, searched):
    search = random_search(SIZES[name], pages=[[2, 0, 1], [1, 2, 0]])
    assert_matches(search, searched(search | {"working_memory": 3}, memory=memory))


def test_the_least_working_memory_is_enough(searched):
    search = random_search(SIZES["eight pixels"])
    assert_matches(search, searched(search | {"working_memory": 1}))


@pytest.mark.parametrize(
    "name", ["eight pixels", "nine pixels in unequal cells", "one level of more cells than a block"]
)
def test_maps_in_the_kernels_own_layout_with_other_slots_of_nan(name, searched):
    search = random_search(SIZES[name], pages=[[2, 0, 2]])
    found = searched(search, slots=[5, 1, 3])
    assert_matches(search, found)


@st.composite
def small_searches(draw):
    """The arguments of a search of one or two queries."""
    sizes = draw(st.sampled_from(TINY))
    channels = [draw(st.sampled_from([1, 2, 8, 16, 33])) for _ in sizes]
    batch, neighbours, seed = draw(st.integers(1, 2)), draw(st.integers(1, 3)), draw(st.integers(0, 10**6))
    kind, dtype = draw(st.sampled_from(KINDS)), draw(st.sampled_from([torch.float16, torch.float32, torch.bfloat16]))
    pool = pyramid_of(kind, 3, sizes, channels, seed + 1, dtype)
    return {
        "query": [level.float() for level in pyramid_of(kind, batch, sizes, channels, seed, dtype)],
        "pool": pool,
        "pages": torch.randint(3, (batch, neighbours), generator=torch.Generator().manual_seed(seed)),
        "k": draw(st.integers(1, min(10, neighbours * sizes[0][0] * sizes[0][1]))),
        "sizes": sizes,
        "weights": draw(st.sampled_from([None, WEIGHTS[: len(sizes)]])),
        "mode": "concat-nearest",
    }


@settings(max_examples=8, deadline=None, derandomize=True)
@given(search=small_searches(), rows=st.sampled_from([16, 32]), channels=st.sampled_from([16, 32]))
def test_triton_is_the_reference(search, rows, channels, searched):
    found = searched(search, tiles=(rows, 16, channels, 4, 2), extra=1)
    assert_right(search, found, nearest_pixels(**search, backend="reference")[0], 1e-4, 1e-6)
