"""The command line in poor surroundings: other encodings, closed streams, signals."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.gallery import Gallery
from spade_index.images import find_images, loading
from spade_index.images.loading import load_all
from spade_index.settings import Preprocessing

from helpers.cli_runs import BACKBONE, write_normal

SLOW = """
import time
from spade_index.images import loading

load = loading.load
loading.load = lambda *arguments: (time.sleep(0.02), load(*arguments))[1]
from spade_index.cli import main

main()
"""
PROGRAM = [sys.executable, "-c", "from spade_index.cli import main; main()"]


def program(*arguments: object, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; `shell` is what follows it on a shell's line."""
    command = [*PROGRAM, *map(str, arguments)]
    line = ["bash", "-c", f'"$@" {shell}', "bash", *command]
    return subprocess.run(line, capture_output=True, text=True, errors="replace", env=os.environ | environment)


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder of two images with names that few encodings have."""
    folder = write_normal(tmp_path / "images", 2)
    (folder / "000.png").rename(folder / "🦊.png")
    (folder / "001.png").rename(os.path.join(os.fsencode(folder), b"caf\xe9.png").decode("utf-8", "surrogateescape"))
    return folder


@pytest.mark.parametrize(
    ("encoding", "option"),
    [("latin-1", []), ("latin-1", ["--json"]), ("latin-1", ["--csv", "-"]), ("ascii", []), ("utf-8", [])],
    ids=str,
)
def test_names_that_an_encoding_lacks_are_escaped(built: Path, odd: Path, encoding: str, option: list[str]) -> None:
    (odd / "broken.png").write_bytes(b"")
    (odd / "🦊.md").write_bytes(b"")
    done = program("query", built, odd, "--show-skipped", *option, PYTHONIOENCODING=encoding)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1  # for the broken one
    assert len(done.stdout.splitlines()) == 2 + ("--csv" in option)
    assert "broken.png" in done.stderr
    if "--json" not in option:
        assert ("\\U0001f98a" in done.stdout) == (encoding == "latin-1")  # click writes UTF-8 in place of ASCII


def test_an_error_may_name_what_an_encoding_lacks(built: Path) -> None:
    done = program("query", built, "🦊.png", PYTHONIOENCODING="latin-1")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize("closed", ["2>&-", "<&-", "2>&- <&-", ">&-", ">&- 2>&- <&-"])
def test_a_command_works_without_standard_streams(odd: Path, tmp_path: Path, closed: str) -> None:
    (odd / "notes.md").write_text("x")
    done = program("build", odd, tmp_path / "gallery", *BACKBONE, shell=closed)
    assert done.returncode == 0
    assert done.stdout == ("" if ">&- " in f" {closed} ".replace("2>&- ", "") else "2 added; 2 images at snapshot 1\n")
    with Gallery(tmp_path / "gallery") as gallery:
        assert len(gallery) == 2
        assert list(gallery.verify()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_keeps_what_was_done(tmp_path: Path, number: int) -> None:
    folder = write_normal(tmp_path / "images", 200)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "build", str(folder), str(tmp_path / "g"), *BACKBONE, "--no-tune"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list((tmp_path / "g" / "shards").glob("*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert "what was committed is safe" in said
    assert process.returncode == {signal.SIGINT: 1}.get(number, 128 + number)
    with Gallery(tmp_path / "g") as gallery:  # less than a shard
        assert 0 < len(gallery) < 200
        assert list(gallery.verify()) == []


def test_shared_memory_that_is_full_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loading, "ProcessPoolExecutor", full)
    files = find_images(write_normal(tmp_path / "images", 2))
    with pytest.raises(InputError, match=r"processes cannot be started \(No space left on device\).*/dev/shm"):
        list(load_all(files, Preprocessing(), workers=1, ahead=2, on_error=pytest.fail, processes=True))
