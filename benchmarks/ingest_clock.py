"""The measurements of an ingest: its rate against the backbone alone, slice by slice, and memory while it runs.

The speed of a shared machine changes from one minute to the next, so two rates are comparable only if they are measured
side by side. The backbone that an ingest runs on therefore stops the ingest's clock after every few thousand images,
where the ingest asks for the next features, which holds up the rest of it. The backbone then runs alone on as many
images: pixels that were just decoded, in the same batches and lanes, so that it never waits. Then the clock goes on.
Each slice of the ingest is compared with the backbone alone just before and just after it.

The clock runs until the backbone's lanes are empty and until decoding and writing, whose queues are bounded, have
nothing left to do: no work is done while the clock stands. The error is against the ingest, because the backbone is
idle during that wait (`settling`, which is reported), as it would not be in an ingest that is not stopped.
"""

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle, islice, repeat

import numpy as np

from spade_index.benchmarks.harness import Figures, spread
from spade_index.benchmarks.processes import process_tree, resident_mb, wait_until_idle
from spade_index.features.backbone import Backbone, Features
from spade_index.settings import ExtractionSettings

RECENT = 8  # batches that the backbone alone is timed on, over and over
TENTH = 0.1


@dataclass(frozen=True)
class Slice:
    """Some images of an ingest, and the backbone alone before and after them."""

    images: int
    seconds: float  # with settling
    settling: float  # seconds until decoding and writing had nothing left to do
    alone_images: int
    alone_seconds: float

    @property
    def rate(self) -> float:
        """Images per second."""
        return self.images / self.seconds

    @property
    def alone_rate(self) -> float:
        """Images per second of the backbone alone."""
        return self.alone_images / self.alone_seconds

    @property
    def ratio(self) -> float:
        """The rate as a share of the backbone's alone."""
        return self.rate / self.alone_rate


