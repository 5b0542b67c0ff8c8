"""What the catalog says about images: which are there at a snapshot, which were removed, and where each one lies."""

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .connection import CatalogFile

IMAGE = (int, str, int, int, bytes, str, int, int, int, int, int, int | None)  # kinds of an ImageRow's values
# The plus signs keep SQLite from its index of `added`, by which it would read all images for a page of them.
LIVE_AT = "+added <= ? AND (removed IS NULL OR removed > ?)"
LIVE = LIVE_AT.replace("?", ":snapshot")
GONE = "removed > ? AND NOT EXISTS (SELECT 1 FROM images WHERE id = gone.id AND removed IS NULL)"


@dataclass(frozen=True)
class ImageRow:
    """One image of a gallery."""

    key: int  # never used again; what the index calls it
    id: str
    shard: int
    row: int
    digest: bytes
    path: str  # where it was when it was added
    size: int
    mtime_ns: int
    width: int
    height: int
    added: int
    removed: int | None


class CatalogImages(CatalogFile):
    """A catalog that can be asked about its images."""

    def images(self, snapshot: int, after: int = -1) -> Iterator[ImageRow]:
        """The images of a snapshot that were added after snapshot `after`, in the order of their keys.

        Read page by page, so that no lock is held while the caller works.
        """
        # Keys ascend with `added`.
        key = (self._value("SELECT min(key) FROM images WHERE added > ?", int, after) or 0) - 1
        while page := self.page(snapshot, key, 1000, after):
            yield from page
            key = page[-1].key

    def page(self, snapshot: int, key: int, limit: int, after: int = -1) -> list[ImageRow]:
        """So many of a snapshot's images that were added after snapshot `after`, by their keys, after a key."""
        query = f"SELECT * FROM images WHERE {LIVE} AND +added > :after AND key > :key ORDER BY key LIMIT :limit"
        rows = self._typed(IMAGE, query, {"snapshot": snapshot, "after": after, "key": key, "limit": limit})
        return [ImageRow(*row) for row in rows]

    def images_by_key(self, keys: Iterable[int]) -> dict[int, ImageRow]:
        """Rows of these keys, removed or not."""
        return {row[0]: ImageRow(*row) for row in self._by_key(IMAGE, "*", keys)}

    def ids(self, keys: Iterable[int]) -> dict[int, str]:
        """Ids of these keys, removed or not."""
        return {row[0]: row[1] for row in self._by_key((int, str), "key, id", keys)}

    def image_by_id(self, id: str, snapshot: int) -> ImageRow | None:
        """The image with this id at a snapshot."""
        return self._one(f"SELECT * FROM images WHERE id = :id AND {LIVE}", id=id, snapshot=snapshot)

    def images_by_id(self, ids: Sequence[str], snapshot: int) -> dict[str, ImageRow]:
        """Those of these ids that are there at a snapshot."""
        return {row["id"]: ImageRow(*row) for row in self._live("id", ids, snapshot)}

    def ids_by_digest(self, digests: Sequence[bytes], snapshot: int) -> dict[bytes, str]:
        """The ids of images with these file contents at a snapshot."""
        return {row["digest"]: row["id"] for row in self._live("digest", digests, snapshot)}

    def added_count(self, snapshot: int, since: int) -> int:
        """How many of a snapshot's images were added after an earlier one."""
        query = "SELECT count(*) FROM images WHERE added > ? AND added <= ? AND (removed IS NULL OR removed > ?)"
        return self._value(query, int, since, snapshot, snapshot) or 0

    def removed_keys(self, snapshot: int, since: int) -> list[int]:
        """Keys of images that snapshot `since` held and `snapshot` does not."""
        query = "SELECT key FROM images WHERE removed > ? AND removed <= ? AND added <= ? ORDER BY key"
        return [row[0] for row in self._read(query, (since, snapshot, since))]

    def removed_image(self, id: str) -> ImageRow | None:
        """The image that had this id last, of those that were removed since the last compaction."""
        query = "SELECT * FROM images WHERE id = :id AND removed > :oldest ORDER BY removed DESC"
        return self._one(query, id=id, oldest=self.oldest_snapshot())

    def removed_images(self) -> list[ImageRow]:
        """Those that can be restored, in the order of their keys: the last with its id, and none has it now."""
        query = f"SELECT * FROM images AS gone WHERE {GONE} ORDER BY removed"
        rows = self._typed(IMAGE, query, (self.oldest_snapshot(),))
        latest = {image.id: image for image in (ImageRow(*row) for row in rows)}
        return sorted(latest.values(), key=lambda row: row.key)

    def removed_count(self) -> int:
        """Images that are removed and still take room, until `compact`; not those that were restored."""
        lives = "SELECT 1 FROM images WHERE id = gone.id AND removed IS NULL AND shard = gone.shard AND row = gone.row"
        places = f"SELECT DISTINCT shard, row FROM images AS gone WHERE removed > ? AND NOT EXISTS ({lives})"
        return self._value(f"SELECT count(*) FROM ({places})", int, self.oldest_snapshot()) or 0

    def live_counts(self) -> dict[int, int]:
        """How many images each shard holds that are not removed; shards that wait to be forgotten are left out."""
        query = "SELECT shard, sum(removed IS NULL) FROM images WHERE removed IS NULL OR removed > ? GROUP BY shard"
        return {row[0]: row[1] for row in self._read(query, (self.oldest_snapshot(),))}

    def images_in(self, shard: int) -> list[ImageRow]:
        """The images in a shard, removed or not, in the order of their rows."""
        rows = self._typed(IMAGE, "SELECT * FROM images WHERE shard = ? ORDER BY row, key", (shard,))
        return [ImageRow(*row) for row in rows]

    def _live(self, column: str, values: Sequence[object], snapshot: int) -> Iterator[sqlite3.Row]:
        """Rows at a snapshot whose column has one of these values."""
        for part in _parts(values):
            query = f"SELECT * FROM images WHERE {column} IN ({','.join('?' * len(part))}) AND {LIVE_AT}"
            yield from self._typed(IMAGE, query, [*part, snapshot, snapshot])

    def _by_key(self, kinds: tuple[Any, ...], columns: str, keys: Iterable[int]) -> Iterator[sqlite3.Row]:
        for part in _parts(list(dict.fromkeys(int(key) for key in keys))):
            query = f"SELECT {columns} FROM images WHERE key IN ({','.join('?' * len(part))})"
            yield from self._typed(kinds, query, part)

    def _one(self, query: str, **values: object) -> ImageRow | None:
        return next((ImageRow(*row) for row in self._typed(IMAGE, query, values)), None)


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """SQLite's limit of variables was once 999."""
    return (values[start : start + 500] for start in range(0, len(values), 500))
