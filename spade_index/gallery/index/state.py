"""What an index is, and how much of a gallery has changed since it was built."""

from dataclasses import asdict
from typing import Any

from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.tables import IndexRow

from .index import IndexDescription

STALE = 0.1  # share of an index's images added or removed since, above which it should be built again,
STALE_IMAGES = 20_000  # or their number: then comparing with them takes longer than the index does


def index_state(catalog: Catalog, row: IndexRow, snapshot: int) -> dict[str, Any]:
    """Describe an index, the changes since it was built, and whether it should be built again (`stale`)."""
    description = IndexDescription.from_json(row.description)
    added = catalog.added_count(snapshot, since=row.snapshot)
    removed = len(catalog.removed_keys(snapshot, since=row.snapshot))
    return {
        "snapshot": row.snapshot,
        **asdict(description),
        "added_since": added,
        "removed_since": removed,
        "stale": added + removed > min(STALE * description.images, STALE_IMAGES),
    }
