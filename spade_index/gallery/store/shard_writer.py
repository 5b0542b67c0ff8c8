"""Write a shard: images are appended one by one, then the file becomes durable under its name. See `shard`."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from spade_index.settings import ExtractionSettings

from .codecs import map_shapes
from .files import make_durable
from .format import FORMAT
from .layout import layout_to_keep
from .names import shard_name
from .quantizer import Quantized
from .record import ImageOrigin, NewImage
from .shard import row_checksum
from .sink import Sink
from .storage import MapStorage

PAGE = 4096  # bytes; rows start on pages
SHORT = 16 * PAGE  # bytes; shorter rows of `pq` do not, as up to half of the file would be empty
FIRST_ROWS = 64  # rows that the datasets have room for at first


@dataclass(frozen=True)
class WrittenShard:
    """A durable shard that no commit names yet."""

    number: int
    path: Path
    digest: str  # xxh3_128 of the file
    images: Sequence[ImageOrigin]  # in the order of its rows
    layout: bytes | None  # see `layout_to_keep`


@dataclass(frozen=True)
class _Row:
    """Values of an appended image that are kept until the shard is complete."""

    origin: ImageOrigin
    pooled: np.ndarray  # float32 [D]
    thumbnail: bytes
    checksum: int


class ShardWriter:
    """Writes one shard under a temporary name; `commit` makes it durable and gives it its name."""

    def __init__(
        self, folder: Path, number: int, settings: ExtractionSettings, storage: MapStorage = MapStorage.FLOAT16
    ) -> None:
        """Create the temporary file in `folder`, which is made if it is missing. Raises OSError.

        `storage` is that of the maps of all images.
        """
        folder.mkdir(exist_ok=True)
        self.number = number
        self.path = folder / shard_name(number)
        self._settings = settings
        self._storage = storage
        self._temporary = self.path.with_suffix(".h5.tmp")
        self._rows: list[_Row] = []
        self._sink = Sink(self._temporary)
        aligned = SHORT if isinstance(storage.codec, Quantized) else PAGE
        self._file = h5py.File(self._sink, "w", alignment_threshold=aligned, alignment_interval=PAGE)
        self._file.attrs["format"] = FORMAT
        self._file.attrs["version"] = storage.version
        if storage != MapStorage.FLOAT16:
            self._file.attrs["maps"] = storage.name
        self._file.attrs["settings"] = settings.to_json()
        self._capacity = 0  # rows that the datasets of maps have
        self._levels, shapes = storage.levels_of(settings), map_shapes(settings)
        self._maps = [self._create_maps(level, shapes[level]) for level in self._levels]

    def _create_maps(self, level: int, shape: tuple[int, int]) -> h5py.Dataset:
        """Create the dataset of a level's maps [P, C]: one image in each chunk."""
        dtype, codec = self._storage.codec.dtype, self._storage.codec.of_level(level)
        row = codec.stored_shape(*shape)
        dataset = self._file.create_dataset(
            f"maps/{level}", (0, *row), dtype, maxshape=(None, *row), chunks=(1, *row), fillvalue=None
        )
        dataset.attrs.update(codec.attributes(*shape))
        if self._storage.levels is not None:  # each dataset names them all, lest one damaged attribute cost an image
            dataset.attrs["codec"] = self._storage.name
        return dataset

    def __len__(self) -> int:
        return len(self._rows)

    def append(self, image: NewImage) -> None:
        """Add one image, whose maps are as the writer stores them. Raises OSError."""
        stored, row = image.stored, len(self)
        if stored.storage != self._storage:
            found, wanted = stored.storage.name, self._storage.name
            raise ValueError(f"image {image.origin.id!r}: its maps are {found}, not {wanted}")
        with self._sink.checked():
            if row == self._capacity:
                self._resize(max(FIRST_ROWS, 2 * row))
            for dataset, level in zip(self._maps, self._levels, strict=True):
                data = np.ascontiguousarray(stored.maps[level], self._storage.codec.dtype)
                dataset.id.write_direct_chunk((row, *(0 for _ in data.shape)), data)
        pooled = np.ascontiguousarray(stored.pooled, "<f4")
        checksum = row_checksum(image.origin.id, pooled, stored.maps, stored.thumbnail)
        self._rows.append(_Row(image.origin, pooled, stored.thumbnail, checksum))

    def commit(self) -> WrittenShard:
        """Write the remaining rows, flush the file to disk and rename it. Raises OSError."""
        with self._sink.checked():
            self._write_columns()
        self._sink.close()
        digest = make_durable(self._temporary, self.path)
        layout = layout_to_keep(self.number, self.path, self._settings)
        return WrittenShard(self.number, self.path, digest, [row.origin for row in self._rows], layout)

    def abandon(self) -> None:
        """Give up; nothing is left on disk."""
        with suppress(OSError, RuntimeError):
            self._file.close()
        self._sink.close()
        self._temporary.unlink(missing_ok=True)

    def _resize(self, rows: int) -> None:
        for dataset in self._maps:
            dataset.resize(rows, axis=0)
        self._capacity = rows

    def _write_columns(self) -> None:
        self._resize(len(self))  # drops the maps of an `append` that was interrupted
        self._file.create_dataset("pooled", data=np.stack([row.pooled for row in self._rows]))
        self._file.create_dataset("id", data=[row.origin.id for row in self._rows], dtype=h5py.string_dtype())
        stored = self._file.create_dataset("thumbnail", (len(self),), h5py.vlen_dtype(np.uint8))
        values = np.empty(len(self), stored.dtype)
        for place, row in enumerate(self._rows):
            values[place] = np.frombuffer(row.thumbnail, np.uint8)
        stored.id.write(h5py.h5s.ALL, h5py.h5s.ALL, values)  # `stored[:]` would take equal lengths for a matrix
        self._file.create_dataset("checksum", data=np.array([row.checksum for row in self._rows], "<u8"))
        self._file.close()
