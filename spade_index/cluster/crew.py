"""The workers of a run: started, called, and replaced when they are lost."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from spade_index.errors import ClusterError

from .worker import Facts, Order, Worker, writer_of

TRIES = 5  # of a call whose worker is lost
PATIENCE = 60.0  # seconds until a worker has started
LANES = {"look": 1, "make": 1}  # calls of a worker at a time


@dataclass(eq=False)
class Member:
    """A worker, as the writer knows it."""

    actor: Any
    facts: Any  # Ray's reference of them
    node: str = ""
    calls: int = 0  # that are under way
    given: int = 0  # calls so far


class Crew:
    """Workers of Ray that are alike. Threads may call them."""

    def __init__(
        self, ray: Any, order: Order, count: int, *, gpus: float, settings: str, say: Callable[[str], None]
    ) -> None:
        """Have `count` workers, whose backbone must have these `settings`; `say` is told which ones are lost."""
        self._ray = ray
        self._order = order
        self._settings = settings
        self._say = say
        self._lock = threading.RLock()
        self._ended = False
        self._members: list[Member] = []
        self._coming: list[Member] = []
        self._kind = ray.remote(num_cpus=order.cores, num_gpus=gpus, concurrency_groups=LANES)(Worker)
        self.count = count

    def start(self) -> None:
        """Start the workers, and wait until they have their backbone. Raises ClusterError, BackboneError."""
        self._coming = [self._new() for _ in range(self.count)]
        started = [member.actor.node.remote() for member in self._coming]
        there, missing = self._ray.wait(started, num_returns=self.count, timeout=PATIENCE)
        if missing:
            raise ClusterError(
                f"{len(there):,} of {self.count:,} workers have started within {PATIENCE:.0f} s: others may use the "
                "cluster; ask for fewer --workers, or wait"
            )
        try:
            for member in self._coming:
                self._welcome(member)
        except self._ray.exceptions.RayActorError as error:
            reason = str(error).strip().rpartition("\n")[2]
            raise ClusterError(f"a worker was lost while it started: {reason}") from error
        self._members, self._coming = self._coming, []

    def end(self) -> None:
        """End the workers, also those at work."""
        self._ended = True  # before the lock: who waits with it sees this
        with self._lock:
            everyone = [*self._members, *self._coming]
        for member in everyone:
            self._ray.kill(member.actor)

    def call(self, what: str, method: str, *arguments: object, prefer: Member | None = None) -> tuple[Any, Member]:
        """Have a worker do something, the preferred one if it is there; return the result, and which one did it.

        Where a worker is lost, another one does it. Raises what the worker raises, and ClusterError that names `what`
        where too many are lost.
        """
        node = ""
        for _ in range(TRIES):
            member = self._chosen(prefer)
            node = member.node
            try:
                return self._answer(getattr(member.actor, method).options(concurrency_group=method), arguments), member
            except self._ray.exceptions.RayError as error:
                self._lost(member, error)
            finally:
                with self._lock:
                    member.calls -= 1
        raise ClusterError(f"{what}: {TRIES} workers were lost over it, the last one on {node}: see the logs of Ray")

    def _answer(self, method: Any, arguments: Sequence[object]) -> Any:
        try:
            return self._ray.get(method.remote(*arguments))
        except self._ray.exceptions.RayTaskError as error:  # of the worker, not of Ray
            raise error.cause from error

    def _chosen(self, prefer: Member | None) -> Member:
        """Return a worker to call: the preferred one, or one with the fewest calls.

        Of several, it is the one that was given the fewest: calls to look are short, and the first worker would get all
        of them, and with them the shards that it then has to make.
        """
        with self._lock:
            self._welcome_some(0.0 if self._members else PATIENCE)
            if not self._members:
                raise ClusterError(f"all workers were lost, and none has started within {PATIENCE:.0f} s")
            member = (
                prefer
                if prefer in self._members
                else min(self._members, key=lambda member: (member.calls, member.given))
            )
            assert member is not None
            member.calls += 1
            member.given += 1
            return member

    def _welcome_some(self, timeout: float) -> None:
        """Let workers work that have started in place of others; wait for one, up to `timeout`."""
        deadline = time.monotonic() + timeout
        while self._coming:
            left = max(0.0, deadline - time.monotonic())
            ready, _ = self._ray.wait([member.facts for member in self._coming], timeout=min(left, 1.0))
            for member in [member for member in self._coming if member.facts in ready]:
                self._coming.remove(member)
                try:
                    self._welcome(member)
                    self._members.append(member)
                except self._ray.exceptions.RayActorError:  # lost before it could begin
                    self._coming.append(self._new())
            if self._members or self._ended or not left:
                return

    def _welcome(self, member: Member) -> None:
        """Raise ClusterError unless a worker has the writer's backbone and gallery."""
        try:
            facts: Facts = self._ray.get(member.facts)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        member.node = facts.node
        if facts.writer != writer_of(self._order.gallery):
            raise ClusterError(
                f"{self._order.gallery}: the worker on {facts.node} does not see this folder: put the gallery on a "
                "file system that all machines share"
            )
        if facts.settings != self._settings:
            raise ClusterError(
                f"the backbone on {facts.node} has other weights or other levels than here: name one file with "
                "--weights, and install the same versions"
            )

    def _lost(self, member: Member, error: Exception) -> None:
        """Have another worker start in place of one that was lost, which several calls may find."""
        with self._lock:
            if self._ended:
                raise ClusterError("the workers were ended") from error
            if member in self._members:
                self._say(f"a worker on {member.node} was lost: what it had in work is made again")
                self._members.remove(member)
                self._coming.append(self._new())

    def _new(self) -> Member:
        actor = self._kind.remote(self._order)
        return Member(actor, actor.facts.remote())
