"""Measure how fast images are added: `spade-index benchmark ingest`, against the backbone alone.

    spade-index benchmark ingest --photographs cifar10.tar --json benchmarks/results/ingest.json --picture ingest.png

1. The speed of a shared machine changes from one minute to the next, so the photographs are divided into slices, and
   each goes in turn through the backbone alone (decoded batches, over and over), through decoding and the backbone, and
   through `GalleryWriter.add` into one gallery.
2. The seconds of a slice include starting the decoding processes, half a second, and the last commit. They do not
   include loading the backbone, nor the index, which `spade-index build` makes at the end.
3. Memory of the process and of its decoding processes is sampled every second while images are added.
4. The gallery is verified before any figure is reported. Then the same images are added again, and a few more to this
   gallery and to an empty one.
"""

import math
import os
import random
import statistics
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from spade_index.errors import GalleryError, InputError
from spade_index.features.backbone import Backbone, load_backbone
from spade_index.gallery import Gallery
from spade_index.gallery.store.storage import NEW_MAPS
from spade_index.gallery.write.admission import AddReport
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images, load
from spade_index.images.loading import in_lots, load_all

from .harness import Figures, check_outputs, environment, plain, timed, write_json
from .ingest_report import draw, rates, report, summary
from .photographs import make_photographs
from .processes import process_tree, resident_mb

RECENT = 8  # batches that the backbone alone is timed on
FEW = 50  # images that are added to a large gallery and to an empty one
FEW_ROUNDS = 3
SAMPLE = 20  # images whose features are computed again
TOLERANCE = 1e-4  # relative, of descriptors: the backbone rounds differently in another batch size
MAP_TOLERANCE = 2e-2  # relative, of feature maps: their codes of 8 bits are off by up to 8e-3
SLICE = "{rate:,.0f} images/s, backbone alone {alone_rate:,.0f}, ratio {ratio:.3f}, up to {peak_mb:,.0f} MB"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """The ingest to measure. Raises InputError if a gallery that is to be kept has no place."""

    photographs: Path | None = None  # None: made ones
    images: int | None = None  # None: all; of made ones, 8,000
    input_size: int = 64
    batch_size: int = 32
    workers: int = os.cpu_count() or 2
    backbone: str = "efficientnet-lite0"
    device: str = "auto"
    slice_images: int = 4000
    work: Path | None = None  # None: a temporary folder
    keep: bool = False

    def __post_init__(self) -> None:
        if self.keep and self.work is None:
            raise InputError("a gallery that is kept needs a place: give --work DIR")
        if self.keep and self.kept.exists():
            raise InputError(f"{self.kept}: is there already: choose another --work, or remove it")

    @property
    def kept(self) -> Path:
        """The place of a gallery that is kept."""
        return (self.work or Path()) / "gallery"


def run(settings: Settings, json_file: Path | None, picture: Path | None, say: Say) -> Figures:
    """Measure, print a line for each slice and a table, write JSON as figures come in, and the picture."""
    check_outputs(json_file, picture)
    results: Figures = {**environment(), "settings": plain(settings)}
    if settings.work is not None:
        settings.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="spade-ingest-", dir=settings.work) as folder:
        ingests = Ingests(settings, Path(folder))
        results |= {"device": str(ingests.backbone.device), "threads": torch.get_num_threads()}
        results |= {"decoding": f"{settings.workers} processes"}
        results |= {"map_bytes": NEW_MAPS.map_bytes(ingests.backbone.settings)}
        for stage in (partial(ingests.ingest, say), ingests.again, ingests.more):
            results |= stage()
            write_json(json_file, results)
        if settings.keep:
            ingests.gallery.rename(settings.kept)
    say(report(results))
    if picture is not None:
        draw(results, picture)
    return results


