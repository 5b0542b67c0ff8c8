"""The files of a gallery that its catalog names with their digests, and the objects that hold them."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from spade_index.errors import GalleryDamaged, StorageError
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.check import REMEDY, Stamp
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store import leave_one_out

DIGEST = re.compile(r"[0-9a-f]{32}")
FOLDERS = ("shards", "index", leave_one_out.FOLDER)
OBJECT = re.compile(
    rf"(?:{'|'.join(FOLDERS)})/\d[\d-]*-[0-9a-f]{{32}}\.(?:h5|faiss|sums)|catalog/[0-9a-f]{{32}}\.sqlite"
)


@dataclass(frozen=True)
class NamedFile:
    """A file that never changes."""

    path: str  # in the gallery: shards/000001.h5
    digest: str  # xxh3_128

    @property
    def object(self) -> str:
        """The name of the object that holds it: shards/000001-DIGEST.h5."""
        path = PurePosixPath(self.path)
        return f"{path.parent}/{path.stem}-{self.digest}{path.suffix}"

    @property
    def is_read_in_parts(self) -> bool:
        """Whether it has sums: shards and the descriptors of an index."""
        return self.path.startswith("shards/") or (self.path.startswith("index/") and self.path.endswith(".h5"))

    @property
    def sums(self) -> str:
        """The name of the object that holds the digests of its blocks: see `sums`."""
        return str(PurePosixPath(self.object).with_suffix(".sums"))


def catalog_object(digest: str) -> str:
    """Return the name of the object that holds a catalog."""
    return f"catalog/{digest}.sqlite"


def named_files(catalog: Catalog) -> list[NamedFile]:
    """Return all files that a catalog names: shards, indexes, calibrations. Raises GalleryDamaged."""
    files = [NamedFile(f"shards/{row.file}", row.digest) for row in catalog.used_shards()]
    for row in catalog.indexes():
        files.append(NamedFile(f"index/{row.file}", row.digest))
        if digest := IndexDescription.from_json(row.description).descriptors:
            beside = descriptors_file(Path("index", row.file))
            files.append(NamedFile(beside.as_posix(), digest))
    for file, digest in catalog.calibration_files().items():
        files.append(NamedFile(f"{leave_one_out.FOLDER}/{file}", digest))
    for named in files:
        if not DIGEST.fullmatch(named.digest):
            raise GalleryDamaged(f"{catalog.path}: unexpected digest of {named.path}; {REMEDY}")
    return list(dict.fromkeys(files))


def copied_catalog(gallery: Gallery, copy: Path) -> tuple[Catalog, Stamp]:
    """Copy a gallery's catalog to a path, and move the gallery to its last snapshot, so that its files stay.

    Returns the copy, open, and the stamp of its bytes. Raises GalleryError.
    """
    while True:
        gallery.at()
        held = gallery.catalog.generation()
        try:
            stamp = gallery.catalog.copy(copy)
        except OSError as error:
            raise StorageError(f"{copy}: the catalog cannot be copied ({error.strerror}): make room") from error
        catalog = Catalog(copy)
        if catalog.generation() == held:
            return catalog, stamp
        catalog.close()
