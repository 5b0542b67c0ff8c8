"""Awkward pyramids and features for the tests of the pixel search, and assertions on answers."""

import torch
from hypothesis import strategies as st

from spade_index.kernels import pyramid, split_matches

MODES = ["concat-nearest", "concat-bilinear", "per-level"]
PRUNE = [None, True, False]
PRECISIONS = ["float32", "fast"]
NATIVE = {"backend": "native"}
TORCH_WAYS = [{"backend": "torch", "prune": p, "precision": q} for p in PRUNE for q in PRECISIONS]
CPU_WAYS = [*TORCH_WAYS, NATIVE]  # arguments of `nearest_pixels`, for each way in which a processor searches
NESTED = [[(8, 8), (4, 4), (2, 2)], [(6, 4), (3, 2)], [(8, 12), (4, 6), (4, 3), (2, 1), (1, 1)], [(9, 9), (3, 3)]]
OTHER = [[(1, 1)], [(7, 5)], [(7, 11), (5, 5), (3, 2)], [(6, 6), (4, 4), (3, 3)], [(5, 5), (5, 5)], [(9, 7), (1, 1)]]
LARGER = [
    [(11, 13)],
    [(13, 13), (7, 7), (4, 4)],
    [(15, 15), (8, 8), (4, 4)],
    [(6, 7), (6, 7), (3, 4)],
    [(13, 11), (11, 7), (5, 5), (3, 2), (1, 1)],
    [(16, 16), (8, 8), (4, 4)],
]
TINY = [
    *([(1, 1)], [(3, 5)], [(4, 4), (2, 2)], [(3, 3), (1, 1)], [(3, 4), (2, 3)], [(2, 6), (1, 6), (1, 3)]),
    *([(1, 17), (1, 17)], [(4, 3), (3, 3), (2, 2), (2, 1), (1, 1)]),
]
KINDS = [
    *("random", "clustered", "constant", "duplicated", "zero", "huge", "offset"),
    *("background", "near-duplicate images"),
]


def features(kind, count, pixels, channels, generator):
    """Return one level of a kind, float32 [count, pixels, channels]."""
    f = torch.randn(count, pixels, channels, generator=generator)
    if kind == "clustered":
        centres = 20 * torch.randn(3, channels, generator=generator)
        return centres[torch.randint(3, (count, pixels), generator=generator)] + 0.01 * f
    if kind == "constant":
        return f[:1, :1].expand(count, pixels, channels).clone()
    if kind == "duplicated":
        return f[:, torch.randint(max(1, pixels // 3), (pixels,), generator=generator)]
    if kind == "background":  # the same in the query and the gallery
        f[:, : pixels // 2] = torch.arange(channels) % 4 - 1.5
        return f
    if kind == "near-duplicate images":  # of one map that the query is like, too
        return torch.randn(pixels, channels, generator=torch.Generator().manual_seed(0)) + 1e-3 * f
    return {"zero": f * 0, "huge": f * 1e4, "offset": f + 300}.get(kind, f)


def pyramid_of(kind, count, sizes, channels, seed, dtype):
    """Return levels [count, H*W, C] of a kind."""
    generator = torch.Generator().manual_seed(seed)
    return [
        features(kind, count, h * w, c, generator).clamp(-6e4, 6e4).to(dtype)
        for (h, w), c in zip(sizes, channels, strict=True)
    ]


def random_search(sizes, batch=2, slots=3, kind="random"):
    """Return a query and a pool of random features."""
    channels = (5, 3, 7, 2, 1)[: len(sizes)]
    return pyramid_of(kind, batch, sizes, channels, 1, torch.float32), pyramid_of(
        kind, slots, sizes, channels, 2, torch.float16
    )


def alike_search(sizes=((32, 32), (16, 16), (8, 8)), batch=1, slots=4, seed=5):
    """Return a query and a pool of smooth maps, the pool's being the first query's plus noise: pruning works."""
    generator = torch.Generator().manual_seed(seed)
    query, pool = [], []
    for (h, w), channels in zip(sizes, (6, 8, 10, 4), strict=False):
        base = 3 * torch.randn(batch, 64, channels, generator=generator)
        smooth = torch.stack([pyramid.upsample_bilinear(f, (8, 8), (h, w)) for f in base])
        noise = torch.randn(slots, h * w, channels, generator=generator)
        query.append(smooth)
        pool.append((smooth[:1] + 0.02 * noise).half())
    return query, pool


@st.composite
def searches(draw):
    """Draw the arguments of a search that every backend takes."""
    sizes = draw(st.sampled_from(NESTED + OTHER + LARGER))
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


@st.composite
def small_searches(draw):
    """Draw the arguments of a search small enough for Triton's interpreter."""
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
        "weights": draw(st.sampled_from([None, [0.5, 2.0, 1.5, 1.0, 0.0][: len(sizes)]])),
        "mode": "concat-nearest",
    }


def scale(search):
    """Return about the largest squared norm of a pixel over all levels."""
    weights = search["weights"] or [1.0] * len(search["sizes"])
    return sum(
        w * max(level.float().square().sum(-1).max().item() for level in pair)
        for w, *pair in zip(weights, search["query"], search["pool"], strict=True)
    )


def distances_at(search, matches):
    """Return the exact distance of each match [B, P, k] of a concatenated search: float64."""
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


def assert_same(found, expected, note=""):
    """Assert that two answers are equal to the bit."""
    assert torch.equal(found[0], expected[0]), f"distances differ {note}"
    assert torch.equal(found[1], expected[1]), f"matches differ {note}"


def assert_right(search, found, expected, rtol, atol):
    """Assert k different pixels with the reference's distances, within tolerances."""
    d, matches = found
    assert d.dtype == torch.float32
    assert matches.dtype == torch.int64
    assert d.shape == matches.shape == expected.shape
    assert 0 <= matches.min() <= matches.max() < search["pages"].shape[1] * search["query"][0].shape[1]
    assert (matches.sort(dim=2).values.diff(dim=2) > 0).all(), "a pixel was matched twice"
    torch.testing.assert_close(d, expected, rtol=rtol, atol=atol * scale(search))
    if search["mode"] != "per-level":
        assert (d.diff(dim=2) >= 0).all()
        interpolation = 0 if search["mode"] == "concat-nearest" else 1e-6 * scale(search)
        torch.testing.assert_close(d, distances_at(search, matches).float(), rtol=2e-6, atol=interpolation)