class Ingests:
    """The ingests of one run, in a folder."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self.gallery = folder / "gallery"
        source, count, edge = settings.photographs, settings.images, settings.input_size
        if source is None:
            source, count = self._folder / "photographs", count or 8000
            make_photographs(source, count, 1.5 * edge)
        self._files = list(islice(find_images(source), count))
        self.backbone = load_backbone(
            settings.backbone,
            preprocessing=lambda default: replace(default, input_size=(edge, edge)),
            device=settings.device,
        )
        self._lanes = self.backbone.lanes(settings.batch_size)
        self._recent = list(self._batches(self._files[: RECENT * settings.batch_size]))
        if not self._recent:
            raise InputError(f"{source}: no images that could be decoded")

    def ingest(self, say: Say) -> Figures:
        """Time the slices, then verify the gallery."""
        reports, dropped, ingested = [], [], []
        self._compute(self._recent)  # warms up
        with GalleryWriter(self.gallery, self.backbone.settings) as writer:
            for part in self._slices():
                repeated = islice(cycle(self._recent), math.ceil(len(part) / len(self._recent[0])))
                images, alone_s = timed(partial(self._compute, repeated))
                _, dropped_s = timed(partial(self._compute, self._batches(part)))
                with memory_samples() as samples:
                    report, seconds = timed(partial(self._add, writer, part))
                reports.append(report)
                dropped.append(rates(len(part), dropped_s, images / alone_s))
                ingested.append({**rates(len(part), seconds, images / alone_s), "peak_mb": max(samples)})
                say(SLICE.format(**ingested[-1]))
        added = AddReport(**{name: sum(getattr(of, name) for of in reports) for name in asdict(reports[0])})
        return {
            "report": asdict(added),
            "checked": check_gallery(self.gallery, self.backbone, self._files, added),
            "ingest": summary(ingested),
            "without_writing": summary(dropped),
            "memory": {"peak_mb": max(part["peak_mb"] for part in ingested)},
        }

    def _slices(self) -> list[list[ImageFile]]:
        """Return the files in slices of about `slice_images`, which differ by one at most."""
        images = len(self._files)
        count = max(1, round(images / self._settings.slice_images))
        return [self._files[images * part // count : images * (part + 1) // count] for part in range(count)]

    def _compute(self, batches: Iterable[np.ndarray]) -> int:
        """Compute features of batches uint8 [B, H, W, 3], and drop them; return the number of images."""
        images = 0
        for features in self.backbone.stream(batches, self._lanes):
            images += len(features.pooled.cpu())  # waits for the device
        return images

    def _batches(self, files: Iterable[ImageFile]) -> Iterator[np.ndarray]:
        """Decode files as an ingest does; yield as many at a time as a lane gets."""
        loaded = load_all(
            files,
            self.backbone.settings.preprocessing,
            workers=self._settings.workers,
            ahead=4 * self._settings.batch_size,
            on_error=lambda error: None,
        )
        for lot in in_lots(loaded, self._settings.batch_size // self._lanes):
            yield np.stack([image.pixels for image in lot])

    def _add(self, writer: GalleryWriter, files: Iterable[ImageFile]) -> AddReport:
        size, workers = self._settings.batch_size, self._settings.workers
        return writer.add(files, self.backbone, batch_size=size, workers=workers)

    def again(self) -> Figures:
        """Add the same images once more; raises GalleryError if that changes the gallery."""
        with GalleryWriter(self.gallery, self.backbone.settings) as writer:
            before = writer.gallery.snapshot
            added, seconds = timed(partial(self._add, writer, self._files))
            require(writer.gallery.snapshot == before, f"adding the same images again: {added}")
        return {"again": {"seconds": seconds, "images_per_second": added.unchanged / seconds, "report": asdict(added)}}

    def more(self) -> Figures:
        """Add a few made photographs to an empty gallery and to the large one in turn, including opening it."""
        seconds: dict[str, list[float]] = {"empty": [], "large": []}
        for number in range(FEW_ROUNDS):
            folder = self._folder / f"more-{number}"
            make_photographs(folder, FEW, 1.5 * self._settings.input_size, seed=1 + number)
            for name, gallery in (("empty", self._folder / f"small-{number}"), ("large", self.gallery)):
                added, took = timed(partial(self._add_few, gallery, folder))
                seconds[name].append(took)
                require(added.added + added.copies == FEW, f"{FEW} images into the {name} gallery: {added}")
        medians = {f"{name}_seconds": statistics.median(of) for name, of in seconds.items()}
        return {"more": {"images": FEW, **medians, "seconds": seconds}}

    def _add_few(self, gallery: Path, folder: Path) -> AddReport:
        with GalleryWriter(gallery, self.backbone.settings) as writer:
            return self._add(writer, find_images(folder, f"{folder.name}/"))


@contextmanager
def memory_samples(interval: float = 1.0) -> Iterator[list[float]]:
    """Yield a list that gets the resident megabytes of the process tree every `interval` seconds."""
    samples: list[float] = []
    end = threading.Event()

    def sample() -> None:
        while True:
            samples.append(resident_mb(process_tree()))
            if end.wait(interval):
                return

    thread = threading.Thread(target=sample, name="sample-memory", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        end.set()
        thread.join()


def check_gallery(path: Path, backbone: Backbone, files: Sequence[ImageFile], report: AddReport) -> Figures:
    """Count images, verify every file, and compute the features of some again; raises GalleryError if any is wrong."""
    with Gallery(path) as gallery:
        rows = {row.id: row for row in gallery.images()}
        known = len(rows) + report.copies + report.failed + report.unchanged + report.changed
        require(len(rows) == len(gallery) == report.added, f"{len(rows):,} images in the gallery: {report}")
        require(known == len(files), f"{len(files):,} images were given: {report}")
        problems = list(gallery.verify())
        require(not problems, "; ".join(problems))
        sample = set(random.Random(0).sample(sorted(rows), min(SAMPLE, len(rows))))
        errors = [_compare(gallery, backbone, file) for file in files if file.id in sample]
    descriptor, maps = (max(of) for of in zip(*errors, strict=True))
    return {
        "images": len(rows),
        "images_compared": len(errors),
        "descriptor_error": descriptor,
        "map_error": maps,
    }


def require(right: bool, fault: str) -> None:
    """Raise GalleryError, with the fault, if an ingest was not right."""
    if not right:
        raise GalleryError(f"the ingest was wrong, so no figures are reported: {fault}")


def _compare(gallery: Gallery, backbone: Backbone, file: ImageFile) -> tuple[float, float]:
    """Return the relative errors of the stored descriptor and of the worst level of the stored maps."""
    row, image = gallery.image(file.id), load(file, backbone.settings.preprocessing)
    features = backbone(image.pixels[None])
    descriptor = _error(gallery.pooled([row])[0], features.pooled[0].cpu().numpy())
    levels = zip(gallery.maps([row.key]), features.pyramid, strict=True)
    maps = max(_error(stored[0], level[0].cpu().numpy()) for stored, level in levels)
    require(row.digest == image.digest, f"{file.id} is stored with another digest than its file's")
    require(descriptor <= TOLERANCE, f"{file.id}: its descriptor is off by {descriptor:.1e}")
    require(maps <= MAP_TOLERANCE, f"{file.id}: its feature maps are off by {maps:.1e}")
    return descriptor, maps


def _error(stored: np.ndarray, computed: np.ndarray) -> float:
    exact = computed.astype(np.float64)
    return float(np.linalg.norm(stored - exact) / np.linalg.norm(exact))
