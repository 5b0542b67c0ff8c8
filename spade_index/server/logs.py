"""The log: JSON, one line a record, and one record a request."""

import json
import logging
import time
from typing import Any

from .exchange import Exchange
from .hosts import SAFE_METHODS
from .metrics import Metrics

access = logging.getLogger("spade_index.access")
log = logging.getLogger("spade_index.server")


class JsonLines(logging.Formatter):
    """Formats log records as JSON, one a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record, with the fields of its `told`."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "told", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def note_request(exchange: Exchange, metrics: Metrics) -> None:
    """Log a request that has been answered, and count it."""
    seconds = time.perf_counter() - exchange.begun
    scope = exchange.scope
    route = getattr(scope.get("route"), "path", "other")
    method = exchange.method if exchange.method in (*SAFE_METHODS, "POST", "DELETE") else "other"
    metrics.requests.labels(method, route, str(exchange.status)).inc()
    metrics.request_seconds.labels(route).observe(seconds)
    client = scope.get("client")
    told = {
        "request_id": exchange.id,
        "method": exchange.method,
        "path": scope["path"],
        "status": exchange.status,
        "seconds": round(seconds, 4),
        "client": client and client[0],
    }
    access.info("request", extra={"told": told})
