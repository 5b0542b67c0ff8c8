"""A service in this process, whose backbone tests watch and hold."""

import re
import threading
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from spade_index.method.pixel_search import Elsewhere
from spade_index.server.app import create_app
from spade_index.server.galleries import LoadBackbone
from spade_index.server.http_protocol import protocol_options
from spade_index.server.keys import Keys, read_keys
from spade_index.server.middleware import Limits
from spade_index.server.settings import ServeSettings
from spade_index.server.verdicts import Outlet

from .connection import Connection
from .http_answers import finished
from .waiting import PATIENCE, eventually
from .watched_backbone import Watch


class Server:
    """A service in a thread of this process, on a free port of the loopback interface."""

    def __init__(
        self,
        root: Path,
        keys: str = "",
        load: LoadBackbone | None = None,
        elsewhere: Elsewhere | None = None,
        outlet: Outlet | None = None,
        **settings: Any,
    ) -> None:
        """`keys` are lines as in a file of API keys; `settings` are ServeSettings'."""
        self.watch = Watch()
        self.settings = ServeSettings(root=root, **{"head_seconds": 3, "batch_window": 0.002} | settings)
        known = read_keys(None, {"SPADE_INDEX_API_KEYS": keys}) if keys else Keys([])
        self.app = create_app(self.settings, known, load or self.watch.load, elsewhere, outlet)
        self.service = self.app.state.service
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                self.app,
                host="127.0.0.1",
                port=0,
                log_config=None,
                **protocol_options(self.settings, self.service.metrics),
            )
        )
        self._thread = threading.Thread(target=self._uvicorn.run, daemon=True)
        self._thread.start()
        eventually(lambda: self._uvicorn.started or not self._thread.is_alive())
        self.port: int = self._uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE, verify=False)  # or loads certificates

    def stop(self) -> None:
        """Drain the requests and stop."""
        self.http.close()
        self._uvicorn.should_exit = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def connect(self) -> Connection:
        """Open a raw connection."""
        return Connection(self.port)

    def query(self, gallery: str, data: bytes, **parameters: Any) -> dict[str, Any]:
        """Query one image; return its result."""
        answer = self.http.post(f"/v1/galleries/{gallery}/query", content=data, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()["results"][0]

    def wait_until_waiting(self, images: int) -> None:
        """Wait until at least this number of images is decoded and queued."""
        eventually(lambda: len(self.service.engine._waiting) >= images)

    def age_waiting(self, seconds: float) -> None:
        """Let the images that are queued have waited for some seconds more."""
        for ask in self.service.engine._waiting:
            ask.arrived -= seconds

    def middleware_held(self) -> int:
        """Return the bytes of request bodies in memory."""
        layer = self.app.middleware_stack
        while not isinstance(layer, Limits):
            layer = layer.app
        return layer.bodies.held

    def metric(self, line: str) -> float:
        """Return the value of a metric by its name and labels, as Prometheus writes them; 0 if it was never set."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def finished(self, job: str, *, state: str = "done", **options: Any) -> dict[str, Any]:
        """Wait until a job has this state; return it."""
        return finished(self.http, job, state=state, **options)
