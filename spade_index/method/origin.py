"""Where figures come from: the machine, and the versions of Python and of the packages that make them."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("spade-index", "torch", "torchvision", "faiss-cpu", "h5py", "numpy", "pillow")


def origin(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """Return the machine and the versions of Python and `packages`, ready for JSON; null: not installed."""
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in packages},
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    return next((found.version for found in importlib.metadata.distributions(name=name)), None)
