"""Add images to a gallery: decoding, backbone and writing overlap; each shard is committed when it is complete."""

import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol

import numpy as np

from spade_index.errors import ImageError, InputError, StorageError, storage_errors
from spade_index.exact import require_whole
from spade_index.gallery.store.record import Feedback, ImageOrigin, NewImage, StoredImage
from spade_index.gallery.store.stream import StreamedShard
from spade_index.images.decode import DecodedImage
from spade_index.images.find import ImageFile
from spade_index.images.interest import PackedRegion
from spade_index.images.loading import LOT, in_lots, load_all
from spade_index.images.marks import OwnOutput
from spade_index.images.notices import Notices
from spade_index.images.workers import DecoderPool

from .admission import AddReport, Admission
from .append import WAITING, Appender, commit_shard
from .session import Session

if TYPE_CHECKING:  # it loads torch, which `spade-index list` and the like do without
    from spade_index.features.backbone import Backbone, Features

SWITCH_INTERVAL = 5e-4  # seconds


class Elsewhere(Protocol):
    """What decodes images and makes shards in other processes, or on other machines: see `cluster`."""

    on_gpus: bool

    def images(
        self, files: Iterable[ImageFile], on_error: Callable[[ImageError], None]
    ) -> Generator[DecodedImage, None, None]:
        """Yield the images of files as `load_all` does, without pixels and thumbnails."""

    def shards(self, batches: Iterable[list[DecodedImage]]) -> Generator[StreamedShard, None, None]:
        """Yield the shards of these images, in order, each of which is durable under its name.

        An error of `batches` is raised after the shards of the images before it.
        """


