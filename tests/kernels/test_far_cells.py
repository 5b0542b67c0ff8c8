"""Cells of the gallery that are moved far away, as those outside of a region of interest: as if they were not there."""

import math

import pytest
import torch

from spade_index.kernels import nearest_pixels

from helpers.interpreter import search_unchanged
from helpers.kernel_cases import CPU_WAYS, alike_search, pyramid_of, random_search

SIZES = {"nested": [(8, 8), (4, 4), (2, 2)], "odd": [(7, 11), (5, 5), (3, 2)], "one": [(7, 5)]}


def moved(query, pool, seed=0):
    """Move a part of the finest cells away as `Interest` does; return the pool, and which cells stay."""
    norms = [level.float().norm(dim=-1).max() for level in (*query, *pool)]
    count = len(query)
    reach = norms[0] + math.sqrt(sum((2 * max(norms[n], norms[count + n])) ** 2 for n in range(count)))
    stay = torch.rand(pool[0].shape[1], generator=torch.Generator().manual_seed(seed)) < 0.4
    stay[0] = stay[-1] = stay[len(stay) // 2] = True
    finest = pool[0].clone()
    finest[:, ~stay] = float(-2 * reach / math.sqrt(finest.shape[2]))
    return [finest, *pool[1:]], stay


def expected(query, pool, pages, k, stay, sizes, mode):
    """Return distances of the k nearest cells that stay, by the reference's order of all cells."""
    every = len(pages[0]) * pool[0].shape[1]
    d, matches = nearest_pixels(query, pool, pages, every, sizes=sizes, mode=mode, backend="reference")
    kept = stay[matches % pool[0].shape[1]]
    order = (~kept).long().argsort(dim=2, stable=True)[..., :k]
    return d.gather(2, order), matches.gather(2, order)


@pytest.mark.parametrize("way", CPU_WAYS, ids=str)
@pytest.mark.parametrize("mode", ["concat-nearest", "concat-bilinear"])
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("k", [1, 3])
def test_a_processor_finds_the_nearest_of_those_that_stay(name, mode, way, k):
    query, pool = random_search(SIZES[name])
    far, stay = moved(query, pool)
    pages = torch.tensor([[2, 0, 1], [1, 2, 0]])
    found = nearest_pixels(query, far, pages, k, sizes=SIZES[name], mode=mode, **way)
    wanted = expected(query, pool, pages, k, stay, SIZES[name], mode)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("way", CPU_WAYS, ids=str)
def test_near_neighbours_are_told_apart_beside_them(way):
    query, pool = alike_search(((16, 16), (8, 8), (4, 4)))
    far, stay = moved(query, pool)
    pages = torch.tensor([[3, 1, 0]])
    sizes = [(16, 16), (8, 8), (4, 4)]
    found = nearest_pixels(query, far, pages, 2, sizes=sizes, **way)
    wanted = expected(query, pool, pages, 2, stay, sizes, "concat-nearest")
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1], wanted[1])


def test_the_fused_kernels_find_the_nearest_of_those_that_stay(interpreter):
    sizes = [(4, 4), (2, 2)]
    query = pyramid_of("random", 2, sizes, (5, 3), 1, torch.float32)
    pool = pyramid_of("random", 3, sizes, (5, 3), 2, torch.float16)
    far, stay = moved(query, pool)
    pages = torch.tensor([[2, 0], [1, 2]])
    search = {"query": query, "pool": far, "pages": pages, "k": 2, "sizes": sizes, "mode": "concat-nearest"}
    found = interpreter.call(search_unchanged, search)
    wanted = expected(query, pool, pages, 2, stay, sizes, "concat-nearest")
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=1e-5)
    assert torch.equal(found[1], wanted[1])
