"""The scan in 8-bit integers: its C code, built here, and searches with and without it."""

import subprocess

import pytest
import torch

from spade_index.kernels import nearest_pixels
from spade_index.kernels.pyramid import make_layout
from spade_index.kernels.torch_backend import int8, search

from helpers.kernel_cases import assert_same, pyramid_of

SIZES = [[(8, 8), (4, 4), (2, 2)], [(12, 20), (6, 10)], [(16, 16), (4, 4)], [(14, 22), (7, 11)]]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The library, or None on a processor without its instructions."""
    file = tmp_path_factory.mktemp("int8") / "int8.so"
    source = int8.__file__.replace("int8.py", "int8.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", file, source], check=True)
    return int8.open_library(str(file))


@pytest.fixture
def with_library(monkeypatch):
    """Let searches use a library, or none."""
    return lambda library: monkeypatch.setattr(int8, "library", lambda: library)


def least_in_float64(query, codes, place, cells, coarse):
    """Return the distances that the codes of a query and of a map stand for."""
    q = query.codes.double() * query.scales[:, None]
    shape = (-1, codes.depth // 4, codes.layout.planes, int8.LANES, 4)
    g = codes.codes[place].view(shape).double() - 128
    g = g.permute(0, 3, 2, 1, 4).flatten(3) * codes.scales[place].view(-1, shape[2], int8.LANES).mT[..., None]
    products = torch.einsum("qc,nlpc->qnlp", q, g) + g.square().sum(-1)  # the query holds -2 times its features
    return products.amin(3).flatten(1)[:, :cells] + q.square().sum(1, keepdim=True) / 4 + coarse


@pytest.mark.parametrize("channels", [1, 16, 37, 64])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_distances_are_those_of_the_rounded_rows(built, with_library, sizes, channels):
    with_library(built)
    layout = make_layout(sizes)
    assert int8.suits(layout) == (built is not None)
    if built is None:
        return
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(2, layout.planes * layout.cells, channels + 6, generator=generator).bfloat16()
    features[0, 3], features[1, 5, 0] = 0, 1000  # a row without features, and one with an outlier
    query, codes = int8.quantise_query(features[0], channels), int8.MapCodes(2, layout, channels)
    lost = codes.put(1, features[1])
    rounded = query.codes[:, :channels].double() * query.scales[:, None]
    error = (features[0, :, :channels].double() - rounded).square().sum(1) / 4
    torch.testing.assert_close(query.lost, error.float(), rtol=1e-4, atol=1e-9)
    assert 0 <= lost <= 1000 / 254 * channels**0.5
    rows = slice(1, len(features[0]) - 2)
    coarse = torch.rand(rows.stop - rows.start, layout.cells, generator=generator)
    out = torch.full((len(coarse), layout.cells + 3), torch.nan)
    codes.distances(1, query, rows, coarse, out[:, : layout.cells])
    of_rows = int8.QueryCodes(**{name: value[rows] for name, value in vars(query).items()})
    expected = least_in_float64(of_rows, codes, 1, layout.cells, coarse)
    torch.testing.assert_close(out[:, : layout.cells].double(), expected, rtol=1e-5, atol=1e-5 * expected.max())
    assert out[:, layout.cells :].isnan().all()


@pytest.mark.parametrize("kind", ["random", "clustered", "huge", "background", "near-duplicate images", "constant"])
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_searches_with_and_without_it_are_the_same(built, with_library, sizes, kind):
    channels = (70, 20, 9)[: len(sizes)]
    query, pool = (
        pyramid_of(kind, count, sizes, channels, seed, dtype)
        for count, seed, dtype in ((2, 1, torch.float32), (4, 2, torch.float16))
    )
    arguments = {"pages": torch.tensor([[2, 0, 1], [3, 3, 1]]), "k": 3, "sizes": sizes, "backend": "torch"}
    found = []
    for library in (None, built):
        with_library(library)
        found.append(nearest_pixels(query, pool, **arguments, precision="fast", prune=False))
    assert_same(found[1], found[0])
    exact = nearest_pixels(query, pool, **arguments)
    assert_same(found[1], exact)


def test_a_crowd_that_integers_cannot_tell_apart_is_searched_more_precisely(built, with_library, monkeypatch):
    """Many pixels differ by less than a step of 1/127 of their largest value."""
    sizes = [(16, 16), (8, 8)]
    generator = torch.Generator().manual_seed(1)
    pool = [torch.zeros(3, 256, 64), torch.zeros(3, 64, 4)]
    pool[0][1:, :, 0], pool[0][1:, :, 1] = 10, torch.rand(2, 256, generator=generator)
    query = [pool[0][2:], pool[1][2:]]
    arguments = {"pages": torch.tensor([[1, 2]]), "sizes": sizes}
    expected = nearest_pixels(query, pool, **arguments, backend="reference")
    with_library(built)
    plans, make_plan = [], search.make_plan
    monkeypatch.setattr(search, "make_plan", lambda *args: plans.append(make_plan(*args)) or plans[-1])
    found = nearest_pixels(query, pool, **arguments, backend="torch", precision="fast", prune=False)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-6)
    assert torch.equal(found[1], expected[1])
    assert plans[0].int8 == (built is not None)
    assert built is None or not plans[1].int8
