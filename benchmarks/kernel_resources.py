"""Ask the compilers, without a GPU, what the GPU kernels take: registers, spills, shared memory, tensor cores.

Every kernel is compiled as it is launched for WideResNet50-2's pyramid, and for other sizes and types that take another
path through it. Run in a process of its own: `python -m spade_index.benchmarks.kernel_resources`.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from cuda.bindings import nvrtc
from triton.backends.compiler import GPUTarget

from spade_index.benchmarks.harness import Figures, table
from spade_index.kernels.codes import Coding, LevelCode, Scalars, TableRows, Values
from spade_index.kernels.fused import cuda_launch
from spade_index.kernels.fused.cupy_backend import CupyKernels
from spade_index.kernels.fused.geometry import raster_layout
from spade_index.kernels.fused.interface import Kernels, MakeKernels
from spade_index.kernels.fused.maps import FusedMaps
from spade_index.kernels.fused.search import search_maps
from spade_index.kernels.fused.triton_backend import TritonKernels
from spade_index.kernels.preparation import Preparation, Scaled
from spade_index.kernels.pyramid import Size

SYSTEM_SHARED_MEMORY = {80: 0, 90: 1024}  # bytes that cuobjdump adds to a kernel's
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
RESOURCES = {"registers": "REG", "shared_memory": "SHARED", "stack": "STACK", "local": "LOCAL"}
INSTRUCTIONS = {  # that show which units a kernel uses
    "wgmma": r"wgmma\.mma_async",
    "mma": r"mma\.sync",
    "tma": r"cp\.async\.bulk\.tensor",
    "cp_async": r"cp\.async\.cg",
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

    def decode(self, kernels: Kernels) -> None:
        """Decode maps of shapes and types, but no memory, that are stored at twice the edges: of each kind of codes."""
        meta = torch.device("meta")
        maps = FusedMaps.empty(self.neighbours, self.sizes, self.channels, torch.float16, meta)
        shapes = list(zip(self.sizes, self.channels, strict=True))
        for scaling, kind in KINDS.items():
            levels = tuple(scaled(size, of, scaling) for size, of in shapes)
            preparation = Preparation(levels, tuple(range(number, number + 1) for number in range(len(levels))))
            coded = Coding(tuple(kind(of) for of in self.channels), preparation).empty(self.neighbours, meta)
            kernels.decode(coded, torch.empty(self.neighbours, dtype=torch.int64, device=meta), maps)


def scaled(size: Size, channels: int, scaling: str) -> Scaled:
    """Return how a level that is stored at twice the edges is averaged and scaled, without memory."""
    moments = torch.empty(channels, device="meta") if scaling == "channel" else None
    return Scaled((2 * size[0], 2 * size[1]), size, channels, scaling, mean=moments, deviation=moments)


def rows_of(channels: int) -> TableRows:
    """Return tables without memory: three over all channels, and one for every eight of them."""
    shapes = (3, 256, channels), (-(-channels // 8), 256, 8)
    return TableRows(2.0**-9, *(torch.empty(shape, dtype=torch.int16, device="meta") for shape in shapes))


KINDS: dict[str, Callable[[int], LevelCode]] = {  # by the scaling that they are compiled with
    "none": lambda channels: Values(),
    "root": lambda channels: Scalars(8),
    "length": lambda channels: Scalars(4),
    "channel": rows_of,
}


CASES = [
    Case("WideResNet50-2"),
    Case("WideResNet50-2, k = 10, K = 200", neighbours=200, k=10),
    Case("WideResNet50-2, bfloat16", dtype=torch.bfloat16),
    Case("WideResNet50-2, float32", dtype=torch.float32),
    Case("EfficientNet-lite0", channels=(24, 40, 112)),
    Case("one level of 1024 channels", sizes=((28, 28),), channels=(1024,), k=3),
]


@dataclass(frozen=True)
class _Driver:
    """Stands in for Triton's driver: there is one GPU, numbered by its compute capability."""

    capability: int

    def get_current_device(self) -> int:
        return self.capability

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)


