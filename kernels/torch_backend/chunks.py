"""Which gallery maps the torch backend loads together, and for which queries."""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

OVERHEAD = 1 << 19  # values of maps that are loaded in the time that a chunk takes for a query beside its products


@dataclass(frozen=True)
class Chunk:
    """Maps that are loaded together."""

    slots: list[int]
    wanted: list[tuple[int, list[int]]]  # a query that wants them all, and the positions of these slots in its page


def chunks_of(pages: Sequence[Sequence[int]], maps: int, threads: int, values: int) -> list[Chunk]:
    """Return the maps of all pages, in order: shared by queries or not, whichever takes less time.

    Args:
        pages: the slots [K] of each query.
        maps: the most in a chunk.
        threads: that search chunks.
        values: of a map.
    """

    def cost(chunks: list[Chunk]) -> int:
        return sum(len(chunk.wanted) * OVERHEAD + len(chunk.slots) * values for chunk in chunks)

    return min(list(_shared(pages, maps, threads)), list(_apart(pages, maps, threads)), key=cost)


def _shared(pages: Sequence[Sequence[int]], maps: int, threads: int) -> Iterator[Chunk]:
    """Yield maps that the same queries want together: each map is loaded once."""
    users: dict[int, list[tuple[int, int]]] = defaultdict(list)  # slot -> (query, position in its page)
    for query, page in enumerate(pages):
        for position, slot in enumerate(page):
            users[slot].append((query, position))
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for slot, wanted in users.items():
        alike[tuple(query for query, _ in wanted)].append(slot)
    for queries, slots in alike.items():
        for places in _divided(len(slots), maps, threads):
            some = [slots[place] for place in places]
            yield Chunk(some, [(q, [users[slot][i][1] for slot in some]) for i, q in enumerate(queries)])


def _apart(pages: Sequence[Sequence[int]], maps: int, threads: int) -> Iterator[Chunk]:
    """Yield the maps of one query after the other: few chunks, where queries share some of their maps only."""
    for query, page in enumerate(pages):
        for positions in _divided(len(page), maps, threads if len(pages) < threads else 1):
            yield Chunk([page[position] for position in positions], [(query, list(positions))])


def _divided(count: int, most: int, threads: int) -> list[range]:
    """Divide 0..count-1 into the same number of parts for every thread, all of about the same size, `most` at most."""
    parts = min(count, math.ceil(count / (most * threads)) * threads)
    return [range(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
