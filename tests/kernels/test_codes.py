"""Maps in codes: decoded to the bits of the gallery's codecs, and searched as the values that they stand for."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spade_index.kernels import CodedMaps, MapPool, nearest_pixels
from spade_index.kernels.codes import Coding, Values
from spade_index.kernels.fused.cupy_backend import CupyKernels
from spade_index.kernels.native import library
from spade_index.kernels.native import search as native
from spade_index.kernels.native.library import instruction_sets
from spade_index.kernels.native.parts import Decoder

from helpers.coded import CODECS, as_values, coded_maps, coding_of, decoded_levels, empty_fused
from helpers.interpreter import decoded_by_triton, search_unchanged
from helpers.kernel_cases import NATIVE, assert_same, pyramid_of

STORED, GRIDS, CHANNELS = [(12, 10), (6, 5), (3, 5)], [(6, 5), (6, 5), (3, 5)], [7, 33, 16]
JOINED = [range(2), range(2, 3)]
PAGES = torch.tensor([[2, 0, 3, 1], [1, 2, 0, 1]])


def maps_of(kind, scaling="length", seed=0):
    """Return maps in codes whose first two levels are joined, and the same as values that the codec decodes."""
    moments = {}
    if scaling == "channel":
        moments = {"mean": [torch.full((n,), 0.1) for n in CHANNELS], "deviation": [torch.ones(n) for n in CHANNELS]}
    how = {"grid": GRIDS, "scaling": [scaling] * 3, "factor": [1.0, 0.7, 1.0], "length": [2.5] * 3}
    coding, codec = coding_of(kind, STORED, CHANNELS, JOINED, seed, **how, **moments)
    levels = pyramid_of("random", 4, STORED, CHANNELS, seed, torch.float16)
    return coded_maps(coding, codec, levels), decoded_levels(codec, levels)


def query_of(seed=9):
    """Return a query for `maps_of`."""
    return pyramid_of("random", 2, [(6, 5), (3, 5)], [40, 16], seed, torch.float32)


def written(coding, stored, instructions):
    """Return maps that the compiled functions decode and prepare: float16 [slots, H*W, C] of each level."""
    shapes = zip(coding.preparation.sizes, coding.preparation.channels, strict=True)
    out = [torch.empty(len(stored[0]), h * w, c, dtype=torch.float16) for (h, w), c in shapes]
    decoder = Decoder(coding, instructions)
    for slot in range(len(stored[0])):
        decoder.write([level[slot].numpy() for level in stored], [level[slot].numpy() for level in out])
    return out


def fused_of(maps, slots):
    """Return maps of slots in the fused kernels' layout, decoded and prepared by torch."""
    fused = empty_fused(maps, len(slots))
    fused.write(torch.arange(len(slots)), maps.decoded(slots))
    return fused


def in_bytes(maps):
    """Return what is stored of maps, without padding."""
    return [stored[:, :size] for stored, size in zip(maps.stored, maps.coding.sizes, strict=True)]


@pytest.mark.parametrize("kind", CODECS)
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.tuples(st.integers(1, 5), st.integers(1, 5)), st.integers(1, 40), st.integers(0, 9))
def test_torch_decodes_to_the_bits_of_the_galleries_codecs(kind, size, channels, seed):
    levels = pyramid_of("random", 3, [size], [channels], seed, torch.float16)
    levels[0][:, 0, 0] = 6e4
    coding, codec = coding_of(kind, [size], [channels], seed=seed)
    maps, (right,) = coded_maps(coding, codec, levels), decoded_levels(codec, levels)
    for slots in ([0, 1, 2], [1], [2, 0]):
        (found,) = maps.decoded(torch.tensor(slots))
        assert torch.equal(found, right[slots])


@pytest.mark.parametrize("scaling", ["none", "length", "root", "channel"])
@pytest.mark.parametrize("kind", CODECS)
def test_codes_are_prepared_as_the_values_that_they_stand_for(kind, scaling):
    maps, levels = maps_of(kind, scaling)
    values = Coding((Values(),) * 3, maps.coding.preparation)
    right = written(values, levels, None)
    for name in instruction_sets():
        for found, expected, in_torch in zip(
            written(maps.coding, in_bytes(maps), name), right, as_values(maps), strict=True
        ):
            assert torch.equal(found.view(torch.int16), expected.view(torch.int16))
            torch.testing.assert_close(found, in_torch, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 70])
