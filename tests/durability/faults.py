"""Operations in which writes fail: by a preloaded library (faults.c), or by a limit on the size of files.

The shim is preloaded into a server, a Python process that has imported everything and forks a child for every
operation. Without a compiler there are only limits.
"""

import ctypes
import faulthandler
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from durability.model import Operation

KINDS = ["nothing", "EIO", "ENOSPC", "half is written", "half is written and the disk full", "disk full"]  # faults.c
LIMITED = "limit"  # of the size of files
NEVER = 1 << 60
LATEST = 8  # numbers of calls that are kept for each kind of operation
PATIENCE = 300  # seconds until an operation counts as hanging; none takes one second


@dataclass(frozen=True)
class Outcome:
    """Result of an operation with a failing write."""

    fault: str
    well: bool
    hit: bool  # whether the fault happened before the end
    calls: int  # of functions that write to a file of the gallery
    error: str = ""

    def __str__(self) -> str:
        return f"{self.fault}{'' if self.hit else ' (not reached)'}: {'done' if self.well else self.error}"


class FaultServer:
    """Runs operations with failing writes in child processes."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self._library = compiled(self._folder)
        self._calls: dict[str, list[int]] = {}
        self._server: subprocess.Popen[str] | None = None

    def run(self, operation: Operation, path: Path, rng: random.Random) -> Outcome:
        """Run an operation. Raises AssertionError unless it succeeds, or ends with a StorageError of one line."""
        calls = self._calls.setdefault(operation.kind, [])
        kind, at = rng.randrange(1, len(KINDS) + 1), rng.random()
        largest = max((file.stat().st_size for file in path.rglob("*") if file.is_file()), default=50_000)
        if kind == len(KINDS) or not self._library:
            fault, number, limit = f"files of at most {int(at * largest)} bytes", NEVER, int(at * largest)
        elif not calls:
            fault, kind, number, limit = "none", 0, NEVER, -1
        else:
            number, limit = 1 + int(at * mean(calls[-LATEST:])), -1
            fault = f"{KINDS[kind]} at call {number}"
        request = {"operation": asdict(operation), "path": str(path), "kind": kind, "number": number, "limit": limit}
        answer = self._asked(request)
        outcome = Outcome(fault, answer["error"] is None, answer["hit"], answer["calls"], str(answer["error"]))
        if outcome.well and limit < 0:
            calls.append(outcome.calls)
        assert answer["error"] is None or answer["refused"], f"{operation} ended badly ({fault}): {answer['error']}"
        assert outcome.well or outcome.hit, f"{operation} failed without a fault: {outcome}"
        return outcome

    def start(self) -> None:
        """Start the server unless it runs; it takes seconds."""
        if self._server is None:
            preload = {"LD_PRELOAD": str(self._library)} if self._library else {}
            self._server = subprocess.Popen(
                [sys.executable, "-m", "durability.faults", str(self._library or "")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | preload | {"PYTHONPATH": os.pathsep.join(sys.path)},
                text=True,
            )

    def _asked(self, request: dict[str, Any]) -> dict[str, Any]:
        self.start()
        assert self._server is not None
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        line = self._server.stdout.readline()
        assert line, "the server of faults is gone"
        return json.loads(line)

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait()
        shutil.rmtree(self._folder)


def compiled(folder: Path) -> Path | None:
    """Compile the library; return None if there is no compiler."""
    library, compiler = folder / "faults.so", shutil.which("cc")
    if compiler is None:
        return None
    source = Path(__file__).with_name("faults.c")
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def serve(library: str) -> None:
    """Answer every line of standard input, a request, with a line that says how it ended."""
    import faiss
    import torch

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    os.environ.pop("LD_PRELOAD", None)  # not for child processes of other programs
    shim = ctypes.CDLL(library) if library else None
    for line in sys.stdin:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            answer = {"hit": False, "calls": 0, "refused": False, "error": "it did not come to its end"}
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            try:
                answer = performed(json.loads(line), shim)
            finally:
                os.write(writing, json.dumps(answer).encode())
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read().decode()
        _, status = os.waitpid(pid, 0)
        died = {"hit": True, "calls": 0, "refused": False, "error": f"it died ({status})"}
        print(said if said else json.dumps(died), flush=True)


def performed(request: dict[str, Any], shim: Any) -> dict[str, Any]:
    """Run an operation in which one write fails."""
    from spade_index.errors import StorageError

    operation, path = Operation(**request["operation"]), Path(request["path"])
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    if request["limit"] >= 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["limit"], unlimited[1]))
    if shim:
        shim.faults_arm(ctypes.c_long(request["number"]), request["kind"] % len(KINDS), os.fsencode(path))
    error, refused = None, False
    try:
        operation.perform(path)
    except StorageError as raised:
        error = str(raised)
        refused = "\n" not in error and str(path) in error
    except BaseException:
        error = traceback.format_exc()
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    calls, hits = (shim.faults_calls(), shim.faults_hits()) if shim else (0, 0)
    if request["limit"] >= 0:
        hits = error is not None  # a refused write without consequences cannot be seen
    return {"hit": bool(hits), "calls": calls, "refused": refused, "error": error}


if __name__ == "__main__":
    serve(sys.argv[1])
