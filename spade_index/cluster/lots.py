"""Which worker decodes what, and so makes which shard: each should end what is ahead of it at about the same time."""

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

TURNS = 1.3  # times the soonest end: workers take turns that end so soon


@dataclass(eq=False)
class Lot:
    """Files that one worker decodes together, whose images it keeps for their shard."""

    number: int
    place: int  # of that worker
    ids: list[str] = field(default_factory=list)  # of its images, when they are known


@dataclass
class Pace:
    """How long a worker takes for a shard."""

    making: int = 0  # shards in work
    made: int = 0
    busy: float = 0.0  # seconds
    since: float = 0.0  # when the last change was

    def change(self, now: float, making: int) -> None:
        """Note that shards were begun, or are made where `making` is negative."""
        self.busy += now - self.since if self.making else 0.0
        self.since = now
        self.making += making
        self.made -= min(making, 0)


class Lots:
    """Lots in the order of their images. Threads may use it."""

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Share out among `workers`, by a clock in seconds."""
        self._clock = clock
        self._lots: deque[Lot] = deque()  # with images that no shard has yet
        self._lot_of: dict[str, Lot] = {}  # by id of an image
        self._given: Counter[int] = Counter()  # lots so far, by place of a worker
        self._paces = [Pace() for _ in range(workers)]
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._lots)

    def give(self) -> Lot:
        """Return the next lot, given to a worker that would end it soon."""
        with self._lock:
            ends = self._ends()
            soon = [place for place, end in enumerate(ends) if end <= TURNS * min(ends)]
            place = min(soon, key=lambda place: self._given[place])
            lot = Lot(self._given.total(), place)
            self._given[place] += 1
            self._lots.append(lot)
        return lot

    def _ends(self) -> list[float]:
        """Return when each worker would end one more lot, in seconds from now, as fast as it was so far."""
        waiting = Counter(lot.place for lot in self._lots)
        seconds, made = sum(pace.busy for pace in self._paces), sum(pace.made for pace in self._paces)
        usual = seconds / made if made else 1.0
        return [
            (waiting[place] + pace.making + 1) * (pace.busy / pace.made if pace.made and pace.busy else usual)
            for place, pace in enumerate(self._paces)
        ]

    def decoded(self, lot: Lot, place: int, ids: Iterable[str]) -> None:
        """Note who has decoded a lot, and which images are in it."""
        with self._lock:
            lot.place, lot.ids = place, list(ids)
            self._lot_of |= dict.fromkeys(lot.ids, lot)

    def begin(self, shard: int, ids: Iterable[str]) -> int:
        """Return the place of the worker that has most of a shard's images, and is to make it: `end` says that it has.

        Shards come in order: what the lots before the shard's last image have in addition was not admitted.
        """
        with self._lock:
            lots = [self._lot_of[id] for id in ids if id in self._lot_of]  # an image that came twice may be gone
            ((place, _),) = Counter(lot.place for lot in lots).most_common(1) or [(shard % len(self._paces), 0)]
            while lots and self._lots and self._lots[0].number < lots[-1].number:
                for id in self._lots.popleft().ids:
                    self._lot_of.pop(id, None)
            self._paces[place].change(self._clock(), 1)
        return place

    def end(self, place: int) -> None:
        """Note that a shard is made, or will not be."""
        with self._lock:
            self._paces[place].change(self._clock(), -1)
