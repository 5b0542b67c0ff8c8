"""Workers of Ray that start at once: forks of one process that has imported what they need, as in `warm`.

Ray starts a worker by two interpreters, one after the other, and the worker imports torch: seconds of processor time.
In a cluster that is started inside `forking`, this file stands in for the first of them.
"""

import importlib
import json
import os
import random
import runpy
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOCKET = "SPADE_INDEX_TESTS_FORKS"  # variable that names it
DROPPED = ("--serialized-runtime-env-context", "--language")  # options of the file that this one stands in for
MESSAGE = 1 << 20  # bytes


@contextmanager
def forking(folder: Path) -> Iterator[None]:
    """Let workers of a cluster that is started inside be forks. Imports Ray, which reads the environment then."""
    import pytest  # here, since this file is run for each worker
    from ray._private import ray_constants

    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        listener.bind(str(folder / "forks"))
        listener.listen(64)
        command = [sys.executable, __file__, "serve", str(listener.fileno())]
        with subprocess.Popen(command, pass_fds=[listener.fileno()]) as forks:
            patch.setenv(SOCKET, str(folder / "forks"))
            patch.setattr(ray_constants, "SETUP_WORKER_FILENAME", __file__)  # absolute, so it is joined with no folder
            try:
                yield
            finally:
                forks.kill()


def ask() -> None:
    """Ask for a worker with the arguments of this process, and end with it."""
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith(DROPPED)]
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(os.environ[SOCKET])
        message = json.dumps([arguments, dict(os.environ), os.getcwd()]).encode()
        socket.send_fds(asking, [len(message).to_bytes(4)], [0, 1, 2])
        asking.sendall(message)
        asking.recv(1)  # when all copies of the other end are closed


def serve(listener: socket.socket) -> None:
    """Fork a worker for each that is asked for. It imports Ray itself, which takes what it is told from variables."""
    for name in ("checker", "searcher", "worker"):
        importlib.import_module(f"spade_index.cluster.{name}")
    assert "ray" not in sys.modules
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        asking, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            work(asking)
        asking.close()


def work(asking: socket.socket) -> None:
    """Be the worker that is asked for."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    length, streams, _, _ = socket.recv_fds(asking, 4, 3)
    message = b""
    while len(message) < int.from_bytes(length):
        message += asking.recv(MESSAGE)
    arguments, environment, folder = json.loads(message)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    random.seed()
    threading.Thread(target=end_with, args=[asking], daemon=True).start()
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
    os._exit(0)


def end_with(asking: socket.socket) -> None:
    """End when the process that has asked does: it is the one that Ray has started, and may kill."""
    asking.recv(1)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(socket.socket(fileno=int(sys.argv[2])))
    else:
        ask()
