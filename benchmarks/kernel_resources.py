"""What the compilers make of the GPU kernels, without a GPU: registers, spills, shared memory, tensor cores.

Every kernel is compiled as it is launched for WideResNet50-2's pyramid, and for other sizes and types that take
another path through it. Run in a process of its own: `python -m spade_index.benchmarks.kernel_resources`.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import torch
import triton
from cuda.bindings import nvrtc
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from spade_index.kernels.fused import cuda_launch, cupy_backend, triton_backend, triton_kernels
from spade_index.kernels.fused.geometry import raster_layout
from spade_index.kernels.fused.interface import MakeKernels
from spade_index.kernels.fused.maps import FusedMaps
from spade_index.kernels.fused.search import search_maps

WIDE_RESNET50_2 = ([(56, 56), (28, 28), (14, 14)], [256, 512, 1024])
SHARED_MEMORY = {80: 166_912, 90: 232_448}  # bytes that one block may have
RESERVED = {80: 0, 90: 1024}  # of the system, beyond those: what cuobjdump counts as a kernel's
POINTERS = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.int64: "i64",
}
CASES = [
    # sizes, channels, type, K, k
    ("WideResNet50-2", *WIDE_RESNET50_2, torch.float16, 50, 1),
    ("WideResNet50-2, k = 10, K = 200", *WIDE_RESNET50_2, torch.float16, 200, 10),
    ("WideResNet50-2, bfloat16", *WIDE_RESNET50_2, torch.bfloat16, 50, 1),
    ("WideResNet50-2, float32", *WIDE_RESNET50_2, torch.float32, 50, 1),
    ("EfficientNet-lite0", [(56, 56), (28, 28), (14, 14)], [24, 40, 112], torch.float16, 50, 1),
    ("one level of 1024 channels", [(28, 28)], [1024], torch.float16, 50, 3),
]


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel, with its arguments by name."""

    kernel: str
    arguments: dict[str, Any]
    options: dict[str, Any]


