"""The torch backend against the reference: awkward sizes, awkward features, shared pages, poisoned buffers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.kernels import nearest_pixels, pyramid, split_matches, torch_backend, torch_found, torch_prune

MODES = ["concat-nearest", "concat-bilinear", "per-level"]
NESTED = [[(8, 8), (4, 4), (2, 2)], [(6, 4), (3, 2)], [(8, 12), (4, 6), (4, 3), (2, 1), (1, 1)], [(9, 9), (3, 3)]]
OTHER = [[(1, 1)], [(7, 5)], [(7, 11), (5, 5), (3, 2)], [(6, 6), (4, 4), (3, 3)], [(5, 5), (5, 5)], [(9, 7), (1, 1)]]
KINDS = ["random", "clustered", "constant", "duplicated", "zero", "huge", "offset"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Work this small only waits for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def features(kind, count, pixels, channels, generator):
    """One level [count, pixels, channels], float32."""
    f = torch.randn(count, pixels, channels, generator=generator)
    if kind == "clustered":
        centres = 20 * torch.randn(3, channels, generator=generator)
        return centres[torch.randint(3, (count, pixels), generator=generator)] + 0.01 * f
    if kind == "constant":
        return f[:1, :1].expand(count, pixels, channels).clone()
    if kind == "duplicated":
        return f[:, torch.randint(max(1, pixels // 3), (pixels,), generator=generator)]
    return {"zero": f * 0, "huge": f * 1e4, "offset": f + 300}.get(kind, f)


def pyramid_of(kind, count, sizes, channels, seed, dtype):
    generator = torch.Generator().manual_seed(seed)
    return [
        features(kind, count, h * w, c, generator).clamp(-6e4, 6e4).to(dtype)
        for (h, w), c in zip(sizes, channels, strict=True)
    ]


@st.composite
def searches(draw):
    """The arguments of nearest_pixels, and the scale of squared norms in them."""
    sizes = draw(st.sampled_from(NESTED + OTHER))
    channels = [draw(st.sampled_from([1, 2, 3, 8, 17])) for _ in sizes]
    batch, slots, neighbours = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 10**6))
    mode = draw(st.sampled_from(MODES))
    query = pyramid_of(kind, batch, sizes, channels, seed, draw(st.sampled_from([torch.float32, torch.float16])))
    pool = pyramid_of(kind, slots, sizes, channels, seed + 1, draw(st.sampled_from([torch.float16, torch.float32])))
    if draw(st.booleans()):  # a near-duplicate of a query in the gallery
        for q, g in zip(query, pool, strict=True):
            g[0] = q[0].to(g.dtype)
    pages = torch.randint(slots, (batch, neighbours), generator=torch.Generator().manual_seed(seed))
    smallest = min(h * w for h, w in sizes) if mode == "per-level" else sizes[0][0] * sizes[0][1]
    k = draw(st.integers(1, min(10, neighbours * smallest)))
    weights = draw(st.sampled_from([None, [0.5, 2.0, 0.0, 1.5, 1.0][: len(sizes)]]))
    return {
        "query": query, "pool": pool, "pages": pages, "k": k, "sizes": sizes, "weights": weights, "mode": mode
    }  # fmt: skip


def scale(search):
    weights = search["weights"] or [1.0] * len(search["sizes"])
    return sum(
        w * max(level.float().square().sum(-1).max().item() for level in pair)
        for w, *pair in zip(weights, search["query"], search["pool"], strict=True)
    )


def distances_at(search, matches):
    """The reference's distance of each match [B, P, k] of a concatenated search: float64."""
    sizes, mode = search["sizes"], search["mode"]
    weights = search["weights"] or [1.0] * len(sizes)
    if mode == "per-level":
        sizes, weights = sizes[:1], [1.0]
    position, pixel = split_matches(matches, sizes[0][0] * sizes[0][1])
    slot = search["pages"][:, :, None].gather(1, position.flatten(1)[:, :, None]).view_as(position)
    total = torch.zeros(matches.shape, dtype=torch.float64)
    for q, g, size, w in zip(search["query"], search["pool"], sizes, weights, strict=False):
        if mode == "concat-bilinear":
            q, g = (torch.stack([pyramid.upsample_bilinear(f.double(), size, sizes[0]) for f in x]) for x in (q, g))
        else:
            under = pyramid.nearest_index(size, sizes[0])
            q, g = q.double()[:, under], g.double()[:, under]
        total += w * (q[:, :, None] - g[slot, pixel]).square().sum(-1)
    return total