@pytest.mark.parametrize("window", [None, 0, 2])
@pytest.mark.parametrize("kind", CODECS)
def test_a_search_of_codes_is_one_of_their_values(kind, window, k):
    maps, _ = maps_of(kind)
    k = min(k, 4) if window == 0 else min(k, 30) if window else k
    pool = written(maps.coding, in_bytes(maps), None)
    options = {"sizes": maps.coding.preparation.sizes, "weights": [1.0, 0.5], "window": window}
    expected = nearest_pixels(query_of(), pool, PAGES, k, **options, **NATIVE)
    exact = nearest_pixels(query_of(), pool, PAGES, k, **options, backend="reference")
    torch.testing.assert_close(expected[0], exact[0], rtol=1e-5, atol=1e-5)
    if k > native.MOST_NEIGHBOURS:  # searched by torch, which decodes
        found = nearest_pixels(query_of(), maps, PAGES, k, **options, **NATIVE)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-2, atol=1e-2)
        return
    for name in instruction_sets():
        found = native.nearest_pixels(query_of(), maps, PAGES, k, mode="concat-nearest", instructions=name, **options)
        assert_same(found, expected, f"with {name}")


@pytest.mark.parametrize("mode", ["concat-nearest", "concat-bilinear", "per-level"])
@pytest.mark.parametrize("backend", ["reference", "torch", "native"])
def test_other_backends_and_modes_search_decoded_maps(backend, mode):
    maps, _ = maps_of("int4")
    options = {"mode": mode, "backend": backend, "sizes": maps.coding.preparation.sizes}
    found = nearest_pixels(query_of(), maps, PAGES, 2, **options)
    expected = nearest_pixels(query_of(), as_values(maps), PAGES, 2, **options)
    torch.testing.assert_close(found[0], expected[0], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("mode", ["concat-nearest", "per-level"])
@pytest.mark.parametrize("kind", CODECS)
def test_triton_searches_decoded_maps(kind, mode, interpreter):
    sizes, channels = [(4, 4), (2, 2)], [5, 3]
    coding, codec = coding_of(kind, sizes, channels)
    maps = coded_maps(coding, codec, pyramid_of("random", 3, sizes, channels, 2, torch.float16))
    query = pyramid_of("random", 1, sizes, channels, 1, torch.float32)
    search = {"query": query, "pages": torch.tensor([[2, 0]]), "k": 2, "sizes": sizes, "mode": mode}
    found = interpreter.call(search_unchanged, search | {"pool": maps})
    expected = interpreter.call(search_unchanged, search | {"pool": as_values(maps)})
    assert_same(found, expected)


@pytest.mark.parametrize("scaling", ["none", "length", "root", "channel"])
@pytest.mark.parametrize("kind", CODECS)
def test_triton_decodes_and_prepares_as_torch_does(kind, scaling, interpreter):
    maps, _ = maps_of(kind, scaling)
    slots = torch.tensor([3, 1])
    found, expected = interpreter.call(decoded_by_triton, maps, slots), fused_of(maps, slots)
    for level, norms, right, right_norms in zip(*found, expected.levels, expected.norms, strict=True):
        torch.testing.assert_close(level, right, rtol=1e-3, atol=1e-6)  # the last bit of float16
        torch.testing.assert_close(norms, right_norms, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", CODECS)
def test_triton_decodes_to_the_bits_of_torch(kind, interpreter):
    sizes, channels = [(5, 3), (2, 2)], [9, 4]  # an odd number of half bytes
    coding, codec = coding_of(kind, sizes, channels)
    levels = pyramid_of("random", 3, sizes, channels, 2, torch.float16)
    levels[0][:, 0, 0] = 6e4
    maps, slots = coded_maps(coding, codec, levels), torch.tensor([2, 0])
    found, _ = interpreter.call(decoded_by_triton, maps, slots)
    for level, right in zip(found, fused_of(maps, slots).levels, strict=True):
        assert torch.equal(level.view(torch.int16), right.view(torch.int16))


def test_cupy_has_torch_decode():
    maps, _ = maps_of("int4")
    kernels, slots = CupyKernels(torch.float16, 6), torch.tensor([3, 1])
    found = empty_fused(maps, len(slots))
    kernels.decode(maps, slots, found)
    assert_same(found.levels, fused_of(maps, slots).levels)


def test_crowds_are_searched_again_in_torch():
    coding, codec = coding_of("int8", [(16, 16)], [4])
    level = torch.ones(2, 256, 4).half()
    maps = coded_maps(coding, codec, [level])
    pages = torch.tensor([[1, 0]])
    query = [torch.ones(1, 256, 4) + 0.25]
    found = nearest_pixels(query, maps, pages, 1, sizes=[(16, 16)], **NATIVE)
    torch.testing.assert_close(found[0], torch.full((1, 256, 1), 4 / 16))


def test_maps_of_many_levels_are_decoded_by_torch():
    count = library.MOST_PARTS + 1
    sizes, channels = [(3, 3)] * count, [4] * count
    coding, codec = coding_of("int8", sizes, channels, [range(count)])
    maps = coded_maps(coding, codec, pyramid_of("random", 2, sizes, channels, 0, torch.float16))
    with pytest.raises(ValueError, match=r"^maps of 17 levels have too many"):
        Decoder(coding)
    query, pages = pyramid_of("random", 1, [(3, 3)], [4 * count], 1, torch.float32), torch.tensor([[1, 0]])
    found = nearest_pixels(query, maps, pages, **NATIVE)
    torch.testing.assert_close(found, nearest_pixels(query, as_values(maps), pages, **NATIVE))


@pytest.mark.parametrize("slots", [0, 4])
def test_no_queries_give_no_answers(slots):
    maps, _ = maps_of("int8")
    maps = CodedMaps(maps.coding, [level[:slots] for level in maps.stored])
    distances, matches = nearest_pixels(
        [level[:0] for level in query_of()], maps, torch.empty(0, 2).long(), sizes=[(6, 5), (3, 5)]
    )
    assert distances.shape == matches.shape == (0, 30, 1)


def test_wrong_arguments_are_refused():
    maps, _ = maps_of("int8")
    with pytest.raises(ValueError, match=r"^maps of pixels and channels \[\[30, 40\], \[15, 16\]\] do not fit a query"):
        nearest_pixels(query_of()[:1], maps, PAGES)
    with pytest.raises(ValueError, match=r"^sizes \[\(5, 6\), \(3, 5\)\] are not those of the maps, \["):
        nearest_pixels(query_of(), maps, PAGES, sizes=[(5, 6), (3, 5)])
    with pytest.raises(ValueError, match=r"^pages must be slots 0..3, not 1..4$"):
        nearest_pixels(query_of(), maps, PAGES + 1)


@pytest.mark.parametrize("kind", CODECS[1:])
def test_a_pool_of_codes_holds_what_was_read(kind):
    maps, _ = maps_of(kind)
    stored, coding = in_bytes(maps), maps.coding
    seen = []

    def read(keys, out):
        seen.extend(keys)
        for place, key in enumerate(keys):
            for number, level in enumerate(out):
                level[place][:] = stored[number][key].numpy()

    prepared = coding.preparation
    pool = MapPool(3 * coding.map_bytes, prepared.sizes, prepared.channels, read, coding=coding)
    assert (pool.slots, pool.bytes) == (3, 3 * coding.map_bytes)
    for wanted in ([[2, 0]], [[0, 3]], [[1, 2], [2, 3]]):
        pages = pool.fetch(wanted)
        for found, right in zip(pool.maps.decoded(pages.flatten()), as_values(maps), strict=True):
            assert torch.equal(found, right[torch.tensor(wanted).flatten()])
    assert seen == [2, 0, 3, 1]
    assert pool.stats.bytes_moved == 4 * sum(coding.sizes)
