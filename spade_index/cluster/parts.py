"""Divide a gallery's shards among workers, so that each has about as many bytes, and keep them where they are."""

from collections.abc import Iterable, Mapping


class Parts:
    """The shards of a gallery, each of which belongs to one of a number of workers."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._owners: dict[int, int] = {}  # shard -> worker, 0..workers-1

    def divide(self, shards: Mapping[int, int]) -> None:
        """Give each of these shards, whose bytes are known, to a worker: those of before stay, larger ones come first.

        Workers keep maps in memory, so moving a shard would have its maps read again.
        """
        self._owners = {shard: owner for shard, owner in self._owners.items() if shard in shards}
        held = [0] * self._workers
        for shard, owner in self._owners.items():
            held[owner] += shards[shard]
        for shard in sorted(shards.keys() - self._owners, key=lambda shard: (-shards[shard], shard)):
            self._owners[shard] = min(range(self._workers), key=lambda worker: (held[worker], worker))
            held[self._owners[shard]] += shards[shard]

    def of(self, shards: Iterable[int]) -> dict[int, list[int]]:
        """Return the positions in `shards` that each worker has; one that was not divided is anyone's."""
        found: dict[int, list[int]] = {}
        for position, shard in enumerate(shards):
            found.setdefault(self._owners.get(shard, shard % self._workers), []).append(position)
        return found