def compile_triton(case: Case, capability: int) -> Iterator[Figures]:
    """Compile the Triton kernels of a search for a compute capability (90 for 9.0); yield what each takes."""
    compiled: list[Any] = []

    def compile_only(kernel: Any, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda **arguments: compiled.append(kernel.warmup(grid=grid, **arguments))

    triton.runtime.driver.set_active(_Driver(capability))
    with mock.patch.object(triton.runtime.JITFunction, "__getitem__", compile_only):
        case.search(TritonKernels)
        if case.dtype == torch.float16:
            case.decode(TritonKernels(case.dtype, raster_layout(case.sizes).cells))
    for kernel in compiled:
        resources = resources_of(kernel.asm["cubin"], kernel.asm["ptx"])
        yield {"backend": "triton", "kernel": kernel.name, **resources, "shared_memory": kernel.metadata.shared}


def compile_cuda(case: Case, capability: int) -> Iterator[Figures]:
    """Compile the kernels of nearest.cu of a search for a compute capability; yield what each takes.

    There are none for float32 maps.
    """
    kernels: list[cuda_launch.Kernel] = []
    if case.dtype != torch.float32:
        with mock.patch.object(cuda_launch, "launch", lambda kernel, blocks, **arguments: kernels.append(kernel)):
            case.search(CupyKernels)
    for kernel in kernels:
        resources = dict(_compiled(kernel.expression, capability))
        resources["shared_memory"] += kernel.shared_memory - SYSTEM_SHARED_MEMORY[capability]
        yield {"backend": "cupy", "kernel": kernel.name, **resources}


@lru_cache
def _compiled(expression: str, capability: int) -> Figures:
    """Compile one instance of a kernel of nearest.cu; return what it takes."""
    source = cuda_launch.SOURCE
    program = _nvrtc(nvrtc.nvrtcCreateProgram(source.read_bytes(), source.name.encode(), 0, [], []))
    try:
        _nvrtc(nvrtc.nvrtcAddNameExpression(program, expression.encode()))
        options = [o.encode() for o in (*cuda_launch.source_options(), f"--gpu-architecture=sm_{capability}")]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = _read(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog).decode()
            raise RuntimeError(f"{expression} does not compile for sm_{capability}:\n{log}")
        cubin = _read(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
        ptx = _read(program, nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    finally:
        _nvrtc(nvrtc.nvrtcDestroyProgram(program))
    return resources_of(cubin, ptx.decode())


def _nvrtc(answer: tuple[Any, ...]) -> Any:
    """Return the value of a call of NVRTC, after its status."""
    status, *values = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise RuntimeError(f"NVRTC: {status.name}")
    return values[0] if values else None


def _read(program: Any, size: Callable[..., Any], read: Callable[..., Any]) -> bytes:
    """Return a result of NVRTC's, which it writes into a buffer of `size`."""
    buffer = bytearray(_nvrtc(size(program)))
    _nvrtc(read(program, buffer))
    return bytes(buffer)


def resources_of(cubin: bytes, ptx: str) -> Figures:
    """Return what cuobjdump says of a cubin's one kernel, in registers and bytes, and the instructions in its PTX."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    taken = dict(re.findall(r"(REG|STACK|SHARED|LOCAL):(\d+)", shown))
    counts = {name: len(re.findall(pattern, ptx)) for name, pattern in INSTRUCTIONS.items()}
    return {name: int(taken[key]) for name, key in RESOURCES.items()} | counts


def measure(capabilities: tuple[int, ...] = (80, 90)) -> Iterator[Figures]:
    """Yield a row for every backend, kernel, case and capability, without those that equal one of an earlier case."""
    seen: list[Figures] = []
    for case in CASES:
        for capability in capabilities:
            for row in (*compile_triton(case, capability), *compile_cuda(case, capability)):
                row["capability"] = capability
                if row not in seen:
                    seen.append(row)
                    yield {"case": case.name, **row}


def main() -> None:
    """Compile every kernel for compute capabilities 8.0 and 9.0, and print what it takes."""
    rows = list(measure())
    print("\n".join(table([list(rows[0]), *([str(value) for value in row.values()] for row in rows)], left=range(3))))


if __name__ == "__main__":
    main()
