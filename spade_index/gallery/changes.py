"""How much a gallery has changed since it was tuned.

Images that are stored by another codec get new keys, by which they would count as added. So before they do, what has
changed so far is counted, and noted with the tuned settings: `changes`, until `snapshot`, which held `images`.
"""

from typing import Any

from .reader import Gallery


def changes_since_tuning(gallery: Gallery) -> int:
    """Return the number of images added to a gallery or removed since it was tuned; 0 if it never was."""
    tuned = gallery.catalog.tuned()
    if tuned is None:
        return 0
    noted = tuned.get("noted", tuned)
    added = gallery.catalog.added_count(gallery.snapshot, since=noted["snapshot"])
    removed = noted["images"] + added - len(gallery)
    return int(noted.get("changes", 0)) + added + abs(removed)


def tuned_with_changes(gallery: Gallery, snapshot: int) -> dict[str, Any] | None:
    """Return the tuned settings for a snapshot to come, whose images are the gallery's under other keys; None: none."""
    tuned = gallery.catalog.tuned()
    if tuned is None:
        return None
    noted = {"snapshot": snapshot, "images": len(gallery), "changes": changes_since_tuning(gallery)}
    return {**tuned, "noted": noted}
