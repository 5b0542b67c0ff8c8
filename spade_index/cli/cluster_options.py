"""Options of adding images on a Ray cluster."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated

import click
from click.core import ParameterSource

from .progress import Progress
from .values import TEXT, RealRange

if TYPE_CHECKING:  # all take long to import
    from spade_index.cluster.elsewhere import OnCrew
    from spade_index.features.backbone import Backbone
    from spade_index.gallery.write.writer import GalleryWriter


@dataclass(frozen=True)
class ClusterOptions:
    """Where images become shards; without `ray`, in this process."""

    ray: Annotated[
        str | None,
        click.option(
            "--ray",
            type=TEXT,
            metavar="HOST:PORT|local",
            help="Add images on a Ray cluster, or one of this machine, by --workers workers [one per machine or GPU]",
        ),
    ]
    gpus_per_worker: Annotated[
        float | None,
        click.option(
            "--gpus-per-worker", type=RealRange(0, 64), help="With --ray: share of a GPU, or GPUs [as --device]"
        ),
    ]

    def require(self) -> None:
        """Raise ClusterError if a cluster is asked for and not there, and UsageError for lack of `--ray`."""
        if self.ray is not None:
            from spade_index.cluster.connection import require_cluster

            require_cluster(self.ray)
        elif self.gpus_per_worker is not None:
            raise click.UsageError("--gpus-per-worker needs --ray")

    def workers(
        self, writer: "GalleryWriter", backbone: "Backbone", weights: str | None
    ) -> "AbstractContextManager[OnCrew | None]":
        """Return the workers of the cluster; None without one. `weights` is the backbone's file."""
        if self.ray is None:
            return nullcontext()
        from spade_index.cluster.elsewhere import workers_of
        from spade_index.features.backbone import load_recorded
        from spade_index.images.workers import shared_pool

        gpus = self.gpus_per_worker
        if gpus is None:
            gpus = 1.0 if backbone.device.type == "cuda" else 0.0
        return workers_of(
            writer,
            partial(load_recorded, backbone.settings, weights and os.path.abspath(weights), "cuda" if gpus else "cpu"),
            address=self.ray,
            workers=_asked_for(),
            gpus=gpus,
            limits=shared_pool().limits,
            say=Progress.say,
        )


def _asked_for() -> int | None:
    """Return the value of `--workers` if it was given: its default is about the decoding processes of this machine."""
    context = click.get_current_context()
    given = context.get_parameter_source("workers") is not ParameterSource.DEFAULT
    return context.params["workers"] if given else None
