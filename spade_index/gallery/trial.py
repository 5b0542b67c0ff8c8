"""Try a change on a copy of a gallery. The gallery's files never change, so the copy shares all but the catalog."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from spade_index.errors import StorageError, storage_errors

from .reader import CATALOG, Gallery
from .remote.files import copied_catalog, named_files


@contextmanager
def trial_copy(path: Path, folder: Path) -> Iterator[Path]:
    """Give a copy of a gallery at its last commit, which may be changed and is deleted afterwards.

    Args:
        path: of the gallery.
        folder: where to make the copy, on the same file system: files are shared by hard links.

    Raises GalleryError; StorageError if the files cannot be linked.
    """
    with storage_errors(folder):
        temporary = tempfile.TemporaryDirectory(prefix="trial-", dir=folder)
    with temporary as name:
        copy = Path(name)
        with closing(Gallery(path)) as gallery:  # what it holds is not deleted meanwhile
            catalog, _ = copied_catalog(gallery, copy / CATALOG)
            with closing(catalog):
                files = [named.path for named in named_files(catalog)]
            try:
                for file in files:
                    (copy / file).parent.mkdir(exist_ok=True)
                    os.link(path / file, copy / file, follow_symlinks=False)
            except OSError as error:
                raise StorageError(
                    f"{path}: cannot be tried on a copy ({error.strerror}): its file system must have hard links"
                ) from error
        yield copy
