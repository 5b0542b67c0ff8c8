"""Decide which of the images that `add` is given are added: new ones, and changed ones that replace others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.record import ImageOrigin
from spade_index.images.decode import DecodedImage
from spade_index.images.find import ImageFile
from spade_index.images.loading import in_lots

LOOKED_UP = 64  # files that are looked up in the catalog at once


@dataclass
class AddReport:
    """The number of images that `add` was given, by what became of them."""

    added: int = 0
    replaced: int = 0  # of those added
    unchanged: int = 0  # already there
    copies: int = 0  # there under another id
    changed: int = 0  # there with other contents, and kept as they were
    failed: int = 0  # could not be decoded
    removed: int = 0  # were removed before, and stay out

    def __str__(self) -> str:
        notes = {
            "replaced": f"{self.replaced:,} of them replaced",
            "unchanged": f"{self.unchanged:,} already there",
            "copies": f"{self.copies:,} skipped as copies",
            "changed": f"{self.changed:,} changed but kept as they were (--replace takes the new ones)",
            "failed": f"{self.failed:,} could not be decoded",
            "removed": f"{self.removed:,} were removed before and stay out (--again takes them)",
        }
        return ", ".join([f"{self.added:,} added", *(text for name, text in notes.items() if getattr(self, name))])

    @property
    def given(self) -> int:
        """The number of images."""
        return self.added + self.unchanged + self.copies + self.changed + self.failed + self.removed


class Admission:
    """Compares images with the gallery and with each other, and counts what becomes of them."""

    def __init__(
        self,
        gallery: Gallery,
        *,
        replace: bool,
        keep_removed: bool,
        notice: Callable[[str], None],
        progress: Callable[[int], None],
    ) -> None:
        """With `keep_removed`, images that were removed before stay out."""
        self.report = AddReport()
        self._gallery = gallery
        self._replace = replace
        self._notice = notice
        self._progress = progress
        self._before = gallery.snapshot
        self._removed = _Removed(gallery.catalog.removed_on_purpose() if keep_removed else ())
        self._ids: dict[str, bytes] = {}  # digests of the images that are admitted and not committed
        self._digests: dict[bytes, str] = {}
        self._outdated: dict[str, ImageRow] = {}  # the images that they replace

    def unknown(self, files: Iterable[ImageFile]) -> Iterator[ImageFile]:
        """Yield the files that are not there already, by path, size and time; none of them is read."""
        for some in in_lots(files, LOOKED_UP):
            known = self._gallery.catalog.images_by_id([file.id for file in some], self._gallery.snapshot)
            for file in some:
                row = known.get(file.id)
                if row is not None and (row.path, row.size, row.mtime_ns) == (file.path, file.size, file.mtime_ns):
                    self.report.unchanged += 1
                    self._progress(1)
                elif row is None and self._removed.has_file(file):
                    self.report.removed += 1
                    self._progress(1)
                else:
                    yield file

    def admitted(self, batch: list[DecodedImage]) -> list[DecodedImage]:
        """Return the images that are to be added: new ones, and changed ones that replace others."""
        catalog, snapshot = self._gallery.catalog, self._gallery.snapshot
        stored = catalog.images_by_id([image.id for image in batch], snapshot)
        originals = catalog.ids_by_digest([image.digest for image in batch], snapshot)
        return [image for image in batch if self._admit(image, stored.get(image.id), originals.get(image.digest))]

    def _admit(self, image: DecodedImage, stored: ImageRow | None, original: str | None) -> bool:
        """Return whether to add an image; `stored` has its id in the catalog, and `original` its contents."""
        id = image.id
        known = self._ids.get(id) or (stored.digest if stored else None)
        if original in self._ids:  # and is about to be replaced
            original = None
        original = self._digests.get(image.digest) or original
        added_now = id in self._ids or (stored is not None and stored.added > self._before)
        if known == image.digest:
            self.report.unchanged += 1
        elif known is not None and (added_now or not self._replace):
            self.report.changed += 1
            self._notice(f"kept {id} as it was: {image.file.path} has other contents (--replace takes it)")
        elif original is None and self._removed.has_contents(image.digest):
            self.report.removed += 1
        elif known is None and original is not None:
            self.report.copies += 1
            self._notice(f"skipped {id}: the same file as {original}")
        else:
            self.report.added += 1
            self._ids[id] = image.digest
            self._digests[image.digest] = id
            if stored is not None:
                self.report.replaced += 1
                self._outdated[id] = stored
            return True
        self._progress(1)
        return False

    def replaced_by(self, images: Sequence[ImageOrigin]) -> list[ImageRow]:
        """Return the images that these replace, which are about to be committed."""
        return [self._outdated.pop(image.id) for image in images if image.id in self._outdated]

    def committed(self, images: Sequence[ImageOrigin]) -> None:
        """Note that these are in the gallery from now on."""
        for image in images:
            self._ids.pop(image.id)
            self._digests.pop(image.digest, None)  # the two may share one, if both replace others


class _Removed:
    """The images that were removed from a gallery."""

    def __init__(self, rows: Iterable[ImageRow]) -> None:
        self._files: set[tuple[str, str, int, int]] = set()
        self._digests: set[bytes] = set()
        for row in rows:
            self._files.add((row.id, row.path, row.size, row.mtime_ns))
            self._digests.add(row.digest)

    def has_file(self, file: ImageFile) -> bool:
        """Return whether this file was removed, by path, size and time."""
        return (file.id, file.path, file.size, file.mtime_ns) in self._files

    def has_contents(self, digest: bytes) -> bool:
        """Return whether a file with these contents was removed."""
        return digest in self._digests
