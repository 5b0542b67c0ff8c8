"""The rows of the catalog's tables: one dataclass for each, which states the columns that are read and written."""

import math
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, ClassVar, Protocol

from spade_index.gallery.store.record import Feedback, ImageOrigin

MOST_EDGE = 1 << 24  # pixels of an image
MOST_PIXELS = 1 << 36


class Row(Protocol):
    """A dataclass whose fields are columns of one table."""

    table: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]


@dataclass(frozen=True)
class ImageRow(ImageOrigin):
    """One image of a gallery."""

    table: ClassVar[str] = "images"

    key: int  # never used again; the index knows the image by it
    shard: int
    row: int  # of the shard
    added: int  # the snapshot that added it
    removed: int | None  # the snapshot that removed it

    def __post_init__(self) -> None:
        """Raise ValueError for numbers that no image has: they were read from a file."""
        sides = self.width, self.height
        if min(sides) < 1 or max(sides) > MOST_EDGE or math.prod(sides) > MOST_PIXELS or self.row < 0 or self.size < 0:
            raise ValueError(f"unexpected numbers of image {self.id[:100]!r}")


@dataclass(frozen=True)
class RemovedRow(ImageOrigin):
    """An image that was removed on purpose, and of which nothing else is left."""

    table: ClassVar[str] = "removed_sources"


@dataclass(frozen=True)
class ShardRow:
    """One shard."""

    table: ClassVar[str] = "shards"

    shard: int  # its number, never used again
    file: str
    rows: int
    bytes: int
    digest: str  # xxh3_128 of the file


@dataclass(frozen=True)
class LayoutRow:
    """Byte offsets of the values of a shard in its file: see `store.layout`."""

    table: ClassVar[str] = "layouts"

    shard: int
    layout: bytes


@dataclass(frozen=True)
class RegionRow:
    """A region of interest that images have as their own."""

    table: ClassVar[str] = "regions"

    region: int
    digest: str  # `RegionOfInterest.digest`
    value: str  # JSON: see `RegionOfInterest.to_json`


@dataclass(frozen=True)
class SnapshotRow:
    """One commit that changed which images there are."""

    table: ClassVar[str] = "snapshots"

    snapshot: int
    created: str  # ISO 8601, UTC
    action: str
    images: int
    moments: str  # JSON: see `store.moments`

    def __post_init__(self) -> None:
        """Raise ValueError for a number of images that no snapshot has: it was read from a file."""
        if not 0 <= self.images < 2**48:
            raise ValueError(f"unexpected number of images at snapshot {self.snapshot}")


@dataclass(frozen=True)
class IndexRow:
    """One FAISS index."""

    table: ClassVar[str] = "indexes"

    snapshot: int  # whose images it holds; -1 if it must not be used
    file: str
    digest: str  # xxh3_128 of the file
    description: str  # JSON: see `index.index.IndexDescription`


@dataclass(frozen=True)
class CalibrationRow:
    """The thresholds of one set of search settings."""

    table: ClassVar[str] = "calibrations"

    key: str  # `SearchSettings.calibration_key`
    value: str  # JSON


@dataclass(frozen=True)
class FeedbackRow(Feedback):
    """What a person said of one image of the gallery; of tiles, of their picture."""

    table: ClassVar[str] = "feedback"

    id: str  # of the image, which may have been removed since
    given: str  # when: ISO 8601, UTC


@dataclass(frozen=True)
class DefectRow:
    """One known defect, without its picture."""

    table: ClassVar[str] = "known_defects"

    defect: int  # never used again
    id: str  # of the feedback; of several places in one image, the same
    kind: str  # empty where no kind was said
    digest: bytes  # xxh3_128 of the image's file
    place: str  # JSON: see `DefectPlace`
    score: float
    features: bytes  # float16; empty once it was undone
    undone: int  # 1 where the feedback was taken back


def columns(row: type) -> tuple[str, ...]:
    """Return the names of a row's columns, in the order of its fields."""
    return tuple(field.name for field in fields(row))


@cache
def column_types(row: type) -> tuple[Any, ...]:
    """Return the types of a row's values, as `isinstance` takes them."""
    return tuple(field.type for field in fields(row))


# Of images `gone`: they were removed, not replaced by others, and their contents are not there now.
ON_PURPOSE = """
EXISTS (SELECT 1 FROM snapshots WHERE snapshot = gone.removed AND action = 'remove')
AND NOT EXISTS (SELECT 1 FROM images WHERE digest = gone.digest AND removed IS NULL)
"""


def select(row: type[Row], condition: str = "") -> str:
    """Return the query for a table's rows; `condition` is what follows the table's name."""
    return f"SELECT {', '.join(columns(row))} FROM {row.table} {condition}"


def insert(table: str, names: tuple[str, ...], verb: str = "INSERT") -> str:
    """Return the statement that inserts values of these columns."""
    return f"{verb} INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
