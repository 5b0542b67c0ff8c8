"""The file of an index whose lists FAISS maps into memory."""

import os
from pathlib import Path

from spade_index.errors import GalleryDamaged, StorageError
from spade_index.gallery.store.files import IRREGULAR, open_regular


class MappedFile:
    """Watches a file that is mapped: to touch a page that was cut off since ends the process.

    A program that truncates the file in the milliseconds of a search can still do that.
    """

    def __init__(self, path: Path) -> None:
        """Open the file. Raises GalleryDamaged, StorageError."""
        self.fd = -1
        self._path = path
        try:
            self.fd = open_regular(path)
            self._size = os.fstat(self.fd).st_size
        except FileNotFoundError as error:
            raise GalleryDamaged(f"{path}: missing: rebuild it with `spade-index index GALLERY`") from error
        except OSError as error:
            kind = GalleryDamaged if error.errno in IRREGULAR else StorageError
            raise kind(f"{path}: cannot be read ({error.strerror}): `spade-index index GALLERY` builds it") from error

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)

    def require_size(self) -> None:
        """Raise GalleryDamaged unless the file is as long as it was."""
        if os.fstat(self.fd).st_size != self._size:
            raise GalleryDamaged(
                f"{self._path}: its size has changed while it was in use: wait until it is copied and open the gallery "
                "again, or rebuild the index with `spade-index index GALLERY`"
            )
