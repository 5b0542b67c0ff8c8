"""Read a shard: an immutable HDF5 file with the features of some images, written once and then only read.

    attrs       format="spade-index", version, settings=<JSON>
    /id         [n]             UTF-8
    /pooled     [n, D]          float32, contiguous
    /maps/0     [n, H0*W0, C0]  float16, one image per chunk, no filter, raster order; level 0 is the finest
    /maps/1     ...
    /thumbnail  [n]             uint8, variable length: a small JPEG
    /checksum   [n]             uint64: xxh3_64 of the row's id, pooled descriptor, maps and thumbnail, as stored

From version 2 on, the attribute `maps` may name a codec (see `codecs`). Then /maps/L is [n, bytes] uint8, one image per
chunk, and its attributes say how a row is decoded. From version 3 on, it may name levels, too (see `storage`): then
there are no others.

An unfiltered chunk of one image is a plain byte range, so rows are read past HDF5's global lock with `os.preadv`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np
import xxhash

from spade_index.errors import GalleryDamaged, RemoteError, StorageError
from spade_index.settings import ExtractionSettings

from .codecs import DEFAULT, MapCodec
from .hdf5 import column, dataset, unreadable
from .layout import ShardLayout
from .record import StoredImage
from .rows import LocalFile, RowsFile, read_at, read_rows
from .storage import MapStorage, OtherCodes

Columns = tuple[h5py.Dataset, h5py.Dataset, h5py.Dataset]  # ids, checksums, thumbnails


class Shard:
    """Reads one shard's rows."""

    def __init__(
        self,
        path: Path | str,
        settings: ExtractionSettings,
        layout: ShardLayout | None = None,
        file: RowsFile | None = None,
        with_tables: Callable[[MapStorage], MapStorage] = lambda storage: storage,
    ) -> None:
        """Open a shard with its layout; where that is None, HDF5 is asked for it.

        With `file`, it is read from there, and `path` is how errors name it. `with_tables` adds the tables that its
        codec needs; without them, codes are read as they are stored. Raises GalleryDamaged if the file is missing,
        truncated, or not a shard.
        """
        self.path = path
        self._columns: Columns | None = None  # while the file is kept open
        try:
            self.file: RowsFile = LocalFile(Path(path)) if file is None else file
            self.layout = layout or ShardLayout.read(self.file, settings)
            self.rows = self.layout.rows
            self._dim = settings.pooled_dim
            self._channels = [channels for channels, _, _ in settings.level_shapes]
            self.storage = with_tables(self.layout.storage)  # of the maps
            self._codec = self.storage.codec
            self._stored_shapes = self.storage.stored_shapes(settings)
            self._sizes = [math.prod(shape) * np.dtype(self._codec.dtype).itemsize for shape in self._stored_shapes]
            size, row = self.file.size, sum(self._sizes)
            if size < self.layout.pooled + 4 * self.rows * self._dim or size < self.rows * row:
                raise ValueError("truncated")
        except FileNotFoundError as error:
            raise GalleryDamaged(f"{path}: missing; {_remedy(path)}") from error
        except Exception as error:  # h5py raises exceptions of any kind on damaged files
            raise unreadable(path, error, _remedy(path)) from error
        self._foreign = self.layout.settings != settings.to_json()

    def pooled(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Return the pooled descriptors of these rows int64 [n], or all, float32 [n, D]. Raises GalleryDamaged."""
        self._require_own()
        return self._pooled(np.arange(self.rows) if rows is None else rows)

    def _pooled(self, rows: np.ndarray) -> np.ndarray:
        if rows.size and not 0 <= rows.min() <= rows.max() < self.rows:
            raise GalleryDamaged(f"{self.path}: has no row {rows.max()}; {_remedy(self.path)}")
        pooled = np.empty((len(rows), self._dim), "<f4")
        self._read(lambda: read_rows(self.file, pooled, rows, self.layout.pooled))
        return pooled

    def read_codes(self, row: int, out: list[np.ndarray], levels: Sequence[int], codec: MapCodec) -> None:
        """Read a row's maps of some levels as a codec stores them into `out`, uint8 [bytes] of each.

        Raises OtherCodes if the codec of this shard is another, and GalleryDamaged.
        """
        self._require_own()
        if self._codec.name != codec.name:
            raise OtherCodes
        self._require_levels(out, levels)
        self._read_maps(row, out, levels)
        try:
            for level, codes in zip(levels, out, strict=True):
                codec.of_level(level).require_sound(codes, self._channels[level])
        except ValueError as error:
            raise unreadable(self.path, error, _remedy(self.path)) from error

    def _require_levels(self, out: list[np.ndarray], levels: Sequence[int]) -> None:
        for level, values in zip(levels, out, strict=True):
            if values.size and not self._sizes[level]:
                raise GalleryDamaged(f"{self.path}: holds no maps of level {level}; {_remedy(self.path)}")

    def read_maps(self, row: int, out: list[np.ndarray], levels: Sequence[int] | None = None) -> None:
        """Read a row's maps into `out`, float16 [H*W, C] for each level, or for some. Raises GalleryDamaged."""
        self._require_own()
        chosen = range(len(self._stored_shapes)) if levels is None else levels
        self._require_levels(out, chosen)
        if self._codec.name == DEFAULT:
            self._read_maps(row, out, levels)
            return
        stored = [np.empty(self._stored_shapes[level], np.uint8) for level in chosen]
        self._read_maps(row, stored, levels)
        try:
            for level, codes, values in zip(chosen, stored, out, strict=True):
                if values.size:
                    self._codec.of_level(level).decode(codes, values)
        except ValueError as error:
            raise unreadable(self.path, error, _remedy(self.path)) from error

    def ranges(self, row: int, levels: Sequence[int] | None = None) -> list[tuple[int, int]]:
        """Return where in the file the maps of a row are: byte offsets and lengths, of all levels or of some."""
        chosen = range(len(self._sizes)) if levels is None else levels
        return [
            (int(self.layout.maps[level][row]), self._sizes[level])
            for level in chosen
            if row < self.rows and self._sizes[level]
        ]

    def pooled_range(self, rows: np.ndarray) -> tuple[int, int]:
        """Return where in the file the pooled descriptors from the first to the last of rows int64 [n] are."""
        first, last = int(rows.min()), int(rows.max())
        return self.layout.pooled + 4 * self._dim * first, 4 * self._dim * (last + 1 - first)

    def _require_own(self) -> None:
        # Rows with checksums are read all the same: a changed byte in the settings must not cost the images.
        if self._foreign:
            raise GalleryDamaged(f"{self.path}: was built with other settings than its gallery; {_remedy(self.path)}")

    def _read_maps(self, row: int, out: list[np.ndarray], levels: Sequence[int] | None = None) -> None:
        if not 0 <= row < self.rows:
            raise GalleryDamaged(f"{self.path}: has no row {row}; {_remedy(self.path)}")
        maps = self.layout.maps if levels is None else [self.layout.maps[level] for level in levels]
        for offsets, values in zip(maps, out, strict=True):
            offset = int(offsets[row])
            self._read(lambda: offset >= 0 and read_at(self.file, values, offset))  # noqa: B023

    def _read(self, read: Callable[[], bool]) -> None:
        """Read, and raise what is wrong. Raises GalleryDamaged, StorageError."""
        try:
            whole = read()
        except OSError as error:
            raise unreadable(self.path, error, _remedy(self.path)) from error
        if not whole:
            raise GalleryDamaged(f"{self.path}: truncated; {_remedy(self.path)}")

    def thumbnail(self, row: int) -> bytes:
        """Return a row's small JPEG. Raises FileNotFoundError, GalleryDamaged, StorageError."""
        try:
            with self.file.opened() as file:
                thumbnail: bytes = _thumbnails(file)[row].tobytes()
                return thumbnail
        except FileNotFoundError:
            raise
        except Exception as error:  # h5py raises exceptions of any kind on damaged files
            raise unreadable(self.path, error, _remedy(self.path)) from error

    def read_checked(self, row: int, id: str) -> StoredImage:
        """Return all that is stored of an image, compared with its checksum.

        Raises GalleryDamaged, StorageError, RemoteError.
        """
        found = self._checked(row)
        if found is None or found[0] != id:
            raise GalleryDamaged(f"{self.path}: image {id!r} is damaged; {_remedy(self.path)}")
        return found[1]

    def damaged_rows(self) -> list[int]:
        """Return every row whose bytes do not match their checksum, or cannot be read. Raises StorageError."""
        with self.kept_open():
            return [row for row in range(self.rows) if self._checked(row) is None]

    def _checked(self, row: int) -> tuple[str, StoredImage] | None:
        """Return a row's id and the values stored for the image, or None unless they match the row's checksum."""
        try:
            maps = [np.empty(shape, self._codec.dtype) for shape in self._stored_shapes]
            self._read_maps(row, maps)
            id, checksum, thumbnail = self._beside(row)
            stored = StoredImage(self._pooled(np.array([row]))[0], maps, thumbnail, self.storage)
        except Exception as error:  # h5py raises exceptions of any kind on damaged files
            if isinstance(failure := unreadable(self.path, error, _remedy(self.path)), StorageError | RemoteError):
                raise failure from error
            return None
        matches = row_checksum(id, stored.pooled, maps, stored.thumbnail) == checksum
        return (id, stored) if matches else None

    def _beside(self, row: int) -> tuple[str, int, bytes]:
        """Return what HDF5 reads of a row: its id, checksum and thumbnail. Raises what h5py and `opened` do."""
        if self._columns is not None:
            with suppress(Exception):  # then it is read as if nothing were open, and that tells what is wrong
                return _of_row(self._columns, row)
        with self.file.opened() as file:
            return _of_row(_columns(file), row)

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Let HDF5 keep the file open inside, for `read_checked`, which else opens it for each row."""
        with ExitStack() as files:
            with suppress(Exception):  # then each row tells what is wrong
                self._columns = _columns(files.enter_context(self.file.opened()))
            try:
                yield
            finally:
                self._columns = None
                with suppress(Exception):
                    files.close()


def _thumbnails(file: h5py.File) -> h5py.Dataset:
    stored = dataset(file, "thumbnail")
    if stored.dtype != h5py.vlen_dtype(np.uint8) or stored.ndim != 1:
        raise ValueError("thumbnail: not a list of files")
    return stored


def _columns(file: h5py.File) -> Columns:
    return column(file, "id", "O"), column(file, "checksum", "u"), _thumbnails(file)


def _of_row(columns: Columns, row: int) -> tuple[str, int, bytes]:
    ids, checksums, thumbnails = columns
    return ids.asstr()[row], int(checksums[row]), thumbnails[row].tobytes()


def row_checksum(id: str, pooled: np.ndarray, maps: list[np.ndarray], thumbnail: bytes) -> int:
    """Return the xxh3_64 of a row's bytes: id, pooled float32 [D], maps as stored by level, thumbnail."""
    digest = xxhash.xxh3_64(id.encode())
    digest.update(np.ascontiguousarray(pooled, "<f4"))
    for values in maps:
        digest.update(np.ascontiguousarray(values))
    digest.update(thumbnail)
    return digest.intdigest()


def _remedy(path: Path | str) -> str:
    if isinstance(path, str):
        return "mend the gallery that it was pushed from, and push it again"
    gallery = path.parent.parent
    return f"restore it from a copy, or `spade-index verify {gallery} --repair` drops what is damaged"
