"""The objects of one location: few operations, with retries, limits of time, and errors in one line."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from spade_index.errors import GalleryNotFound, InputError
from spade_index.gallery.location import Location

try:
    import obstore
    from obstore.store import AzureStore, GCSStore, LocalStore, S3Store
except ImportError as error:
    raise InputError('galleries in object stores need obstore: `pip install "spade_index[cloud]"`') from error

from .failures import FAILURES, Damaged, Replaced, explained, lacks_bucket, may_pass

PART = 8 << 20  # bytes of one request
AT_ONCE = 4  # parts that are sent at a time
CLOSE = 1 << 16  # bytes between ranges that are read rather than asked for apart
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")

PAGE = 1000  # objects that are listed at a time
MOST_OBJECTS = 1_000_000  # of a gallery: of 100 million images in small shards
PIECE = 1 << 20  # bytes of an answer that are taken at a time
REQUESTS = 8  # for ranges of one object, or for small objects, at a time

A = TypeVar("A")
R = TypeVar("R")
T = TypeVar("T")
Range = tuple[int, int]  # offset and length
Version = dict[str, Any]


@dataclass(frozen=True)
class Patience:
    """How long to wait for an object store, and how often to try again."""

    retries: int = 6
    first_wait: float = 0.25  # seconds before the first retry; twice as many before each next one
    longest_wait: float = 8.0
    connect: float = 10.0  # seconds that a connection may take
    request: float = 120.0  # seconds that one request may take
    in_all: float = 180.0  # seconds after which a request is not tried again


class Remote:
    """The objects at a location, by their names below it."""

    def __init__(self, location: Location, patience: Patience | None = None, *, make: bool = False) -> None:
        """Connect to a store; with `make`, make the folder of a `file://` location. Raises RemoteError."""
        self.location = location
        self._patience = patience or Patience()
        with explained(location):
            self._store = _connected(location, self._patience, make)

    def sizes(self) -> dict[str, int]:
        """Return the size of every object, by name. Raises RemoteError."""

        def listed() -> dict[str, int]:
            found: dict[str, int] = {}
            for page in obstore.list(self._store, chunk_size=PAGE):
                found |= {one["path"]: one["size"] for one in page}
                if len(found) > MOST_OBJECTS:
                    raise Damaged(f"{self.location}: more than {MOST_OBJECTS:,} objects are not those of a gallery")
            return found

        return self._tried(listed)

    def small(self, name: str, most: int) -> tuple[bytes, Version] | None:
        """Return an object of up to `most` bytes and its version, or None if it is not there. Raises RemoteError."""

        def read() -> tuple[bytes, Version] | None:
            try:
                found = obstore.get(self._store, name)
            except FileNotFoundError as error:
                if lacks_bucket(error):
                    raise
                return None
            if found.meta["size"] > most:
                raise Damaged(f"{self.location}/{name}: too large to be one of a gallery")
            version = {name: found.meta.get(name) for name in ("e_tag", "version")}
            return self._body(found, name, most), {name: value for name, value in version.items() if value is not None}

        return self._tried(read)

    def block(self, name: str, start: int, length: int) -> bytes:
        """Return these bytes of an object. Raises RemoteError."""

        def read() -> bytes:
            found = self._part(name, start, length)
            if len(found) != length:
                raise Damaged(f"{self.location}/{name}: shorter than it was")
            return found

        return self._tried(read)

    def ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Return the bytes of an object in ranges of offset and length; fewer where it is shorter. Raises RemoteError.

        Ranges close to each other are one request, and several requests are made at a time.
        """
        wanted = _close_together(ranges)
        parts = at_once(lambda part: self._tried(lambda: self._part(name, *part)), wanted, REQUESTS)
        found = {part: memoryview(data) for part, data in zip(wanted, parts, strict=True)}
        answers = []
        for start, length in ranges:
            within = next(part for part in wanted if part[0] <= start and start + length <= sum(part))
            answers.append(found[within][start - within[0] : start - within[0] + length])
        return answers

    def _part(self, name: str, start: int, length: int) -> bytes:
        """Return these bytes of an object, fewer if it is shorter. Raises Damaged, and what obstore raises."""
        found = obstore.get(self._store, name, options={"range": (start, start + length)})
        return self._body(found, name, length)

    def _body(self, found: Any, name: str, most: int) -> bytes:
        """Return the bytes of an answer; of one that is longer than `most`, no more are read. Raises Damaged."""
        data = bytearray()
        for piece in found.stream(min_chunk_size=PIECE):
            data += piece
            if len(data) > most:
                raise Damaged(f"{self.location}/{name}: more comes of it than was asked for")
        return bytes(data)

    def size(self, name: str) -> int:
        """Return the size of an object. Raises RemoteError."""
        return self._tried(lambda: obstore.head(self._store, name))["size"]

    def put(self, name: str, blocks: Callable[[], Iterable[bytes]], size: int) -> None:
        """Store an object, whole or not at all. What `blocks` raises ends it. Raises RemoteError."""
        whole = size <= PART
        self._tried(
            lambda: obstore.put(
                self._store, name, iter(blocks()), use_multipart=not whole, chunk_size=PART, max_concurrency=AT_ONCE
            )
        )

    def replace(self, name: str, data: bytes, version: Version | None) -> None:
        """Replace an object of this version, or make one where there is none. Raises Replaced, RemoteError."""
        mode: Any = "create" if version is None else version
        if version is not None and self.location.scheme == "file":
            mode = "overwrite"  # a folder knows no versions
        try:
            self._tried(lambda: obstore.put(self._store, name, data, mode=mode))
        except Replaced:
            found = self.small(name, len(data))
            if found is None or found[0] != data:  # else it was this process, and the first answer was lost
                raise

    def _tried(self, request: Callable[[], T]) -> T:
        """Make a request, again where it may help: obstore has retried what it can. Raises RemoteError."""
        with explained(self.location):
            for wait in (self._patience.first_wait, 4 * self._patience.first_wait):
                try:
                    return request()
                except FAILURES as error:
                    if not may_pass(error):
                        raise
                time.sleep(wait)
            return request()


