"""The history of feedback, and what became of it."""

from dataclasses import dataclass

from .catalog.tables import FeedbackRow
from .reader import Gallery


@dataclass(frozen=True)
class FeedbackFilter:
    """Which feedback is looked for: what fulfils all that is given."""

    contains: str = ""  # in the id, the name, the note or the kind, whatever the capitals
    verdict: str | None = None
    kind: str | None = None  # of any of its defects, exactly; empty: one of which no kind was said
    who: str | None = None  # exactly
    since: str | None = None  # a second as `exact.first_second` returns it, included
    until: str | None = None  # the same
    undone: bool | None = None

    def takes(self, row: FeedbackRow, kinds: list[str]) -> bool:
        """Return whether feedback about defects of these kinds (none: no defects) is looked for, but for `undone`."""
        texts = row.id, row.who, row.note, in_words(kinds) or ""
        return (
            self.verdict in (None, row.verdict)
            and (self.kind is None or self.kind in kinds)
            and self.who in (None, row.who)
            and (self.since is None or row.given >= self.since)
            and (self.until is None or row.given <= self.until)
            and any(self.contains.casefold() in text.casefold() for text in texts)
        )


def history(gallery: Gallery, wanted: FeedbackFilter) -> list[tuple[FeedbackRow, list[str]]]:
    """Return the feedback that is looked for, the oldest first, and the kinds of its defects, each once."""
    told = gallery.catalog.kinds_told()
    rows = [(row, told.get(row.id, [])) for row in gallery.catalog.feedback()]
    return [
        (row, kinds)
        for row, kinds in rows
        if wanted.takes(row, kinds) and (wanted.undone is None or wanted.undone != is_there(gallery, row.id))
    ]


def in_words(kinds: list[str]) -> str | None:
    """Return the kinds of feedback's defects as one text, empty where none was said; None: it told of no defects."""
    return ", ".join(filter(None, kinds)) if kinds else None


def is_there(gallery: Gallery, id: str) -> bool:
    """Return whether an image, a tile of this picture, or known defects with this id are in the gallery."""
    if (told := gallery.catalog.defects_told(id)) is not None:
        return told
    if gallery.settings.preprocessing.tile is not None:
        return bool(gallery.catalog.tiles_of(id, gallery.snapshot))
    return gallery.catalog.image_by_id(id, gallery.snapshot) is not None
