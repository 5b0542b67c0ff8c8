"""Queries about known defects: places that people called defective, kept apart from the normal images.

They are rows of the catalog, features and pictures too: so a commit has all of a defect or nothing, copies of a gallery
have it, and programs of earlier versions, which do not look at it, keep it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from spade_index.errors import GalleryDamaged
from spade_index.gallery.store.defect import DefectPlace

from .connection import CatalogFile
from .tables import DefectRow

MOST_DEFECTS = 10_000  # of a gallery
MOST_PICTURE = 64 << 10  # bytes
KIND_LENGTH = 100  # characters


@dataclass(frozen=True)
class KnownDefect:
    """A known defect as queries are compared with it."""

    defect: int  # its number, never used again
    id: str  # of the feedback
    kind: str  # as the person named it; empty where no kind was said
    place: DefectPlace
    score: float
    features: np.ndarray  # float16 [D]


class DefectQueries(CatalogFile):
    """A catalog that can be asked about known defects."""

    def known_defects(self, channels: int) -> list[KnownDefect]:
        """Return all known defects, the oldest first, whose levels have this many channels. Raises GalleryDamaged."""
        if self.known_defect_count() > MOST_DEFECTS:
            raise self._damaged(f"more than {MOST_DEFECTS:,} known defects")
        try:
            return [_known(row, channels) for row in self._defects("WHERE NOT undone ORDER BY defect")]
        except ValueError as error:
            raise self._damaged(str(error)) from error

    def known_defect_count(self) -> int:
        """Return the number of known defects."""
        if not self._has_table(DefectRow.table):
            return 0
        return self._value(f"SELECT count(*) FROM {DefectRow.table} WHERE NOT undone", int) or 0

    def defects_told(self, id: str) -> bool | None:
        """Return whether the defects that feedback told of are known still; None: it told of none."""
        if not self._has_table(DefectRow.table):
            return None
        rows = self._typed((int,), f"SELECT undone FROM {DefectRow.table} WHERE id = ? LIMIT 1", (id,))
        return next((not undone for (undone,) in rows), None)

    def kinds_told(self) -> dict[str, list[str]]:
        """Return the kinds of all defects that feedback told of, also of those that were undone, by its id.

        Each kind is there once, in the order of the defects.
        """
        if not self._has_table(DefectRow.table):
            return {}
        query = f"SELECT id, kind FROM {DefectRow.table} GROUP BY id, kind ORDER BY min(defect)"
        told: dict[str, list[str]] = {}
        for id, kind in self._typed((str, str), query):
            told.setdefault(id, []).append(kind)
        return told

    def defect_picture(self, defect: int) -> bytes | None:
        """Return the small JPEG of a known defect by its number, or None. Raises GalleryDamaged."""
        if not self._has_table(DefectRow.table):
            return None
        query = f"SELECT picture FROM {DefectRow.table} WHERE defect = ? AND NOT undone"
        picture: bytes | None = self._value(query, bytes, defect)
        if picture is not None and len(picture) > MOST_PICTURE:
            raise self._damaged(f"the picture of known defect {defect} is too large")
        return picture

    def known_defect_of(self, digest: bytes) -> str | None:
        """Return the id of the feedback that made an image, by its file's digest, a known defect, or None."""
        rows = self._defects("WHERE digest = ? AND NOT undone LIMIT 1", digest)
        return rows[0].id if rows else None

    def defect_problems(self, channels: int) -> Iterator[str]:
        """Yield one line for each known defect that cannot be read."""
        try:
            for known in self.known_defects(channels):
                self.defect_picture(known.defect)
        except GalleryDamaged as error:
            yield str(error)

    def _defects(self, condition: str, *values: object) -> list[DefectRow]:
        if not self._has_table(DefectRow.table):
            return []
        return self._rows(DefectRow, condition, values)


def _known(row: DefectRow, channels: int) -> KnownDefect:
    """Return a known defect as it was stored. Raises ValueError for what no writer stores."""
    if len(row.features) != 2 * channels or len(row.kind) > KIND_LENGTH or not math.isfinite(row.score):
        raise ValueError(f"unexpected values of known defect {row.defect}")
    features = np.frombuffer(row.features, "<f2")
    if not np.isfinite(features).all():
        raise ValueError(f"known defect {row.defect} has features that are not finite")
    try:
        place = DefectPlace.from_json(row.place)
    except ValueError as error:
        raise ValueError(f"known defect {row.defect}: {error}") from error
    return KnownDefect(row.defect, row.id, row.kind, place, row.score, features)