def at_once(call: Callable[[A], R], arguments: Sequence[A], most: int) -> list[R]:
    """Call a function with each argument, up to `most` at a time; return what it returns, in their order."""
    if len(arguments) < 2:
        return list(map(call, arguments))
    pool = ThreadPoolExecutor(min(most, len(arguments)))
    try:
        return list(pool.map(call, arguments))
    finally:  # after a failure, those that have not begun would most likely wait as long for the same
        pool.shutdown(cancel_futures=True)


def by_size(call: Callable[[A], R], arguments: Sequence[A], size: Callable[[A], int]) -> list[R]:
    """Call a function with each object to be sent or brought: several of one request each at a time, then large ones.

    `size` returns the bytes of an object, whose parts are several requests if it is large.
    """
    small = [one for one in arguments if size(one) <= PART]
    return at_once(call, small, REQUESTS) + [call(one) for one in arguments if size(one) > PART]


def in_turn(progress: Callable[[int], None]) -> Callable[[int], None]:
    """Return a function that several threads may call, and which calls another for one of them at a time."""
    lock = Lock()

    def call(count: int) -> None:
        with lock:
            progress(count)

    return call


def _close_together(ranges: Sequence[Range]) -> list[Range]:
    """Return ranges that hold all of these: those that are close to each other are one."""
    found: list[Range] = []
    for start, length in sorted(ranges):
        if found and start - sum(found[-1]) <= CLOSE:
            first = found[-1][0]
            found[-1] = first, max(sum(found[-1]), start + length) - first
        else:
            found.append((start, length))
    return found


def _connected(location: Location, patience: Patience, make: bool) -> Any:
    if location.scheme == "file":
        folder = Path("/", location.prefix)
        if not (make or folder.is_dir()):
            raise GalleryNotFound(f"{location}: no gallery there: correct the URL")
        return LocalStore(folder, mkdir=make)
    kind: Any = {"s3": S3Store, "gs": GCSStore, "az": AzureStore}[location.scheme]
    return kind(
        location.bucket,
        prefix=location.prefix or None,
        client_options={
            "timeout": timedelta(seconds=patience.request),
            "connect_timeout": timedelta(seconds=patience.connect),
            "allow_http": _endpoint_is_plain(),
        },
        retry_config={
            "max_retries": patience.retries,
            "retry_timeout": timedelta(seconds=patience.in_all),
            "backoff": {
                "init_backoff": timedelta(seconds=patience.first_wait),
                "max_backoff": timedelta(seconds=patience.longest_wait),
                "base": 2,
            },
        },
    )


def _endpoint_is_plain() -> bool:
    """Return whether the environment names an endpoint of S3 without encryption, as of a server on this machine."""
    return any(os.environ.get(name, "").startswith("http://") for name in ENDPOINTS)
