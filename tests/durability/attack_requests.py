"""Hostile requests of the campaign: mutated images, tensors, JSON, forms and heads; slow, cut and half-open ones.

Each is made by a generator of random numbers: the seed and its number make it again.
"""

import base64
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from helpers.mutations import FORMATS, MUTATE, originals
from helpers.tiny import png

READER, WRITER = "reader-0123456789-abc", "writer-0123456789-abc"  # of gallery `tiles`, and of `bolts`
KEYS = {"tiles": READER, "bolts": WRITER}
TARGETS = [
    "/v1",
    "/v1/galleries",
    "/v1/galleries/tiles",
    "/v1/galleries/bolts/images",
    "/v1/jobs",
    "/v1/results/nothing/overlay.png",
    "/v2/models/tiles",
    "/v2/models/bolts/stats",
    "/v2/models/tiles/config",
    "/metrics",
    "/openapi.json",
    "/",
    "/v1/galleries/../../etc/passwd",
    "/v1/galleries/%2e%2e%2f%2e%2e/images",
    "http://127.0.0.1/v1/galleries",
    "*",
]


@dataclass(frozen=True)
class Hostile:
    """One request: the bytes to send, and how."""

    kind: str
    data: bytes
    gallery: str | None = None  # that its key may read, if it has one
    manner: str = "whole"  # or slow, cut, half-open, unread


