"""A server of S3 on loopback, in this process: what obstore asks for, and faults on demand.

It knows one bucket and one access key, and compares neither signatures nor checksums.
"""

import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "parts"
KEY, SECRET = "AKIDOFTHETESTS", "a-secret-that-nothing-may-print"

Fault = Callable[["Handler"], bool]  # answers a request in place of the server, and returns True; or leaves it


@dataclass
class S3:
    """The state of the server."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)  # method and key
    fault: Fault = lambda handler: False

    def environment(self) -> dict[str, str]:
        """Return the variables by which clients find the server."""
        names = {"AWS_ENDPOINT_URL": self.url, "AWS_REGION": "us-east-1"}
        return {**names, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    def sent(self) -> list[str]:
        """Return the keys that were put, in order; a multipart upload counts when it is complete."""
        return [key for method, key in self.requests if method == "stored"]


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body comes with its head, and not 40 ms later
    state: S3

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""

    def handle_any(self) -> None:
        """Answer a request of any method."""
        parts = urlsplit(self.path)
        bucket, _, self.key = unquote(parts.path).lstrip("/").partition("/")
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.state.requests.append((self.command, self.key))
        if self.state.fault(self):
            return
        if f"Credential={KEY}/" not in self.headers.get("Authorization", ""):
            self.fail(403, "InvalidAccessKeyId")
        elif bucket != BUCKET:
            self.fail(404, "NoSuchBucket")
        else:
            getattr(self, f"answer_{self.command.lower()}")()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_any

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def fail(self, status: int, code: str) -> None:
        """Send an error."""
        self.reply(status, f"<Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode())

    def cut(self, length: int = 100) -> None:
        """Announce a body, send a part of it, and close."""
        self.send_response(200)
        for name, value in {"Content-Length": str(length), **self._facts(b"")}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(b"x")
        self.close_connection = True

    def _facts(self, data: bytes) -> dict[str, str]:
        return {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Last_Modified": "Sat, 01 Nov 2025 00:00:00 GMT"}

    def answer_get(self) -> None:
        """List objects, or send one, or a range of it."""
        if "list-type" in self.query:
            return self._list()
        data = self.state.objects.get(self.key)
        if data is None:
            return self.fail(404, "NoSuchKey")
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if found is None:
            return self.reply(200, data, **self._facts(data))
        start, end = int(found[1]), min(int(found[2]) + 1, len(data))
        if start >= len(data):
            return self.fail(416, "InvalidRange")
        place = f"bytes {start}-{end - 1}/{len(data)}"
        return self.reply(206, data[start:end], Content_Range=place, **self._facts(data))

    answer_head = answer_get

    def _list(self) -> None:
        prefix = self.query.get("prefix", "")
        rows = [
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>x</ETag>"
            "<LastModified>2025-11-01T00:00:00.000Z</LastModified></Contents>"
            for key, data in sorted(self.state.objects.items())
            if key.startswith(prefix)
        ]
        self.reply(200, f"<ListBucketResult>{''.join(rows)}</ListBucketResult>".encode())

    def answer_put(self) -> None:
        """Store an object, or a part of one."""
        if "partNumber" in self.query:
            self.state.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
            return self.reply(200, **self._facts(self.body))
        there = self.state.objects.get(self.key)
        known = None if there is None else self._facts(there)["ETag"]
        if (self.headers.get("If-None-Match") and known) or self.headers.get("If-Match", known) != known:
            return self.fail(412, "PreconditionFailed")
        return self._store(self.body)

    def _store(self, data: bytes) -> None:
        self.state.objects[self.key] = data
        self.state.requests.append(("stored", self.key))
        self.reply(200, **self._facts(data))

    def answer_post(self) -> None:
        """Begin or complete an upload in parts."""
        if "uploads" in self.query:
            upload = str(len(self.state.uploads))
            self.state.uploads[upload] = {}
            xml = f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            return self.reply(200, xml.encode())
        parts = self.state.uploads.pop(self.query["uploadId"])
        self.state.objects[self.key] = b"".join(parts[number] for number in sorted(parts))
        self.state.requests.append(("stored", self.key))
        xml = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        return self.reply(200, xml.encode())

    def answer_delete(self) -> None:
        """Give up an upload."""
        self.state.uploads.pop(self.query.get("uploadId", ""), None)
        self.reply(204)


@contextmanager
def s3_server() -> Iterator[S3]:
    """Run a server until the block ends."""
    state = S3()
    handler: Any = type("BoundHandler", (Handler,), {"state": state})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        state.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield state
        server.shutdown()
        thread.join(10)


def times(count: int, fault: Callable[[Handler], None], method: str = "", part: str = "") -> Fault:
    """Return a fault that meets the first `count` requests of a method whose key has this part."""
    left = [count]

    def meet(handler: Handler) -> bool:
        if not left[0] or (method and handler.command != method) or part not in handler.key:
            return False
        left[0] -= 1
        fault(handler)
        return True

    return meet


def silent(seconds: float) -> Callable[[Handler], None]:
    """Return a fault that says nothing for some seconds, and closes."""

    def wait(handler: Handler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return wait
