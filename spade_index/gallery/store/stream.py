"""Write new images into shards on a thread, so that the backbone waits neither for the disk nor for checksums."""

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue

from spade_index.settings import ExtractionSettings

from .moments import Moments, Totals, maps_moments, no_moments
from .record import NewImage
from .shard_writer import ShardWriter, WrittenShard
from .storage import MapStorage


@dataclass(frozen=True)
class StreamedShard:
    """A shard that a stream has written, and the moments of all its images together."""

    shard: WrittenShard
    moments: Moments


class ShardStream:
    """Takes batches, writes shards of `rows` images one after the other, and returns those that are durable.

    An error on its thread is raised by the next call; the shards that were complete before it are still returned.
    """

    def __init__(
        self,
        folder: Path,
        settings: ExtractionSettings,
        first: int,
        rows: int,
        waiting: int,
        storage: MapStorage = MapStorage.FLOAT16,
    ) -> None:
        """Write into `folder`, shard numbers counting up from `first`; up to `waiting` batches are queued.

        Maps are stored as `storage` says.
        """
        self._folder = folder
        self._settings = settings
        self._storage = storage
        self._number = first
        self._rows = rows
        self._batches: Queue[Iterable[NewImage] | None] = Queue(waiting)
        self._written: Queue[StreamedShard] = Queue()
        self._writer: ShardWriter | None = None  # of the shard that is not complete
        self._totals = self._nothing()  # of its images
        self._error: BaseException | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="write-shards", daemon=True)
        self._thread.start()

    def put(self, batch: Iterable[NewImage]) -> None:
        """Queue a batch, which is iterated over on the stream's thread; wait while the queue is full.

        Raises what writing raised, mostly OSError.
        """
        self._batches.put(batch)
        if self._error is not None:
            raise self._error

    def written(self) -> Iterator[StreamedShard]:
        """Yield the shards that were completed since the last call, in order."""
        while not self._written.empty():
            yield self._written.get()

    def close(self) -> Iterator[StreamedShard]:
        """Write all that is queued, the last shard with as many rows as there are; yield the shards not yet yielded."""
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
            if self._writer and not self._abandoned:
                self._complete(self._writer)
        except BaseException as error:
            self._error = error
            self._abandoned = True
            while not ended and self._batches.get() is not None:  # empties the queue, so that `put` does not block
                pass
        finally:
            if self._writer:
                self._writer.abandon()

    def _write(self, batch: Iterable[NewImage]) -> None:
        for image in batch:
            if self._writer is None:
                self._writer = ShardWriter(self._folder, self._number, self._settings, self._storage)
            stored = image.stored.encoded(self._storage)
            self._writer.append(replace(image, stored=stored))
            self._totals = self._totals.plus(maps_moments(stored.decoded(self._settings).maps))
            if len(self._writer) == self._rows:
                self._complete(self._writer)

    def _complete(self, writer: ShardWriter) -> None:
        shard = StreamedShard(writer.commit(), self._totals.moments)
        self._writer, self._totals = None, self._nothing()
        self._number += 1
        self._written.put(shard)

    def _nothing(self) -> Totals:
        return Totals(0, no_moments(len(self._settings.level_shapes)))
