"""Statistics of inferences, for each version of each model, as Triton's statistics extension tells them.

A request is an inference's; its images may share an execution, a batch, with those of other requests. Times are wall
times: of a request from its images to its answer, of which `compute_input` is decoding, `queue` the wait for its first
batch, `compute_infer` from there to its last result, and `compute_output` the rest.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .limits import STATISTICS

PARTS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit", "cache_miss")


@dataclass
class Total:
    """A number of events and the time that they took, in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.count += 1
        self.ns += max(0, round(seconds * 1e9))


@dataclass(frozen=True)
class Times:
    """Seconds that the images of a request took."""

    decoded: float
    waited: float
    searched: float


@dataclass
class VersionStatistics:
    """The statistics of one version of a model."""

    inferences: int = 0  # images
    executions: int = 0  # batches
    last: int = 0  # milliseconds since 1970
    parts: dict[str, Total] = field(default_factory=lambda: {part: Total() for part in PARTS})
    batches: dict[int, Total] = field(default_factory=dict)  # by their number of images

    def described(self, model: str, version: str) -> dict[str, Any]:
        """Return the statistics as the extension names them."""
        nothing = vars(Total())
        return {
            "name": model,
            "version": version,
            "last_inference": self.last,
            "inference_count": self.inferences,
            "execution_count": self.executions,
            "inference_stats": {part: dict(vars(total)) for part, total in self.parts.items()},
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": nothing,
                    "compute_infer": dict(vars(total)),
                    "compute_output": nothing,
                }
                for size, total in sorted(self.batches.items())
            ],
        }


class Timed:
    """A request whose images have come."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.snapshot: int | None = None
        self.images = 0
        self.times: Times | None = None

    def found(self, snapshot: int, images: int, times: Times) -> None:
        """Note that its images were searched for; what is left is its answer."""
        self.snapshot, self.images, self.times = snapshot, images, times


class ModelStatistics:
    """The statistics of all models since the start; those of versions unused for longest are dropped."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, int | None], VersionStatistics] = OrderedDict()
        self._lock = threading.Lock()

    def executed(self, model: str, snapshot: int, images: int, seconds: float) -> None:
        """Count a batch."""
        with self._lock:
            version = self._version(model, snapshot)
            version.executions += 1
            version.batches.setdefault(images, Total()).add(seconds)

    @contextmanager
    def request(self, model: str) -> Iterator[Timed]:
        """Measure a request, which fails if the block raises; its failure belongs to no version in particular."""
        timed = Timed()
        try:
            yield timed
        except BaseException:
            with self._lock:
                self._version(model, None).parts["fail"].add(time.perf_counter() - timed.begun)
            raise
        seconds, times = time.perf_counter() - timed.begun, timed.times
        assert times is not None
        with self._lock:
            version = self._version(model, timed.snapshot)
            version.inferences += timed.images
            version.last = time.time_ns() // 1_000_000
            rest = seconds - times.decoded - times.waited - times.searched
            for part, spent in zip(
                ("success", "compute_input", "queue", "compute_infer", "compute_output"),
                (seconds, times.decoded, times.waited, times.searched, rest),
                strict=True,
            ):
                version.parts[part].add(spent)

    def names(self) -> list[str]:
        """Return the names of all models with statistics, sorted."""
        with self._lock:
            return sorted({name for name, _ in self._kept})

    def of(self, model: str, latest: int) -> dict[int, VersionStatistics]:
        """Return copies of the statistics of all versions with some, and of the latest, which has all failures."""
        with self._lock:
            failed = self._kept.get((model, None), VersionStatistics()).parts["fail"]
            found = {
                snapshot: VersionStatistics(
                    kept.inferences,
                    kept.executions,
                    kept.last,
                    {part: Total(**vars(total)) for part, total in kept.parts.items()},
                    {size: Total(**vars(total)) for size, total in kept.batches.items()},
                )
                for (name, snapshot), kept in self._kept.items()
                if name == model and snapshot is not None
            }
            found.setdefault(latest, VersionStatistics()).parts["fail"] = Total(**vars(failed))
            return dict(sorted(found.items()))

    def _version(self, model: str, snapshot: int | None) -> VersionStatistics:
        key = model, snapshot
        kept = self._kept.setdefault(key, VersionStatistics())
        self._kept.move_to_end(key)
        while len(self._kept) > STATISTICS:
            self._kept.popitem(last=False)
        return kept
