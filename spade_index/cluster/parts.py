"""Divide a gallery's shards, or an index's lists, into parts of about as many bytes, and keep them where they are."""

from collections.abc import Iterable, Mapping
from heapq import heapify, heapreplace


class Parts:
    """The shards of a gallery, each of which belongs to one of a number of parts."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._part_of: dict[int, int] = {}  # shard -> part, 0..count-1

    def divide(self, shards: Mapping[int, int]) -> None:
        """Give each of these shards, whose bytes are known, to a part: those of before stay, larger ones come first.

        Workers keep maps in memory, so moving a shard would have its maps read again.
        """
        self._part_of = {shard: part for shard, part in self._part_of.items() if shard in shards}
        held = [0] * self._count
        for shard, part in self._part_of.items():
            held[part] += shards[shard]
        least = [(size, part) for part, size in enumerate(held)]
        heapify(least)
        for shard in sorted(shards.keys() - self._part_of, key=lambda shard: (-shards[shard], shard)):
            size, self._part_of[shard] = least[0]
            heapreplace(least, (size + shards[shard], self._part_of[shard]))

    def of(self, shards: Iterable[int]) -> dict[int, list[int]]:
        """Return the positions in `shards` that each part has; a shard that was not divided is in any."""
        found: dict[int, list[int]] = {}
        for position, shard in enumerate(shards):
            found.setdefault(self._part_of.get(shard, shard % self._count), []).append(position)
        return found
