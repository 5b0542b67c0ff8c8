"""The verdicts of queries on their way to the sinks: queries note them in a spool, and one thread delivers them.

The sinks never hold up a query, nor fail one. What finds no room in the spool is dropped, counted and logged.
"""

import logging
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spade_index import wire
from spade_index.errors import SpadeIndexError
from spade_index.exact import strict_json
from spade_index.sinks.contract import Sink
from spade_index.sinks.posting import Post
from spade_index.sinks.record import head_of
from spade_index.sinks.spool import Spool

from .limits import STOP_SECONDS
from .worker import Worker

LOOK_SECONDS = 1.0  # between two looks for a receiver that may be back
UNROUTED = "it belongs to none of the galleries"

log = logging.getLogger("spade_index.server")


@dataclass(frozen=True)
class Outlet:
    """An open spool, and the sinks that it is emptied into."""

    spool: Spool
    sinks: Sequence[Sink]


class Verdicts(Collector):
    """Notes verdicts, and delivers them; its metrics tell of both."""

    def __init__(self, outlet: Outlet) -> None:
        self._spool = outlet.spool
        self._posts = [Post(sink, outlet.spool) for sink in outlet.sinks]
        self._spool.deliver_to([post.name for post in self._posts])
        self._dropped = {"full": 0, "disk": 0}
        self._said: dict[str, str] = {}  # what is wrong, by where, so that it is logged once
        self._changed = threading.Condition()
        self._fresh = False
        self._end: float | None = None  # when the thread ends at the latest, once it is to end
        self.worker = Worker("verdicts", self._turn)

    def start(self) -> None:
        """Start the thread that delivers."""
        self.worker.start()

    def stop(self) -> None:
        """Deliver what the receivers take at once, then stop; the rest is delivered after the next start."""
        with self._changed:
            self._end = time.monotonic() + STOP_SECONDS / 2
            self._changed.notify()
        if not self.worker.join(STOP_SECONDS):
            log.warning("a delivery of verdicts is left in the middle")

    def note(self, gallery: str, results: Sequence[wire.ResultInfo], begun: float) -> None:
        """Note the results of a query that began at this `time.perf_counter`."""
        self._note([{**_head(begun, gallery, None), **_body(result)} for result in results])

    def note_unrouted(self, images: Sequence[str | None], begun: float) -> None:
        """Note the names of images that belong to no gallery."""
        self._note([{**_head(begun, None, UNROUTED), "image": name, "path": None} for name in images])

    def _note(self, records: list[dict[str, Any]]) -> None:
        try:
            dropped, reason = self._spool.add([strict_json(record) for record in records]), "full"
        except SpadeIndexError as error:
            dropped, reason = len(records), "disk"
            self._say("spool", str(error))
        else:
            if dropped:
                self._say("spool", "the spool is full: the oldest verdicts are dropped")
            else:
                self._mended("spool")
        with self._changed:
            self._dropped[reason] += dropped
            self._fresh = True
            self._changed.notify()

    def _turn(self) -> bool:
        """Deliver a batch to each sink, or wait for more; return False at the end."""
        with self._changed:
            self._fresh = False
        try:
            moved = sum(post.step() for post in self._posts)
            self._mended("delivery")
        except SpadeIndexError as error:
            moved = 0
            self._say("delivery", str(error))
        for post in self._posts:
            if post.reason is None:
                self._mended(post.name)
            else:
                self._say(post.name, post.reason)
        with self._changed:
            if self._end is not None and (not moved or time.monotonic() > self._end):
                return False
            if not moved:
                self._changed.wait_for(lambda: self._fresh or self._end is not None, LOOK_SECONDS)
        return True

    def _say(self, where: str, what: str) -> None:
        if self._said.get(where) != what:
            self._said[where] = what
            log.warning("verdicts: %s", what)

    def _mended(self, where: str) -> None:
        if self._said.pop(where, None) is not None:
            log.info("verdicts: %s: works again", where)

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of now."""
        yield GaugeMetricFamily("spade_index_verdicts", "Verdicts that wait for a receiver", self._spool.waiting())
        yield GaugeMetricFamily("spade_index_verdicts_bytes", "Their bytes in the spool", self._spool.bytes)
        dropped = CounterMetricFamily(
            "spade_index_verdicts_dropped", "Verdicts that found no room in the spool", labels=["reason"]
        )
        for reason, number in self._dropped.items():
            dropped.add_metric([reason], number)
        yield dropped
        taken, failed = "Verdicts that a receiver has taken", "1 unless the last delivery failed"
        delivered = CounterMetricFamily("spade_index_verdicts_delivered", taken, labels=["sink"])
        reachable = GaugeMetricFamily("spade_index_sink_reachable", failed, labels=["sink"])
        for post in self._posts:
            delivered.add_metric([post.name], post.delivered)
            reachable.add_metric([post.name], post.reason is None)
        yield delivered
        yield reachable


def _head(begun: float, gallery: str | None, error: str | None) -> dict[str, Any]:
    arrival = time.time() - (time.perf_counter() - begun)
    return head_of(secrets.token_hex(16), arrival, gallery, error)


def _body(result: wire.ResultInfo) -> dict[str, Any]:
    """Return the fields of `query --json`; no picture of it is kept on a disk, so their paths are null."""
    return {
        "image": result.image,
        "path": None,
        "score": result.score,
        "scores": result.scores,
        "threshold": result.threshold,
        "p_value": result.p_value,
        "anomalous": result.anomalous,
        "snapshot": result.snapshot,
        "neighbours": [asdict(neighbour) for neighbour in result.neighbours],
        "score_map": None,
        "heatmap": None,
        "mask": None,
        "evidence": None if result.evidence is None else asdict(result.evidence),
        "regions": None if result.regions is None else [asdict(region) for region in result.regions],
    }
