"""The names that README.md imports from `spade_index`, and what importing them costs."""

import subprocess
import sys
from pathlib import Path

import pytest

import spade_index

HEAVY = ("torch", "faiss", "h5py", "numpy", "PIL", "scipy", "jinja2", "fastapi")


@pytest.mark.parametrize("name", spade_index.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(spade_index, name).__module__.startswith("spade_index.")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Memory'"):
        _ = spade_index.Memory


@pytest.mark.parametrize("code", ["import spade_index", "from spade_index.cli import main"])
def test_heavy_packages_are_imported_only_when_they_are_used(code: str) -> None:
    program = f"{code}; import sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout.strip() == ""


@pytest.mark.parametrize("command", ["info", "list", "remove", "verify"])
def test_commands_that_compute_nothing_start_without_torch(command: str, gallery_path: Path) -> None:
    words = [command, str(gallery_path), *(["000.png"] if command == "remove" else [])]
    lines = ["from spade_index.cli import main", f"main({words}, standalone_mode=False)", "import sys"]
    program = "\n".join([*lines, "assert 'torch' not in sys.modules"])
    subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, timeout=60)
