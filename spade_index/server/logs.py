"""The log: one JSON object per line, and one record per request.

python-json-logger would need a subclass of the same length to write the same lines.
"""

import json
import logging
import time
from typing import Any, TextIO

from .exchange import Exchange
from .hosts import SAFE_METHODS
from .metrics import Metrics

access = logging.getLogger("spade_index.access")
log = logging.getLogger("spade_index.server")


class JsonLines(logging.Formatter):
    """Formats each log record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record, and its `fields`."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def log_to(stream: TextIO) -> None:
    """Write all logs of this process to a stream as JSON, those of libraries and warnings of Python too."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logging.getLogger().handlers = [handler]
    logging.captureWarnings(True)
    for name in ("spade_index", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # its warnings repeat what clients are answered


def note_request(exchange: Exchange, metrics: Metrics) -> None:
    """Log a request that has been answered, and count it."""
    seconds = time.perf_counter() - exchange.begun
    scope = exchange.scope
    route = getattr(scope.get("route"), "path", "other")
    method = exchange.method if exchange.method in (*SAFE_METHODS, "POST", "DELETE") else "other"
    metrics.requests.labels(method, route, str(exchange.status)).inc()
    metrics.request_seconds.labels(route).observe(seconds)
    client = scope.get("client")
    fields = {
        "request_id": exchange.id,
        "method": exchange.method,
        "path": scope["path"],
        "status": exchange.status,
        "seconds": round(seconds, 4),
        "client": client and client[0],
    }
    access.info("request", extra={"fields": fields})
