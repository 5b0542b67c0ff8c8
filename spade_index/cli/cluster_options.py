"""Options of adding images, and of searching, on a Ray cluster."""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import click
from click.core import ParameterSource

from .cache_options import CacheOptions
from .options import KernelOptions, LoadingOptions, whole_option
from .progress import Progress
from .values import MOST_WORKERS, TEXT, RealRange

if TYPE_CHECKING:  # all take long to import
    from spade_index.cluster.elsewhere import OnCrew
    from spade_index.cluster.searching import SearchOnCrew
    from spade_index.features.backbone import Backbone
    from spade_index.gallery.reader import Gallery
    from spade_index.gallery.verify import Checks
    from spade_index.gallery.write.writer import GalleryWriter
    from spade_index.method.detector import Detector

gpus_option = click.option(
    "--gpus-per-worker", type=RealRange(0, 64), help="With --ray: share of a GPU, or GPUs [as --device]"
)


def _ray_option(does: str) -> Callable[[Any], Any]:
    help = f"{does} on a Ray cluster, or one of this machine, by --workers workers [one per machine or GPU]"
    return click.option("--ray", type=TEXT, metavar="HOST:PORT|local", help=help)


@dataclass(frozen=True)
class ClusterOptions:
    """Where images become shards, and where the gallery is tuned and calibrated; without `ray`, in this process."""

    ray: Annotated[str | None, _ray_option("Add images")]
    gpus_per_worker: Annotated[float | None, gpus_option]

    def require(self) -> None:
        """Raise ClusterError if a cluster is asked for and not there, and UsageError for lack of `--ray`."""
        _require(self.ray, gpus_per_worker=self.gpus_per_worker)

    def workers(
        self, writer: "GalleryWriter", backbone: "Backbone", weights: str | None
    ) -> "AbstractContextManager[OnCrew | None]":
        """Return the workers of the cluster; None without one. `weights` is the backbone's file."""
        if self.ray is None:
            return nullcontext()
        from spade_index.cluster.elsewhere import workers_of
        from spade_index.features.backbone import load_recorded
        from spade_index.images.workers import shared_pool

        gpus = _gpus(self.gpus_per_worker, backbone.device.type)
        return workers_of(
            writer,
            partial(load_recorded, backbone.settings, weights and os.path.abspath(weights), "cuda" if gpus else "cpu"),
            address=self.ray,
            workers=_asked_for(),
            gpus=gpus,
            limits=shared_pool().limits,
            say=Progress.say,
        )

    def connected(self) -> AbstractContextManager[object]:
        """Keep the connection to the cluster until the block ends: `workers` and `searching` then use the same."""
        if self.ray is None:
            return nullcontext()
        from spade_index.cluster.connection import connected

        return connected(self.ray)

    def searching(self, backbone: "Backbone") -> "AbstractContextManager[SearchOnCrew | None]":
        """Return the workers that tune and calibrate, once those that add have ended; None without a cluster."""
        if self.ray is None:
            return nullcontext()
        from spade_index.cluster.searching import searching_on

        gpus = _gpus(self.gpus_per_worker, backbone.device.type)
        return searching_on(self.ray, workers=_asked_for(), gpus=gpus, say=Progress.say)


@dataclass(frozen=True)
class SearchClusterOptions:
    """Where the maps of a gallery are searched; without `ray`, in this process."""

    ray: Annotated[str | None, _ray_option("Search")]
    gpus_per_worker: Annotated[float | None, gpus_option]

    replicas: Annotated[
        int | None,
        whole_option("--replicas", None, "With --ray: workers that have each part of the maps [1]", most=MOST_WORKERS),
    ]

    def require(self) -> None:
        """Raise ClusterError if a cluster is asked for and not there, and UsageError for lack of `--ray`."""
        _require(self.ray, gpus_per_worker=self.gpus_per_worker, replicas=self.replicas)

    def decoding(self, loading: LoadingOptions) -> LoadingOptions:
        """Return the options of decoding, which is done here: on a cluster, `--workers` are those that search."""
        return loading if self.ray is None else replace(loading, workers=os.cpu_count() or 2)

    def searching(
        self,
        device: str,
        kernel: KernelOptions,
        cache: CacheOptions | None = None,
        say: Callable[[str], None] = Progress.say,
    ) -> "AbstractContextManager[SearchOnCrew | None]":
        """Return the workers of the cluster; None without one. `say` is told which ones are lost.

        `cache` is that of galleries in object stores.
        """
        if self.ray is None:
            return nullcontext()
        from spade_index.cluster.searching import searching_on
        from spade_index.features.backbone import choose_device

        return searching_on(
            self.ray,
            workers=_asked_for(),
            replicas=self.replicas or 1,
            gpus=_gpus(self.gpus_per_worker, choose_device(device).type),
            kernel=kernel.kernel,
            map_memory=kernel.map_bytes,
            cache=None if cache is None else cache.settings(),
            say=say,
        )

    def say_travelled(self, detector: "Detector") -> None:
        """Say how much has travelled, where maps, or lists of an index, were searched on a cluster."""
        if self.ray is None:
            return
        info = detector.pixel_search.info()
        for level, of in (("image level", info["image_level"]), ("pixel search", info)):
            if of["queries"]:
                there, back = (of[name] / of["queries"] for name in ("bytes_to_workers", "bytes_back"))
                Progress.say(
                    f"{level} by workers ({info['workers']:,}): for each query {there:,.0f} bytes went to them, and "
                    f"{back:,.0f} bytes came back"
                )


@dataclass(frozen=True)
class OwnClusterOptions(SearchClusterOptions):
    """The same, of commands that have no other `--workers`."""

    workers: Annotated[
        int | None,
        whole_option("--workers", None, "With --ray: number of workers [one per machine or GPU]", most=MOST_WORKERS),
    ]

    def require(self) -> None:
        """Raise ClusterError if a cluster is asked for and not there, and UsageError for lack of `--ray`."""
        super().require()
        _require(self.ray, workers=self.workers)

    def checking(self, gallery: "Gallery") -> "AbstractContextManager[Checks | None]":
        """Return the workers of the cluster that check a gallery's shards; None without one."""
        if self.ray is None:
            return nullcontext()
        from spade_index.cluster.checking import checking_on

        return checking_on(self.ray, gallery, workers=_asked_for(), say=Progress.say)


def _require(ray: str | None, **others: float | None) -> None:
    if ray is not None:
        from spade_index.cluster.connection import require_cluster

        require_cluster(ray)
    elif given := [name for name, value in others.items() if value is not None]:
        raise click.UsageError(f"--{given[0].replace('_', '-')} needs --ray")


def _gpus(given: float | None, device: str) -> float:
    """Return what a worker needs of GPUs: by default one where this process computes on one."""
    return (1.0 if device == "cuda" else 0.0) if given is None else given


def _asked_for() -> int | None:
    """Return the value of `--workers` if it was given: its default is about the decoding processes of this machine."""
    context = click.get_current_context()
    given = context.get_parameter_source("workers") is not ParameterSource.DEFAULT
    return context.params["workers"] if given else None