@settings(max_examples=150, deadline=None, derandomize=True)
@given(searches())
def test_torch_is_the_reference(search):
    expected, _ = nearest_pixels(**search, backend="reference")
    d, matches = nearest_pixels(**search, backend="torch")
    tolerance = {"rtol": 1e-4, "atol": 1e-6 * scale(search)}
    assert d.dtype == torch.float32
    assert d.shape == matches.shape == expected.shape
    torch.testing.assert_close(d, expected, **tolerance)
    pixels = search["query"][0].shape[1]
    assert 0 <= matches.min() <= matches.max() < search["pages"].shape[1] * pixels
    assert (matches.sort(dim=2).values.diff(dim=2) > 0).all(), "a pixel was matched twice"
    if search["mode"] == "per-level":
        level0 = {**search, "query": search["query"][:1], "pool": search["pool"][:1], "sizes": search["sizes"][:1]}
        expected, _ = nearest_pixels(**(level0 | {"weights": None}), backend="reference")
        torch.testing.assert_close(distances_at(search, matches).float(), expected, **tolerance)
    else:
        assert (d.diff(dim=2) >= 0).all()
        interpolation = 0 if search["mode"] == "concat-nearest" else 1e-6 * scale(search)
        torch.testing.assert_close(d, distances_at(search, matches).float(), rtol=2e-6, atol=interpolation)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", NESTED + OTHER, ids=str)
def test_separated_features_give_the_very_matches(sizes, mode):
    channels = (5, 3, 7, 2, 1)[: len(sizes)]
    query = pyramid_of("random", 2, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 3, sizes, channels, 2, torch.float16)
    pages = torch.tensor([[2, 0], [1, 2]])
    expected, places = nearest_pixels(query, pool, pages, 2, sizes=sizes, mode=mode, backend="reference")
    d, matches = nearest_pixels(query, pool, pages, 2, sizes=sizes, mode=mode, backend="torch")
    torch.testing.assert_close(d, expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(matches, places)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("k", [1, 4])
def test_the_same_map_twice_gives_the_lower_position(mode, k):
    sizes, channels = [(8, 8), (4, 4), (2, 2)], (3, 4, 5)
    query = pyramid_of("random", 1, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 2, sizes, channels, 2, torch.float16)
    for level in pool:
        level[1] = level[0]
    for pages in ([[0, 0, 0]], [[1, 0, 1]]):
        expected, places = nearest_pixels(query, pool, torch.tensor(pages), k, mode=mode, backend="reference")
        d, matches = nearest_pixels(query, pool, torch.tensor(pages), k, mode=mode, backend="torch")
        torch.testing.assert_close(d, expected, rtol=1e-5, atol=1e-6)
        assert torch.equal(matches, places)


def test_duplicated_pixels_of_a_map_give_the_lowest():
    query = [torch.randn(1, 64, 4), torch.randn(1, 16, 3)]
    pool = [f.half() for f in query]
    for level in pool:
        level[:] = level[:, :1]  # every pixel of the gallery is the same
    _, matches = nearest_pixels(query, pool, torch.zeros(1, 1).long(), 10, backend="torch")
    assert torch.equal(matches, torch.arange(10).expand(1, 64, 10))


def test_near_duplicates_do_not_cancel():
    generator = torch.Generator().manual_seed(3)
    base = torch.randn(1, 64, 100, generator=generator) * 100  # norms of 1e3
    query, pool = [base], [base + 1e-4 * torch.randn(1, 64, 100, generator=generator)]
    d, matches = nearest_pixels(query, pool, torch.zeros(1, 1).long(), backend="torch")
    expected = (base.double() - pool[0].double()).square().sum(-1)
    assert torch.equal(matches[0, :, 0], torch.arange(64))
    torch.testing.assert_close(d[..., 0].double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [NESTED[0], OTHER[2]], ids=str)
def test_a_query_is_answered_alike_in_any_batch(sizes, mode):
    channels = (5, 3, 7)
    query = pyramid_of("random", 4, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 5, sizes, channels, 2, torch.float16)
    pages = torch.tensor([[2, 0, 4], [1, 2, 3], [2, 0, 4], [4, 4, 1]])
    d, matches = nearest_pixels(query, pool, pages, 3, sizes=sizes, mode=mode, backend="torch")
    for b in range(4):
        alone = nearest_pixels(
            [q[b : b + 1] for q in query], pool, pages[b : b + 1], 3, sizes=sizes, mode=mode, backend="torch"
        )
        assert torch.equal(alone[0][0], d[b])
        assert torch.equal(alone[1][0], matches[b])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [NESTED[2], OTHER[2]], ids=str)
