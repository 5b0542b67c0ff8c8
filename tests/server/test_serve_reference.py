"""Tests of docs on the service: serve.md, feedback.md, protocols.md, operate.md, and README.md's section.

What they show works, and what they list is all.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from spade_index.cli import main
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.interest import RegionOfInterest
from spade_index.server.settings import ServeSettings
from spade_index.server.verdicts import Outlet
from spade_index.sinks.lines import JsonLines
from spade_index.sinks.spool import Spool

from helpers.commands import photographs, run
from helpers.documents import ROOT, blocks, statements
from helpers.serving import Server
from helpers.tiny import png

USE = (ROOT / "docs" / "serve.md").read_text()
FEEDBACK = (ROOT / "docs" / "feedback.md").read_text()
PROTOCOLS = (ROOT / "docs" / "protocols.md").read_text()
REFERENCE = (ROOT / "docs" / "operate.md").read_text()
README = (ROOT / "README.md").read_text().partition("## As a service")[2].partition("\n## ")[0]
ADDRESS = "127.0.0.1:8765"


@pytest.fixture
def tiles(serve: Callable[..., Server], root: Path) -> Server:
    """A service with the galleries that the examples are about."""
    shutil.copytree(root / "calibrated", root / "tiles")
    shutil.copytree(root / "calibrated", root / "boards")
    with GalleryWriter(root / "boards") as writer:
        writer.set_interest(RegionOfInterest(np.array([[True]]), "all of it"))
    return serve()


def test_every_command_works(tiles: Server, tmp_path: Path) -> None:
    commands = [line for block in blocks(USE + FEEDBACK + PROTOCOLS + REFERENCE, "bash") for line in statements(block)]
    shown = [line for block in blocks(README, "bash") for line in statements(block)]
    commands += [line for line in shown if line.startswith("curl ")]
    commands = [line for line in commands if not line.startswith("spade-index ")]  # tests/docs runs these
    assert len(commands) > 20
    here = [command.replace(ADDRESS, f"127.0.0.1:{tiles.port}") for command in commands]
    for command, (status, output) in zip(here, run(here, photographs(tmp_path)), strict=True):
        assert status == 0, (command, output)
    assert "new/good2.jpg" in tiles.http.get("/v1/galleries/tiles/images").text


@pytest.mark.parametrize("text", [USE, PROTOCOLS, README], ids=["serve.md", "protocols.md", "README"])
def test_every_python_example_works(tiles: Server, tmp_path: Path, text: str) -> None:
    examples = blocks(text, "python")
    assert examples
    for example in examples:
        code = example.replace(ADDRESS, f"127.0.0.1:{tiles.port}")
        subprocess.run([sys.executable, "-c", code], cwd=photographs(tmp_path), check=True, timeout=120)
    assert (tmp_path / "overlay.png").is_file() == (text != PROTOCOLS)


def test_all_options_are_documented_with_their_defaults() -> None:
    shown = CliRunner().invoke(main, ["serve", "--help"], terminal_width=10_000).output
    options = re.findall(r"^  (--[a-z-]+)", shown, re.MULTILINE)
    assert len(options) > 20
    for option in options:
        assert f"`{option}`" in REFERENCE, option
    defaults = dict(re.findall(r"^  (--[a-z-]+) .*\[default: ([^;\]]+)", shown, re.MULTILINE)) | {"--device": None}
    listed = dict(re.findall(r"^\| `(--[a-z-]+)` \| (\S+) \|", REFERENCE, re.MULTILINE))
    assert {option: defaults.get(option) for option in listed} == listed


def test_all_metrics_are_documented(serve: Callable[..., Server], tmp_path: Path) -> None:
    with Spool(tmp_path / "state", 1 << 20) as spool:
        with_sink = serve(outlet=Outlet(spool, [JsonLines(tmp_path / "verdicts.jsonl")]))
        with_sink.query("plain", png(1))
        families = re.findall(r"^# TYPE (\S+)", with_sink.http.get("/metrics").text, re.MULTILINE)
        with_sink.stop()
    section = REFERENCE.partition("## Metrics")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`(spade_index_[a-z_]+)`", section))
    assert listed == {name for name in families if not name.endswith("_created")}


def test_the_idle_time_of_galleries_is_documented() -> None:
    assert f"nobody used for {ServeSettings(Path()).idle_seconds / 60:g} minutes" in REFERENCE
