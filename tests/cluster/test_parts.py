"""Shards are divided by bytes, and stay where they are."""

from spade_index.cluster.parts import Parts


def bytes_of(parts: Parts, shards: dict[int, int]) -> dict[int, int]:
    numbers = list(shards)
    return {worker: sum(shards[numbers[at]] for at in found) for worker, found in parts.of(numbers).items()}


def test_workers_have_equally_many_bytes() -> None:
    parts, shards = Parts(3), {1: 5, 2: 9, 3: 4, 4: 1, 5: 4, 6: 4}
    parts.divide(shards)
    assert sorted(bytes_of(parts, shards).values()) == [9, 9, 9]


def test_shards_stay_and_new_ones_go_where_least_is() -> None:
    parts, shards = Parts(2), {1: 5, 2: 5}
    parts.divide(shards)
    before = parts.of([1, 2])
    parts.divide({2: 5, 3: 2, 4: 4})  # 1 was merged with others
    assert sorted(bytes_of(parts, {2: 5, 3: 2, 4: 4}).values()) == [5, 6]
    assert parts.of([2]).keys() == {worker for worker, at in before.items() if at == [1]}


def test_a_shard_that_was_not_divided_is_anyones() -> None:
    assert sorted(position for at in Parts(2).of([3, 4, 5]).values() for position in at) == [0, 1, 2]
