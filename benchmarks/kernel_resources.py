"""Ask the compilers, without a GPU, what the GPU kernels take: registers, spills, shared memory, tensor cores.

Every kernel is compiled as it is launched for WideResNet50-2's pyramid, and for other sizes and types that take another
path through it. Run in a process of its own: `python -m spade_index.benchmarks.kernel_resources`.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
import triton
from cuda.bindings import nvrtc
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.tools.tensor_descriptor import TensorDescriptor

from spade_index.kernels.fused import cuda_launch, triton_kernels
from spade_index.kernels.fused.cupy_backend import CupyKernels
from spade_index.kernels.fused.geometry import raster_layout
from spade_index.kernels.fused.interface import MakeKernels
from spade_index.kernels.fused.maps import FusedMaps
from spade_index.kernels.fused.search import search_maps
from spade_index.kernels.fused.triton_backend import TritonKernels

SYSTEM_SHARED_MEMORY = {80: 0, 90: 1024}  # bytes that cuobjdump adds to a kernel's
KERNELS = ("coarse_distances", "block_minima", "rescan", "differences")
POINTERS = {
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
    torch.int32: "i32",
    torch.int64: "i64",
}


@dataclass(frozen=True)
class Case:
    """A search whose kernels are compiled."""

    name: str
    sizes: tuple[tuple[int, int], ...] = ((56, 56), (28, 28), (14, 14))
    channels: tuple[int, ...] = (256, 512, 1024)
    dtype: torch.dtype = torch.float16
    neighbours: int = 50
    k: int = 1

    def search(self, make_kernels: MakeKernels) -> None:
        """Search for one query whose tensors have shapes and types, but no memory."""
        meta = torch.device("meta")
        maps = FusedMaps.empty(self.neighbours, self.sizes, self.channels, self.dtype, meta)
        query = [torch.empty(1, h * w, c, device=meta) for (h, w), c in zip(self.sizes, self.channels, strict=True)]
        pages = torch.empty(1, self.neighbours, dtype=torch.int64, device=meta)
        kernels = make_kernels(self.dtype, raster_layout(self.sizes).cells)
        search_maps(kernels, query, maps, pages, self.k, sizes=self.sizes, weights=[1.0] * len(self.sizes))


CASES = [
    Case("WideResNet50-2"),
    Case("WideResNet50-2, k = 10, K = 200", neighbours=200, k=10),
    Case("WideResNet50-2, bfloat16", dtype=torch.bfloat16),
    Case("WideResNet50-2, float32", dtype=torch.float32),
    Case("EfficientNet-lite0", channels=(24, 40, 112)),
    Case("one level of 1024 channels", sizes=((28, 28),), channels=(1024,), k=3),
]


@dataclass(frozen=True)
class TritonLaunch:
    """One launch of a Triton kernel."""

    kernel: Any
    arguments: dict[str, Any]
    warps: int


class _Recorder:
    """Stands in for a Triton kernel and records its launches."""

    def __init__(self, kernel: Any, launches: list[TritonLaunch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def record(num_warps: int, **arguments: Any) -> None:
            self.launches.append(TritonLaunch(self.kernel, arguments, num_warps))

        return record


def triton_launches(case: Case) -> list[TritonLaunch]:
    """Return the launches of a search in Triton."""
    launches: list[TritonLaunch] = []
    recorders: dict[str, Any] = {name: _Recorder(getattr(triton_kernels, name), launches) for name in KERNELS}
    with mock.patch.multiple(triton_kernels, **recorders):
        case.search(TritonKernels)
    return launches


def cuda_kernels(case: Case) -> list[cuda_launch.Kernel]:
    """Return the kernels of nearest.cu that a search launches."""
    kernels: list[cuda_launch.Kernel] = []
    with mock.patch.object(cuda_launch, "launch", lambda kernel, blocks, **arguments: kernels.append(kernel)):
        case.search(CupyKernels)
    return kernels


def compile_triton(launch: TritonLaunch, capability: int) -> dict[str, int]:
    """Compile a Triton kernel for a compute capability (90 for 9.0) and return what it takes."""
    constant = {parameter.name for parameter in launch.kernel.params if parameter.is_constexpr}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for place, name in enumerate(launch.kernel.arg_names):
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
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    target, options = GPUTarget("cuda", capability, 32), {"num_warps": launch.warps}
    compiled = triton.compile(source, target=target, options=options)
    resources = cubin_resources(compiled.asm["cubin"])
    return resources | {"shared_memory": compiled.metadata.shared} | instructions_of(compiled.asm["ptx"])


@lru_cache
def compile_cuda(kernel: cuda_launch.Kernel, capability: int) -> dict[str, int]:
    """Compile a kernel of nearest.cu for a compute capability and return what it takes."""
    source = cuda_launch.SOURCE
    program = _nvrtc(nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], []))
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
    resources["shared_memory"] += kernel.shared_memory - SYSTEM_SHARED_MEMORY[capability]
    return resources | instructions_of(ptx.decode())


def _nvrtc(answer: tuple[Any, ...]) -> Any:
    """Return the value of a call of NVRTC, after its status."""
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC: {status.name}")
    return values[0] if values else None


def instructions_of(ptx: str) -> dict[str, int]:
    """Count the instructions in PTX that show which units a kernel uses."""
    patterns = {
        "wgmma": r"wgmma\.mma_async",
        "mma": r"mma\.sync",
        "tma": r"cp\.async\.bulk\.tensor",
        "cp_async": r"cp\.async\.cg",
    }
    return {name: len(re.findall(pattern, ptx)) for name, pattern in patterns.items()}


def cubin_resources(cubin: bytes) -> dict[str, int]:
    """Return what cuobjdump says of a cubin's one kernel: registers, bytes of shared memory, stack and spills."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        shown = subprocess.run([tool, "--dump-resource-usage", path], capture_output=True, text=True, check=True)
    found = {name: int(value) for name, value in re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", shown.stdout)}
    names = {"shared_memory": "SHARED", "registers": "REG", "stack": "STACK", "local": "LOCAL"}
    return {name: found[key] for name, key in names.items()}


def measure(capabilities: tuple[int, ...] = (80, 90)) -> Iterator[dict[str, Any]]:
    """Yield one row for every backend, kernel, case and capability, each compilation only once.

    There are no CUDA kernels for float32 maps.
    """
    done: set[str] = set()
    for case in CASES:
        for row in _rows_of(case, capabilities):
            shown = json.dumps(row)
            if shown not in done:
                yield {"case": case.name, **row}
            done.add(shown)


def _rows_of(case: Case, capabilities: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    for launch in triton_launches(case):
        for capability in capabilities:
            about = {"backend": "triton", "kernel": launch.kernel.__name__, "capability": capability}
            yield about | compile_triton(launch, capability)
    for kernel in [] if case.dtype == torch.float32 else cuda_kernels(case):
        for capability in capabilities:
            about = {"backend": "cupy", "kernel": kernel.name, "capability": capability}
            yield about | compile_cuda(kernel, capability)


@click.command()
@click.option("--json", "json_path", type=click.Path(dir_okay=False), help="Write the rows here as well.")
def main(json_path: str | None) -> None:
    """Compile every GPU kernel for compute capabilities 8.0 and 9.0, and print what it takes."""
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
