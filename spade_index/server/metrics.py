"""The metrics of the service, for Prometheus."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .statistics import ModelStatistics
from .worker import Worker

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
IMAGES = (1, 2, 4, 8, 16, 32, 64)
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one service."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        of: dict[str, Any] = {"registry": self.registry, "namespace": "spade_index"}
        self.requests = Counter("requests", "Requests that were answered", ("method", "route", "status"), **of)
        self.request_seconds = Histogram("request_seconds", "From head to answer", ("route",), buckets=SECONDS, **of)
        self._stages = Histogram(
            "stage_seconds",
            "decode, wait and render of an image; backbone, images (stage 1) and pixels (stage 2) of a batch",
            ("stage",),
            buckets=SECONDS,
            **of,
        )
        self.batch = Histogram("batch_images", "Images that shared a pass through the backbone", buckets=IMAGES, **of)
        self.queue = Gauge("queue_images", "Images admitted and not answered", **of)
        self.connections = Gauge("connections", "Connections that are open", **of)
        self.unsent = Gauge("unsent_bytes", "Bytes of answers that clients have not read", **of)
        self.models = ModelStatistics()
        self.annotations = Counter(
            "label_studio_annotations", "Annotations of Label Studio, by what became of them", ("outcome",), **of
        )
        self.refused = Counter("refused", "Requests that were refused for want of room or time", ("reason",), **of)

    def stage(self, name: str, seconds: float) -> None:
        """Note how long a stage took."""
        self._stages.labels(name).observe(seconds)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Measure the duration of a stage (a context manager)."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.stage(name, time.perf_counter() - begun)

    def watch(
        self,
        galleries: Callable[[], dict[str, int]],
        results: Callable[[], dict[str, int]],
        decoders: Callable[[], dict[str, int]],
        workers: Sequence[Worker],
    ) -> None:
        """Read the state of galleries, results, decoding processes and threads whenever the metrics are read."""
        self.registry.register(_State(galleries, results, decoders, workers))

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self.registry)


class _State(Collector):
    def __init__(
        self,
        galleries: Callable[[], dict[str, int]],
        results: Callable[[], dict[str, int]],
        decoders: Callable[[], dict[str, int]],
        workers: Sequence[Worker],
    ) -> None:
        self._galleries, self._results, self._decoders, self._workers = galleries, results, decoders, workers

    def collect(self) -> Iterator[Metric]:
        """Yield the gauges of the present state."""
        galleries, results = self._galleries(), self._results()
        yield GaugeMetricFamily("spade_index_open_galleries", "Galleries that are open", galleries["open"])
        yield GaugeMetricFamily("spade_index_open_bytes", "Memory of open galleries, about", galleries["bytes"])
        maps = CounterMetricFamily(
            "spade_index_maps", "Maps of open galleries' images found in memory, and read", labels=["from"]
        )
        maps.add_metric(["memory"], galleries["hits"])
        maps.add_metric(["disk"], galleries["misses"])
        yield maps
        yield GaugeMetricFamily("spade_index_results", "Results that are kept", results["results"])
        yield GaugeMetricFamily("spade_index_results_bytes", "Their memory", results["bytes"])
        decoders = self._decoders()
        yield GaugeMetricFamily("spade_index_decoders", "Decoding processes that live", decoders["alive"])
        replaced = CounterMetricFamily(
            "spade_index_decoders_replaced", "Decoding processes that ended", labels=["reason"]
        )
        replaced.add_metric(["died"], decoders["died"])
        replaced.add_metric(["late"], decoders["late"])
        yield replaced
        alive = GaugeMetricFamily("spade_index_thread_alive", "1 while the thread lives", labels=["thread"])
        failures = CounterMetricFamily(
            "spade_index_thread_failures", "Errors that a thread survived", labels=["thread"]
        )
        for worker in self._workers:
            alive.add_metric([worker.name], worker.alive)
            failures.add_metric([worker.name], worker.failures)
        yield alive
        yield failures
