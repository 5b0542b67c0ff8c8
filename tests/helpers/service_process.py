"""`spade-index serve` in a process of its own, which tests kill."""

import json
import re
import signal
import time
from pathlib import Path
from typing import Any

import httpx

from .http_answers import finished
from .waiting import PATIENCE, eventually
from .warm import PROGRAM, Warm


class Process:
    """A running `spade-index serve`. Use as a context manager."""

    def __init__(self, root: Path, *options: str, before: str = "") -> None:
        """Start it; `before` is Python code that the process runs first."""
        self._log = root.with_name(f"{root.name}-{time.monotonic_ns()}.log")
        with open(self._log, "wb") as log:
            self.process = Warm(before + PROGRAM, "serve", root, "--port", 0, "--device", "cpu", *options, stderr=log)
        try:
            eventually(lambda: self._listening() or self.process.poll() is not None, 2 * PATIENCE)
            assert self.process.poll() is None, self.log_text()
            self.port = int(self._listening()[1])
        except BaseException:
            self.process.kill()
            raise
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", timeout=PATIENCE, verify=False
        )  # or loads certificates

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.close()
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL and wait for the end."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def terminate(self) -> None:
        """Send SIGTERM and wait for the end."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(PATIENCE)

    def finished(self, job: str, *, state: str = "done", **options: Any) -> dict[str, Any]:
        """Wait until a job has this state; return it."""
        return finished(self.http, job, state=state, **options)

    def log_text(self) -> str:
        """Return the standard error of the process."""
        return self._log.read_text()

    def log(self) -> list[dict[str, Any]]:
        """Return the records of the JSON log."""
        return [json.loads(line) for line in self.log_text().splitlines()]

    def _listening(self) -> Any:
        return re.search(r"listening on http://127\.0\.0\.1:(\d+)", self.log_text())
