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
from spade_index.images import find_images
from spade_index.images.loading import load_all
from spade_index.images.workers import limit_decoding, process
from spade_index.settings import DecodeLimits, Preprocessing

from helpers.cli_runs import BACKBONE, write_normal

SLOW = """
import time
from spade_index.images import loading

decoded = loading.decoded
loading.decoded = lambda *arguments: (time.sleep(0.02), decoded(*arguments))[1]
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


def test_files_have_the_same_names_where_the_locale_is_not_of_utf_8(built: Path, odd: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("images/🦊.png\n", encoding="utf-8")
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = [
        program("query", built, odd, tmp_path / "list.txt", "--out", tmp_path / kind, "--json", **environment)
        for kind, environment in (("plain", plain), ("utf-8", {"PYTHONUTF8": "1"}))
    ]
    assert [each.stderr for each in done] == ["", ""]
    assert len(done[0].stdout.splitlines()) == 3
    assert done[0].stdout == done[1].stdout.replace(f"{tmp_path}/utf-8/", f"{tmp_path}/plain/")
    assert "\\ud83e\\udd8a" in done[0].stdout
    names = [sorted(os.walk(os.fsencode(tmp_path / kind))) for kind in ("plain", "utf-8")]
    assert [where[2] for where in names[0]] == [where[2] for where in names[1]]


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


def test_an_interrupt_before_a_command_begins_is_silent() -> None:
    code = """
import os, signal, sys

class Finder:
    def find_spec(self, name, *others):
        if name == "click":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
from spade_index.cli import main
"""
    # a shell starts what runs in the background with interrupts ignored, and so may whoever runs the tests
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n" + code
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_keeps_what_was_done(tmp_path: Path, number: int) -> None:
    folder = write_normal(tmp_path / "images", 200)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, "build", str(folder), str(tmp_path / "g"), *BACKBONE, "--no-tune"],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # also where nohup started the tests
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


def test_processes_that_cannot_be_started_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    limit_decoding(DecodeLimits(seconds=17))  # none is running
    monkeypatch.setattr(process.subprocess, "Popen", full)
    files = find_images(write_normal(tmp_path / "images", 2))
    with pytest.raises(
        InputError, match=r"processes cannot be started \(Resource temporarily unavailable\).*--workers"
    ):
        list(load_all(files, Preprocessing(), workers=1, ahead=2, on_error=pytest.fail))
    limit_decoding(DecodeLimits())


@pytest.mark.parametrize("command", [["--help"], ["query", "--help"], ["--version"]], ids=" ".join)
def test_help_that_cannot_be_printed_is_one_line(command: list[str]) -> None:
    done = program(*command, shell="> /dev/full")
    assert done.stderr == "spade-index: input or output: No space left on device\n"
    assert done.returncode == 1
