"""Processes of Python that start at once: forks of one that has imported what the commands need.

Importing torch takes seconds. A test whose process is about what it does, and not about how Python starts, uses these.
"""

import atexit
import os
import signal
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, reduction
from multiprocessing.connection import wait
from subprocess import CompletedProcess, TimeoutExpired
from tempfile import TemporaryFile
from typing import IO, Any, Protocol

PROGRAM = "from spade_index.cli import main; main()"
IMPORTED = [
    "efficientnet_lite_pytorch",
    "spade_index.cli.add",
    "spade_index.gallery.opening",
    "spade_index.gallery.remote.store",
    "spade_index.gallery.write.writer",
    "spade_index.method.detector",
    "spade_index.method.tuning",
    "spade_index.server.app",
    "uvicorn",
]
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(IMPORTED)


class HasFile(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Return its descriptor."""


@dataclass(frozen=True)
class Streams:
    """Descriptors by the number that they get in the process; None closes one. They travel with the arguments."""

    files: Mapping[int, int | None]

    def __reduce__(self) -> Any:
        sent = {number: None if file is None else reduction.DupFd(file) for number, file in self.files.items()}
        return _received, (sent,)


def _received(files: dict[int, Any]) -> Streams:
    return Streams({number: None if file is None else file.detach() for number, file in files.items()})


class Warm:
    """A process that runs code, as `python -c` does; used like a `subprocess.Popen`."""

    def __init__(
        self,
        code: str,
        *arguments: object,
        stdin: HasFile | None = None,
        stdout: HasFile | None = None,
        stderr: HasFile | None = None,
        closed: Collection[int] = (),
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """Start it. A stream that is not given is /dev/null, unless its number is among those that are `closed`."""
        with open(os.devnull, "r+b") as null:
            files = [(file or null).fileno() for file in (stdin, stdout, stderr)]
            streams = Streams({number: None if number in closed else file for number, file in enumerate(files)})
            given = (code, [str(argument) for argument in arguments], dict(environment), os.getcwd(), streams)
            self._process = FORKS.Process(target=_run, args=given, daemon=True)
            self._process.start()

    def __enter__(self) -> "Warm":
        return self

    def __exit__(self, *exception: object) -> None:
        self.wait()

    @property
    def pid(self) -> int:
        """The number of the process."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """The status it ended with, negative for a signal; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the status if it has ended."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end; return the status. Raises TimeoutExpired."""
        if not wait([self._process.sentinel], timeout):
            raise TimeoutExpired(str(self._process), timeout or 0)
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def ran(
    code: str, *arguments: object, given: str = "", closed: Collection[int] = (), **environment: str
) -> CompletedProcess[str]:
    """Run code in a process, with what it is given on standard input; return its end and what it printed."""
    with TemporaryFile() as stdin, TemporaryFile() as stdout, TemporaryFile() as stderr:
        stdin.write(given.encode())
        stdin.seek(0)
        streams = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
        process = Warm(code, *arguments, **streams, closed=closed, environment={**os.environ, **environment})
        try:
            status = process.wait(120)
        finally:
            process.kill()
        return CompletedProcess([code, *arguments], status, _read(stdout), _read(stderr))


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _run(code: str, arguments: list[str], environment: dict[str, str], folder: str, streams: Streams) -> None:
    """Run code as a new interpreter would."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, (file, name) in enumerate(zip(streams.files.values(), ("stdin", "stdout", "stderr"), strict=True)):
        setattr(sys, name, None)
        os.close(number)
        if file is not None:
            os.dup2(file, number)
            os.close(file)
            encoding, errors = environment.get("PYTHONIOENCODING"), "backslashreplace" if number == 2 else None
            setattr(sys, name, os.fdopen(number, "w" if number else "r", 1, encoding, errors, closefd=False))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    finally:
        atexit._run_exitfuncs()
