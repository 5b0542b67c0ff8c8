"""The torch backend's buffers: their size, their cuts and their former contents change no answer."""

import gc
import json
import subprocess
import sys

import pytest
import torch

from spade_index.kernels import nearest_pixels
from spade_index.kernels.torch_backend import found as torch_found
from spade_index.kernels.torch_backend import prune as torch_prune
from spade_index.kernels.torch_backend import scan as torch_scan
from spade_index.kernels.torch_backend import search as torch_backend

from helpers.kernel_cases import MODES, NESTED, OTHER, PRUNE, alike_search, assert_same, random_search

PAGES = torch.tensor([[2, 0, 4], [1, 2, 3], [4, 4, 1]])
WAYS = [(None, "float32"), (True, "fast"), (False, "float32")]
ALLOWANCE = 48 << 20  # for torch, its threads and the allocator


@pytest.mark.parametrize(("prune", "precision"), WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [NESTED[2], OTHER[2]], ids=str)
def test_little_memory_gives_the_same(sizes, mode, prune, precision):
    query, pool = random_search(sizes, 3, 5)
    arguments = {"pages": PAGES, "k": 2, "sizes": sizes, "mode": mode, "backend": "torch"}
    arguments |= {"prune": prune, "precision": precision}
    expected = nearest_pixels(query, pool, **arguments)
    for memory in (5_000, 300_000):
        assert_same(nearest_pixels(query, pool, **arguments, working_memory=memory), expected, f"with {memory} bytes")


@pytest.mark.parametrize(("prune", "precision"), WAYS)
def test_little_memory_gives_the_same_when_much_is_pruned(prune, precision):
    sizes = [(16, 16), (8, 8), (4, 4)]
    query, pool = alike_search(sizes, 3, 5)
    arguments = {"pages": PAGES, "k": 2, "sizes": sizes, "backend": "torch", "prune": prune, "precision": precision}
    expected = nearest_pixels(query, pool, **arguments)
    for memory in (1, 300_000, 5_000_000):
        assert_same(nearest_pixels(query, pool, **arguments, working_memory=memory), expected, f"with {memory} bytes")


@pytest.mark.parametrize("prune", PRUNE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", [NESTED[2], OTHER[2]], ids=str)
def test_tiles_of_any_width_give_the_same(sizes, mode, prune, monkeypatch):
    query, pool = random_search(sizes)
    arguments = {"pages": torch.tensor([[2, 0], [1, 2]]), "k": 2, "sizes": sizes, "mode": mode, "prune": prune}
    expected = nearest_pixels(query, pool, **arguments, backend="torch")
    for tile, few in ((1, 1), (4 * 7 * sizes[0][0] * sizes[0][1], 2)):
        monkeypatch.setattr(torch_backend, "TILE_BYTES", tile)
        monkeypatch.setattr(torch_backend, "MAPS", few)
        monkeypatch.setattr(torch_backend, "CELLS", 1)
        monkeypatch.setattr(torch_scan, "SMALL", 1)
        monkeypatch.setattr(torch_found, "GATHER", 20 * few)
        monkeypatch.setattr(torch_prune, "GATHERED", few * torch_found.BLOCK)
        assert_same(nearest_pixels(query, pool, **arguments, backend="torch"), expected)


@pytest.mark.parametrize("mode", MODES)
def test_threads_change_nothing(mode):
    sizes = NESTED[0]
    query, pool = random_search(sizes, 3, 5)
    expected = nearest_pixels(query, pool, PAGES, 2, mode=mode, backend="torch")
    for threads in (2, 3):
        torch.set_num_threads(threads)
        try:
            found = nearest_pixels(query, pool, PAGES, 2, mode=mode, backend="torch")
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(1)
        assert_same(found, expected)


@pytest.mark.parametrize(("prune", "precision"), WAYS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sizes", NESTED[:1] + OTHER[2:3], ids=str)
def test_uninitialised_buffers_do_not_leak(sizes, mode, prune, precision, monkeypatch):
    query, pool = random_search(sizes)
    arguments = {"pages": torch.tensor([[2, 0], [1, 2]]), "k": 3, "sizes": sizes, "mode": mode, "backend": "torch"}
    arguments |= {"prune": prune, "precision": precision}
    expected = nearest_pixels(query, pool, **arguments)
    empty, new_empty = torch.empty, torch.Tensor.new_empty

    def poison(out):
        if out.is_floating_point():
            return out.fill_(float("nan"))
        return out.fill_(2**40 if out.dtype == torch.int64 else 1)

    monkeypatch.setattr(torch, "empty", lambda *shape, **options: poison(empty(*shape, **options)))
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **options: poison(new_empty(*args, **options)))
    assert_same(nearest_pixels(query, pool, **arguments), expected)


MEASURE = """
import json, re, sys
import torch
from spade_index.kernels import nearest_pixels

def status(key):
    return 1024 * int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])

def levels(count, seed, flat):
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(count, h * h, c, generator=generator) for h, c in SHAPES]
    for level in made:
        level[:, : int(flat * level.shape[1])] = 1
    return made

def growth(flat=0, seed=2, **options):
    query, pool = levels(1, 1, flat), [level.half() for level in levels(50, seed, flat)]
    pages = torch.arange(50)[None]
    nearest_pixels(query, pool, pages[:, :1], **options)  # what torch and its libraries set up once
    open("/proc/self/clear_refs", "w").write("5")  # the high-water mark is now what is in use
    before = status("VmRSS")
    nearest_pixels(query, pool, pages, working_memory=int(sys.argv[1]), **options)
    return status("VmHWM") - before

torch.set_num_threads(1)
SHAPES = [(56, 64), (28, 128), (14, 256)]
print(json.dumps({
    "unlike": growth(),
    "alike": growth(seed=1, prune=True, precision="fast"),
    "partly flat": growth(flat=0.1),
    "window": growth(window=2),
    "interpolated, in a window": growth(window=1, mode="concat-bilinear"),
}))
"""


def test_working_memory_bounds_what_a_search_takes():
    memory = 64 << 20
    run = subprocess.run(
        [sys.executable, "-c", MEASURE, str(memory)], capture_output=True, text=True, check=False, timeout=120
    )
    assert run.returncode == 0, run.stderr
    growth = json.loads(run.stdout)
    assert max(growth.values()) <= memory + ALLOWANCE, {name: f"{n >> 20} MiB" for name, n in growth.items()}


@pytest.mark.parametrize("options", [{}, {"prune": True}, {"precision": "fast"}])
def test_a_search_leaves_nothing_to_the_garbage_collector(options):
    """A reference cycle stays in memory until the collector runs, and tensors do not trigger it."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 64), (4, 128)]
    query, pool = ([torch.randn(n, h * h, c, generator=generator) for h, c in shapes] for n in (2, 6))
    pages = torch.arange(6).expand(2, 6)
    nearest_pixels(query, pool, pages, **options)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        nearest_pixels(query, pool, pages, **options)
        gc.collect()
        assert not [found for found in gc.garbage if isinstance(found, torch.Tensor)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
