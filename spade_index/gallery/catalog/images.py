"""Queries about images: which are there at a snapshot, which were removed, and where each one lies."""

from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from spade_index.gallery.store.record import ImageOrigin
from spade_index.images.tiles import MARK, WHOLE, picture_of, tile_range

from .connection import CatalogFile
from .tables import ON_PURPOSE, ImageRow, RemovedRow

PAGE = 1000  # rows read at a time
NOW = 2**62  # a snapshot that is later than all
# The plus signs keep SQLite from its index of `added`, by which it would read all images for a page of them.
LIVE_AT = "+added <= ? AND (removed IS NULL OR removed > ?)"
LIVE = LIVE_AT.replace("?", ":snapshot")
IS_WHOLE = f"substr(id, -{len(MARK + WHOLE)}) = '{MARK + WHOLE}'"  # the id is that of a whole picture beside its tiles
GONE = "removed > ? AND NOT EXISTS (SELECT 1 FROM images WHERE id = gone.id AND removed IS NULL)"


class ImageQueries(CatalogFile):
    """A catalog that can be asked about its images."""

    def images(self, snapshot: int, after: int = -1) -> Iterator[ImageRow]:
        """Yield the images of a snapshot that were added after snapshot `after`, in the order of their keys.

        They are read page by page, so that no lock is held while the caller works.
        """
        # Keys ascend with `added`: for the lowest one, `min(key)` would read all rows where none was added since.
        first = self._value("SELECT key FROM images WHERE added > ? ORDER BY added, key LIMIT 1", int, after)
        if first is None:
            return
        key = first - 1
        while page := self.page(snapshot, key, PAGE, after):
            yield from page
            key = page[-1].key

    def page(self, snapshot: int, key: int, limit: int, after: int = -1) -> list[ImageRow]:
        """Return up to `limit` images as `images` yields them, with keys greater than `key`."""
        condition = f"WHERE {LIVE} AND +added > :after AND key > :key ORDER BY key LIMIT :limit"
        return self._rows(ImageRow, condition, {"snapshot": snapshot, "after": after, "key": key, "limit": limit})

    def key_range(self, snapshot: int) -> tuple[int, int]:
        """Return the lowest and the highest key of images that were added up to a snapshot, removed or not."""
        of = "(SELECT key FROM images WHERE added <= ? ORDER BY"
        ends = f"SELECT {of} added, key LIMIT 1), {of} added DESC, key DESC LIMIT 1)"
        ((first, last),) = self._typed((int, int), ends, (snapshot, snapshot))
        return first, last

    def images_by_key(self, keys: Iterable[int]) -> dict[int, ImageRow]:
        """Return the images that have these keys, removed or not, by key."""
        parts = _parts(_distinct(keys))
        return {row.key: row for part in parts for row in self._rows(ImageRow, f"WHERE key IN {_marks(part)}", part)}

    def ids(self, keys: Iterable[int]) -> dict[int, str]:
        """Return the ids of the images that have these keys, removed or not, by key."""
        found: dict[int, str] = {}
        for part in _parts(_distinct(keys)):
            found |= dict(self._typed((int, str), f"SELECT key, id FROM images WHERE key IN {_marks(part)}", part))
        return found

    def image_by_id(self, id: str, snapshot: int) -> ImageRow | None:
        """Return the image with this id at a snapshot, or None."""
        return self._row(ImageRow, f"WHERE id = :id AND {LIVE}", {"id": id, "snapshot": snapshot})

    def images_by_id(self, ids: Sequence[str], snapshot: int) -> dict[str, ImageRow]:
        """Return the images at a snapshot that have one of these ids, by id."""
        return {row.id: row for row in self._live("id", ids, snapshot)}

    def tiles_of(self, picture: str, snapshot: int) -> list[ImageRow]:
        """Return the tiles of a picture at a snapshot, in the order of their keys; none of a whole image."""
        condition = f"WHERE id >= :first AND id < :end AND {LIVE}"  # in order of keys it would scan all images
        first, end = tile_range(picture)
        rows = self._rows(ImageRow, condition, {"first": first, "end": end, "snapshot": snapshot})
        return sorted((row for row in rows if picture_of(row.id) == picture), key=attrgetter("key"))

    def ids_by_digest(self, digests: Sequence[bytes], snapshot: int) -> dict[bytes, str]:
        """Return the ids of the images at a snapshot whose files have one of these digests, by digest."""
        return {row.digest: row.id for row in self._live("digest", digests, snapshot)}

    def added_count(self, snapshot: int, since: int) -> int:
        """Return the number of a snapshot's images that were added after an earlier one."""
        query = "SELECT count(*) FROM images WHERE added > ? AND added <= ? AND (removed IS NULL OR removed > ?)"
        return self._value(query, int, since, snapshot, snapshot) or 0

    def removed_keys(self, snapshot: int, since: int) -> list[int]:
        """Return the keys of images that snapshot `since` held and `snapshot` does not."""
        query = "SELECT key FROM images WHERE removed > ? AND removed <= ? AND added <= ? ORDER BY key"
        return [key for (key,) in self._read(query, (since, snapshot, since))]

    def removed_image(self, id: str) -> ImageRow | None:
        """Return the image that had this id last, of those removed since the last compaction, or None."""
        condition = "WHERE id = :id AND removed > :oldest ORDER BY removed DESC"
        return self._row(ImageRow, condition, {"id": id, "oldest": self.oldest_snapshot()})

    def removed_images(self) -> list[ImageRow]:
        """Return the images that can be restored, in the order of their keys.

        Of several with one id that is the one removed last; if an image has that id now, none of them can.
        """
        rows = self._rows(ImageRow, f"AS gone WHERE {GONE} ORDER BY removed", (self.oldest_snapshot(),))
        return _latest(rows)

    def removed_tiles(self, picture: str | None = None) -> list[ImageRow]:
        """Return the tiles of one picture or of all that can be restored, in the order of their keys.

        They are of the version of the picture that is there; if nothing of it is there, of the one removed last.
        """
        condition = f"AS gone WHERE {GONE}"
        values: list[object] = [self.oldest_snapshot()]
        if picture is not None:
            condition += " AND +id >= ? AND +id < ?"
            values += tile_range(picture)
        versions: dict[str, list[ImageRow]] = {}
        for row in self._rows(ImageRow, f"{condition} ORDER BY removed", values):
            versions.setdefault(picture_of(row.id), []).append(row)
        found = []
        for of, rows in versions.items():
            if picture in (None, of):
                last = (self.tiles_of(of, NOW) or rows)[-1]
                found += [row for row in rows if _version(row) == _version(last)]
        return _latest(found)

    def picture_count(self, snapshot: int) -> int:
        """Return the number of pictures that the images of a snapshot are pieces of."""
        number = "'-0123456789'"
        tile = f"rtrim(rtrim(rtrim(id, {number}), ','), {number})"
        picture = f"CASE WHEN {IS_WHOLE} THEN substr(id, 1, length(id) - {len(WHOLE)}) ELSE {tile} END"
        return self._value(f"SELECT count(DISTINCT {picture}) FROM images WHERE {LIVE_AT}", int, snapshot, snapshot)

    def whole_keys(self, snapshot: int) -> list[int]:
        """Return the keys, ascending, of a snapshot's images that are whole pictures beside their tiles."""
        query = f"SELECT key FROM images WHERE {IS_WHOLE} AND {LIVE_AT} ORDER BY key"
        return [key for (key,) in self._typed((int,), query, (snapshot, snapshot))]

    def removed_on_purpose(self) -> Iterator[ImageOrigin]:
        """Yield the images that were ever removed and whose contents are not there now.

        Images that others replaced are not among them.
        """
        yield from self._rows(ImageRow, f"AS gone WHERE {ON_PURPOSE}")
        if self._has_table(RemovedRow.table):
            lives = "SELECT 1 FROM images WHERE digest = gone.digest AND removed IS NULL"
            yield from self._rows(RemovedRow, f"AS gone WHERE NOT EXISTS ({lives})")

    def removed_count(self) -> int:
        """Return the number of removed images that still take room, until `compact`; restored ones do not count."""
        lives = "SELECT 1 FROM images WHERE id = gone.id AND removed IS NULL AND shard = gone.shard AND row = gone.row"
        places = f"SELECT DISTINCT shard, row FROM images AS gone WHERE removed > ? AND NOT EXISTS ({lives})"
        return self._value(f"SELECT count(*) FROM ({places})", int, self.oldest_snapshot()) or 0

    def live_counts(self) -> dict[int, int]:
        """Return the number of images in each shard that are not removed, by shard.

        Shards whose images were all removed before the last compaction are left out.
        """
        known = "shard IN (SELECT shard FROM shards) AND (removed IS NULL OR removed > ?)"
        query = f"SELECT shard, sum(removed IS NULL) FROM images WHERE {known} GROUP BY shard"
        return dict(self._typed((int, int), query, (self.oldest_snapshot(),)))

    def images_in(self, shard: int) -> list[ImageRow]:
        """Return the images in a shard, removed or not, in the order of their rows."""
        return self._rows(ImageRow, "WHERE shard = ? ORDER BY row, key", (shard,))

    def _live(self, column: str, values: Sequence[object], snapshot: int) -> Iterator[ImageRow]:
        """Yield the images at a snapshot whose column has one of these values."""
        for part in _parts(values):
            condition = f"WHERE {column} IN {_marks(part)} AND {LIVE_AT}"
            yield from self._rows(ImageRow, condition, [*part, snapshot, snapshot])


def _latest(rows: Iterable[ImageRow]) -> list[ImageRow]:
    """Return the last row of each id, in the order of their keys."""
    return sorted({row.id: row for row in rows}.values(), key=attrgetter("key"))


def _version(row: ImageRow) -> tuple[int, int, int]:
    """Return what two versions of a picture differ in, if their tiles are at different places."""
    return row.width, row.height, row.size


def _distinct(keys: Iterable[int]) -> list[int]:
    return list(dict.fromkeys(int(key) for key in keys))


def _marks(values: Sequence[Any]) -> str:
    return f"({','.join('?' * len(values))})"


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield values in parts: older versions of SQLite take at most 999 in one query."""
    return (values[start : start + 500] for start in range(0, len(values), 500))
