"""A backbone that an ingest runs on, and that stops now and then to be timed alone.

A machine that others use is twice as fast in one minute as in the next, so that two rates can be compared only where
they were measured side by side. After every few thousand images the ingest's clock is stopped where it asks for the
next features, which holds up the rest of the ingest; the backbone alone runs for as many images, on pixels that were
just decoded and in the same batches and lanes, so that it too is never waited for; then the clock goes on. Each slice
of the ingest is compared with the backbone alone just before and after it.

The clock goes on until the backbone's lanes are empty, and until decoding and writing, whose queues are bounded, have
nothing left to do: none of that work is done for free while the clock stands. So the error is against the ingest: while
those finish (`settling`, quoted), the backbone does nothing, which it would not in an ingest that is not stopped.
"""

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import cycle, islice, repeat
from typing import Any

import numpy as np

from spade_index.benchmarks.process_tree import wait_until_idle
from spade_index.features.backbone import Backbone, Features
from spade_index.settings import ExtractionSettings

RECENT = 8  # batches that the backbone alone is timed on, over and over


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
    """Takes the place of a Backbone; call `start`, let something run on it, call `finish`, and read `slices`."""

    def __init__(self, backbone: Backbone, every: int, told: Callable[[Slice], None] = lambda slice: None) -> None:
        """The backbone is timed alone after every so many images; `told` hears of each slice."""
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
        """The backbone's."""
        return self._backbone.settings

    def lanes(self, images: int) -> int:
        """The backbone's."""
        return self._backbone.lanes(images)

    def start(self, pixels: np.ndarray, lanes: int) -> None:
        """Time the backbone alone on a batch uint8 [B, H, W, 3], then start the clock."""
        self._recent.append(pixels)
        self._lanes = lanes
        self._alone_before = self._time_alone()
        self._resumed = time.perf_counter()

    def stream(self, batches: Iterable[np.ndarray], lanes: int) -> Generator[Features]:
        """Features of every batch uint8 [B, H, W, 3], as the backbone's own stream gives them."""
        source = iter(batches)
        while True:
            yield from self._backbone.stream(self._slice(source), lanes)
            if self._slice_images < self._every:
                return
            asked = time.perf_counter()
            stopped = wait_until_idle()
            self._end_slice(stopped, stopped - asked)

    def _slice(self, source: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        """The batches of a slice."""
        while self._slice_images < self._every and (pixels := next(source, None)) is not None:
            self.images += len(pixels)
            self._slice_images += len(pixels)
            if len(pixels) == len(self._recent[0]):
                self._recent.append(pixels)
            yield pixels

    def finish(self) -> None:
        """Stop the clock; what came after the last slice, the last commit at least, is part of it or a slice."""
        stopped = time.perf_counter()
        if self._slice_images > self._every / 2 or not self.slices:
            self._end_slice(stopped, 0.0)
        else:
            last = self.slices.pop()
            images, seconds = last.images + self._slice_images, last.seconds + stopped - self._resumed
            self.slices.append(Slice(images, seconds, last.settling, last.alone_images, last.alone_seconds))

    def _end_slice(self, stopped: float, settling: float) -> None:
        seconds = stopped - self._resumed
        alone = self._time_alone()
        self.slices.append(
            Slice(self._slice_images, seconds, settling, 2 * self._alone_images(), self._alone_before + alone)
        )
        self._told(self.slices[-1])
        self._alone_before = alone
        self._slice_images = 0
        self._resumed = time.perf_counter()

    def _alone_images(self) -> int:
        batch = len(self._recent[0])
        return batch * math.ceil(self._every / batch)

    def _time_alone(self) -> float:
        """Seconds of the backbone for `_alone_images` images."""
        rounds = self._alone_images() // len(self._recent[0])
        batches = islice(cycle(self._recent), rounds)
        list(self._backbone.stream(repeat(self._recent[0], self._lanes), self._lanes))  # its weights are in the caches
        started = time.perf_counter()
        for _ in self._backbone.stream(batches, self._lanes):
            pass
        return time.perf_counter() - started


def summary(slices: Iterable[Slice]) -> dict[str, Any]:
    """Rates and ratios of slices as JSON knows them: of the totals, and the middle and range of the slices."""
    slices = list(slices)
    images, seconds = sum(part.images for part in slices), sum(part.seconds for part in slices)
    settling = sum(part.settling for part in slices)
    alone = sum(part.alone_images for part in slices) / sum(part.alone_seconds for part in slices)
    ratios = [part.ratio for part in slices]
    return {
        "images": images,
        "seconds": seconds,
        "images_per_second": images / seconds,
        "backbone_images_per_second": alone,
        "ratio": images / seconds / alone,
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "settling_seconds": settling,
        "ratio_without_settling": images / (seconds - settling) / alone,
        "slices": [
            {**asdict(part), "rate": part.rate, "alone_rate": part.alone_rate, "ratio": part.ratio} for part in slices
        ],
    }
