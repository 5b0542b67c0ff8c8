"""The exceptions of spade_index: the core raises them, the edges (command line, server) translate them.

    SpadeIndexError
    ├── InputError              an argument, option or file of the user's cannot be used
    │   └── ImageError          an image cannot be decoded, or is refused
    ├── BackboneError           the backbone or level is unknown, or the weights are missing or do not fit
    ├── ServiceError            a service answered with an error (raised by spade_index.client)
    │   ├── Unavailable         the service cannot be reached, or does not answer in time
    │   └── JobFailed           a job failed, or was cancelled or interrupted
    ├── ClusterError            Ray is not installed, no cluster answers, or its workers are too few or lost
    └── GalleryError
        ├── GalleryNotFound     there is no gallery at the path
        ├── GalleryLocked       another process is writing
        ├── GalleryDamaged      a file is missing, truncated or altered
        ├── FormatTooNew        the gallery was written by a newer spade_index
        ├── SettingsMismatch    the weights, levels or preprocessing are not the gallery's
        ├── UnknownImage        the gallery has no image with this id
        ├── StorageError        the disk is full, or the folder is not writable
        └── RemoteError         an object store refuses, does not answer, or holds something else

Every message is one line that names the file and says what to do.
"""

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class SpadeIndexError(Exception):
    """Base of all exceptions that spade_index raises on purpose."""


class InputError(SpadeIndexError):
    """An argument, option or file of the user's cannot be used: an empty folder, a missing path, a bad value."""


class ImageError(InputError):
    """An image cannot be decoded, or is refused because it claims too many pixels (decompression bomb)."""


class BackboneError(SpadeIndexError):
    """The backbone or level is unknown, or the weights are missing or do not fit."""


class ServiceError(SpadeIndexError):
    """A service answered with an error.

    Attributes:
        status: of HTTP, or None where the service did not answer.
        detail: the service's own words.
        fields: fields of the request that are at fault -> why.
        request_id: by which the service's log names the request.
        retry_after: seconds after which another try may succeed.
    """

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
        super().__init__(message)
        self.status = status
        self.detail = detail or message
        self.fields = fields or {}
        self.request_id = request_id
        self.retry_after = retry_after


class Unavailable(ServiceError):
    """The service cannot be reached, or does not answer in time."""


class JobFailed(ServiceError):
    """A job failed, or was cancelled or interrupted; what it had committed is kept."""


class ClusterError(SpadeIndexError):
    """Ray is not installed, no cluster answers, or its workers are too few or lost."""


class GalleryError(SpadeIndexError):
    """Base of the exceptions about a gallery on disk."""


class GalleryNotFound(GalleryError):
    """There is no gallery at this path."""


class GalleryLocked(GalleryError):
    """Another process is writing to the gallery."""


class GalleryDamaged(GalleryError):
    """A file of the gallery is missing, truncated or altered."""


class FormatTooNew(GalleryError):
    """The gallery was written by a newer version of spade_index."""


class SettingsMismatch(GalleryError):
    """The weights, levels or preprocessing are not those that the gallery was built with."""


class UnknownImage(GalleryError):
    """The gallery has no image with this id."""


class StorageError(GalleryError):
    """The gallery cannot be written: the disk is full, or the folder is not writable."""


class RemoteError(GalleryError):
    """An object store refuses a request, does not answer it, or holds something else than was stored."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Translate errors of SQLite and the file system while a gallery is written into StorageError.

    Where SQLite says that the catalog is damaged, or closed, that is GalleryDamaged or GalleryError.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise GalleryDamaged(
                f"{path}: the catalog is damaged ({error}); `spade-index verify {path}` names what is"
            ) from error
        if isinstance(error, sqlite3.ProgrammingError):
            raise GalleryError(
                f"{path}: the gallery is closed, or used in a way that it cannot be ({error})"
            ) from error
        raise StorageError(f"{path}: the catalog cannot be written ({error})") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
            raise StorageError(
                f"{path}: the disk is full; what was committed is safe: make room and run the same command again"
            ) from error
        reason = " ".join((error.strerror or str(error)).split())  # messages of h5py have several lines
        raise StorageError(f"{path}: cannot be written ({reason})") from error
