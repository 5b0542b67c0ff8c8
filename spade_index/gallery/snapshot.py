"""A gallery's images at one snapshot: rows of the catalog, and values of shards."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from spade_index.errors import GalleryDamaged, GalleryError
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store.codecs import DEFAULT, MapCodec, is_finite
from spade_index.gallery.store.record import StoredImage
from spade_index.gallery.store.shard import Shard
from spade_index.gallery.store.storage import MapStorage

from .location import Location
from .shards import Shards

Maps = list[list[np.ndarray]]  # of some levels, and of some images each
Place = tuple[int, np.ndarray, np.ndarray]  # a shard, rows int64 [n] and keys int64 [n] of images in it


class SnapshotView:
    """Reads the images that a gallery holds at one snapshot.

    Every method raises GalleryError if the snapshot was deleted meanwhile, and GalleryDamaged.
    """

    def __init__(self, path: Path | Location, catalog: Catalog, shards: Shards, snapshot: int, images: int) -> None:
        """View `snapshot`, which holds `images` images, of the gallery at `path`."""
        self.path = path
        self.catalog = catalog
        self.shards = shards
        self.settings = catalog.settings
        self.snapshot = snapshot
        self._images = images
        self._in_turn, self._files = False, ExitStack()
        self._kept: Shard | None = None  # open, while images are read in turn

    def __len__(self) -> int:
        return self._images

    @property
    def folder(self) -> Path:
        """The folder of the gallery's files."""
        return self.shards.folder.parent

    def images(self) -> Iterator[ImageRow]:
        """Yield all images, in the order in which they were added."""
        yield from self.catalog.images(self.snapshot)
        self.require_kept()

    def sample(self, count: int) -> list[ImageRow]:
        """Return up to `count` images whose keys are evenly spaced; all images if there are no more than that."""
        if len(self) <= count:
            return list(self.images())
        first, last = self.catalog.key_range(self.snapshot)
        keys = np.linspace(first, last, count).round().astype(int).tolist()
        pages = (self.catalog.page(self.snapshot, key - 1, 1) for key in keys)
        found = {row.key: row for page in pages for row in page}
        self.require_kept()
        return list(found.values())

    def pooled(self, rows: Sequence[ImageRow]) -> np.ndarray:
        """Return the pooled descriptors of these images, float32 [n, D]."""
        pooled = np.empty((len(rows), self.settings.pooled_dim), np.float32)
        for place, row in enumerate(rows):
            pooled[place] = self._shard(row.shard).pooled(np.array([row.row]))[0]
        return pooled

    def read_maps(self, keys: Sequence[int], out: Maps, levels: Sequence[int] | None = None) -> None:
        """Read feature maps of these images into float16 [H*W, C] arrays, out[level][image]: all levels, or only some.

        Raises GalleryDamaged if they cannot be read, or have values that are not finite: no such image is ever added.
        """
        for row, maps in self._places_of(keys, out, levels):
            shard = self._shard(row.shard)
            shard.read_maps(row.row, maps, levels)
            if not all(map(is_finite, maps)):
                shard.read_checked(row.row, row.id)

    def read_codes(self, keys: Sequence[int], out: Maps, levels: Sequence[int], codec: MapCodec) -> None:
        """Read maps of some levels as a codec stores them into uint8 [bytes] arrays, out[level][image].

        Raises OtherCodes if some are stored by another codec, and GalleryDamaged.
        """
        for row, maps in self._places_of(keys, out, levels):
            shard = self._shard(row.shard)
            shard.read_codes(row.row, maps, levels, codec)
            if codec.name == DEFAULT and not all(is_finite(values.view("<f2")) for values in maps if values.size):
                shard.read_checked(row.row, row.id)

    def _places_of(
        self, keys: Sequence[int], out: Maps, levels: Sequence[int] | None
    ) -> Iterator[tuple[ImageRow, list[np.ndarray]]]:
        """Yield the row of each image, and what its levels are read into."""
        rows = self.catalog.images_by_key(keys)
        self.shards.expect([(row.shard, row.row) for row in rows.values()], levels)
        for key, *maps in zip(keys, *out, strict=True):
            if key not in rows:
                raise self.deleted()
            yield rows[key], maps

    def expect_maps(self, keys: Sequence[int], levels: Sequence[int] | None = None) -> None:
        """Prepare for the maps of these images to be read, in parts: see `Gallery.expect_maps`."""
        if self.shards.are_elsewhere:
            self.shards.expect([(row.shard, row.row) for row in self.catalog.images_by_key(keys).values()], levels)

    def stored(self, row: ImageRow) -> StoredImage:
        """Return all that is stored of an image, compared with its checksum."""
        shard = self._shard(row.shard)
        if self._in_turn and shard is not self._kept:
            self._files.close()
            self._kept = shard
            self._files.enter_context(shard.kept_open())
        return shard.read_checked(row.row, row.id)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let `stored` and `decoded` be faster inside, where images of a shard follow each other: it is kept open."""
        self._in_turn = True
        try:
            yield
        finally:
            self._in_turn, self._kept = False, None
            self._files.close()

    def storage_of(self, shard: int) -> MapStorage:
        """Return how a shard's maps are stored."""
        return self._shard(shard).storage

    def decoded(self, row: ImageRow) -> StoredImage:
        """Return what is stored of an image, compared with its checksum, with maps as float16."""
        stored = self.stored(row)
        try:
            return stored.decoded(self.settings)
        except ValueError as error:
            raise GalleryDamaged(f"{self.path}: image {row.id!r}: {error}; `spade-index remove` drops it") from error

    def thumbnail(self, row: ImageRow) -> bytes:
        """Return a small JPEG of an image."""
        try:
            return self._shard(row.shard).thumbnail(row.row)
        except FileNotFoundError as error:
            raise self.deleted() from error

    def places(self, after: int) -> Iterator[Place]:
        """Yield where the images lie that were added after a snapshot, shard by shard."""
        shard = -1
        rows: list[int] = []
        keys: list[int] = []
        for image in self.catalog.images(self.snapshot, after):
            if image.shard != shard and rows:
                yield shard, np.array(rows), np.array(keys, np.int64)
                rows, keys = [], []
            shard = image.shard
            rows.append(image.row)
            keys.append(image.key)
        if rows:
            yield shard, np.array(rows), np.array(keys, np.int64)

    def descriptors(self, shard: int, rows: np.ndarray) -> np.ndarray:
        """Return the pooled descriptors of some rows of a shard, float32 [n, D]."""
        return self._shard(shard).pooled(rows)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield keys int64 [n] and pooled descriptors float32 [n, D] of all images, shard by shard."""
        for shard, rows, keys in self.places(after=-1):
            yield keys, self.descriptors(shard, rows)

    def require_kept(self) -> None:
        """Raise GalleryError if this snapshot was deleted; if not, all that was read of it before is whole."""
        if self.catalog.snapshot(self.snapshot) is None:
            raise self.deleted()

    def deleted(self) -> GalleryError:
        """Return what to raise when something of this snapshot is not there any more."""
        return GalleryError(f"{self.path}: snapshot {self.snapshot} was deleted since it was opened; open it again")

    def _shard(self, number: int) -> Shard:
        shard = self.shards.get(number)
        if shard is None:
            raise self.deleted()
        return shard