class Ingest:
    """One call of `GalleryWriter.add`.

    Images are decoded in other processes, become features here, and are written by a thread; each waits
    when the next has too much to do. A shard that is complete is committed here, so that one thread uses the catalog.
    """

    def __init__(
        self,
        session: Session,
        backbone: "Backbone",
        *,
        replace: bool,
        strict: bool,
        keep_removed: bool,
        feedback: Feedback | None,
        left_out: Callable[[OwnOutput], None] | None,
        failed: Callable[[ImageError], None],
        notice: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        self._session = session
        self._backbone = backbone
        self._strict = strict
        self._feedback = feedback
        self._left_out = left_out
        self._tell_failed = failed
        self._notice = notice
        self._progress = progress
        self._admission = Admission(
            session.gallery, replace=replace, keep_removed=keep_removed, notice=notice, progress=progress
        )
        self._in_work: deque[list[DecodedImage]] = (
            deque()
        )  # admitted; without features yet, or, elsewhere, not committed
        self._regions: dict[str, PackedRegion] = {}  # of images that are not committed, by id
        self._no_room: StorageError | None = None
        self._notices = Notices(notice, alike=not len(session.gallery))

    def run(
        self,
        files: Iterable[ImageFile],
        *,
        batch_size: int,
        workers: int,
        decoders: DecoderPool | None,
        elsewhere: Elsewhere | None,
    ) -> AddReport:
        """Add all files, here or elsewhere. Shards that were committed stay, however it ends. Raises InputError."""
        require_whole("batch_size", batch_size, 1)
        require_whole("workers", workers, 1)
        unknown = self._admission.unknown(files)
        if elsewhere is not None:
            lanes = 1 if elsewhere.on_gpus else self._backbone.lanes(batch_size)
            self._have_added(unknown, elsewhere, batch_size // lanes)
        else:
            lanes = self._backbone.lanes(batch_size)
            loaded = load_all(
                unknown,
                self._session.settings.preprocessing,
                workers=workers,
                decoders=decoders,
                ahead=max(4 * batch_size, 2 * LOT * workers),
                on_error=self._failed,
            )
            with (
                Appender(self._session, self._commit, WAITING * lanes) as appender,
                closing(loaded),
                _frequent_switches(),
            ):
                self._add(loaded, appender, batch_size // lanes, lanes)
        self._notices.end()
        if self._no_room is not None:
            raise self._no_room
        return self._admission.report

    def _have_added(self, files: Iterable[ImageFile], elsewhere: Elsewhere, lot: int) -> None:
        """Have images decoded and shards made elsewhere, of the same batches as here, and commit them in order."""
        with storage_errors(self._session.path):
            self._session.note_shards(self._session.gallery.catalog.next_shard())
        with closing(elsewhere.images(files, self._failed)) as loaded:
            committed = 0  # images, of those in work
            with closing(elsewhere.shards(self._admitted(in_lots(loaded, lot), 0))) as shards:
                for shard in shards:
                    self._progress(self._commit(shard))
                    committed += len(shard.shard.images)
                    while self._in_work and committed >= len(self._in_work[0]):
                        committed -= len(self._in_work.popleft())
        with storage_errors(self._session.path):
            self._session.note_shards(None)

    def _add(self, loaded: Iterator[DecodedImage], appender: Appender, lot: int, lanes: int) -> None:
        """Compute the features of the images that are to be added, `lot` at a time, and have them written."""
        in_writing = (1 + WAITING * lanes) * lot
        with closing(self._backbone.stream(self._pixels(loaded, lot, in_writing), lanes)) as stream:
            for features in stream:
                batch = self._in_work.popleft()
                appender.put(new_images(batch, features))
                self._progress(sum(image.ends for image in batch))

    def _pixels(self, loaded: Iterable[DecodedImage], lot: int, in_writing: int) -> Iterator[np.ndarray]:
        """Yield batches uint8 [B, H, W, 3] of the images that are to be added, which are in work from then on."""
        for batch in self._admitted(in_lots(loaded, lot), in_writing):
            yield np.stack([image.pixels for image in batch])

    def _admitted(self, lots: Iterable[list[DecodedImage]], in_writing: int) -> Iterator[list[DecodedImage]]:
        """Yield the images of each lot that are to be added, while there is room; `in_writing` more may be written."""
        for lot in lots:
            if admitted := self._admission.admitted(lot):
                self._in_work.append(admitted)
                self._keep_regions(admitted)
                self._notices.tell(admitted)
                try:
                    self._session.require_room(sum(map(len, self._in_work)) + in_writing)
                except StorageError as error:  # there was room for what is in work
                    self._in_work.pop()
                    self._no_room = error
                    return
                yield admitted

    def _keep_regions(self, images: Sequence[DecodedImage]) -> None:
        """Keep the images' own regions of interest until they are committed."""
        for image in images:
            if (region := image.geometry.region) is not None:
                if self._session.gallery.region_rule is None:
                    raise InputError(f"{self._session.path}: has no regions of interest for each image: {image.id}")
                self._regions[image.id] = region.packed

    def _commit(self, streamed: StreamedShard) -> int:
        """Commit a shard; return the number of files that are there as wholes with it."""
        images = streamed.shard.images
        regions = {image.id: self._regions.pop(image.id) for image in images if image.id in self._regions}
        files = {self._admission.file_of(image.id) for image in images}
        feedback = None if self._feedback is None else (self._feedback, files)
        commit_shard(self._session, streamed, self._admission.replaced_by(images), regions, feedback)
        return self._admission.committed(images)

    def _failed(self, error: ImageError) -> None:
        if isinstance(error, OwnOutput) and self._left_out is not None:
            self._left_out(error)
            self._progress(1)
            return
        if self._strict:
            raise error
        self._admission.report.failed += 1
        self._tell_failed(error)
        self._notice(f"skipped {error}")
        self._progress(1)


@contextmanager
def _frequent_switches() -> Iterator[None]:
    """Let Python's threads take turns more often.

    The backbone asks for the interpreter's lock at each of its operations, and waits whole turns of the thread that
    writes: 5 ms by default.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_INTERVAL)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def new_images(batch: list[DecodedImage], features: "Features") -> Iterator[NewImage]:
    """Yield the images of a batch with their features.

    Features are copied from the backbone's device when the first image is asked for: by the thread that writes.
    """
    pooled = features.pooled.cpu().numpy()  # [B, D]
    pyramid = [level.cpu().numpy() for level in features.pyramid]  # [B, H*W, C]
    for place, image in enumerate(batch):
        stored = StoredImage(pooled[place], [level[place] for level in pyramid], image.thumbnail)
        yield NewImage(_origin(image), stored)


def _origin(image: DecodedImage) -> ImageOrigin:
    file, geometry = image.file, image.geometry
    return ImageOrigin(
        id=image.id,
        digest=image.digest,
        path=file.path,
        size=file.size,
        mtime_ns=file.mtime_ns,
        width=geometry.width,
        height=geometry.height,
    )
