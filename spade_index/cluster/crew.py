"""The workers of a run: started, called, and replaced when they are lost."""

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from spade_index.errors import ClusterError

from .connection import connected, divide

TRIES = 5  # of a call whose worker is lost, and of a start
LEAD = 2  # times the size of a call that a preferred worker has more to do than the idlest one, which then helps
PATIENCE = 60.0  # seconds until a worker has started


@dataclass(eq=False)
class Member:
    """A worker, as this process knows it."""

    actor: Any
    facts: Any  # Ray's reference of them
    place: int  # in the crew, 0..count-1; who replaces it has the same
    node: str = ""
    pid: int = 0  # on that machine, as Ray names its logs
    calls: int = 0  # that are under way
    load: int = 0  # the sizes of these
    given: int = 0  # calls so far


@dataclass
class Call:
    """A call that is under way."""

    what: str  # it is about
    method: str
    arguments: Sequence[object]
    prefer: Collection[int]  # places of workers
    size: int
    member: Member
    result: Any  # Ray's reference


class Crew:
    """Workers of Ray that are alike. Threads may call them. Use as a context manager, which starts and ends them."""

    def __init__(
        self,
        ray: Any,
        new: Callable[[], Any],
        count: int,
        *,
        say: Callable[[str], None],
        require: Callable[[Any], None] = lambda facts: None,
        lanes: Collection[str] = (),
    ) -> None:
        """Have `count` workers.

        Args:
            ray: the module, connected.
            new: starts a worker, with the methods `node` and `facts`, whose result has a `node` and a `pid`.
            count: of workers.
            say: is told which ones are lost.
            require: raises ClusterError for the facts of a worker that cannot be used.
            lanes: methods that are concurrency groups of the workers.
        """
        self.ray = ray
        self._new = new
        self._say = say
        self._require = require
        self._lanes = lanes
        self._lock = threading.RLock()
        self._ended = False
        self._members: list[Member] = []
        self._coming: list[Member] = []
        self.count = count

    def __enter__(self) -> "Crew":
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.end()

    def start(self) -> None:
        """Start the workers, and wait for their facts. Raises ClusterError, and what these raise, as BackboneError."""
        self._coming = [self._started(place) for place in range(self.count)]
        started = [member.actor.node.remote() for member in self._coming]
        there, missing = self.ray.wait(started, num_returns=self.count, timeout=PATIENCE)
        if missing:
            raise ClusterError(
                f"{len(there):,} of {self.count:,} workers have started within {PATIENCE:.0f} s: others may use the "
                "cluster; ask for fewer --workers, or wait"
            )
        for place in range(self.count):
            self._await(place)
        self._members, self._coming = self._coming, []

    def end(self) -> None:
        """End the workers, also those at work."""
        self._ended = True  # before the lock: who waits with it sees this
        with self._lock:
            everyone = [*self._members, *self._coming]
        for member in everyone:
            self.ray.kill(member.actor)

    def call(self, what: str, method: str, *arguments: object, prefer: Collection[int] = ()) -> tuple[Any, Member]:
        """Have a worker do something, one at these places if any is there; return the result, and which one did it.

        Where a worker is lost, another one does it. Raises what the worker raises, and ClusterError that names `what`
        where too many are lost.
        """
        return self.answer(self.ask(what, method, *arguments, prefer=prefer))

    def ask(self, what: str, method: str, *arguments: object, prefer: Collection[int] = (), size: int = 0) -> Call:
        """Begin what `call` does. `answer` returns its result; without, `forget` ends it.

        A call that has a size, beside others that have one, may go to another worker than those that are preferred.
        """
        member = self._chosen(prefer, size)
        return Call(what, method, arguments, prefer, size, member, self._begun(member, method, arguments))

    def answer(self, call: Call) -> tuple[Any, Member]:
        """Return the result of what was asked, and which worker did it. Raises as `call` does."""
        for left in reversed(range(TRIES)):
            try:
                return self._result(call.result), call.member
            except self.ray.exceptions.RayError as error:
                self._lost(call.member, error)
            finally:
                self.forget(call)
            if left:
                call = self.ask(call.what, call.method, *call.arguments, prefer=call.prefer, size=call.size)
        raise ClusterError(
            f"{call.what}: {TRIES} workers were lost over it, the last one on {call.member.node}: see the logs of Ray"
        )

    def forget(self, call: Call) -> None:
        """Note that a call is not waited for."""
        with self._lock:
            call.member.calls -= 1
            call.member.load -= call.size

    def tell(self, method: str, *arguments: object) -> None:
        """Have all workers do something whose result nobody waits for."""
        with self._lock:
            for member in [] if self._ended else self._members:
                self._begun(member, method, arguments)

    def _begun(self, member: Member, method: str, arguments: Sequence[object]) -> Any:
        call = getattr(member.actor, method)
        return (call.options(concurrency_group=method) if method in self._lanes else call).remote(*arguments)

    def _result(self, result: Any) -> Any:
        try:
            return self.ray.get(result)
        except self.ray.exceptions.RayTaskError as error:  # of the worker, not of Ray
            raise error.cause from error

    def _chosen(self, prefer: Collection[int], size: int) -> Member:
        """Return a worker to call: of those at the preferred places, or of all, the one with the least to do.

        Of several, it is the one that was given the fewest: calls to look are short, and the first worker would get all
        of them, and with them the shards that it then has to make. Where a call has a size and the preferred workers
        have much more to do, the idlest one helps: some images are neighbours of many queries.
        """
        with self._lock:
            self._welcome_some(0.0 if self._members else PATIENCE)
            if not self._members:
                raise ClusterError(f"all workers were lost, and none has started within {PATIENCE:.0f} s")
            some = [member for member in self._members if member.place in prefer] or self._members
            member, idlest = (
                min(of, key=lambda member: (member.load, member.calls, member.given)) for of in (some, self._members)
            )
            if size and member.load > idlest.load + LEAD * size:
                member = idlest
            member.calls += 1
            member.load += size
            member.given += 1
            return member

    def _welcome_some(self, timeout: float) -> None:
        """Let workers work that have started in place of others; wait for one, up to `timeout`."""
        deadline = time.monotonic() + timeout
        while self._coming:
            left = max(0.0, deadline - time.monotonic())
            ready, _ = self.ray.wait([member.facts for member in self._coming], timeout=min(left, 1.0))
            for member in [member for member in self._coming if member.facts in ready]:
                self._coming.remove(member)
                try:
                    self._welcome(member)
                    self._members.append(member)
                except self.ray.exceptions.RayActorError:  # lost before it could begin
                    self._coming.append(self._started(member.place))
            if self._members or self._ended or not left:
                return

    def _await(self, place: int) -> None:
        """Wait for the facts of a worker; where it is lost before, another one starts."""
        for left in reversed(range(TRIES)):
            try:
                self._welcome(self._coming[place])
            except self.ray.exceptions.RayActorError as error:
                if not left:
                    reason = str(error).strip().rpartition("\n")[2]
                    raise ClusterError(f"{TRIES} workers were lost while they started: {reason}") from error
                self._say("a worker was lost while it started: another one starts")
                self._coming[place] = self._started(place)
            else:
                return

    def _welcome(self, member: Member) -> None:
        """Take the facts of a worker. Raises ClusterError if it cannot be used, and what they raise."""
        facts = self._result(member.facts)
        member.node, member.pid = facts.node, facts.pid
        self._require(facts)

    def _lost(self, member: Member, error: Exception) -> None:
        """Have another worker start in place of one that was lost, which several calls may find."""
        with self._lock:
            if self._ended:
                raise ClusterError("the workers were ended") from error
            if member in self._members:
                where = f"{member.node} (process {member.pid})"
                self._say(f"a worker on {where} was lost: what it had in work is done again")
                self._members.remove(member)
                self._coming.append(self._started(member.place))

    def _started(self, place: int) -> Member:
        actor = self._new()
        return Member(actor, actor.facts.remote(), place)


@contextmanager
def crew_on(
    address: str,
    kind: type,
    order: Callable[[int], object],
    *,
    workers: int | None = None,
    gpus: float = 0.0,
    lanes: Mapping[str, int] | None = None,
    **options: Any,
) -> Iterator[Crew]:
    """Connect to a Ray cluster, and give a crew that has not started.

    Args:
        address: HOST:PORT of the cluster, or `local`.
        kind: class of the workers.
        order: of the cores of a worker, returns what it is made with.
        workers: their number; None: one for each share of a GPU, or one for each machine.
        gpus: what a worker needs of GPUs.
        lanes: how many calls of these methods a worker does at a time, beside others; as of `Crew`.
        options: `say` and `require`, as of `Crew`.

    Raises:
        ClusterError: Ray is not installed, there is no cluster, or it has no room for the workers.
    """
    with connected(address) as ray:
        count, cores = divide([node["Resources"] for node in ray.nodes() if node["Alive"]], workers, gpus)
        remote = ray.remote(num_cpus=cores, num_gpus=gpus, concurrency_groups=lanes or {})(kind)
        yield Crew(ray, partial(remote.remote, order(cores)), count, lanes=lanes or {}, **options)
