"""The notebooks in examples/ run from top to bottom, and each ends with a picture.

Their cells run in this process, without Jupyter's kernel: three kernels would each spend seconds on importing torch.
What only a kernel knows (`!command`, `%magic`) is therefore not used in them.
"""

import ast
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.documents import ROOT

EXAMPLES = ROOT / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    """Return the cells of code."""
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


def shown(code: str, names: dict[str, Any]) -> Any:
    """Run a cell; return the value of its last line, which Jupyter shows."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_runs_and_ends_with_a_picture(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    names: dict[str, Any] = {"__name__": "__main__"}
    try:
        *_, picture = [shown("".join(cell["source"]), names) for cell in cells(notebook)]
        assert isinstance(picture, Image.Image)
        assert len(picture.convert("RGB").getcolors(1 << 24) or ()) > 100  # it is not empty
    finally:
        service = names.get("service")
        if isinstance(service, subprocess.Popen) and service.poll() is None:
            service.kill()
            service.communicate()


def test_notebooks_are_stored_without_outputs() -> None:
    assert len(NOTEBOOKS) == 3
    for notebook in NOTEBOOKS:
        assert not any(cell["outputs"] or cell["execution_count"] for cell in cells(notebook)), notebook.name
