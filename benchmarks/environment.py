"""What a result must say of where it came from."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "faiss-cpu", "h5py", "numpy", "pillow")


def environment() -> dict[str, Any]:
    """Command, machine, versions and commit, in values that JSON knows."""
    return {
        "command": " ".join([*_program(), *sys.argv[1:]]),
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _git("rev-parse", "HEAD")
        + (" and changes" if _git("status", "--porcelain", "--untracked-files=no") else ""),
    }


def _program() -> list[str]:
    program = Path(sys.argv[0])
    return ["python", sys.argv[0]] if program.suffix == ".py" else [program.name]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str:
    folder = Path(__file__).parent
    try:
        result = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=folder, check=False)
    except OSError:  # no git: an installed package has no commit anyway
        return ""
    return result.stdout.strip()
