"""Choose the backend of a search: the one asked for, or the best for the device."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from .native import library

BACKENDS = {
    "reference": "reference",
    "torch": "torch_backend",
    "native": "native",
    "triton": "fused.triton_backend",
    "cupy": "fused.cupy_backend",
}
"""The module of each backend, by name; imported when first chosen."""

VARIABLE = "SPADE_INDEX_KERNEL"
FUSED = ("triton", "cupy")  # the backends that search FusedMaps
TENSOR_CORES = (8, 0)  # the compute capability that the fused kernels are written for
HOPPER = (9, 0)  # before it, Triton does not prefetch what it loads through descriptors; nearest.cu does


@dataclass(frozen=True)
class KernelChoice:
    """A backend, and the reason for choosing it."""

    backend: str
    reason: str

    @property
    def fused(self) -> bool:
        """True if the backend searches maps in the fused kernels' layout."""
        return self.backend in FUSED

    @property
    def decodes(self) -> bool:
        """True if the backend searches maps in codes; for others, they are decoded first."""
        return self.fused or self.backend == "native"

    def __str__(self) -> str:
        return f"{self.backend} ({self.reason})"


def choose_kernel(device: torch.device | str, backend: str | None = None) -> KernelChoice:
    """Return the backend for a device: the one asked for, the environment's SPADE_INDEX_KERNEL, or the best available.

    Raises ValueError if there is no such backend or it does not run on the device; the message says why, in one line.
    """
    device = torch.device(device)
    for asked, source in ((backend, "asked for"), (os.environ.get(VARIABLE), f"by {VARIABLE}")):
        if asked:
            if asked not in BACKENDS:
                raise ValueError(f"the kernel must be one of {', '.join(BACKENDS)}, not {asked!r}")
            hindrance = hindrance_of(asked, device)
            if hindrance:
                raise ValueError(f"the {asked} kernel cannot be used: {hindrance}")
            return KernelChoice(asked, source)
    if device.type == "cpu":
        slow = library.hindrance()
        return KernelChoice("torch", f"native: {slow}") if slow else KernelChoice("native", f"with {library.fastest()}")
    if device.type != "cuda":
        return KernelChoice("torch", f"the device is {device}")
    hindrances = []
    for name in FUSED if torch.cuda.get_device_capability(device) >= HOPPER else FUSED[::-1]:
        hindrance = hindrance_of(name, device)
        if hindrance is None:
            return KernelChoice(name, f"fused, for {torch.cuda.get_device_name(device)}")
        hindrances.append(f"{name}: {hindrance}")
    return KernelChoice("torch", "; ".join(hindrances))


def hindrance_of(backend: str, device: torch.device) -> str | None:
    """Return why a backend does not run on a device; None if it does."""
    if backend == "native":
        return library.absence() if device.type == "cpu" else f"it needs a CPU, and the device is {device}"
    if backend not in FUSED:
        return None
    if find_spec(backend) is None:
        return f"{backend} is not installed"
    if backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if device.type != "cuda":
        return f"it needs a CUDA GPU, and the device is {device}"
    if torch.cuda.get_device_capability(device) < TENSOR_CORES:
        return f"{torch.cuda.get_device_name(device)} is older than compute capability 8.0"
    return None


def load(backend: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """Import a backend and return its search."""
    search: Callable[..., tuple[Tensor, Tensor]] = importlib.import_module(
        f".{BACKENDS[backend]}", __package__
    ).nearest_pixels
    return search