def test_little_memory_gives_the_same(sizes, mode):
    channels = (5, 3, 7, 2, 1)[: len(sizes)]
    query = pyramid_of("random", 3, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 5, sizes, channels, 2, torch.float16)
    arguments = {"pages": torch.tensor([[2, 0, 4], [1, 2, 3], [4, 4, 1]]), "k": 2, "sizes": sizes, "mode": mode}
    weights = [1.0] * len(sizes)
    expected = torch_backend.nearest_pixels(query, pool, **arguments, weights=weights)
    found = torch_backend.nearest_pixels(query, pool, **arguments, weights=weights, working_memory=5000)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [NESTED[2], OTHER[2]], ids=str)
def test_tiles_of_any_width_give_the_same(sizes, mode, monkeypatch):
    channels = (5, 3, 7, 2, 1)[: len(sizes)]
    query = pyramid_of("random", 2, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 3, sizes, channels, 2, torch.float16)
    pages = torch.tensor([[2, 0], [1, 2]])
    expected = nearest_pixels(query, pool, pages, 2, sizes=sizes, mode=mode, backend="torch")
    for tile, few in ((1, 1), (4 * 7 * sizes[0][0] * sizes[0][1], 3)):
        monkeypatch.setattr(torch_backend, "TILE_BYTES", tile)
        monkeypatch.setattr(torch_backend, "MAPS", few)
        monkeypatch.setattr(torch_found, "GATHER", 20 * few)
        monkeypatch.setattr(torch_prune, "GATHERED", few)
        found = nearest_pixels(query, pool, pages, 2, sizes=sizes, mode=mode, backend="torch")
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("mode", MODES)
def test_threads_change_nothing(mode):
    sizes, channels = NESTED[0], (5, 3, 7)
    query = pyramid_of("random", 3, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 5, sizes, channels, 2, torch.float16)
    pages = torch.tensor([[2, 0, 4], [1, 2, 3], [4, 4, 1]])
    expected = nearest_pixels(query, pool, pages, 2, mode=mode, backend="torch")
    for threads in (2, 3):
        torch.set_num_threads(threads)
        try:
            found = nearest_pixels(query, pool, pages, 2, mode=mode, backend="torch")
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", NESTED[:1] + OTHER[2:3], ids=str)
def test_uninitialised_buffers_do_not_leak(sizes, mode, monkeypatch):
    channels = (5, 3, 7)
    query = pyramid_of("random", 2, sizes, channels, 1, torch.float32)
    pool = pyramid_of("random", 3, sizes, channels, 2, torch.float16)
    arguments = {"pages": torch.tensor([[2, 0], [1, 2]]), "k": 3, "sizes": sizes, "mode": mode}
    expected = nearest_pixels(query, pool, **arguments, backend="torch")
    empty = torch.empty

    def poisoned(*shape, **options):
        out = empty(*shape, **options)
        return out.fill_(float("nan") if out.is_floating_point() else 2**40)

    monkeypatch.setattr(torch, "empty", poisoned)
    found = nearest_pixels(query, pool, **arguments, backend="torch")
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("mode", MODES)
def test_features_that_are_not_finite_leave_matches_in_range(mode):
    sizes = [(8, 8), (4, 4)]
    query = pyramid_of("random", 1, sizes, (3, 4), 1, torch.float32)
    pool = pyramid_of("random", 2, sizes, (3, 4), 2, torch.float16)
    query[0][0, 5], pool[1][1, 3] = float("nan"), float("inf")
    _, matches = nearest_pixels(query, pool, torch.tensor([[0, 1]]), 3, mode=mode, backend="torch")
    assert 0 <= matches.min() <= matches.max() < 2 * 64


def test_inputs_are_left_alone_and_results_take_no_part_in_autograd():
    query = [torch.randn(1, 16, 3, requires_grad=True)]
    pool = [torch.randn(1, 16, 3)]
    before = query[0].detach().clone(), pool[0].clone()
    d, _ = nearest_pixels(query, pool, torch.zeros(1, 1).long(), backend="torch")
    assert not d.requires_grad
    assert torch.equal(query[0], before[0])
    assert torch.equal(pool[0], before[1])
