"""The resources of the GPU kernels, as their compilers report them without a GPU: nothing spills, everything fits."""

import json
import os

import pytest

from spade_index.kernels.dispatch import FUSED

from helpers.warm import Warm

CAPABILITIES = [80, 90]
SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # CUDA C++ Programming Guide: the most for a block
KERNELS = {"coarse_distances", "block_minima", "rescan", "differences"}
PRODUCTS = {"coarse_distances", "block_minima"}
# One for every way through the kernels; the benchmark compiles other types and depths, too.
CASES = ["WideResNet50-2", "WideResNet50-2, k = 10, K = 200", "WideResNet50-2, float32", "one level of 1024 channels"]
MEASURE = """
import json, sys
from spade_index.benchmarks import kernel_resources
kernel_resources.CASES[:] = [case for case in kernel_resources.CASES if case.name in json.loads(sys.argv[1])]
print(json.dumps(list(kernel_resources.measure((int(sys.argv[2]),)))))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Rows of the benchmark by compute capability; each has a process of its own, in which Triton compiles."""
    folder = tmp_path_factory.mktemp("triton")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(folder / "cache")
    compiling = {}
    for capability in CAPABILITIES:
        with open(folder / f"{capability}.json", "w") as out, open(folder / f"{capability}.txt", "w") as errors:
            arguments = json.dumps(CASES), capability
            compiling[capability] = Warm(MEASURE, *arguments, stdout=out, stderr=errors, environment=environment)
    for capability, process in compiling.items():
        assert process.wait() == 0, (folder / f"{capability}.txt").read_text()
    return {capability: json.loads((folder / f"{capability}.json").read_text()) for capability in CAPABILITIES}


@pytest.fixture(params=CAPABILITIES)
def capability(request):
    """A compute capability: 80 for 8.0."""
    return request.param


@pytest.fixture
def rows(measured, capability):
    """The benchmark's rows for a capability."""
    return measured[capability]


def test_every_kernel_of_every_backend_is_compiled(rows, capability):
    assert {row["capability"] for row in rows} == {capability}
    expected = {(backend, kernel) for backend in FUSED for kernel in KERNELS} | {("triton", "decode_level")}
    assert {(row["backend"], row["kernel"]) for row in rows} == expected
    assert {row["case"] for row in rows} == set(CASES)


def test_shared_memory_is_within_what_a_block_may_have(rows, capability):
    assert [row for row in rows if row["shared_memory"] > SHARED_MEMORY[capability]] == []
    assert all(row["shared_memory"] > 0 for row in rows if row["kernel"] in PRODUCTS)


def test_nothing_is_spilled(rows):
    assert [row for row in rows if row["stack"] != 0 or row["local"] != 0] == []
    assert all(0 < row["registers"] <= 255 for row in rows)


def test_products_are_taken_by_tensor_cores(rows, capability):
    """Triton's by WGMMA where there is any, CUDA C++'s by mma.sync."""
    for row in rows:
        if row["kernel"] in PRODUCTS:
            instruction = "wgmma" if row["backend"] == "triton" and capability >= 90 else "mma"
            assert row[instruction] > 0, row


def test_tiles_are_loaded_by_tma_where_there_is_any(rows, capability):
    loaded = [row for row in rows if row["backend"] == "triton" and row["kernel"] in PRODUCTS]
    assert all((row["tma"] > 0) == (capability >= 90) for row in loaded)