class Interleaved:
    """A backbone that is also timed alone; call `start`, run an ingest on it, call `finish`, and read `slices`."""

    def __init__(self, backbone: Backbone, every: int, told: Callable[[Slice], None] = lambda part: None) -> None:
        """Time the backbone alone after `every` images; call `told` with each slice."""
        self.images = 0  # that it was given
        self.slices: list[Slice] = []
        self._backbone = backbone
        self._every = every
        self._told = told
        self._recent: deque[np.ndarray] = deque(maxlen=RECENT)
        self._resumed = 0.0
        self._slice_images = 0
        self._lanes = 1
        self._alone_before = 0.0  # seconds

    @property
    def settings(self) -> ExtractionSettings:
        """The backbone's settings."""
        return self._backbone.settings

    def lanes(self, images: int) -> int:
        """Return the backbone's lanes for a batch."""
        return self._backbone.lanes(images)

    def start(self, pixels: np.ndarray, lanes: int) -> None:
        """Time the backbone alone on a batch uint8 [B, H, W, 3], then start the clock."""
        self._recent.append(pixels)
        self._lanes = lanes
        self._alone_before = self._time_alone()
        self._resumed = time.perf_counter()

    def stream(self, batches: Iterable[np.ndarray], lanes: int) -> Generator[Features]:
        """Yield the features of every batch uint8 [B, H, W, 3], as the backbone's own `stream` does."""
        source = iter(batches)
        while True:
            yield from self._backbone.stream(self._slice(source), lanes)
            if self._slice_images < self._every:
                return
            asked = time.perf_counter()
            stopped = wait_until_idle()
            self._end_slice(stopped, stopped - asked)

    def finish(self) -> None:
        """Stop the clock; the images after the last slice, and the last commit, become part of it or a slice."""
        stopped = time.perf_counter()
        if self._slice_images > self._every / 2 or not self.slices:
            self._end_slice(stopped, 0.0)
        else:
            last = self.slices.pop()
            images, seconds = last.images + self._slice_images, last.seconds + stopped - self._resumed
            self.slices.append(Slice(images, seconds, last.settling, last.alone_images, last.alone_seconds))

    def _slice(self, source: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the batches of one slice."""
        while self._slice_images < self._every and (pixels := next(source, None)) is not None:
            self.images += len(pixels)
            self._slice_images += len(pixels)
            if len(pixels) == len(self._recent[0]):
                self._recent.append(pixels)
            yield pixels

    def _end_slice(self, stopped: float, settling: float) -> None:
        seconds, alone = stopped - self._resumed, self._time_alone()
        images = 2 * self._rounds_alone() * len(self._recent[0])
        self.slices.append(Slice(self._slice_images, seconds, settling, images, self._alone_before + alone))
        self._told(self.slices[-1])
        self._alone_before = alone
        self._slice_images = 0
        self._resumed = time.perf_counter()

    def _rounds_alone(self) -> int:
        return math.ceil(self._every / len(self._recent[0]))

    def _time_alone(self) -> float:
        """Return the seconds that the backbone takes for `_rounds_alone` batches."""
        list(self._backbone.stream(repeat(self._recent[0], self._lanes), self._lanes))  # brings weights into the caches
        started = time.perf_counter()
        for _ in self._backbone.stream(islice(cycle(self._recent), self._rounds_alone()), self._lanes):
            pass
        return time.perf_counter() - started


def summary(slices: Sequence[Slice]) -> Figures:
    """Return rates and ratios in JSON values: of the totals, and the median and range of the slices."""
    images, seconds = sum(part.images for part in slices), sum(part.seconds for part in slices)
    settling = sum(part.settling for part in slices)
    alone = sum(part.alone_images for part in slices) / sum(part.alone_seconds for part in slices)
    ratios = spread([part.ratio for part in slices], "ratio")
    return {
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "backbone_images_per_second": alone,
        "ratio": images / seconds / alone,
        "ratio_median": ratios["ratio"],
        "ratio_min": ratios["ratio_min"],
        "ratio_max": ratios["ratio_max"],
        "settling_seconds": settling,
        "ratio_without_settling": images / (seconds - settling) / alone,
        "slices": [
            {**asdict(part), "rate": part.rate, "alone_rate": part.alone_rate, "ratio": part.ratio} for part in slices
        ],
    }


@dataclass(frozen=True)
class MemorySample:
    """Resident memory of the process tree at one moment."""

    seconds: float  # since sampling began
    megabytes: float
    images: int  # that have passed the backbone
    committed: int  # that the gallery holds


class MemorySampler:
    """Sample memory every `interval` seconds on a thread of its own. Use as a context manager."""

    def __init__(self, images: Callable[[], int], committed: Callable[[], int], interval: float = 1.0) -> None:
        """Ask `images` and `committed`, on the sampler's thread, for the progress of the ingest."""
        self.samples: list[MemorySample] = []
        self._images, self._committed = images, committed
        self._interval = interval
        self._began = time.perf_counter()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sample-memory", daemon=True)

    def __enter__(self) -> "MemorySampler":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            seconds = time.perf_counter() - self._began
            megabytes = resident_mb(process_tree())
            self.samples.append(MemorySample(seconds, megabytes, self._images(), self._committed()))
            if self._end.wait(self._interval):
                return


def memory_growth(samples: Sequence[MemorySample], images: int) -> Figures:
    """Return the peak, and how the last tenth of the samples compares with the first; None if there are too few.

    Samples before the first committed shard are not compared, since queues and a shard's buffers fill until then, nor
    those after the last batch, when the decoding processes are gone.
    """
    steady = [sample.megabytes for sample in samples if sample.committed and sample.images < images]
    few = int(TENTH * len(steady))
    first, last = (statistics.mean(part) if few else None for part in (steady[:few], steady[len(steady) - few :]))
    return {
        "peak_mb": max(sample.megabytes for sample in samples),
        "first_tenth_mb": first,
        "last_tenth_mb": last,
        "growth": last / first - 1 if first and last else None,
        "samples": [asdict(sample) for sample in samples],
    }
