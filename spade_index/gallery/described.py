"""Describe a gallery in values that JSON knows."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reader import Gallery


def described(gallery: "Gallery") -> dict[str, Any]:
    """See `Gallery.info`."""
    catalog, settings = gallery.catalog, gallery.settings
    shards = catalog.shards()
    region = gallery.interest or gallery.region_rule
    return {
        "path": str(gallery.path),
        "created": catalog.meta("created"),
        "format_version": int(catalog.meta("version") or 0),
        "snapshot": gallery.snapshot,
        "snapshots": [
            {"snapshot": row.snapshot, "created": row.created, "action": row.action, "images": row.images}
            for row in catalog.snapshots()
        ],
        "images": len(gallery),
        "removed_images": catalog.removed_count(),
        "shards": len(shards),
        "shard_bytes": sum(row.bytes for row in shards.values()),
        "settings": asdict(settings),
        "level_variances": gallery.level_variances(),
        "index": gallery.index_info(),
        "calibrations": catalog.calibrations(),
        "tuned": catalog.tuned(),
        "region_of_interest": None if region is None else region.described(),
        "maps": gallery.codec,
        "stored_levels": list(gallery.stored_levels),
        "transcoding": catalog.transcoding,
        "bytes_per_image": gallery.storage.map_bytes(settings) + 4 * settings.pooled_dim,
    }
