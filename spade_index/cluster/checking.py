"""Check the shards of a gallery by the workers of a crew, in the order in which one process checks them."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from spade_index.gallery.catalog.tables import ShardRow
from spade_index.gallery.reader import Gallery
from spade_index.gallery.verify import Checks, Problem, Progress

from .checker import Checker, CheckOrder
from .crew import Call, Crew, crew_on
from .there import identity_of


@contextmanager
def checking_on(
    address: str, gallery: Gallery, *, workers: int | None = None, say: Callable[[str], None] = lambda line: None
) -> Iterator[Checks]:
    """Give what `Gallery.problems` takes as `elsewhere`: workers on a Ray cluster.

    Args:
        address: HOST:PORT of the cluster, or `local`.
        gallery: in a folder that all machines see by its absolute path.
        workers: their number; None: one for each machine.
        say: is called with a line for each worker that is lost.

    Raises:
        ClusterError: Ray is not installed, there is no cluster, or it has no room for the workers.
    """
    order = CheckOrder(os.getcwd(), gallery.folder, gallery.snapshot, identity_of(gallery))
    with crew_on(address, Checker, lambda cores: order, workers=workers, say=say) as crew, crew:
        yield partial(_problems, crew)


def _problems(crew: Crew, shards: Iterable[ShardRow], progress: Progress) -> Iterator[Problem]:
    """Yield the problems of shards, two of which each worker has in work or waiting."""
    waiting: deque[Call] = deque()
    for shard in shards:
        waiting.append(crew.ask(f"shard {shard.shard}", "check", shard))
        if len(waiting) > 2 * crew.count:
            yield from _answered(crew, waiting.popleft(), progress)
    while waiting:
        yield from _answered(crew, waiting.popleft(), progress)


def _answered(crew: Crew, call: Call, progress: Progress) -> list[Problem]:
    problems, checked = crew.answer(call)[0]
    progress(checked)
    found: list[Problem] = problems
    return found
