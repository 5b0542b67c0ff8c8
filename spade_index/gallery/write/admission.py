"""Decide which of the images that `add` is given are added: new ones, and changed ones that replace others.

A picture that is cut into tiles is decided on as a whole. Its tiles may be committed in several steps: the first of
them retires all tiles that are replaced, so a gallery never holds tiles of two versions of a picture, and what an
interruption left out is added by the next call.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from spade_index.errors import InputError
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.record import ImageOrigin
from spade_index.images.decode import DecodedImage
from spade_index.images.find import ImageFile
from spade_index.images.loading import in_lots
from spade_index.images.tiles import part_ids, picture_of, piece_of, pieces_of
from spade_index.settings import Preprocessing
from spade_index.wording import number_of

LOOKED_UP = 64  # files that are looked up in the catalog at once


@dataclass
class AddReport:
    """The number of images that `add` was given, by what became of them; a picture that is cut into tiles is one."""

    added: int = 0
    tiles: int = 0  # of those added
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
        tiles = f" as {number_of(self.tiles, 'tile')}" if self.tiles else ""
        return ", ".join(
            [f"{self.added:,} added{tiles}", *(text for name, text in notes.items() if getattr(self, name))]
        )

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
        self._how = gallery.settings.preprocessing
        self._replace = replace
        self._notice = notice
        self._progress = progress
        self._before = gallery.snapshot
        self._removed = _Removed(gallery.catalog.removed_on_purpose() if keep_removed else (), self._how)
        self._wanted: set[str] = set()  # ids of the parts of the file in hand that are to be added
        self._files: dict[str, _Admitted] = {}  # that are admitted and not committed, by id
        self._contents: dict[bytes, str] = {}  # their ids
        self._outdated: dict[str, list[ImageRow]] = {}  # the images that they replace

    def unknown(self, files: Iterable[ImageFile]) -> Iterator[ImageFile]:
        """Yield the files that are not there already, by path, size and time; none is read. Raises InputError."""
        if isinstance(files, str | bytes) or not isinstance(files, Iterable):
            raise InputError(f"files must be a list of them, as `find_images` returns it, not {files!r:.100}")
        for some in in_lots(files, LOOKED_UP):
            if not all(isinstance(file, ImageFile) for file in some):
                raise InputError("a file is no ImageFile, as `find_images` returns it")
            stored = self._stored([file.id for file in some])
            for file in some:
                there, gone = stored.get(file.id, []), self._removed.of(file)
                if self._covers(file, there, gone):
                    self.report.unchanged += bool(there)
                    self.report.removed += not there
                    self._progress(1)
                else:
                    yield file

    def _covers(self, file: ImageFile, there: list[ImageRow], gone: list[ImageOrigin]) -> bool:
        """Return whether all parts of a file are there, or were removed. Those that are there are of one version."""
        if not there:
            return bool(gone)
        same = next((row for row in there if _stamp(row) == _stamp(file)), None)
        if same is None:
            return False
        expected = part_ids(file.id, same.width, same.height, self._how)
        return {row.id for row in (*there, *gone)}.issuperset(expected)

    def admitted(self, batch: list[DecodedImage]) -> list[DecodedImage]:
        """Return the images that are to be added: new ones, and changed ones that replace others.

        The tiles of a picture follow each other, in one batch or several.
        """
        first = [image for image in batch if image.begins]
        stored = self._stored([image.file.id for image in first])
        parts = [_parts(image, self._how) for image in first]
        digests = [digest for of in parts for digest in of.values()]
        originals = self._gallery.catalog.ids_by_digest(digests, self._gallery.snapshot)
        coming = zip(first, parts, strict=True)
        taken = []
        for image in batch:
            if image.begins:
                _, own = next(coming)
                self._wanted = self._decide(image, own, stored.get(image.file.id, []), originals)
            if image.id in self._wanted:
                taken.append(image)
            elif image.ends:
                self._progress(1)
        return taken

    def _decide(
        self, image: DecodedImage, parts: dict[str, bytes], there: list[ImageRow], originals: Mapping[bytes, str]
    ) -> set[str]:
        """Return the ids of the parts of a file that are to be added.

        Args:
            image: the first of the file.
            parts: the digests of all that the file is in a gallery, by id.
            there: what has the file's id in the catalog.
            originals: ids of the catalog's images by digest.
        """
        id, admitted = image.file.id, self._files.get(image.file.id)
        known = admitted is not None or bool(there)
        same = admitted.contents == image.contents if admitted else known and self._is_of(there[0], image)
        wanted = {part for part, digest in parts.items() if not self._removed.has_contents(digest)}
        if same:
            wanted -= parts.keys() if admitted else {row.id for row in there}
        original = self._original(image, parts, originals)
        if same and not wanted:
            self.report.unchanged += 1
        elif known and not same and (admitted or not self._replace or any(row.added > self._before for row in there)):
            self.report.changed += 1
            self._notice(f"kept {id} as it was: {image.file.path} has other contents (--replace takes it)")
            return set()
        elif not known and original is not None:
            self.report.copies += 1
            self._notice(f"skipped {id}: the same file as {original}")
            return set()
        elif not wanted or (not known and len(wanted) < len(parts)):  # the picture was removed, not some of its tiles
            self.report.removed += 1
            return set()
        else:
            self._admit(image, len(wanted), [] if same else there)
        return wanted

    def _original(self, image: DecodedImage, parts: dict[str, bytes], originals: Mapping[bytes, str]) -> str | None:
        """Return the id under which a file's contents are there, or are about to be."""
        if (admitted := self._contents.get(image.contents)) is not None:
            return admitted
        found = (self.file_of(originals[digest]) for digest in parts.values() if digest in originals)
        return next((id for id in found if id not in self._files), None)  # those are about to be replaced

    def _admit(self, image: DecodedImage, parts: int, replaced: list[ImageRow]) -> None:
        id = image.file.id
        self.report.added += 1
        if self._how.tile is not None:
            self.report.tiles += parts
        self._files[id] = _Admitted(image.contents, parts)
        self._contents[image.contents] = id
        if replaced:
            self.report.replaced += 1
            self._outdated[id] = replaced

    def replaced_by(self, images: Sequence[ImageOrigin]) -> list[ImageRow]:
        """Return the images that these replace, which are about to be committed: all tiles with the first one."""
        return [row for image in images for row in self._outdated.pop(self.file_of(image.id), [])]

    def committed(self, images: Sequence[ImageOrigin]) -> int:
        """Note that these are in the gallery from now on; return the number of files that are there as wholes."""
        whole = 0
        for image in images:
            id = self.file_of(image.id)
            file = self._files[id]
            file.left -= 1
            if not file.left:
                whole += 1
                del self._files[id]
                self._contents.pop(file.contents, None)  # two may share it, if both replace others
        return whole

    def _stored(self, ids: list[str]) -> dict[str, list[ImageRow]]:
        """Return what the gallery has of files with these ids, by id."""
        catalog, snapshot = self._gallery.catalog, self._gallery.snapshot
        if self._how.tile is None:
            return {id: [row] for id, row in catalog.images_by_id(ids, snapshot).items()}
        return {id: catalog.tiles_of(id, snapshot) for id in ids}

    def file_of(self, id: str) -> str:
        """Return the id of the file that an image of the gallery is, or is a tile of."""
        return id if self._how.tile is None else picture_of(id)

    def _is_of(self, row: ImageRow, image: DecodedImage) -> bool:
        """Return whether an image of the gallery was made of a file with these contents."""
        if self._how.tile is None:
            return row.digest == image.contents
        return row.digest == piece_of(row.id, row.width, row.height, self._how).digest(image.contents)