def head(rng: random.Random, path: str, length: int | None, key: str | None, **headers: str) -> bytes:
    """Return the head of a POST with a key; some are given in chunks or with a wrong length."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"Authorization: Bearer {key}"] if key else []
    if length is not None:
        lines.append(f"Content-Length: {max(0, length + rng.choice([0] * 20 + [-1, 1, 1000]))}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def whole(rng: random.Random, path: str, body: bytes, gallery: str | None, **headers: str) -> bytes:
    """Return a request with the key of a gallery, without one, or with an unknown one."""
    key = rng.choice([None, "unknown-0123456789-abc"]) if gallery is None else KEYS[gallery]
    return head(rng, path, len(body), key, **headers) + body


def some_gallery(rng: random.Random) -> str | None:
    """Return the gallery whose key a request has; None for no key, or an unknown one."""
    return rng.choice(["tiles"] * 4 + ["bolts"] * 4 + [None])


def asked(rng: random.Random, gallery: str | None) -> str:
    """Return the gallery that a request is for: mostly the one of its key."""
    return gallery if gallery and rng.random() < 0.8 else rng.choice([*KEYS])


def mutated(rng: random.Random, data: bytes) -> bytes:
    """Return data that was changed in one of the ways."""
    others = [png(1), b"GIF89a" + bytes(50), b'{"inputs": [' + bytes(30)]
    return rng.choice(MUTATE)(bytearray(data.ljust(16, b" ")), rng, others) or b"\0"


@cache
def image_files() -> list[bytes]:
    """Return files of all formats."""
    return [file for format in FORMATS for file in originals(format)]


def image(rng: random.Random) -> Hostile:
    gallery = some_gallery(rng)
    of = asked(rng, gallery)
    path = rng.choice(["query", "query?maps=always", "score-map?format=heat", "query?threshold=nan", "query?x=1"])
    kind = rng.choice(["image/png", "application/octet-stream", "image/x", "text/plain"])
    body = mutated(rng, rng.choice(image_files()))
    return Hostile("image", whole(rng, f"/v1/galleries/{of}/{path}", body, gallery, Content_Type=kind), gallery)


def tensor(rng: random.Random) -> Hostile:
    gallery = some_gallery(rng)
    of = asked(rng, gallery)
    entry: dict[str, Any] = {"name": "image", "datatype": "BYTES", "shape": [1]}
    if rng.random() < 0.5:
        data = png(rng.randrange(20))
        entry["parameters"] = {"binary_data_size": len(data) + 4}
        text = json.dumps({"inputs": [entry]}).encode()
        headers = {"Inference_Header_Content_Length": str(len(text) + rng.choice([0, 0, 0, -1, 1, 10**6]))}
        body = text + len(data).to_bytes(4, "little") + data
    elif rng.random() < 0.5:
        entry |= {"data": [base64.b64encode(png(rng.randrange(20))).decode()]}
        body, headers = json.dumps({"inputs": [entry], "id": "x" * rng.choice([1, 5000])}).encode(), {}
    else:
        size = rng.choice([1, 3, 40])
        data_of: list[Any] = [rng.choice([0, 7, 300, -1, 0.5, None, "x" * 1000]) for _ in range(size)] * 100
        entry |= {"name": "pixels", "datatype": "UINT8", "shape": [1, 10, size, 10], "data": data_of}
        body, headers = json.dumps({"inputs": [entry]}).encode(), {}
    body = mutated(rng, body) if rng.random() < 0.7 else body
    return Hostile("tensor", whole(rng, f"/v2/models/{of}/infer", body, gallery, **headers), gallery)


def json_text(rng: random.Random) -> Hostile:
    gallery = some_gallery(rng)
    path = rng.choice(["/v1/galleries/bolts/remove", "/v1/galleries/bolts/restore", "/v2/repository/index"])
    texts = [
        json.dumps({"ids": [f"nobody-{number}" for number in range(rng.choice([1, 100, 11_000]))]}).encode(),
        b'{"ids": ["nobody"], "ids": ["nobody"]}',
        b'{"ids": [' + b"1," * rng.choice([1, 10_000, 400_000]) + b"1]}",
        b"[" * rng.choice([10, 1000, 500_000]),
        b'{"ids": [NaN, 1e999, "\\ud800"]}',
        b'{"ready": ' + b"9" * 5000 + b"}",
        b'{"ids": "' + b"x" * rng.choice([10, 2_000_000]) + b'"}',
    ]
    body = rng.choice(texts)
    body = mutated(rng, body) if rng.random() < 0.5 else body
    return Hostile("json", whole(rng, path, body, gallery, Content_Type="application/json"), gallery)


def multipart(rng: random.Random) -> Hostile:
    gallery = some_gallery(rng)
    path = rng.choice(["/v1/galleries/tiles/query"] * 4 + ["/v1/galleries/bolts/images"])
    boundary = rng.choice(["b", "b" * 70, "b" * 300, "-", "b"])
    pieces = b""
    for number in range(rng.choice([1, 2, 40])):
        name = rng.choice([f"{rng.randrange(10**6)}.png", "../../x", "\u00e9" * 600, "", 'a\\"b'])
        pieces += f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n'.encode()
        pieces += b"X-More: 1\r\n" * rng.choice([0, 0, 20]) + b"\r\n" + b"no image" * (number + 1) + b"\r\n"
    body = pieces + f"--{boundary}--\r\n".encode()
    body = mutated(rng, body) if rng.random() < 0.7 else body
    kind = f"multipart/form-data; boundary={boundary}"
    return Hostile("multipart", whole(rng, path, body, gallery, Content_Type=kind), gallery)


def heads(rng: random.Random) -> Hostile:
    gallery = some_gallery(rng)
    method = rng.choice(["GET", "POST", "HEAD", "DELETE", "BREW", "get", "OPTIONS", "CONNECT"])
    more = rng.choice(
        [
            "X-Long: " + "a" * rng.choice([100, 16_000, 100_000]),
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip, chunked",
            "Content-Length: 5\r\nContent-Length: 6",
            f"Content-Length: {'9' * rng.choice([3, 30, 5000])}",
            "Content-Encoding: gzip",
            "Expect: 100-continue",
            "Host: elsewhere.example",
            "X-Request-Id: " + "a" * rng.choice([10, 500]),
            "Authorization: Basic eDp4",
            "Upgrade: websocket\r\nConnection: Upgrade",
        ]
    )
    query = rng.choice(["", "?a=1&" * 200, "?limit=" + "9" * 4000, "?%ff=%00", "?threshold=1&threshold=2"])
    key = f"X-Api-Key: {KEYS[gallery]}\r\n" if gallery else ""
    text = f"{method} {rng.choice(TARGETS)}{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n{key}{more}\r\n\r\n"
    data = text.encode() + rng.choice([b"", b"5\r\nhello\r\n0\r\n\r\n", b"1\r\nx\r\n" * 5000, bytes(range(256))])
    return Hostile("head", mutated(rng, data) if rng.random() < 0.4 else data, gallery)


KINDS: list[Callable[[random.Random], Hostile]] = [image, tensor, json_text, multipart, heads]
MANNERS = ["slow", "cut", "half-open", "unread"]


def hostile(seed: int, number: int) -> Hostile:
    """Return one request of the campaign."""
    rng = random.Random(f"{seed}-{number}")
    made = KINDS[number % len(KINDS)](rng)
    manner = rng.choice([*MANNERS[1:] * 3, "slow"]) if rng.random() < 0.2 else "whole"
    return Hostile(made.kind, made.data, made.gallery, manner)
