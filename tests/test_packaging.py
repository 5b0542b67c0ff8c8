"""What is installed without a clone is complete: the tests themselves run on an editable installation."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = Path("benchmarks", "results")  # figures of the docs
SOURCES = {".cpp", ".h", ".inc"}  # of what is compiled


def test_an_installation_has_every_file_of_the_package(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", tmp_path]
    command += ["build_py", "--build-lib", tmp_path / "installed"]
    command += ["build_ext", "--build-lib", tmp_path / "installed", "--build-temp", tmp_path / "objects"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    assert files(tmp_path / "installed" / "spade_index") == files(ROOT / "spade_index")


def files(folder: Path) -> set[Path]:
    """Return the files below a folder and its links: neither results, nor sources, nor what Python caches."""
    tops = [folder, *(link for link in folder.iterdir() if link.is_symlink())]
    found = {file.relative_to(folder) for top in tops for file in top.rglob("*") if file.is_file()}
    found = {file for file in found if file.suffix not in SOURCES}
    return {file for file in found if "__pycache__" not in file.parts and RESULTS not in file.parents}
