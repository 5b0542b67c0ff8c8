"""Add known defects to a gallery because a person named them, and take them back."""

from collections.abc import Sequence

from spade_index.errors import InputError, UnknownImage
from spade_index.gallery.catalog.defects import KIND_LENGTH, MOST_DEFECTS, MOST_PICTURE
from spade_index.gallery.store.defect import NewDefect
from spade_index.gallery.store.record import Feedback

from .session import Session


def add_known_defects(
    session: Session, feedback: Feedback, id: str, digest: bytes, defects: Sequence[NewDefect]
) -> None:
    """See `GalleryWriter.add_known_defects`."""
    require_new_defect(session, digest)
    if any(len(defect.kind) > KIND_LENGTH for defect in defects):
        raise InputError(f"the kind of a defect is longer than {KIND_LENGTH} characters")
    there = session.gallery.catalog.known_defect_count()
    if there + len(defects) > MOST_DEFECTS:
        raise InputError(f"{session.path}: knows {there:,} defects; {MOST_DEFECTS:,} is the most: undo some feedback")
    if any(len(defect.picture) > MOST_PICTURE for defect in defects):
        raise ValueError("the picture of a defect is too large")
    with session.commit() as changes:
        changes.add_known_defects(feedback, id, digest, defects)


def require_new_defect(session: Session, digest: bytes) -> None:
    """Raise InputError for an image, by its file's digest, that is a known defect or a normal image already."""
    gallery = session.gallery
    if (other := gallery.catalog.known_defect_of(digest)) is not None:
        raise InputError(
            f"the same file is a known defect already: `spade-index feedback --undo {other}` takes it back"
        )
    if normal := gallery.catalog.ids_by_digest([digest], gallery.snapshot):
        raise InputError(f"the same file is the normal image {normal[digest]!r}: remove that first")


def undo_known_defects(session: Session, id: str) -> None:
    """Take back known defects by the id of their feedback. Raises UnknownImage where they were taken back."""
    if not session.gallery.catalog.defects_told(id):
        raise UnknownImage(f"{session.path}: feedback {id!r} was undone already")
    with session.commit() as changes:
        changes.undo_known_defects(id)
