"""Add images by the workers of a crew: what they decode is decided on here, and what they make is taken here.

Images are decoded by the worker that is going to make their shard, which keeps them until it is known which of them are
admitted, and in which batches and shards. So the batches and shards are those of one process.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from spade_index.errors import ClusterError, ImageError, InputError, storage_errors
from spade_index.features.backbone import Backbone
from spade_index.gallery.store.files import rename
from spade_index.gallery.store.stream import StreamedShard
from spade_index.gallery.write.cleanup import INCOMING, delete_incoming
from spade_index.gallery.write.session import Session
from spade_index.images.decode import DecodedImage
from spade_index.images.files import ImageFile
from spade_index.images.loading import in_lots, load_all, started_ahead
from spade_index.settings import DecodeLimits

from .crew import Crew, Member, crew_on
from .lots import Lots
from .worker import Batch, Facts, Order, Wanted, Worker, writer_of

LANES = {"look": 1, "make": 2}  # calls of a worker at a time
PICTURES = 8  # that are cut into tiles: decoded at a time


@dataclass(frozen=True)
class Plan:
    """A shard that is to be made."""

    number: int
    batches: list[Batch]


class OnCrew:
    """What `GalleryWriter.add` takes as `elsewhere`. Use as a context manager, which starts and ends the crew."""

    def __init__(self, session: Session, crew: Crew, *, on_gpus: bool) -> None:
        self.on_gpus = on_gpus
        self.count = crew.count
        self._session = session
        self._crew = crew
        self._ahead = 2 * crew.count  # shards in work, and as many that are decoded
        self._threads = ThreadPoolExecutor(2 * self._ahead, thread_name_prefix="crew")
        self._lots = Lots(crew.count)

    def __enter__(self) -> "OnCrew":
        with storage_errors(self._session.path):
            for folder in (INCOMING, "shards"):
                (self._session.path / folder).mkdir(exist_ok=True)
        try:
            self._crew.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._crew.end()
        self._threads.shutdown(cancel_futures=True)
        with storage_errors(self._session.path):
            delete_incoming(self._session.path)

    def images(
        self, files: Iterable[ImageFile], on_error: Callable[[ImageError], None]
    ) -> Generator[DecodedImage, None, None]:
        """Yield the images of files, without pixels and thumbnails; see `Elsewhere`."""
        tiled = self._session.settings.preprocessing.tile is not None
        lots = in_lots(map(_shared, files), PICTURES if tiled else self._session.shard_rows)
        for lot, future in started_ahead(lots, self._look, self._ahead):
            found, worker = future.result()
            self._require_unreadable(lot, found, worker)
            for image in found:
                if isinstance(image, ImageError):
                    on_error(image)
                else:
                    yield image

    def shards(self, batches: Iterable[list[DecodedImage]]) -> Generator[StreamedShard, None, None]:
        """Yield the shards of these images, in order; see `Elsewhere`."""
        first = self._session.gallery.catalog.next_shard()
        for _, future in started_ahead(planned(batches, first, self._session.shard_rows), self._make, self._ahead):
            yield self._taken(future.result())

    def _look(self, files: list[ImageFile]) -> Future[tuple[list[DecodedImage | ImageError], Member]]:
        lot = self._lots.give()

        def look() -> tuple[list[DecodedImage | ImageError], Member]:
            found, worker = self._crew.call(f"what begins with {files[0].id}", "look", files, prefer=[lot.place])
            self._lots.decoded(lot, worker.place, [image.id for image in found if isinstance(image, DecodedImage)])
            return found, worker

        return self._threads.submit(look)

    def _make(self, plan: Plan) -> Future[StreamedShard]:
        ids = [image.id for batch in plan.batches for image in batch.images[batch.first : batch.last]]
        place = self._lots.begin(plan.number, ids)

        def make() -> StreamedShard:
            try:
                shard, _ = self._crew.call(f"shard {plan.number}", "make", plan.number, plan.batches, prefer=[place])
            finally:
                self._lots.end(place)
            return shard

        return self._threads.submit(make)

    def _taken(self, streamed: StreamedShard) -> StreamedShard:
        """Give a shard that a worker has made its name. Raises StorageError."""
        made = streamed.shard.path
        shard = replace(streamed.shard, path=self._session.path / "shards" / made.name)
        with storage_errors(self._session.path):
            rename(self._session.path / INCOMING / made.parent.name / made.name, shard.path)
        return replace(streamed, shard=shard)

    def _require_unreadable(self, lot: list[ImageFile], found: list[DecodedImage | ImageError], worker: Member) -> None:
        """Raise ClusterError if an image that a worker could not read can be read here: it must not be left out."""
        read = {image.file.id for image in found if isinstance(image, DecodedImage)}
        failed = [file for file in lot if file.id not in read]
        how = self._session.settings.preprocessing
        for image in load_all(failed, how, workers=1, ahead=1, on_error=lambda error: None, thumbnails=False):
            raise ClusterError(
                f"{image.file.path}: can be read here, and not on {worker.node}: put the images on a file system that "
                "all machines share"
            )


def planned(batches: Iterable[list[DecodedImage]], first: int, rows: int) -> Iterator[Plan]:
    """Yield the shards that these batches fill, `rows` images in each; a batch may be in two of them.

    If the batches raise, the shard of the images before that comes first.
    """
    plan, room = Plan(first, []), rows
    try:
        for images in batches:
            batch = [Wanted(image.file, image.id, image.digest) for image in images]
            done = 0
            while done < len(batch):
                last = min(len(batch), done + room)
                plan.batches.append(Batch(batch, done, last))
                done, room = last, room - (last - done)
                if not room:
                    yield plan
                    plan, room = Plan(plan.number + 1, []), rows
    except Exception:
        if plan.batches:
            yield plan
        raise
    if plan.batches:
        yield plan


@contextmanager
def workers_of(
    session: Session,
    load: Callable[[], Backbone],
    *,
    address: str,
    workers: int | None = None,
    gpus: float = 0.0,
    limits: DecodeLimits | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[OnCrew]:
    """Give what `GalleryWriter.add` takes as `elsewhere`: workers on a Ray cluster.

    Args:
        session: the writer of the gallery, which all machines must see at its absolute path.
        load: returns a worker's backbone; it can be pickled.
        address: HOST:PORT of the cluster, or `local`.
        workers: their number; None: one for each share of a GPU, or one for each machine.
        gpus: what a worker needs of GPUs.
        limits: of decoding an image.
        say: is called with a line for each worker that is lost.

    Raises:
        ClusterError: Ray is not installed, there is no cluster, or it has no room for the workers.
    """
    gallery, folder, storage = session.path.absolute(), os.getcwd(), session.gallery.storage
    require = partial(_require_alike, gallery, session.settings.to_json())

    def order(cores: int) -> Order:
        return Order(gallery, folder, storage, load, cores, limits or DecodeLimits())

    with (
        crew_on(address, Worker, order, workers=workers, gpus=gpus, lanes=LANES, say=say, require=require) as crew,
        OnCrew(session, crew, on_gpus=gpus > 0) as elsewhere,
    ):
        yield elsewhere


def _require_alike(gallery: Path, settings: str, facts: Facts) -> None:
    """Raise ClusterError unless a worker has the writer's gallery, and a backbone with these settings."""
    if facts.writer != writer_of(gallery):
        raise ClusterError(
            f"{gallery}: the worker on {facts.node} does not see this folder: put the gallery on a file system that "
            "all machines share"
        )
    if facts.settings != settings:
        raise ClusterError(
            f"the backbone on {facts.node} has other weights or other levels than here: name one file with --weights, "
            "and install the same versions"
        )


def _shared(file: ImageFile) -> ImageFile:
    """Return a file that other machines can read. Raises InputError for one that only this process has."""
    if file.held:
        raise InputError(f"{file.path}: a compressed archive is read by one process: unpack it, or leave out --ray")
    return file
