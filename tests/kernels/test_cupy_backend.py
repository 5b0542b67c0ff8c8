"""The CUDA C++ kernels as far as they can be tested without a GPU: how they are launched, and what is refused."""

import re
import subprocess
import sys
from unittest import mock

import numpy as np
import pytest
import torch

from spade_index.kernels.fused import cuda_launch, cupy_backend
from spade_index.kernels.fused.cuda_launch import Kernel
from spade_index.kernels.fused.cupy_backend import CupyKernels, Tiles
from spade_index.kernels.fused.geometry import raster_layout
from spade_index.kernels.fused.maps import FusedMaps
from spade_index.kernels.fused.search import search_maps
from spade_index.kernels.torch_backend import search as torch_backend

from helpers.kernel_cases import assert_same, random_search

SIZES = [(8, 8), (4, 4), (2, 2)]
OPTIONS = {"sizes": SIZES, "weights": [1.0, 1.0, 1.0], "mode": "concat-nearest"}


def parameters_of(kernel):
    """Return the number of template parameters of a kernel of nearest.cu, and its arguments' types and names."""
    source = re.sub(r"//.*", "", cuda_launch.SOURCE.read_text(encoding="utf-8"))
    template, arguments = re.search(
        rf"template <([^<>]*)>\s*__global__ void __launch_bounds__\([^()]*\) {kernel}\(([^()]*)\)", source
    ).groups()
    return template.count(",") + 1, [argument.split()[-2:] for argument in arguments.split(",")]


@pytest.fixture
def launches(monkeypatch):
    """Record launches in place of launching."""
    found = []
    monkeypatch.setattr(
        cuda_launch, "launch", lambda kernel, blocks, **arguments: found.append((kernel, blocks, arguments))
    )
    return found


