"""Change a gallery: add, remove, restore, compact, repair, index. One writer at a time; every change is one commit."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from spade_index.errors import ImageError, UnknownImage
from spade_index.gallery.catalog.schema import INTEREST, TUNED
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.store.defect import NewDefect
from spade_index.gallery.store.leave_one_out import LeaveOneOut
from spade_index.gallery.store.record import Feedback, NewImage
from spade_index.gallery.verify import Problem
from spade_index.images.find import ImageFile
from spade_index.images.interest import PackedRegion, RegionOfInterest
from spade_index.images.marks import OwnOutput
from spade_index.images.region_rule import RegionRule
from spade_index.images.workers import DecoderPool
from spade_index.settings import BATCH_SIZE, WORKERS, IndexSettings

from .add_features import add_features
from .admission import AddReport
from .calibrate import set_calibration
from .compact import compact, images_to_move
from .defects import add_known_defects, undo_known_defects
from .gather import gather, small_shards
from .ingest import Elsewhere, Ingest
from .reindex import index_is_stale, index_settings, rebuild_index
from .remove import remove, restore
from .repair import repair
from .session import Session

if TYPE_CHECKING:  # it loads torch, which `spade-index list` and the like do without
    from spade_index.features.backbone import Backbone


class GalleryWriter(Session):
    """A session with the operations as methods; `gallery` reads the result. Use as a context manager."""

    def __enter__(self) -> "GalleryWriter":
        return self

    def add(
        self,
        files: Iterable[ImageFile],
        backbone: "Backbone",
        *,
        replace: bool = False,
        strict: bool = False,
        keep_removed: bool = False,
        feedback: Feedback | None = None,
        left_out: Callable[[OwnOutput], None] | None = None,
        failed: Callable[[ImageError], None] = lambda error: None,
        batch_size: int = BATCH_SIZE,
        workers: int = WORKERS,
        decoders: DecoderPool | None = None,
        elsewhere: Elsewhere | None = None,
        notice: Callable[[str], None] = lambda line: None,
        progress: Callable[[int], None] = lambda images: None,
    ) -> AddReport:
        """Add images. Images of the gallery are not read again, so an interrupted call can be repeated.

        Where the gallery's preprocessing has tiles, each picture becomes its tiles, with ids PICTURE@LEFT,TOP. All that
        follows is about pictures as wholes, except that an interrupted call may have added some tiles of a picture.

        An image with a known id and other contents is kept as it was, or replaced with `replace`. One that cannot be
        decoded is named to `notice` and left out, and its error is given to `failed`; with `strict` it raises
        ImageError after the images before it are committed. With `keep_removed`, images that were removed before are
        left out, by their contents. `left_out` is told of pictures that this package drew, which are no photographs;
        without it they are images that cannot be decoded. `progress` is called with the number of images processed.
        Images are decoded in `workers` processes, those of `decoders` or the program's own (see `load_all`);
        with `elsewhere`, images become shards there, the same ones to the bit (see `cluster`). Small
        shards of earlier adds are merged, some at a time (see `gather`). `feedback` is noted with each image that is
        added, in the same commit: see `undo_feedback`.
        """
        backbone = backbone.limited_to(self.settings.levels)
        self.settings.require_equal(backbone.settings, str(self.path))
        ingest = Ingest(
            self,
            backbone,
            replace=replace,
            strict=strict,
            keep_removed=keep_removed,
            feedback=feedback,
            left_out=left_out,
            failed=failed,
            notice=notice,
            progress=progress,
        )
        report = ingest.run(files, batch_size=batch_size, workers=workers, decoders=decoders, elsewhere=elsewhere)
        gather(self)
        return report

    def add_features(self, images: Iterable[NewImage], progress: Callable[[int], None] = lambda images: None) -> int:
        """Add images whose features were computed elsewhere, one commit per shard; return their number.

        Each has a pooled descriptor float32 [D] and a map float16 [H*W, C] for each level, as `settings` says, all
        finite. Copies of a file are not looked for. `progress` is called with the number of images of each batch.
        Raises InputError for an image with other arrays, or with an id that is there already, and StorageError;
        earlier batches are committed.
        """
        added = add_features(self, images, progress)
        gather(self)
        return added

    def small_shards(self) -> int:
        """Return the number of shards with few images, which take time in every search that the index does not help.

        Each `add` merges some of them, and `compact` all.
        """
        return len(small_shards(self))

    def remove(self, ids: Iterable[str]) -> int:
        """Remove images by id, all or none; return the new snapshot. Raises UnknownImage.

        In a gallery of tiles, the id of a picture stands for all of its tiles.
        """
        return remove(self, ids)

    def undo_feedback(self, id: str) -> int:
        """Remove an image, or known defects, that feedback added; return the snapshot. What was said stays noted.

        Raises UnknownImage, also for an image that was added otherwise.
        """
        if self.gallery.catalog.defects_told(id) is not None:
            undo_known_defects(self, id)
            return self.gallery.snapshot
        if self.gallery.catalog.feedback_about(id) is None:
            raise UnknownImage(
                f"{self.path}: no feedback about an image {id!r}; `spade-index feedback {self.path} --list` names them"
            )
        return self.remove([id])

    def add_known_defects(self, feedback: Feedback, id: str, digest: bytes, defects: Sequence[NewDefect]) -> None:
        """Add the defective places of one image, in one commit, under the id of the feedback that named them.

        They are no images, and no snapshot begins. `digest` is xxh3_128 of the image's file. Raises InputError where
        the file is a known defect or a normal image already, or for too many or a kind with too long a name.
        """
        add_known_defects(self, feedback, id, digest, defects)

    def restore(self, ids: Iterable[str]) -> int:
        """Restore removed images by id, all or none, each as it was when it was last removed; return the new snapshot.

        In a gallery of tiles, the id of a picture stands for all of its removed tiles, of the version that is there.
        Raises UnknownImage if no removed image has that id (`compact` deletes them), and InputError if an image has
        it now, or if the same file is there under another id: `add` skips such copies, since a query would find them
        twice.
        """
        return restore(self, ids)

    def index_is_stale(self) -> bool:
        """Return whether the index should be rebuilt, because of the images added and removed since."""
        return index_is_stale(self)

    def index_settings(self) -> IndexSettings:
        """Return the settings of the latest index, or the defaults."""
        return index_settings(self)

    def build_index(
        self,
        settings: IndexSettings | None = None,
        queries: np.ndarray | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> IndexDescription:
        """Build the FAISS index of the latest snapshot, by default with the settings and queries of the last one.

        The recall is measured with `queries`, descriptors float32 [q, D] of images like those that will be searched
        for, or, if there never were any, with images of the gallery. `say` is called with a line for each step. Raises
        InputError for an empty gallery, or if the settings' memory is too little.
        """
        return rebuild_index(self, settings, queries, say)

    def compact(
        self,
        progress: Callable[[int], None] = lambda images: None,
        *,
        maps: str | None = None,
        levels: Sequence[int] | None = None,
    ) -> int:
        """Delete removed images and earlier snapshots; rewrite shards that hold removed images or few images.

        Returns the bytes that become free: at once, or when the readers of earlier generations have closed and
        `delete_unused` is called, as the next writer does. `progress` is called with the number of images that have
        moved, `images_to_move` in all. With `maps`, a codec, or after a call with it that was interrupted, images whose
        maps are stored by another are stored once more by it, and calibrations are forgotten: scores change. With
        `levels`, only these are stored from then on: no search may ask for others. Raises
        InputError for a finer codec or other levels than the gallery's, since what was lost stays lost, and for lack of
        levels that it is searched by; GalleryDamaged for a catalog with problems, before anything is changed.
        """
        return compact(self, progress, maps, levels)

    def images_to_move(self, maps: str | None = None, levels: Sequence[int] | None = None) -> int:
        """Return the number of images that `compact` is going to rewrite."""
        return images_to_move(self, maps, levels)

    def repair(
        self,
        problems: Iterable[Problem] | None = None,
        say: Callable[[str], None] = lambda line: None,
        progress: Callable[[int], None] = lambda images: None,
    ) -> int:
        """Drop damaged images and keep the rest; return the number of dropped images that had not been removed.

        `problems` are those that `Gallery.problems` found since the gallery was opened for writing, by default those
        that it finds now. `say` is called with a line for everything that is done, `progress` with the number of
        images that are read again. Raises GalleryDamaged for what cannot be repaired: the catalog.
        """
        return repair(self, self.gallery.problems() if problems is None else problems, say, progress)

    def set_calibration(self, key: str, value: dict[str, object], found: LeaveOneOut | None = None) -> None:
        """Store the calibration of search settings, as `calibration.calibrate` gives it, and its scores in a file."""
        set_calibration(self, key, value, found)

    def set_interest(self, region: RegionOfInterest | None) -> None:
        """Let only this part of every picture count from now on; None: all of it."""
        with self.commit(retires=self.gallery.region_rule is not None) as changes:
            changes.set_region_rule(None, {})
            if region is None:
                changes.delete_meta(INTEREST)
            else:
                changes.set_meta(INTEREST, region.to_json())

    def set_region_rule(self, rule: str, regions: Mapping[int, PackedRegion | None] | None = None) -> None:
        """Let each image have a region of interest of its own from now on, in place of one for all.

        `rule` names the masks of images that are added later (see `images.region_rule`), and of queries. `regions` are
        those of the images that are there, by key; an image without one counts whole.
        """
        given = regions or {}
        digests = [(key, region.digest) for key, region in sorted(given.items()) if region is not None]
        with self.commit(retires=self.gallery.region_rule is not None) as changes:
            changes.delete_meta(INTEREST)
            changes.set_region_rule(RegionRule.of(rule, digests), given)

    def set_tuned(self, value: dict[str, object]) -> None:
        """Store how queries search by default, as `tuning.tune` chose it."""
        with self.commit() as changes:
            changes.set_meta(TUNED, json.dumps(value))