@dataclass
class _Admitted:
    """A file that is being added."""

    contents: bytes
    left: int  # parts that are not committed


class _Removed:
    """The images that were removed from a gallery."""

    def __init__(self, rows: Iterable[ImageOrigin], how: Preprocessing) -> None:
        self._files: dict[tuple[str, str, int, int], list[ImageOrigin]] = defaultdict(list)
        self._digests: set[bytes] = set()
        for row in rows:
            id = row.id if how.tile is None else picture_of(row.id)
            self._files[(id, *_stamp(row))].append(row)
            self._digests.add(row.digest)

    def of(self, file: ImageFile) -> list[ImageOrigin]:
        """Return what was removed of this file, by path, size and time."""
        return self._files.get((file.id, *_stamp(file)), [])

    def has_contents(self, digest: bytes) -> bool:
        """Return whether an image with this digest was removed."""
        return digest in self._digests


def _stamp(of: ImageFile | ImageOrigin) -> tuple[str, int, int]:
    """Return what tells, without reading it, whether a file has changed."""
    return of.path, of.size, of.mtime_ns


def _parts(image: DecodedImage, how: Preprocessing) -> dict[str, bytes]:
    """Return the digests of all that a file is in a gallery, by id; `image` is the first of it."""
    if image.tile is None:
        return {image.id: image.digest}
    pieces = pieces_of(image.geometry.width, image.geometry.height, how)
    return {piece.id(image.file.id): piece.digest(image.contents) for piece in pieces}
