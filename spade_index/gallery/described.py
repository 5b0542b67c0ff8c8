"""Describe a gallery's catalog in values that JSON knows."""

from typing import Any

from .catalog.catalog import Catalog


def described(catalog: Catalog) -> dict[str, Any]:
    """Return what `Gallery.info` tells of all snapshots."""
    shards = catalog.shards()
    return {
        "created": catalog.meta("created"),
        "format_version": int(catalog.meta("version") or 0),
        "snapshots": [
            {"snapshot": row.snapshot, "created": row.created, "action": row.action, "images": row.images}
            for row in catalog.snapshots()
        ],
        "removed_images": catalog.removed_count(),
        "shards": len(shards),
        "shard_bytes": sum(row.bytes for row in shards.values()),
        "calibrations": catalog.calibrations(),
        "tuned": catalog.tuned(),
        "transcoding": catalog.transcoding,
    }
