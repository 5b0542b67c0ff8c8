"""A worker: it decodes images and writes whole shards, in a process of its own on some machine.

It writes into a folder of its own, from which the writer of the gallery takes what is complete: what a worker that was
given up still does has no effect.
"""

import os
import socket
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from spade_index.errors import ImageError, InputError, storage_errors
from spade_index.features.backbone import Backbone
from spade_index.gallery.store.storage import MapStorage
from spade_index.gallery.store.stream import ShardStream, StreamedShard
from spade_index.gallery.write.append import WAITING
from spade_index.gallery.write.cleanup import INCOMING
from spade_index.gallery.write.ingest import new_images
from spade_index.gallery.write.lock import LOCK
from spade_index.images.decode import DecodedImage
from spade_index.images.files import ImageFile
from spade_index.images.loading import LOT, load_all
from spade_index.images.workers import DecoderPool
from spade_index.settings import DecodeLimits

KEPT = 1 << 30  # bytes of decoded images that wait for their shard
NO_PIXELS = np.empty(0, np.uint8)


@dataclass(frozen=True)
class Order:
    """What all workers of a run are told."""

    gallery: Path  # absolute
    folder: str  # that paths of images may be relative to
    storage: MapStorage
    load: Callable[[], Backbone]
    cores: int
    limits: DecodeLimits


@dataclass(frozen=True)
class Facts:
    """What a worker must have in common with the writer."""

    node: str
    pid: int
    settings: str  # of its backbone, JSON
    writer: bytes | None  # process that the gallery's lock names, as it sees that file


@dataclass(frozen=True)
class Wanted:
    """An image that was admitted."""

    file: ImageFile
    id: str
    digest: bytes


@dataclass(frozen=True)
class Batch:
    """Images that the backbone takes together; those from `first` to before `last` are rows of a shard."""

    images: Sequence[Wanted]
    first: int
    last: int


class Worker:
    """Decodes, and makes shards: while one is completed on disk, the backbone works for the next one."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._name = uuid.uuid4().hex
        self._kept: dict[str, DecodedImage] = {}  # by id, in the order in which they were decoded
        self._kept_bytes = 0
        self._lock = threading.Lock()
        self._computing = threading.Lock()
        self._decoders = DecoderPool(order.limits)
        with suppress(OSError):  # then reading an image by a relative path will tell
            os.chdir(order.folder)

    def node(self) -> str:
        """Return the name of the machine: the worker has started."""
        return socket.gethostname()

    def facts(self) -> Facts:
        """Load the backbone, and return what the writer compares. Raises BackboneError."""
        self._be_parallel()
        return Facts(self.node(), os.getpid(), self._backbone.settings.to_json(), writer_of(self._order.gallery))

    def look(self, files: Sequence[ImageFile]) -> list[DecodedImage | ImageError]:
        """Decode files, and keep their images for their shard; return them without pixels and thumbnails."""
        found: list[DecodedImage | ImageError] = []
        for image in self._loaded(files, found.append):
            self._keep(image)
            found.append(replace(image, pixels=NO_PIXELS, thumbnail=b""))
        return found

    def make(self, number: int, batches: Sequence[Batch]) -> StreamedShard:
        """Write a shard of these images. Raises StorageError, BackboneError, and InputError if an image has changed."""
        self._be_parallel()
        lanes = self._backbone.lanes(self._order.cores)
        rows = sum(batch.last - batch.first for batch in batches)
        folder = self._order.gallery / INCOMING / self._name
        images = self._images([image for batch in batches for image in batch.images])
        with storage_errors(self._order.gallery):
            stream = ShardStream(folder, self._backbone.settings, number, rows, WAITING * lanes, self._order.storage)
            try:
                with self._computing:
                    self._write(stream, batches, images, lanes)
                (shard,) = stream.close()
            except BaseException:
                stream.abandon()
                raise
        return shard

    def _write(
        self, stream: ShardStream, batches: Sequence[Batch], images: dict[str, DecodedImage], lanes: int
    ) -> None:
        in_work: deque[tuple[Batch, list[DecodedImage]]] = deque()

        def pixels() -> Iterator[np.ndarray]:
            for batch in batches:
                in_work.append((batch, [images[image.id] for image in batch.images]))
                yield np.stack([image.pixels for image in in_work[-1][1]])

        with closing(self._backbone.stream(pixels(), lanes)) as features:
            for found in features:
                batch, of = in_work.popleft()
                stream.put(islice(new_images(of, found), batch.first, batch.last))

    def _images(self, wanted: Sequence[Wanted]) -> dict[str, DecodedImage]:
        """Return images by id: those that were kept, and others, which are decoded once more."""
        with self._lock:
            found = {image.id: self._kept.pop(image.id) for image in wanted if image.id in self._kept}
            self._kept_bytes -= sum(image.pixels.nbytes for image in found.values())
        missing = {image.id: image.file for image in wanted if image.id not in found}
        files = {file.id: file for file in missing.values()}  # of several tiles, once
        found |= {image.id: image for image in self._loaded(files.values(), _refuse) if image.id in missing}
        for image in wanted:
            if image.id not in found or found[image.id].digest != image.digest:
                raise InputError(f"{image.file.path}: has changed since it was read first: run the same command again")
        return found

    def _keep(self, image: DecodedImage) -> None:
        with self._lock:
            before = self._kept.pop(image.id, None)
            self._kept_bytes += image.pixels.nbytes - (0 if before is None else before.pixels.nbytes)
            self._kept[image.id] = image
            while self._kept_bytes > KEPT:
                self._kept_bytes -= self._kept.pop(next(iter(self._kept))).pixels.nbytes

    def _loaded(self, files: Iterable[ImageFile], on_error: Callable[[ImageError], None]) -> Iterator[DecodedImage]:
        cores = self._order.cores
        how = self._backbone.settings.preprocessing
        return load_all(files, how, workers=cores, ahead=2 * LOT * cores, on_error=on_error, decoders=self._decoders)

    def _be_parallel(self) -> None:
        """Let the backbone use the worker's cores; torch has this setting by thread."""
        torch.set_num_threads(self._order.cores)

    @cached_property
    def _backbone(self) -> Backbone:
        return self._order.load()


def writer_of(gallery: Path) -> bytes | None:
    """Return the number of the process that writes to a gallery; None if the gallery is not there."""
    try:
        return (gallery / LOCK).read_bytes().partition(b" ")[0]
    except OSError:
        return None


def _refuse(error: ImageError) -> None:
    raise error