class _Recorder:
    """Stands for a kernel, and notes what it would be launched with."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def note(num_warps: int, **arguments: Any) -> None:
            self.launches.append(Launch(self.kernel.__name__, arguments, {"num_warps": num_warps}))

        return note


def search_nothing(
    make_kernels: MakeKernels,
    sizes: list[tuple[int, int]],
    channels: list[int],
    dtype: torch.dtype,
    neighbours: int,
    k: int,
) -> None:
    """Search for one query whose tensors have shapes and types, but no memory."""
    meta = torch.device("meta")
    maps = FusedMaps.empty(neighbours, sizes, channels, dtype, meta)
    query = [torch.empty(1, h * w, c, device=meta) for (h, w), c in zip(sizes, channels, strict=True)]
    pages = torch.empty(1, neighbours, dtype=torch.int64, device=meta)
    kernels = make_kernels(dtype, raster_layout(tuple(sizes)).cells)
    search_maps(kernels, query, maps, pages, k, sizes=sizes, weights=[1.0] * len(sizes))


def launches_of(
    sizes: list[tuple[int, int]], channels: list[int], dtype: torch.dtype, neighbours: int, k: int
) -> list[Launch]:
    """What a search of one query launches, in Triton."""
    launches: list[Launch] = []
    module: ModuleType = triton_backend.triton_kernels
    kept = {name: getattr(module, name) for name in ("coarse_distances", "block_minima", "rescan", "differences")}
    try:
        for name, kernel in kept.items():
            setattr(module, name, _Recorder(kernel, launches))
        search_nothing(triton_backend.TritonKernels, sizes, channels, dtype, neighbours, k)
    finally:
        for name, kernel in kept.items():
            setattr(module, name, kernel)
    return launches


def cuda_kernels_of(
    sizes: list[tuple[int, int]], channels: list[int], dtype: torch.dtype, neighbours: int, k: int
) -> list[cuda_launch.Kernel]:
    """What a search of one query launches, in CUDA C++."""
    kernels: list[cuda_launch.Kernel] = []
    launch = cuda_launch.launch
    try:
        cuda_launch.launch = lambda kernel, blocks, **arguments: kernels.append(kernel)
        search_nothing(cupy_backend.CupyKernels, sizes, channels, dtype, neighbours, k)
    finally:
        cuda_launch.launch = launch
    return kernels


def compile_launch(launch: Launch, capability: int) -> dict[str, Any]:
    """What a kernel takes on a GPU of a compute capability (90 for 9.0)."""
    kernel = getattr(triton_kernels, launch.kernel)
    constant = {param.name for param in kernel.params if param.is_constexpr}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for place, name in enumerate(kernel.arg_names):
        value = launch.arguments[name]
        if name in constant or (isinstance(value, int) and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, TensorDescriptor):
            block = ", ".join(str(n) for n in value.block_shape)
            signature[name] = f"tensordesc<{POINTERS[value.base.dtype]}[{block}]>"
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + POINTERS[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    resources = cubin_resources(compiled.asm["cubin"])
    return resources | {"shared_memory": compiled.metadata.shared} | instructions_of(compiled.asm["ptx"])


@lru_cache
def compile_cuda(kernel: cuda_launch.Kernel, capability: int) -> dict[str, Any]:
    """What a kernel of nearest.cu takes on a GPU of a compute capability."""
    source = cuda_launch.SOURCE.read_bytes()
    program = _nvrtc(nvrtc.nvrtcCreateProgram(source, cuda_launch.SOURCE.name.encode(), 0, [], []))
    try:
        _nvrtc(nvrtc.nvrtcAddNameExpression(program, kernel.expression.encode()))
        options = [o.encode() for o in (*cuda_launch.source_options(), f"--gpu-architecture=sm_{capability}")]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(_nvrtc(nvrtc.nvrtcGetProgramLogSize(program)))
            _nvrtc(nvrtc.nvrtcGetProgramLog(program, log))
            raise RuntimeError(f"{kernel.expression} does not compile for sm_{capability}:\n{log.decode()}")
        cubin = bytearray(_nvrtc(nvrtc.nvrtcGetCUBINSize(program)))
        _nvrtc(nvrtc.nvrtcGetCUBIN(program, cubin))
        ptx = bytearray(_nvrtc(nvrtc.nvrtcGetPTXSize(program)))
        _nvrtc(nvrtc.nvrtcGetPTX(program, ptx))
    finally:
        _nvrtc(nvrtc.nvrtcDestroyProgram(program))
    resources = cubin_resources(bytes(cubin))
    resources["shared_memory"] += kernel.shared_memory - RESERVED[capability]
    return resources | instructions_of(ptx.decode())


def _nvrtc(answer: tuple[Any, ...]) -> Any:
    """What a function of NVRTC gives, after its status."""
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC: {status.name}")
    return values[0] if values else None


def instructions_of(ptx: str) -> dict[str, int]:
    """How often instructions stand in PTX that say which units a kernel uses."""
    return {
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
        "mma": len(re.findall(r"mma\.sync", ptx)),
        "tma": len(re.findall(r"cp\.async\.bulk\.tensor", ptx)),
        "cp_async": len(re.findall(r"cp\.async\.cg", ptx)),
    }


def cubin_resources(cubin: bytes) -> dict[str, int]:
    """Registers of the one kernel in a cubin and bytes of its shared memory, stack and spills, as cuobjdump says."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        shown = subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True)
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", shown.stdout)}
    return {
        "shared_memory": found["SHARED"],
        "registers": found["REG"],
        "stack": found["STACK"],
        "local": found["LOCAL"],
    }


def measure(capabilities: tuple[int, ...] = (80, 90)) -> Iterator[dict[str, Any]]:
    """One row for every backend, kernel, case and capability; the same compilation only once.

    There are no CUDA kernels for float32 maps.
    """
    done: set[str] = set()
    for case, *shape in CASES:
        for row in _of_case(*shape, capabilities):
            shown = json.dumps(row)
            if shown not in done:
                yield {"case": case, **row}
            done.add(shown)


def _of_case(
    sizes: list[tuple[int, int]],
    channels: list[int],
    dtype: torch.dtype,
    neighbours: int,
    k: int,
    capabilities: tuple[int, ...],
) -> Iterator[dict[str, Any]]:
    for launch in launches_of(sizes, channels, dtype, neighbours, k):
        for capability in capabilities:
            about = {"backend": "triton", "kernel": launch.kernel, "capability": capability}
            yield about | compile_launch(launch, capability)
    for kernel in [] if dtype == torch.float32 else cuda_kernels_of(sizes, channels, dtype, neighbours, k):
        for capability in capabilities:
            about = {"backend": "cupy", "kernel": kernel.name, "capability": capability}
            yield about | compile_cuda(kernel, capability)


@click.command()
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Write the rows here as well.")
def main(json_path: str | None) -> None:
    """Compile every GPU kernel for compute capabilities 8.0 and 9.0, and say what it takes."""
    rows = []
    for row in measure():
        rows.append(row)
        click.echo("  ".join(f"{name} {value}" for name, value in row.items()))
    if json_path:
        nvrtc_version = "{}.{}".format(*nvrtc.nvrtcVersion()[1:])
        report = {"triton": triton.__version__, "nvrtc": nvrtc_version, "kernels": rows}
        Path(json_path).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
