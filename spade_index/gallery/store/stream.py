"""Features into shards on a thread of its own, so that the backbone waits neither for the disk nor for checksums."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import TYPE_CHECKING

from spade_index.gallery.catalog.changes import NewImage
from spade_index.gallery.catalog.moments import image_moments
from spade_index.settings import ExtractionSettings

from .layout import layout_to_keep
from .shard import ShardWriter

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FeatureBatch:
    """What the backbone made of some images."""

    images: list[NewImage]
    thumbnails: list[bytes]
    pooled: "Tensor"  # float32 [B, D]
    pyramid: "list[Tensor]"  # float16 [B, H*W, C] for each level


@dataclass
class WrittenShard:
    """A shard that has its name on disk, and what its commit will put into the catalog."""

    number: int
    path: Path
    digest: str = ""
    layout: bytes | None = None
    images: list[NewImage] = field(default_factory=list)
    moments: list[list[list[int]]] = field(default_factory=list)  # of each image's maps, level by level


class ShardStream:
    """Takes batches, writes shards of `rows` images one after the other, and hands them out when they are durable.

    An error on its thread is raised by the next call; shards that were complete before it are handed out still.
    """

    def __init__(
        self, settings: ExtractionSettings, path_of: Callable[[int], Path], first: int, rows: int, waiting: int
    ) -> None:
        """`path_of` is where the shard of a number goes, `first` the first one's number; so many batches may wait."""
        self._settings = settings
        self._path_of = path_of
        self._number = first
        self._rows = rows
        self._batches: Queue[FeatureBatch | None] = Queue(waiting)
        self._written: Queue[WrittenShard] = Queue()
        self._open: tuple[ShardWriter, WrittenShard] | None = None
        self._error: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="write-shards", daemon=True)
        self._thread.start()

    def put(self, batch: FeatureBatch) -> None:
        """Hand over a batch; waits while too many are not written yet. Raises what writing raised, OSError mostly."""
        self._batches.put(batch)
        if self._error is not None:
            raise self._error

    def written(self) -> Iterator[WrittenShard]:
        """The shards that were completed since this was asked last, in order."""
        while not self._written.empty():
            yield self._written.get()

    def close(self) -> Iterator[WrittenShard]:
        """Write all that was handed over, the last shard being as long as it is; the shards since `written`."""
        self._stop()
        yield from self.written()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Give up the shard that is not complete; nothing of it is left on disk."""
        self._abandoned = True
        self._stop()

    def _stop(self) -> None:
        if self._thread.is_alive():
            self._batches.put(None)
            self._thread.join()

    def _run(self) -> None:
        ended = False
        try:
            while (batch := self._batches.get()) is not None:
                if not self._abandoned:
                    self._write(batch)
            ended = True
            if self._open and not self._abandoned:
                self._complete()
        except BaseException as error:
            self._error = error
            self._abandoned = True
            while not ended and self._batches.get() is not None:  # nobody may wait for room in the queue
                pass
        finally:
            if self._open:
                self._open[0].abandon()

    def _write(self, batch: FeatureBatch) -> None:
        pooled = batch.pooled.cpu().numpy()
        pyramid = [level.cpu().numpy() for level in batch.pyramid]
        for place, image in enumerate(batch.images):
            if self._open is None:
                path = self._path_of(self._number)
                self._open = ShardWriter(path, self._settings), WrittenShard(self._number, path)
            writer, shard = self._open
            maps = [level[place] for level in pyramid]
            writer.append(image.id, pooled[place], maps, batch.thumbnails[place])
            shard.images.append(image)
            shard.moments.append([image_moments(values) for values in maps])
            if len(writer) == self._rows:
                self._complete()

    def _complete(self) -> None:
        assert self._open is not None
        writer, shard = self._open
        shard.digest = writer.commit()
        shard.layout = layout_to_keep(shard.number, shard.path, self._settings)
        self._open = None
        self._number += 1
        self._written.put(shard)
