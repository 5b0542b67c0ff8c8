"""Run the commands of pages exactly as they are written."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from helpers.tiny import random_image

FILES = ("part.jpg", "suspect.jpg", "good1.jpg", "good2.jpg")


def photographs(folder: Path) -> Path:
    """Write the photographs that the commands use; return their folder."""
    for number, name in enumerate(FILES):
        random_image(500 + number).save(folder / name)
    random_image(500).convert("L").save(folder / "part-mask.png")
    return folder


def run(commands: Sequence[str], folder: Path, **environment: str) -> list[tuple[int, str]]:
    """Run commands in one shell; return the exit status and output of each. curl fails on an HTTP error."""
    (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    script = "set -o pipefail\n"
    for number, command in enumerate(commands):
        script += f"{{\n{command}\n}} > .out.{number} 2>&1\necho $? > .status.{number}\n"
    variables = os.environ | {"CURL_HOME": str(folder)} | environment
    subprocess.run(["bash", "-c", script], cwd=folder, env=variables, check=True, timeout=120)
    return [
        (int((folder / f".status.{number}").read_text()), (folder / f".out.{number}").read_text(errors="replace"))
        for number in range(len(commands))
    ]
