"""A Label Studio from its package, in an environment of its own, with its embedded database, on loopback."""

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx

from .waiting import PATIENCE, eventually

START_SECONDS = 300  # its database is made by hundreds of migrations
USER, PASSWORD, TOKEN = "someone@example.org", "a-password-of-tests", "0123456789abcdef0123456789abcdef01234567"


class LabelStudio:
    """A running Label Studio. Use as a context manager."""

    def __init__(self, program: Path, folder: Path) -> None:
        """Start `program`, which keeps everything in a folder. It may connect to loopback."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.python = program.with_name("python")
        self._log = folder / "log"
        settings = {
            "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
            "LABEL_STUDIO_USERNAME": USER,
            "LABEL_STUDIO_PASSWORD": PASSWORD,
            "LABEL_STUDIO_USER_TOKEN": TOKEN,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
            "ML_BLOCK_LOCAL_IP": "false",
            "SSRF_PROTECTION_ENABLED": "false",
            "COLLECT_ANALYTICS": "false",
            "LATEST_VERSION_CHECK": "false",
            "SENTRY_DSN": "",
            "FRONTEND_SENTRY_DSN": "",
        }
        command = [str(program), "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(self.port)]
        with open(self._log, "wb") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, env=os.environ | settings, start_new_session=True
            )
        self._http = httpx.Client(
            base_url=self.url, headers={"Authorization": f"Token {TOKEN}"}, timeout=4 * PATIENCE, follow_redirects=True
        )

    def __enter__(self) -> "LabelStudio":
        try:
            eventually(self._is_up, START_SECONDS)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._http.close()
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(PATIENCE)

    def ask(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Return the answer of the API."""
        answer = self._http.request(method, path, json=body, **options)
        assert answer.is_success, (answer.status_code, answer.text[:2000])
        return answer.json() if answer.content else None

    def project(self, config: str) -> int:
        """Make a project; return its number."""
        return int(self.ask("POST", "/api/projects", {"title": "tiles", "label_config": config})["id"])

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """Return the tasks of a project, in the order in which they were made."""
        told = self.ask("GET", "/api/tasks", params={"project": project, "fields": "all"})
        return sorted(told["tasks"], key=lambda task: task["id"])

    def upload(self, project: int, name: str, data: bytes) -> None:
        """Make a task of an image file."""
        files = {"file": (name, data, "image/png")}
        answer = self._http.post(f"/api/projects/{project}/import", files=files)
        assert answer.is_success, answer.text

    def predict(self, project: int) -> list[dict[str, Any]]:
        """Retrieve predictions of all tasks; return the latest of each."""
        every = {"selectedItems": {"all": True, "excluded": []}}
        self.ask("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", every)
        return [max(task["predictions"], key=lambda one: one["id"]) for task in self.tasks(project)]

    def decoded(self, packed: list[int]) -> bytes:
        """Return the values of a brush mask, as Label Studio's own converter reads it."""
        code = "import json, sys; from label_studio_sdk.converter.brush import decode_rle; "
        code += "sys.stdout.buffer.write(decode_rle(json.load(sys.stdin)).tobytes())"
        ran = subprocess.run(
            [str(self.python), "-c", code], input=str(packed).encode(), capture_output=True, timeout=PATIENCE * 4
        )
        assert ran.returncode == 0, ran.stderr.decode()[-2000:]
        return ran.stdout

    def _is_up(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            return self._http.get("/health").is_success
        except httpx.TransportError:
            return False
