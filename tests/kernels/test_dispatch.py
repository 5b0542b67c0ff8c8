"""The choice of a backend, and the one-line errors of backends that cannot run."""

from importlib.machinery import EXTENSION_SUFFIXES

import numpy as np
import pytest
import torch

from spade_index.kernels import BACKENDS, FusedMaps, choose_kernel, dispatch, nearest_pixels
from spade_index.kernels.native import library
from spade_index.kernels.native.library import SETS

GPU = torch.device("cuda", 0)


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there is a GPU, and return its compute capability, which tests may set."""
    capability = [9, 0]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *args, **kwargs: tuple(capability))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *args, **kwargs: "a GPU")
    return capability


@pytest.fixture
def installed(monkeypatch):
    """Return the set of packages that appear installed, which tests may change."""
    packages = {"triton", "cupy"}
    monkeypatch.setattr(dispatch, "find_spec", lambda name, package=None: name if name in packages else None)
    return packages


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch):
    monkeypatch.delenv("SPADE_INDEX_KERNEL", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_a_cpu_with_amx_or_avx512_has_the_native_backend(monkeypatch):
    for name in SETS[1:]:
        monkeypatch.setattr(library, "instruction_sets", lambda name=name: ("portable", name))
        choice = choose_kernel("cpu")
        assert (choice.backend, choice.fused) == ("native", False)
        assert str(choice) == f"native (with {name})"


def test_another_cpu_has_the_torch_backend_and_the_native_one_if_asked_for(monkeypatch):
    monkeypatch.setattr(library, "instruction_sets", lambda: ("portable",))
    choice = choose_kernel("cpu")
    assert choice.backend == "torch"
    assert "computes in bfloat16 neither with AMX nor with AVX-512" in choice.reason
    assert choose_kernel("cpu", "native").backend == "native"


@pytest.fixture
def look_again():
    """Have the compiled functions looked for in this test, and again after it."""
    library.library.cache_clear()
    library.instruction_sets.cache_clear()
    yield
    library.library.cache_clear()
    library.instruction_sets.cache_clear()


def test_a_native_backend_that_was_not_compiled_says_what_it_needs(look_again, monkeypatch, tmp_path):
    monkeypatch.setattr(library, "HERE", tmp_path)
    assert "was not compiled" in choose_kernel("cpu").reason
    with pytest.raises(ValueError, match=r"^the native kernel cannot be used: .*_nearest was not compiled.*g\+\+"):
        choose_kernel("cpu", "native")


def test_a_damaged_native_backend_is_not_chosen(look_again, monkeypatch, tmp_path):
    (tmp_path / f"_nearest{EXTENSION_SUFFIXES[0]}").write_bytes(b"no library")
    monkeypatch.setattr(library, "HERE", tmp_path)
    assert choose_kernel("cpu").backend == "torch"


def test_a_library_without_its_functions_is_not_called(look_again, monkeypatch, tmp_path):
    (tmp_path / f"_nearest{EXTENSION_SUFFIXES[0]}").symlink_to(np._core._multiarray_umath.__file__)
    monkeypatch.setattr(library, "HERE", tmp_path)
    assert "compiled from other sources" in choose_kernel("cpu").reason


def test_a_library_with_other_structures_is_not_called(look_again, monkeypatch):
    """As after an update of the sources alone."""
    monkeypatch.setattr(library, "SHARED", (library.Plan, library.Plan))
    assert "compiled from other sources" in choose_kernel("cpu").reason


def test_a_gpu_does_not_have_the_native_backend(gpu):
    with pytest.raises(ValueError, match=r"^the native kernel cannot be used: it needs a CPU.*cuda:0$"):
        choose_kernel(GPU, "native")


def test_a_gpu_has_the_best_that_is_installed(gpu, installed):
    assert choose_kernel(GPU).backend == "triton"
    installed.remove("triton")
    assert choose_kernel(GPU).backend == "cupy"
    installed.remove("cupy")
    choice = choose_kernel(GPU)
    assert choice.backend == "torch"
    assert "triton is not installed" in choice.reason
    assert "cupy is not installed" in choice.reason


def test_a_gpu_before_hopper_has_the_kernels_that_copy_ahead(gpu, installed):
    gpu[:] = [8, 0]
    assert choose_kernel(GPU).backend == "cupy"
    installed.remove("cupy")
    assert choose_kernel(GPU).backend == "triton"


def test_an_old_gpu_has_the_torch_backend(gpu, installed):
    gpu[:] = [7, 5]
    choice = choose_kernel(GPU)
    assert choice.backend == "torch"
    assert "older than compute capability 8.0" in choice.reason


def test_the_one_asked_for_comes_before_the_environment(gpu, installed, monkeypatch):
    monkeypatch.setenv("SPADE_INDEX_KERNEL", "cupy")
    assert str(choose_kernel(GPU)) == "cupy (by SPADE_INDEX_KERNEL)"
    assert str(choose_kernel(GPU, "reference")) == "reference (asked for)"


@pytest.mark.parametrize("backend", ["triton", "cupy"])
def test_a_fused_backend_without_a_gpu_says_what_it_needs(installed, backend):
    with pytest.raises(ValueError, match=f"^the {backend} kernel cannot be used: it needs a CUDA GPU.*cpu$"):
        choose_kernel("cpu", backend)


def test_a_backend_that_is_not_installed_is_named(installed, gpu):
    installed.remove("cupy")
    with pytest.raises(ValueError, match=r"^the cupy kernel cannot be used: cupy is not installed$"):
        choose_kernel(GPU, "cupy")


def test_tritons_interpreter_needs_no_gpu(installed, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert choose_kernel("cpu", "triton").backend == "triton"
    assert choose_kernel("cpu").backend in ("native", "torch")


def test_an_unknown_backend_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=f"^the kernel must be one of {', '.join(BACKENDS)}, not 'blas'$"):
        choose_kernel("cpu", "blas")


def test_maps_for_fused_kernels_are_for_them_alone():
    sizes, channels = [(4, 4), (2, 2)], [3, 5]
    query = [torch.zeros(1, 16, 3), torch.zeros(1, 4, 5)]
    maps = FusedMaps.empty(2, sizes, channels, torch.float16, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"cannot be searched by the kernel (native|torch)"):
        nearest_pixels(query, maps, torch.zeros(1, 1).long())
    with pytest.raises(ValueError, match="do not fit"):
        nearest_pixels([query[0], torch.zeros(1, 4, 6)], maps, torch.zeros(1, 1).long())
    with pytest.raises(ValueError, match=r"slots 0\.\.1"):
        nearest_pixels(query, maps, torch.full((1, 1), 2))
