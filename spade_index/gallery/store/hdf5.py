"""Datasets of HDF5 files that may come from anyone: their values are in the file itself, as they stand there.

HDF5 can be told by a file to read others: by external storage, external links, soft links through these, and virtual
datasets. Filters could make much of a few bytes. No file of a gallery has any of them.
"""

import errno
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np

from spade_index.errors import GalleryDamaged, GalleryError, StorageError

from .heap import BEGINNING, require_end

NOT_DAMAGE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def unreadable(path: Path | str, error: Exception, remedy: str) -> GalleryError:
    """Return what to raise for an error in reading a file: GalleryDamaged, unless the machine is the cause."""
    if isinstance(error, GalleryError):
        return error
    reason = "missing" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in NOT_DAMAGE:
        return StorageError(f"{path}: cannot be read ({error.strerror})")
    return GalleryDamaged(f"{path}: damaged ({reason}); {remedy}")


class Readable(Protocol):
    """A file that is open, on this machine or elsewhere, which never changes."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def read(self, out: memoryview, offset: int) -> bool:
        """Fill `out` from a byte offset; return False if the file ends before. Raises OSError, GalleryError."""


@contextmanager
def opened(source: Readable) -> Iterator[h5py.File]:
    """Let HDF5 read a file that is open: by its name, it might find another by now. Raises what it and `read` raise."""
    stream = _Stream(source)
    try:
        with h5py.File(stream, "r") as file:
            yield file
    except Exception:
        # HDF5 does not tell the failure. It holds the stream, and its traceback holds HDF5's: let go of it, or none of
        # them is ever freed, and HDF5 ends the interpreter's exit with a segmentation fault.
        failure, stream.failure = stream.failure, None
        if failure is None:
            raise
        try:
            raise failure from None
        finally:
            del failure


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose values are in `file`. Raises KeyError, ValueError."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        # The link alone is looked at: what it leads to may be damaged where nothing that is read lies.
        if file.id.links.get_info("/".join(parts[:depth]).encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{name}: a link")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{name}: not a dataset")
    properties: Any = found.id.get_create_plist()
    if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"{name}: it refers to other files")
    if properties.get_nfilters():
        raise ValueError(f"{name}: it has filters")
    return found


def attribute(of: h5py.File | h5py.Dataset, name: str) -> str:
    """Return an attribute that is a text or a whole number, as text. Raises KeyError, ValueError, and what h5py raises.

    HDF5 ends the process when it reads values of a type that a damaged or made-up file nests in others.
    """
    kind = h5py.h5a.open(of.id, name.encode()).get_type()
    if not isinstance(kind, h5py.h5t.TypeStringID | h5py.h5t.TypeIntegerID):
        raise ValueError(f"{name}: neither text nor a number")
    return str(of.attrs[name])


def is_named(file: h5py.File, name: str) -> bool:
    """Return whether a file has something of this name, or a link that leads to it; only hard links are followed."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        link = "/".join(parts[:depth]).encode()
        if not file.id.links.exists(link):
            return False
        if file.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            break
    return True


def column(file: h5py.File, name: str, kind: str) -> h5py.Dataset:
    """Return a dataset of one value for each row; `kind` is that of its type, as numpy names it. Raises ValueError."""
    found = dataset(file, name)
    if found.dtype.kind != kind or found.ndim != 1:
        raise ValueError(f"{name}: {found.dtype} of {found.ndim} dimensions")
    return found


def array(file: h5py.File, name: str, dtype: str, dimensions: int) -> tuple[h5py.Dataset, int]:
    """Return a contiguous dataset of this type and its byte offset: all of it is within the file. Raises ValueError."""
    found = dataset(file, name)
    if found.dtype != np.dtype(dtype) or found.ndim != dimensions:
        raise ValueError(f"{name}: {found.dtype} of {found.ndim} dimensions")
    offset = found.id.get_offset()
    if offset is None or offset + found.nbytes > file.id.get_filesize():
        raise ValueError(f"{name}: truncated")
    return found, offset


class _Stream(io.RawIOBase):
    """A file as HDF5 reads it."""

    def __init__(self, file: Readable) -> None:
        self._file = file
        self._place = 0
        self.failure: Exception | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a place."""
        self._place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer as far as the file reaches; return the number of bytes."""
        out = memoryview(buffer).cast("B")
        out = out[: max(0, self._file.size - self._place)]
        try:
            if out and not self._file.read(out, self._place):
                raise OSError(errno.EIO, "its end was cut off while it was read")
            if out[: len(BEGINNING)] == BEGINNING:  # HDF5 asks for a heap from its beginning on
                require_end(self._file, self._place)
        except Exception as error:
            self.failure = error
            raise
        self._place += len(out)
        return len(out)
