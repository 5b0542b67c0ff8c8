"""Equal distances go to the lowest match, however many there are and whichever way a processor finds them.

Features are small integers and sizes halve, so that distances are exact in every precision, interpolated ones too.
"""

import pytest
import torch

from spade_index.kernels import nearest_pixels
from spade_index.kernels.pyramid import make_layout
from spade_index.kernels.torch_backend.found import SPARE

from helpers.kernel_cases import CPU_WAYS, MODES, NATIVE, alike_search, assert_same, distances_at

FEW_WAYS = [
    {"backend": "torch", "prune": True, "precision": "float32"},
    {"backend": "torch", "prune": False, "precision": "float32"},
    {"backend": "torch", "prune": None, "precision": "fast"},
    NATIVE,
]
CHANNELS = (3, 4, 5)
FLAT = {  # where a pixel's right and lower edges, as shares of the map, make it flat
    "everywhere": lambda y, x: (x > 0) & (y > 0),
    "below": lambda y, x: (y > 0.5) & (x > 0),
    "right": lambda y, x: (x > 0.32) & (y > 0),
    "corner": lambda y, x: (x > 0.6) & (y > 0.6),
    "nowhere": lambda y, x: (x > 1) & (y > 1),
}


def integers(count, sizes, where, seed, dtype):
    """Return levels of random integers, constant on each level in the flat part of the maps."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for (h, w), channels in zip(sizes, CHANNELS, strict=False):
        level = torch.randint(-3, 4, (count, h, w, channels), generator=generator)
        y, x = torch.arange(1, h + 1)[:, None] / h, torch.arange(1, w + 1)[None] / w
        level[:, FLAT[where](y, x)] = torch.arange(channels) - 1
        levels.append(level.flatten(1, 2).to(dtype))
    return levels


def assert_is_reference(query, pool, pages, k, sizes, mode, ways=CPU_WAYS):
    """Assert that each way gives the reference's very matches."""
    arguments = {"pages": torch.tensor(pages), "k": k, "sizes": sizes, "mode": mode}
    expected, places = nearest_pixels(query, pool, **arguments, backend="reference")
    for way in ways:
        d, matches = nearest_pixels(query, pool, **arguments, **way)
        torch.testing.assert_close(d, expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(matches, places), f"with {way}"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("where", FLAT)
@pytest.mark.parametrize("k", [1, 4])
def test_ties_go_to_the_lowest_when_all_are_kept(k, where, mode):
    sizes, pages = [(8, 8), (4, 4)], [[2, 0]]
    assert make_layout(sizes).cells * len(pages[0]) <= k + SPARE
    query, pool = integers(1, sizes, where, 1, torch.float32), integers(3, sizes, where, 2, torch.float16)
    assert_is_reference(query, pool, pages, k, sizes, mode)


@pytest.mark.parametrize("where", FLAT)
@pytest.mark.parametrize("k", [1, 4])
def test_ties_in_cells_of_unequal_sizes_go_to_the_lowest(k, where):
    sizes, pages = [(5, 7), (3, 3)], [[2, 0, 1]]
    assert make_layout(sizes).cells * len(pages[0]) <= k + SPARE
    query, pool = integers(1, sizes, where, 1, torch.float32), integers(3, sizes, where, 2, torch.float16)
    assert_is_reference(query, pool, pages, k, sizes, "concat-nearest")


@pytest.mark.parametrize("where", ["everywhere", "right", "corner"])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize("sizes", [[(16, 16)], [(16, 16), (8, 8), (4, 4)], [(32, 32), (16, 16), (8, 8)]], ids=str)
def test_ties_of_more_cells_than_are_kept_go_to_the_lowest(sizes, k, where):
    query, pool = integers(1, sizes, where, 1, torch.float32), integers(2, sizes, where, 2, torch.float16)
    assert_is_reference(query, pool, [[1, 0]], k, sizes, "concat-nearest", FEW_WAYS)


@pytest.mark.parametrize("mode", ["concat-bilinear", "per-level"])
@pytest.mark.parametrize("where", ["everywhere", "right"])
def test_ties_of_many_pixels_go_to_the_lowest_in_every_mode(where, mode):
    sizes = [(16, 16), (8, 8), (4, 4)]
    query, pool = integers(1, sizes, where, 1, torch.float32), integers(2, sizes, where, 2, torch.float16)
    assert_is_reference(query, pool, [[1, 0]], 3, sizes, mode, FEW_WAYS)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize(
    "sizes", [[(16, 16), (8, 8), (4, 4)], [(13, 13), (7, 7), (4, 4)], [(32, 32), (16, 16), (8, 8)], [(16, 16)]], ids=str
)
def test_a_constant_gallery_gives_its_first_pixels(sizes, k):
    query = integers(1, sizes, "below", 1, torch.float32)
    pool = integers(2, sizes, "everywhere", 2, torch.float16)
    pixels = sizes[0][0] * sizes[0][1]
    for way in FEW_WAYS:
        _, matches = nearest_pixels(query, pool, torch.tensor([[1, 0, 1, 0]]), k, sizes=sizes, **way)
        assert torch.equal(matches, torch.arange(k).expand(1, pixels, k)), f"with {way}"


@pytest.mark.parametrize("way", CPU_WAYS, ids=str)
def test_a_map_repeated_in_a_page_is_found_each_time(way):
    query, pool = alike_search([(16, 16), (8, 8), (4, 4)], slots=3)
    arguments = {"pages": torch.tensor([[1, 2, 1, 1, 0, 1]]), "k": 4}
    expected = nearest_pixels(query, pool, **arguments, backend="reference")
    found = nearest_pixels(query, pool, **arguments, **way)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("way", CPU_WAYS, ids=str)
def test_duplicated_pixels_of_a_map_give_the_lowest(way):
    query = [torch.randn(1, 64, 4), torch.randn(1, 16, 3)]
    pool = [f.half() for f in query]
    for level in pool:
        level[:] = level[:, :1]  # every pixel of the gallery is the same
    _, matches = nearest_pixels(query, pool, torch.zeros(1, 1).long(), 10, **way)
    assert torch.equal(matches, torch.arange(10).expand(1, 64, 10))


def equally_far(away):
    """Maps of which every pixel is so far from every pixel of the query, in float32 that large norms make coarse.

    The finest level is zero. The first slot, from which features are centred, is none of the maps.
    """
    query = [torch.zeros(1, 256, 1), torch.zeros(1, 64, 2)]
    query[1][:] = torch.tensor([6000.0, 0.0])
    pool = [torch.zeros(1 + len(away), 256, 1), torch.zeros(1 + len(away), 64, 2)]
    pool[1][1:, :, 0] = 6000
    pool[1][1:, :, 1] = torch.tensor(away)[:, None]
    return query, pool, torch.arange(1, 1 + len(away))[None]


def test_a_slightly_nearer_cell_after_a_crowd_is_found():
    """A crowd, a cell much nearer than it, and at last one that is nearer than that by less than rounding hides."""
    query, pool, pages = equally_far([400.0] * 30)
    pool[1][12, 9, 1], pool[1][22, 9, 1] = 200, 199.96
    expected = torch.full((1, 256, 1), 199.96).square(), torch.full((1, 256, 1), 21 * 256 + 34)
    for way in CPU_WAYS:
        found = nearest_pixels(query, pool, pages, **way)
        assert_same(found, expected, f"with {way}")


def test_crowds_that_come_nearer_step_by_step_are_found():
    """Each map is nearer than the last by less than rounding hides, and all of them by much more."""
    query, pool, pages = equally_far([400 - 0.03 * i for i in range(20)])
    search = {"query": query, "pool": pool, "pages": pages, "sizes": [(16, 16), (8, 8)]}
    hidden = 1e-6 * 2 * 6000**2
    for way in CPU_WAYS:
        d, matches = nearest_pixels(**search, **way)
        assert (d - (400 - 0.03 * 19) ** 2).abs().max() < hidden, f"with {way}"
        expected = distances_at(search | {"weights": None, "mode": "concat-nearest"}, matches)
        torch.testing.assert_close(d, expected.float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("k", "share"), [(1, 0.5), (4, 0.2)])
@pytest.mark.parametrize("sizes", [[(16, 16), (8, 8)], [(13, 13), (7, 7), (4, 4)]], ids=str)
def test_crowds_of_cells_that_are_flat_in_part(sizes, k, share):
    """Pixels of one value scattered over the finest level, on coarse levels of one value."""
    query, pool = integers(1, sizes, "below", 1, torch.float32), integers(3, sizes, "everywhere", 2, torch.float16)
    generator = torch.Generator().manual_seed(3)
    other = torch.rand(pool[0].shape[:2], generator=generator) > share
    pool[0][other] = torch.randint(-3, 4, (int(other.sum()), CHANNELS[0]), generator=generator).half()
    search = {"query": query, "pool": pool, "pages": torch.tensor([[1, 2, 0]]), "k": k, "sizes": sizes}
    expected, _ = nearest_pixels(**search, backend="reference")
    for way in CPU_WAYS:
        d, matches = nearest_pixels(**search, **way)
        assert torch.equal(d, expected), f"with {way}"
        # Any pixels that are as far will do, but none twice.
        assert torch.equal(distances_at(search | {"weights": None, "mode": "concat-nearest"}, matches).float(), d)
        assert (matches.sort(dim=2).values.diff(dim=2) > 0).all(), f"with {way}"
