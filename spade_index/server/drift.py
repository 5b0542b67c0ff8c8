"""The drift of the images that were judged last, of each gallery, for the page and for Prometheus."""

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from spade_index.errors import SpadeIndexError
from spade_index.method.drift import LEAST, Drift, drift_of, normal_brightness, rank_of, ranks_among
from spade_index.method.normal_scores import stored_calibration
from spade_index.method.tuned import tuned_search
from spade_index.wire_feedback import DriftInfo, DriftOf

from .asks import Answer
from .decoding import Upload
from .galleries import Galleries
from .limits import DRIFT_IMAGES
from .problems import Problem
from .settings import ServeSettings

GAUGES = {
    "rank": "Mean share of the calibration's images below those judged last; 0.5 where they are alike",
    "warning": "1 where that is more than chance; of 1,000 windows of good images, one is warned of",
}


@dataclass(frozen=True)
class Normal:
    """What a gallery's calibration says of normal images."""

    written: Hashable  # what changes when the gallery does
    images: int
    brightness: np.ndarray | None  # float64 [m]; None: not known


class DriftWatch(Collector):
    """Keeps p-value and brightness of the images judged last, each image once; its metrics tell of their drift."""

    def __init__(self, galleries: Galleries, settings: ServeSettings) -> None:
        self._galleries, self._settings = galleries, settings
        self._windows: dict[str, OrderedDict[bytes, tuple[float, float]]] = defaultdict(OrderedDict)
        self._normal: dict[str, Normal | None] = {}
        self._lock = threading.Lock()

    def note(
        self, gallery: str, uploads: Sequence[Upload], answers: Sequence[Answer], brightness: Sequence[float]
    ) -> None:
        """Note the images of a query to a gallery's last snapshot, where it is calibrated."""
        with self._lock:
            for upload, answer, bright in zip(uploads, answers, brightness, strict=True):
                if (p_value := answer.detection.p_value) is not None:
                    window = self._windows[gallery]
                    window.pop(upload.digest, None)
                    window[upload.digest] = p_value, bright
                    if len(window) > DRIFT_IMAGES:
                        window.popitem(last=False)

    def of(self, gallery: str) -> DriftInfo:
        """Return the drift of a gallery. Raises Problem (404), GalleryError."""
        with self._lock:
            window = list(self._windows.get(gallery, {}).values())
        normal = self._normal_of(gallery)
        if not window or normal is None:
            return DriftInfo(len(window), LEAST, normal is not None, None, None)
        p_values, brightness = zip(*window, strict=True)
        score = drift_of([rank_of(p_value, normal.images) for p_value in p_values], normal.images)
        bright = None
        if normal.brightness is not None:
            bright = drift_of(ranks_among(brightness, normal.brightness), len(normal.brightness))
        return DriftInfo(len(window), LEAST, True, _info(score), None if bright is None else _info(bright))

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of the galleries that have judged images."""
        labels = ["gallery", "of"]
        rank, warning = (
            GaugeMetricFamily(f"spade_index_drift_{name}", text, labels=labels) for name, text in GAUGES.items()
        )
        with self._lock:
            names = list(self._windows)
        for name in names:
            try:
                found = self.of(name)
            except (Problem, SpadeIndexError, OSError):  # it is gone, or damaged: queries tell
                with self._lock:
                    self._windows.pop(name, None)
                continue
            for quantity in ("score", "brightness"):
                if (drift := getattr(found, quantity)) is not None:
                    rank.add_metric([name, quantity], drift.mean_rank)
                    warning.add_metric([name, quantity], drift.warns)
        yield rank
        yield warning

    def _normal_of(self, name: str) -> Normal | None:
        """Return what a gallery's calibration says, or None without one; kept until the gallery changes."""
        self._galleries.require(name)
        written, known = self._galleries.written(name), self._normal.get(name)
        if known is not None and known.written == written:
            return known
        with self._galleries.open(name) as opened:
            stored = stored_calibration(opened, self._settings.search.settings(tuned_search(opened)))
            if stored is None or stored.scores is None:
                return None
            keys = stored.scores.keys
            found = self._normal[name] = Normal(written, len(stored.scores), normal_brightness(opened, keys))
        return found


def _info(drift: Drift) -> DriftOf:
    return DriftOf(drift.mean_rank, drift.p_value, drift.warns, drift.bins)
