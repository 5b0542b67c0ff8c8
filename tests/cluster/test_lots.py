"""How work is shared out among workers, without a cluster: in simulations whose clock is a number."""

import heapq

from hypothesis import given
from hypothesis import strategies as st

from spade_index.cluster.lots import Lots


def simulated(speeds: list[int], shards: int) -> tuple[list[int], float, int]:
    """Make shards of one lot each, taken in order; return how many each worker has made, the end, and lots left.

    A worker of speed 3 takes 1/3 s for a shard. As in `OnCrew`, twice as many shards as there are workers are in work,
    and as many lots are decoded in advance, at once.
    """
    now, ahead = 0.0, 2 * len(speeds)
    lots = Lots(len(speeds), lambda: now)
    made, free = [0] * len(speeds), [0.0] * len(speeds)
    running: list[tuple[float, int, int]] = []  # when a shard is made, its number, by whom
    ended: set[int] = set()
    taken = decoded = begun = 0
    while taken < shards:
        while begun < min(shards, taken + ahead):
            while decoded < min(shards, begun + ahead):
                lot = lots.give()
                lots.decoded(lot, lot.place, [str(decoded)])
                decoded += 1
            place = lots.begin(begun, [str(begun)])
            free[place] = max(free[place], now) + 1 / speeds[place]
            made[place] += 1
            heapq.heappush(running, (free[place], begun, place))
            begun += 1
        now, shard, place = heapq.heappop(running)
        lots.end(place)
        ended.add(shard)
        while taken in ended:
            taken += 1
    return made, now, len(lots)


@given(st.integers(1, 9), st.integers(1, 20))
def test_workers_that_are_alike_make_equally_many(workers: int, rounds: int) -> None:
    made, end, left = simulated([1] * workers, workers * rounds)
    assert made == [rounds] * workers
    assert end == rounds
    assert left == 1


@given(st.lists(st.sampled_from([1, 2, 3]), min_size=2, max_size=6))
def test_who_is_quicker_makes_more(speeds: list[int]) -> None:
    shards = 60 * len(speeds)
    _, end, _ = simulated(speeds, shards)
    assert end < 1.25 * shards / sum(speeds) + 1  # turns, and the last shard of the slowest


def test_images_that_are_not_admitted_owe_nothing() -> None:
    lots = Lots(2, clock=lambda: 0.0)
    for number in range(20):
        lot = lots.give()
        assert lot.place == number % 2
        lots.decoded(lot, lot.place, [f"{number}", f"copy {number}"])
        assert lots.begin(number, [str(number)]) == lot.place
        lots.end(lot.place)
        assert len(lots) == 1


def test_an_image_that_comes_twice_and_one_of_a_lost_worker() -> None:
    lots = Lots(2)
    first, second = lots.give(), lots.give()
    lots.decoded(first, 1, ["twice", "lost"])  # by another worker than it was given to
    lots.decoded(second, 0, ["twice", "last"])
    assert lots.begin(0, ["twice"]) == 0
    assert lots.begin(1, ["lost"]) == 1  # of whom nothing is known any more
    assert lots.begin(2, ["last"]) == 0
