"""Write new images into shards, and commit each shard that is complete."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType

from spade_index.errors import InputError, storage_errors
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store.record import Feedback, NewImage
from spade_index.gallery.store.stream import ShardStream, StreamedShard
from spade_index.images.interest import PackedRegion

from .session import Session

WAITING = 2  # batches between the caller and the disk


class Appender:
    """Writes new images into shards on a thread, and commits each shard that is complete. Use as a context manager.

    At the end, and after InputError or KeyboardInterrupt, all images that were put are committed. After any other
    exception those of the shard that is not complete are given up.
    """

    def __init__(self, session: Session, commit: Callable[[StreamedShard], object], waiting: int = WAITING) -> None:
        """Call `commit` for each shard; up to `waiting` batches are queued between `put` and the disk."""
        self._path = session.path
        self._session = session
        self._commit = commit
        first = session.gallery.catalog.next_shard()
        with storage_errors(self._path):
            session.note_shards(first)
        self._stream = ShardStream(
            session.path / "shards", session.settings, first, session.shard_rows, waiting, session.gallery.storage
        )

    def put(self, batch: Iterable[NewImage]) -> None:
        """Queue a batch, which is iterated over on the writing thread. Raises StorageError, and what `commit` does."""
        with storage_errors(self._path):
            self._stream.put(batch)
            for shard in self._stream.written():
                self._commit(shard)

    def __enter__(self) -> "Appender":
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if kind is None or issubclass(kind, InputError | KeyboardInterrupt):
            with storage_errors(self._path):
                for shard in self._stream.close():
                    self._commit(shard)
                self._session.note_shards(None)
        else:
            self._stream.abandon()


def commit_shard(
    session: Session,
    streamed: StreamedShard,
    replaced: Sequence[ImageRow] = (),
    regions: Mapping[str, PackedRegion | None] = MappingProxyType({}),
    feedback: tuple[Feedback, Collection[str]] | None = None,
) -> None:
    """Add a shard's images to the gallery, and remove the images that they replace, in one snapshot.

    `regions` are the images' own regions of interest, by id. `feedback` is why images are added, and their ids.
    """
    shard = streamed.shard
    totals = session.gallery.totals.plus(streamed.moments, len(shard.images))
    for image in replaced:
        totals = totals.minus(session.stored_moments(image))
    with session.commit("add", totals) as changes:
        changes.remove_images(image.key for image in replaced)
        changes.add_shard(shard)
        changes.add_images(shard, regions)
        if feedback is not None:
            changes.note_feedback(*feedback)
    with storage_errors(session.path):
        session.note_shards(shard.number + 1)
