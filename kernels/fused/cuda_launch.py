"""Compile and launch the kernels of nearest.cu through CuPy."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("nearest.cu")
LANES = 32  # threads of a warp
SHARED_MEMORY = 166_912  # bytes that a block may have at compute capability 8.0; 9.0 has more


@dataclass(frozen=True)
class Kernel:
    """One instance of a kernel of nearest.cu."""

    name: str
    parameters: tuple[str | int, ...]  # of its template
    warps: int
    shared_memory: int  # bytes, in addition to what its source declares

    @property
    def expression(self) -> str:
        """The C++ expression that names the instance."""
        return f"{self.name}<{', '.join(str(parameter) for parameter in self.parameters)}>"


def source_options() -> tuple[str, ...]:
    """Return NVRTC's options, except for the architecture."""
    return ("-std=c++17",)


def launch(kernel: Kernel, blocks: int, **arguments: Tensor | int | float) -> None:
    """Run a kernel on its tensors' device, on torch's current stream.

    Arguments are passed in the order given, which must be that of the source.
    """
    import cupy

    if blocks == 0:
        return
    device = next(argument for argument in arguments.values() if isinstance(argument, Tensor)).device
    stream = _stream(torch.cuda.current_stream(device).cuda_stream, device)
    with cupy.cuda.Device(device.index), stream:
        function = _compiled(kernel.expression, device)
        values = tuple(_argument(argument) for argument in arguments.values())
        function((blocks,), (kernel.warps * LANES,), values, shared_mem=kernel.shared_memory)


@lru_cache(maxsize=256)
def _compiled(expression: str, device: torch.device) -> Any:
    """Compile a kernel for a device, the current one, and let it use all of its shared memory."""
    import cupy

    module = cupy.RawModule(
        code=SOURCE.read_text(encoding="utf-8"), options=source_options(), name_expressions=(expression,)
    )
    kernel = module.get_function(expression)
    kernel.max_dynamic_shared_size_bytes = shared_memory_of(device) - kernel.shared_size_bytes
    return kernel


@lru_cache(maxsize=64)
def _stream(address: int, device: torch.device) -> Any:
    """Wrap a stream of torch's. CuPy 14 deprecates ExternalStream, but its successor may destroy torch's stream."""
    import cupy

    return cupy.cuda.ExternalStream(address, device.index)


def _argument(value: Tensor | int | float) -> int | np.int32 | np.float32:
    """Convert an argument for CuPy; a tensor becomes its address, 8 bytes."""
    if isinstance(value, Tensor):
        return value.data_ptr()
    return np.int32(value) if isinstance(value, int) else np.float32(value)


@lru_cache(maxsize=16)
def shared_memory_of(device: torch.device) -> int:
    """Return the bytes of shared memory that a block may have on a device."""
    if device.type != "cuda":
        return SHARED_MEMORY
    properties: Any = torch.cuda.get_device_properties(device)  # torch's stubs lack the field
    return int(properties.shared_memory_per_block_optin)
