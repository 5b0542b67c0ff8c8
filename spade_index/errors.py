"""One exception tree; the core raises, the edges (command line, server) translate.

    SpadeIndexError
    ├── InputError              what the user handed in cannot be used
    │   └── ImageError          one image cannot be decoded, or is refused
    ├── BackboneError           unknown backbone or level, weights missing or not fitting
    ├── ServiceError            a service was asked and did not do it (spade_index.client)
    │   ├── Unavailable         it cannot be reached, or does not answer in time
    │   └── JobFailed           a job ended without having done its work
    └── GalleryError
        ├── GalleryNotFound     no gallery there
        ├── GalleryLocked       another process is writing
        ├── GalleryDamaged      a file is missing, truncated or altered
        ├── FormatTooNew        written by a newer spade_index
        ├── SettingsMismatch    other weights, levels or preprocessing than the gallery's
        ├── UnknownImage        an image id that the gallery does not hold
        └── StorageError        disk full, folder not writable

Every message is one line that names the file and says what to do.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SpadeIndexError(Exception):
    """Base of everything that spade_index raises on purpose."""


class InputError(SpadeIndexError):
    """What the user handed in cannot be used: an empty folder, a missing path, a bad option."""


class ImageError(InputError):
    """One image cannot be decoded, or is refused (decompression bomb)."""


class BackboneError(SpadeIndexError):
    """Unknown backbone or level, or weights that are missing or do not fit."""


class ServiceError(SpadeIndexError):
    """A service answered with an error; `status` is None where it did not answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        detail: str | None = None,
        fields: dict[str, str] | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        """`fields` of the request that are at fault, and why; `retry_after` in seconds; its log knows `request_id`."""
        super().__init__(message)
        self.status = status
        self.detail = detail or message
        self.fields = fields or {}
        self.request_id = request_id
        self.retry_after = retry_after


class Unavailable(ServiceError):
    """A service cannot be reached, or does not answer in time."""


class JobFailed(ServiceError):
    """A job failed, was cancelled or interrupted; what it has committed stays."""


class GalleryError(SpadeIndexError):
    """Base of what can be wrong with a gallery on disk."""


class GalleryNotFound(GalleryError):
    """There is no gallery at this path."""


class GalleryLocked(GalleryError):
    """Another process is writing to the gallery."""


class GalleryDamaged(GalleryError):
    """A file of the gallery is missing, truncated or altered."""


class FormatTooNew(GalleryError):
    """The gallery was written by a newer version of spade_index."""


class SettingsMismatch(GalleryError):
    """The gallery was built with other weights, levels or preprocessing."""


class UnknownImage(GalleryError):
    """An image id that the gallery does not hold."""


class StorageError(GalleryError):
    """The gallery could not be written: disk full, folder not writable."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about a gallery that cannot be written into a StorageError."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{path}: the catalog cannot be written ({error})") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise StorageError(
                f"{path}: the disk is full; what was committed is safe: make room and run the same command again"
            ) from error
        reason = " ".join((error.strerror or str(error)).split())  # h5py's go over several lines
        raise StorageError(f"{path}: cannot be written ({reason})") from error
