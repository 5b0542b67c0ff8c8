"""Evaluate one category of a dataset: build or open its gallery, and search for its test images."""

import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from spade_index.features.backbone import Backbone
from spade_index.gallery.location import Location
from spade_index.gallery.reader import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.method import evaluation
from spade_index.method.dataset import build_gallery
from spade_index.method.detector import Detector
from spade_index.method.labelled import Dataset
from spade_index.method.origin import origin
from spade_index.method.own_regions import limited
from spade_index.method.pixel_search import Elsewhere
from spade_index.method.tuned import tuned_search
from spade_index.presets import PAPER_MAPS, PAPER_METRIC_SIZE
from spade_index.views.evaluation import write_evaluation
from spade_index.views.maps import MapWriter

from .backbone_options import BackboneOptions
from .cache_options import CacheOptions
from .detecting import detector_of
from .judging import judge_gallery, sized_backbone
from .options import KernelOptions, LoadingOptions
from .pixel_options import PixelOptions
from .progress import Progress
from .region_rules import require_same_rule, rule_in
from .roi import found_region, require_region, require_same_region, say_turned, set_region
from .search_options import SearchOptions
from .tile_options import TileOptions


@dataclass(frozen=True)
class Evaluator:
    """How to evaluate the categories of a dataset."""

    metric_size: int | None
    false_alarms: float | None
    no_tune: bool
    search: SearchOptions
    preset: str | None
    backbone: BackboneOptions
    pixels: PixelOptions
    tiles: TileOptions
    device: str
    kernel: KernelOptions
    loading: LoadingOptions
    maps: Path | None
    roi: Path | None
    root: Path  # of all categories: what was asked for
    cache: CacheOptions

    def figures(
        self, dataset: Dataset, gallery: Path | Location | None, report: Path | None, elsewhere: Elsewhere | None = None
    ) -> dict[str, Any]:
        """Return the figures of a category, ready for JSON; write its maps and its page, if asked for.

        `elsewhere` are the workers of a cluster, which see the gallery.
        """
        choice = self.search.choice(self.preset)
        with ExitStack() as stack:
            building, failed = 0.0, list[str]()
            if gallery is not None:
                opened = stack.enter_context(self.cache.open(gallery, to_search=True))
                self.pixels.require_equal(opened)
                self.tiles.require_equal(opened)
                rule = rule_in(self.roi)
                if rule is not None and opened.region_rule is None:
                    require_same_rule(opened, rule)
                if rule is None:
                    require_same_region(opened, self.roi)
                dataset = limited(dataset, rule or opened.region_rule)
                loaded = self.backbone.load(self.device, opened, self.preset)
            else:
                started = time.perf_counter()
                dataset = limited(dataset, rule_in(self.roi))
                loaded = self._load(dataset)
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spade-index-"))
                opened = stack.enter_context(self._build(dataset, Path(folder) / "gallery", loaded, failed))
                building = time.perf_counter() - started
            settings = choice.settings(tuned_search(opened))
            detector = detector_of(opened, loaded, settings, self.kernel, self.false_alarms, elsewhere=elsewhere)
            Progress.note(f"pixel search by {detector.kernel}")
            found = self._evaluate(detector, dataset)
            figures = {
                **origin(),
                "dataset": self.root.resolve().name,
                "category": dataset.name,
                "layout": dataset.layout,
                **found.summary(detector.kind),
                "not_decoded": self._not_decoded(found.failed),
                "false_alarms": detector.false_alarms,
                "gallery": {
                    "images": len(opened),
                    "snapshot": opened.snapshot,
                    "seconds": building,
                    "not_decoded": self._not_decoded(failed),
                },
                "search": asdict(settings) | {"image_score": detector.kind},
                "kernel": str(detector.kernel),
                "map_pool": detector.pixel_search.info(),
                "settings": asdict(opened.settings),
            }
            if report is not None:
                write_evaluation(report, f"Evaluation of {dataset.name}", detector, found, figures)
            return figures

    def _evaluate(self, detector: Detector, dataset: Dataset) -> evaluation.Evaluation:
        images = dataset.test if self.maps is None else [*dataset.test, *dataset.unlabelled]
        with Progress(f"evaluate {dataset.name}", len(images)) as progress:
            writer = (
                None if self.maps is None else MapWriter(self.maps, dataset, detector.pixel_threshold, progress.say)
            )
            found = evaluation.evaluate(
                detector,
                images,
                metric_size=self.metric_size or (PAPER_METRIC_SIZE if self.preset == "paper" else None),
                batch_size=self.loading.batch_size,
                workers=self.loading.workers,
                notice=progress.say,
                progress=progress,
                **({} if writer is None else {"each": writer}),
            )
            if writer is not None:
                writer.end()
            return found

    def _not_decoded(self, failed: list[str]) -> dict[str, Any]:
        """Return, ready for JSON, which images could not be decoded and why, by their paths in the dataset."""
        folder = self.root if self.root.is_dir() else self.root.parent
        return evaluation.not_decoded([reason.removeprefix(f"{folder}{os.sep}") for reason in failed])

    def _load(self, dataset: Dataset) -> Backbone:
        normal = dataset.require_normal()
        cut = self.tiles.given(cropped=self.preset is not None or self.backbone.resize is not None)
        values = self.pixels.found_in(normal) | cut
        if self._tuned and self.backbone.leaves_size_open:
            return sized_backbone(self.backbone, self.device, normal, values)
        return self.backbone.load(self.device, preset=self.preset, pixels=values)

    def _build(self, dataset: Dataset, path: Path, backbone: Backbone, failed: list[str]) -> Gallery:
        """Build the gallery of a category; add the images that cannot be decoded, and why, to `failed`."""
        with Progress("build", len(dataset.normal)) as progress:
            built = build_gallery(
                dataset,
                path,
                backbone,
                maps=PAPER_MAPS if self.preset == "paper" else None,
                batch_size=self.loading.batch_size,
                workers=self.loading.workers,
                rule=rule_in(self.roi),
                failed=lambda error: failed.append(str(error)),
                notice=progress.say,
                progress=progress,
            )
        region = None if rule_in(self.roi) is not None else self.roi
        if not self._tuned and region is None:
            return built
        built.close()
        with GalleryWriter(path) as writer:
            if region is not None:
                given = require_region(region)
                set_region(writer, given or found_region(writer.gallery))
                if given is not None:
                    say_turned(writer.gallery, given)
            if self._tuned:
                judge_gallery(writer, backbone)
        return Gallery(path)

    @property
    def _tuned(self) -> bool:
        return not self.no_tune and self.preset is None
