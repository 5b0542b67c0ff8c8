"""One image on its way into a gallery: where it came from, and what a shard stores of it."""

from dataclasses import dataclass, replace

import numpy as np

from spade_index.errors import InputError
from spade_index.settings import ExtractionSettings

from .codecs import map_shapes
from .storage import MapStorage


@dataclass(frozen=True)
class ImageOrigin:
    """Source of an image."""

    id: str  # its name in the gallery
    digest: bytes  # xxh3_128 of its file's bytes; of a tile, see `tiles.tile_digest`
    path: str  # where it was when it was added; in an archive, ARCHIVE::MEMBER
    size: int  # of the file, bytes
    mtime_ns: int  # of the file
    width: int  # of the upright original, pixels; of a tile, that of its picture
    height: int


@dataclass(frozen=True)
class Feedback:
    """What a person says of images that are added because of it."""

    verdict: str
    who: str
    note: str


@dataclass(frozen=True)
class StoredImage:
    """The values that a shard stores for one image."""

    pooled: np.ndarray  # float32 [D]
    maps: list[np.ndarray]  # for each level, the finest first: float16 [H*W, C], or uint8 [bytes] where they are codes
    thumbnail: bytes  # a JPEG
    storage: MapStorage = MapStorage.FLOAT16  # of the maps

    def encoded(self, storage: MapStorage) -> "StoredImage":
        """Return the image with its maps, float16, stored otherwise."""
        if storage == self.storage:
            return self
        maps = [storage.encode(values, level) for level, values in enumerate(self.maps)]
        return replace(self, maps=maps, storage=storage)

    def of_levels(self, storage: MapStorage, settings: ExtractionSettings) -> "StoredImage":
        """Return the image with the levels of a storage that has the same codec, as they are stored."""
        kept = storage.levels_of(settings)
        maps = [codes if level in kept else codes[:0].ravel() for level, codes in enumerate(self.maps)]
        return replace(self, maps=maps, storage=storage)

    def decoded(self, settings: ExtractionSettings) -> "StoredImage":
        """Return the image with its maps as float16 [H*W, C], without points where a level is not stored.

        Raises ValueError for codes that nobody wrote.
        """
        plain = replace(MapStorage.FLOAT16, levels=self.storage.levels)
        maps = [np.empty(shape, "<f2") for shape in self.storage.value_shapes(settings)]
        for level, (stored, values) in enumerate(zip(self.maps, maps, strict=True)):
            if values.size:
                self.storage.codec.of_level(level).decode(stored, values)
        return replace(self, maps=maps, storage=plain)


@dataclass(frozen=True)
class NewImage:
    """An image that is about to be added to a gallery."""

    origin: ImageOrigin
    stored: StoredImage

    def require_fit(self, settings: ExtractionSettings) -> None:
        """Raise InputError, naming the image, unless its arrays are as a gallery with these settings stores them.

        That is: a pooled descriptor float32 [D] and one map float16 [H*W, C] for each level, all values finite.
        """
        arrays = {"pooled descriptor": self.stored.pooled}
        arrays |= {f"map of level {level}": values for level, values in enumerate(self.stored.maps)}
        shapes = map_shapes(settings)
        if len(self.stored.maps) != len(shapes):
            raise InputError(f"image {self.origin.id!r} has maps of {len(self.stored.maps)} levels, not {len(shapes)}")
        expected = [((settings.pooled_dim,), np.dtype("<f4")), *((shape, np.dtype("<f2")) for shape in shapes)]
        for (name, values), (shape, dtype) in zip(arrays.items(), expected, strict=True):
            if values.shape != shape or values.dtype != dtype:
                found, wanted = f"{values.dtype} {list(values.shape)}", f"{dtype} {list(shape)}"
                raise InputError(f"image {self.origin.id!r}: its {name} is {found}, not {wanted}")
            if not np.isfinite(values).all():
                raise InputError(f"image {self.origin.id!r}: its {name} has values that are not finite")
