"""The command line in poor surroundings: other encodings, closed streams, signals.

Some processes are started as a shell does; most are forks, which have no torch to import.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import pytest

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.images import find_images
from spade_index.images.loading import load_all
from spade_index.images.workers import limit_decoding, process
from spade_index.settings import DecodeLimits, Preprocessing

from helpers.cli_runs import BACKBONE, refused, write_normal
from helpers.warm import PROGRAM, Warm, ran

SIGNALLED = """
import itertools, os
from spade_index.images import loading

decoded, numbers = loading.decoded, itertools.count(1)

def signalled(*arguments):
    if next(numbers) == 190:
        os.kill(os.getpid(), %d)
    return decoded(*arguments)

loading.decoded = signalled
from spade_index.cli import main

main()
"""


def program(*arguments: object, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own; `shell` is what follows it on a shell's line."""
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments)]
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
    asked = ("query", built, odd, tmp_path / "list.txt", "--json", "--out")
    done = [program(*asked, tmp_path / "plain", **plain), ran(PROGRAM, *asked, tmp_path / "utf-8")]
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
    done = ran(PROGRAM, "query", built, odd, "--show-skipped", *option, PYTHONIOENCODING=encoding)
    assert "Traceback" not in done.stderr
    assert done.returncode == 1  # for the broken one
    assert len(done.stdout.splitlines()) == 2 + ("--csv" in option)
    assert "broken.png" in done.stderr
    if "--json" not in option:
        assert ("\\U0001f98a" in done.stdout) == (encoding == "latin-1")  # click writes UTF-8 in place of ASCII


def test_an_error_may_name_what_an_encoding_lacks(built: Path) -> None:
    done = ran(PROGRAM, "query", built, "🦊.png", PYTHONIOENCODING="latin-1")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


@pytest.mark.parametrize("closed", [(2,), (0,), (0, 2), (1,), (0, 1, 2), "by a shell"])
def test_a_command_works_without_standard_streams(odd: Path, tmp_path: Path, closed: Collection[int] | str) -> None:
    (odd / "notes.md").write_text("x")
    build = ("build", odd, tmp_path / "gallery", *BACKBONE)
    if isinstance(closed, str):
        done, closed = program(*build, shell=">&- 2>&- <&-"), (0, 1, 2)
    else:
        done = ran(PROGRAM, *build, closed=closed)
    assert done.returncode == 0
    assert done.stdout == ("" if 1 in closed else "2 added; 2 images at snapshot 1\n")
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
def test_a_signal_while_a_command_imports_is_no_exception_there(number: signal.Signals) -> None:
    """Of those that initialise themselves in C++, an exception would abort the process."""
    code = f"""
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where nohup started the tests

class Finder:
    def find_spec(self, name, *others):
        if name == "numpy":
            try:
                os.kill(os.getpid(), {number:d})
            except BaseException:
                os.abort()

from spade_index.cli import main
sys.meta_path.insert(0, Finder())
main()
"""
    ended = subprocess.run([sys.executable, "-c", code, "info", "missing"], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (128 + number, "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_keeps_what_was_done(tmp_path: Path, number: int) -> None:
    folder = write_normal(tmp_path / "images", 200)
    hanging_up = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # also where nohup started the tests
    with open(tmp_path / "said", "w+") as said:
        code = hanging_up + SIGNALLED % number
        process = Warm(code, "build", folder, tmp_path / "g", *BACKBONE, "--no-tune", stderr=said)
        assert process.wait(60) == 128 + number
        said.seek(0)  # the process has written to the same open file
        assert "what was committed is safe" in said.read()
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


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=["python", "torch", "threads", "system"],
)
def test_too_little_memory_is_one_line(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(Backbone, "stream", fails)
    images = write_normal(tmp_path / "images", 12)
    said = refused("build", images, tmp_path / "gallery", *BACKBONE, "--no-tune")
    assert said.startswith("too little memory")
    assert said.endswith("what was committed is safe, and the same command carries on")
