"""The oracle against an independent construction, and the argument checks in front of every backend."""

import pytest
import torch
import torch.nn.functional as F

from spade_index.kernels import nearest_pixels, split_matches

MODES = ["concat-nearest", "concat-bilinear", "per-level"]


def pyramids(count, sizes, channels, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(count, h * w, c, generator=generator).to(dtype) for (h, w), c in zip(sizes, channels, strict=True)
    ]


def as_image(level, size):
    return level.double().transpose(-1, -2).reshape(-1, level.shape[-1], *size)  # [N, C, H, W]


def upsample(level, size, finest, mode):
    """[N, H*W, C] -> [N, P, C], by the loops of the definition or by torch."""
    image = as_image(level, size)
    if mode == "bilinear":
        up = F.interpolate(image, size=finest, mode="bilinear", align_corners=False)
    else:
        up = image[:, :, [i * size[0] // finest[0] for i in range(finest[0])]]
        up = up[:, :, :, [i * size[1] // finest[1] for i in range(finest[1])]]
    return up.flatten(2).transpose(1, 2)


def naive(query, pool, pages, k, sizes, weights, mode, window=None):
    """cdist over all gallery pixels at once, in float64: [B, P, k] and [B, P, k]."""
    if mode == "per-level":
        total = torch.zeros(len(pages), query[0].shape[1], k, dtype=torch.float64)
        for q, g, size, weight in zip(query, pool, sizes, weights, strict=True):
            d, matches = naive([q], [g], pages, k, [size], [1.0], "concat-nearest", window)
            total += weight * upsample(d, size, sizes[0], "bilinear") / len(sizes)
            if size == sizes[0]:
                finest = matches
        return total, finest
    how = mode.removeprefix("concat-")
    scaled = [w**0.5 for w in weights]
    q = torch.cat([s * upsample(f, z, sizes[0], how) for f, z, s in zip(query, sizes, scaled, strict=True)], 2)
    g = torch.cat([s * upsample(f, z, sizes[0], how) for f, z, s in zip(pool, sizes, scaled, strict=True)], 2)
    d = torch.stack([torch.cdist(q[b], g[pages[b]].flatten(0, 1)) for b in range(len(pages))]).square()
    if window is not None:
        places = torch.cartesian_prod(*(torch.arange(n).double() for n in sizes[0]))  # [P, 2]
        apart = torch.cdist(places, places, p=float("inf"))
        d = d.masked_fill(apart.repeat(1, pages.shape[1]) > window, float("inf"))
    return d.topk(k, dim=2, largest=False)


@pytest.mark.parametrize("window", [None, 0, 1, 2, 5, 9])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "sizes", [[(8, 8), (4, 4), (2, 2)], [(7, 5), (3, 2)], [(6, 4)], [(9, 6), (4, 4), (3, 1), (1, 1)]], ids=str
)
def test_reference_is_the_definition(sizes, mode, window):
    channels, weights = (3, 5, 2, 4)[: len(sizes)], (1.0, 0.25, 3.0, 0.5)[: len(sizes)]
    query, pool = pyramids(2, sizes, channels, 1), pyramids(4, sizes, channels, 2, torch.float16)
    pages = torch.tensor([[3, 0, 1], [1, 2, 3]])
    k = 3
    options = {"sizes": sizes, "weights": weights, "mode": mode, "window": window}
    d, matches = nearest_pixels(query, pool, pages, k, **options, backend="reference")
    expected, places = naive(query, pool, pages, k, **options)
    assert d.dtype == torch.float32
    assert matches.dtype == torch.int64
    torch.testing.assert_close(d.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(matches, places)


def test_nearest_of_integer_ratios_is_what_torch_interpolates():
    level = torch.randn(1, 12, 5)
    image = as_image(level, (4, 3))
    expected = F.interpolate(image, scale_factor=(3, 2), mode="nearest").flatten(2).transpose(1, 2)
    assert torch.equal(upsample(level, (4, 3), (12, 6), "nearest"), expected)


def test_split_matches():
    position, pixel = split_matches(torch.tensor([0, 8, 9, 20]), 9)
    assert position.tolist() == [0, 0, 1, 2]
    assert pixel.tolist() == [0, 8, 0, 2]


GOOD_PAGES = torch.zeros(2, 3, dtype=torch.int64)
BAD = {
    "levels": ({"pool": [torch.zeros(2, 16, 3)]}, "same levels"),
    "no levels": ({"query": [], "pool": []}, "same levels"),
    "channels": ({"pool": [torch.zeros(2, 16, 4), torch.zeros(2, 4, 2)]}, "level 0 must be"),
    "pixels": ({"pool": [torch.zeros(2, 16, 3), torch.zeros(2, 9, 2)]}, "level 1 must be"),
    "two dimensions": ({"query": [torch.zeros(16, 3), torch.zeros(4, 2)]}, "level 0 must be"),
    "batch": ({"query": [torch.zeros(2, 16, 3), torch.zeros(1, 4, 2)]}, "level 1 has 1 queries"),
    "dtype": ({"query": [torch.zeros(2, 16, 3).double(), torch.zeros(2, 4, 2)]}, "float64"),
    "device": ({"pool": [torch.zeros(2, 16, 3, device="meta"), torch.zeros(2, 4, 2)]}, "one device"),
    "pages dtype": ({"pages": GOOD_PAGES.int()}, "pages must be int64"),
    "pages shape": ({"pages": GOOD_PAGES[:1]}, "pages must be int64"),
    "no pages": ({"pages": GOOD_PAGES[:, :0]}, "pages must be int64"),
    "pages high": ({"pages": GOOD_PAGES + 2}, "slots 0..1, not 2..2"),
    "pages low": ({"pages": GOOD_PAGES - 1}, "slots 0..1, not -1..-1"),
    "k zero": ({"k": 0}, "k must be 1..48"),
    "k large": ({"k": 49}, "k must be 1..48"),
    "k of the coarsest": ({"k": 13, "mode": "per-level"}, "k must be 1..12"),
    "sizes": ({"sizes": [(4, 4), (2, 3)]}, "do not fit"),
    "sizes count": ({"sizes": [(4, 4)]}, "do not fit"),
    "negative sizes": ({"sizes": [(-4, -4), (2, 2)]}, "do not fit"),
    "finest first": ({"sizes": [(4, 4), (1, 4)][::-1], "swap": True}, "finest"),
    "weights": ({"weights": [1.0]}, "weights must be 2"),
    "negative weight": ({"weights": [1.0, -1.0]}, "weights must be 2"),
    "infinite weight": ({"weights": [1.0, float("inf")]}, "weights must be 2"),
    "mode": ({"mode": "concat"}, "mode must be one of"),
    "backend": ({"backend": "none"}, "kernel must be one of"),
    "precision": ({"precision": "half"}, "precision must be one of float32, fast, not 'half'"),
    "no precision": ({"precision": None}, "precision must be one of float32, fast, not None"),
    "no memory": ({"working_memory": 0}, "working_memory must be a number of bytes, not 0"),
    "negative memory": ({"working_memory": -1}, "working_memory must be a number of bytes, not -1"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    change, message = BAD[name]
    arguments = {
        "query": [torch.zeros(2, 16, 3), torch.zeros(2, 4, 2)],
        "pool": [torch.zeros(2, 16, 3), torch.zeros(2, 4, 2)],
        "pages": GOOD_PAGES,
    } | change
    if arguments.pop("swap", False):
        arguments["query"], arguments["pool"] = arguments["query"][::-1], arguments["pool"][::-1]
    with pytest.raises(ValueError, match=message) as caught:
        nearest_pixels(**arguments)
    assert "\n" not in str(caught.value)


def test_maps_that_are_not_square_need_sizes():
    with pytest.raises(ValueError, match="level 0 has 6 pixels"):
        nearest_pixels([torch.zeros(1, 6, 1)], [torch.zeros(1, 6, 1)], torch.zeros(1, 1).long())


def test_the_environment_chooses_a_backend(monkeypatch):
    arguments = [torch.zeros(1, 4, 1)], [torch.zeros(1, 4, 1)], torch.zeros(1, 1).long()
    monkeypatch.setenv("SPADE_INDEX_KERNEL", "nonsense")
    with pytest.raises(ValueError, match="nonsense"):
        nearest_pixels(*arguments)
    nearest_pixels(*arguments, backend="reference")
    monkeypatch.setenv("SPADE_INDEX_KERNEL", "reference")
    nearest_pixels(*arguments)