def search_nothing(sizes, channels, dtype=torch.float16, neighbours=3, k=2, kernels=CupyKernels, window=None):
    """Search tensors without memory."""
    meta = torch.device("meta")
    maps = FusedMaps.empty(neighbours, sizes, channels, dtype, meta)
    query = [torch.empty(1, h * w, c, device=meta) for (h, w), c in zip(sizes, channels, strict=True)]
    pages = torch.zeros(1, neighbours, dtype=torch.int64, device=meta)
    cells = raster_layout(tuple(sizes)).cells
    options = {"sizes": sizes, "weights": [1.0] * len(sizes), "window": window}
    search_maps(kernels(dtype, cells), query, maps, pages, k, **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("sizes", "channels"),
    [(SIZES, [256, 512, 1024]), ([(7, 11), (5, 5), (3, 2)], [5, 3, 17]), ([(28, 28)], [1024]), ([(1, 1)], [1])],
)
def test_launches_fit_the_source(launches, sizes, channels, dtype):
    search_nothing(sizes, channels, dtype)
    names = [kernel.name for kernel, _, _ in launches]
    assert names == ["coarse_distances"] * (len(sizes) - 1) + ["block_minima", "rescan"] + ["differences"] * len(sizes)
    assert_fit(launches, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("window", [0, 1, 2])
def test_launches_for_a_window_fit_the_source(launches, window, dtype):
    search_nothing([(7, 11), (5, 5), (3, 2)], [5, 3, 17], dtype, window=window, k=1)
    assert {kernel.name for kernel, _, _ in launches} == {"window_distances"}
    for pixels, reordered in ((77, 1), (25, 0), (6, 0)):
        here = [(kernel, arguments) for kernel, _, arguments in launches if arguments["pixels"] == pixels]
        assert len({arguments["shift"] for _, arguments in here}) == len(here), "a shift was measured twice"
        assert all(kernel.parameters[3] == reordered for kernel, _ in here)
    assert_fit(launches, dtype)


def assert_fit(launches, dtype):
    """Assert that launches give what kernels of the source take."""
    for kernel, blocks, arguments in launches:
        template, parameters = parameters_of(kernel.name)
        assert len(kernel.parameters) == template
        assert list(arguments) == [name for _, name in parameters], "CUDA takes arguments by position"
        for argument, (kind, name) in zip(arguments.values(), parameters, strict=True):
            kinds = {torch.Tensor: "__restrict__", int: "int", float: "float"}
            assert kinds[type(argument)] == kind, f"{name} of {kernel.name}"
        assert blocks > 0
        assert 0 < kernel.shared_memory <= cuda_launch.SHARED_MEMORY
        assert kernel.shared_memory % 16 == 0
        assert cupy_backend.TYPES[dtype] in kernel.parameters


@pytest.mark.parametrize("channels", [1, 8, 16, 24, 40, 64, 72, 112, 160, 256, 264, 1000, 4096])
def test_chunks_hold_all_channels(channels):
    for most in (16, 32, 64):
        width, chunks = Tiles(8, most, 3).chunks(channels)
        assert width % cupy_backend.FRAGMENT == 0
        assert width <= most
        assert (chunks - 1) * width < channels <= chunks * width


def test_deep_levels_and_small_gpus_keep_less_in_shared_memory(launches, monkeypatch):
    def minima(channels):
        launches.clear()
        search_nothing([(28, 28)], [channels])
        return next(kernel for kernel, _, _ in launches if kernel.name == "block_minima")

    resident, deep = minima(256), minima(1024)
    assert resident.parameters[4:6] == (3, 1)
    assert deep.parameters[4:6] == (3, 0)
    monkeypatch.setattr(cuda_launch, "shared_memory_of", lambda device: 101_376)  # of compute capability 8.6
    small = minima(256)
    assert small.parameters[4:6] == (2, 0)
    assert small.shared_memory <= 101_376


def test_float32_maps_go_to_torch(launches):
    query, pool = random_search(SIZES)
    pool = [level.float() for level in pool]
    pages = torch.tensor([[0, 1], [2, 0]])
    found = cupy_backend.nearest_pixels(query, pool, pages, 3, **OPTIONS)
    assert_same(found, torch_backend.nearest_pixels(query, pool, pages, 3, **OPTIONS))
    assert not launches
    with pytest.raises(ValueError, match=r"^the cupy backend takes float16 and bfloat16 maps, not float32$"):
        CupyKernels(torch.float32, 16)


@pytest.mark.parametrize("installed", [True, False])
def test_one_line_says_what_is_missing(monkeypatch, installed):
    monkeypatch.setattr(cupy_backend, "find_spec", lambda name, package=None: object() if installed else None)
    query, pool = random_search(SIZES)
    error, message = (
        (RuntimeError, "the cupy backend needs maps on a CUDA GPU, not on cpu: choose the torch backend")
        if installed
        else (ImportError, "the cupy backend needs CuPy: pip install cupy-cuda13x, or choose another backend")
    )
    with pytest.raises(error, match=f"^{message}$"):
        cupy_backend.nearest_pixels(query, pool, torch.tensor([[0, 1], [2, 0]]), **OPTIONS)


def test_launch_passes_what_the_kernel_takes(monkeypatch):
    cupy = mock.MagicMock()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cuda_launch, "shared_memory_of", lambda device: 1000)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *args, **kwargs: mock.Mock(cuda_stream=77))
    compiled = cupy.RawModule.return_value.get_function.return_value
    compiled.shared_size_bytes = 128
    tensor = torch.ones(3)
    for cached in (cuda_launch._compiled, cuda_launch._stream):
        cached.cache_clear()
    for _ in range(2):
        cuda_launch.launch(Kernel("rescan", ("Float32", 8, 1), 8, 64), 5, tensor=tensor, count=7, weight=0.5)
    cuda_launch.launch(Kernel("rescan", ("Float32", 8, 1), 8, 64), 0, tensor=tensor, count=7, weight=0.5)
    for cached in (cuda_launch._compiled, cuda_launch._stream):
        cached.cache_clear()

    cupy.RawModule.assert_called_once()
    assert cupy.RawModule.call_args.kwargs["name_expressions"] == ("rescan<Float32, 8, 1>",)
    cupy.cuda.ExternalStream.assert_called_once_with(77, tensor.device.index)
    assert compiled.max_dynamic_shared_size_bytes == 1000 - 128
    assert compiled.call_count == 2
    assert compiled.call_args == mock.call((5,), (256,), (tensor.data_ptr(), 7, 0.5), shared_mem=64)
    assert [type(value) for value in compiled.call_args.args[2]] == [int, np.int32, np.float32]


def test_import_needs_no_cupy():
    code = "import sys; sys.modules['cupy'] = None; import spade_index.kernels.fused.cupy_backend"
    subprocess.run([sys.executable, "-c", code], check=True)
