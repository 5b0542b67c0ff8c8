"""Measure how fast images are added: `spade-index benchmark ingest`, against the backbone alone.

    spade-index benchmark ingest --photographs cifar10.tar --json benchmarks/results/ingest.json --picture ingest.png

1. One call of `GalleryWriter.add` takes in all images, and the backbone alone is timed in between (ingest_clock.py).
   The clock covers all that `add` does: finding the images, starting the decoding processes, the last commit. It does
   not cover loading the backbone, nor the index, which `spade-index build` makes at the end.
2. The same images, or the first of them, go through decoding and the backbone with their features dropped. The
   difference to the backbone alone is the cost of decoding, and the rest is that of writing.
3. Resident memory of the process and of its decoding processes is sampled every second.
4. The gallery is verified before any figure is reported. Then the same images are added again, and a few more to this
   gallery and to an empty one.
"""

import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spade_index.benchmarks.harness import Figures, check_outputs, environment, plain, timed, write_json
from spade_index.benchmarks.ingest_clock import Interleaved, MemorySampler, Slice, memory_growth, summary
from spade_index.benchmarks.ingest_report import draw, report
from spade_index.benchmarks.photographs import make_photographs
from spade_index.errors import GalleryError, InputError
from spade_index.features.backbone import Backbone, load_backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.admission import AddReport
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images, load
from spade_index.images.loading import in_lots, load_all, pays_in_processes

FEW = 50  # images that are added to a large gallery and to an empty one
FEW_ROUNDS = 3
SAMPLE = 20  # images whose features are computed again
TOLERANCE = 1e-4  # relative, of descriptors: the backbone rounds differently in another batch size
MAP_TOLERANCE = 1e-3  # relative, of feature maps, which are stored as float16
Files = Callable[[], Iterator[ImageFile]]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """The ingest to measure. Raises InputError if a gallery that is kept has no place."""

    photographs: Path | None = None  # None: made ones
    images: int | None = None  # None: all; of made ones, 4,000
    input_size: int = 64
    batch_size: int = 32
    workers: int = os.cpu_count() or 2
    backbone: str = "efficientnet-lite0"
    device: str = "auto"
    slice_images: int = 2000
    dropped_images: int = 10_000  # at most, that go through decoding and backbone only
    rounds: int = 1
    work: Path | None = None  # None: a temporary folder
    keep: bool = False

    def __post_init__(self) -> None:
        if self.keep and self.work is None:
            raise InputError("a gallery that is kept needs a place: give --work DIR")


def run(
    settings: Settings, json_file: Path | None, picture: Path | None, say: Say, note: Say = lambda line: None
) -> Figures:
    """Measure, print a table, write JSON as figures come in, and the picture. `note` is called for every slice."""
    check_outputs(json_file, picture)
    if not Path("/proc").is_dir():
        raise InputError("this benchmark reads /proc, which only Linux has")
    results: Figures = {**environment(), "settings": plain(settings)}
    write_json(json_file, results)
    with ExitStack() as stack:
        folder = settings.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spade-ingest-")))
        ingests = Ingests(settings, folder, stack, note)
        results |= {"device": str(ingests.backbone.device), "threads": torch.get_num_threads()}
        results |= {"decoding": f"{settings.workers} {'processes' if ingests.processes else 'threads'}"}
        results |= {"map_bytes": ingests.backbone.settings.map_bytes}
        for stage in (ingests.ingest, ingests.again, ingests.more):
            results |= stage()
            write_json(json_file, results)
    say(report(results))
    if picture is not None:
        draw(results, picture)
    return results


class Ingests:
    """The ingests of one run, in a folder; the files that they make are removed with `stack`."""

    def __init__(self, settings: Settings, folder: Path, stack: ExitStack, note: Say) -> None:
        self.settings, self._stack, self._note = settings, stack, note
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._gallery = self._place("gallery", keep=settings.keep)
        self._files = self._sources()
        self.processes = pays_in_processes(self._files())  # as `spade-index build` chooses
        edge = settings.input_size
        self.backbone = load_backbone(
            settings.backbone,
            preprocessing=lambda default: replace(default, input_size=(edge, edge)),
            device=settings.device,
        )
        self._lanes = self.backbone.lanes(settings.batch_size)

    def ingest(self) -> Figures:
        """In every round, ingest all images into a new gallery, verify it, and ingest some without writing."""
        first = self._first_batch()
        slices: list[Slice] = []
        dropped: list[Slice] = []
        memory: list[Figures] = []
        for _ in range(self.settings.rounds):
            shutil.rmtree(self._gallery, ignore_errors=True)
            backbone = self._interleaved("ingest")
            with (
                GalleryWriter(self._gallery, self.backbone.settings) as writer,
                MemorySampler(partial(getattr, backbone, "images"), partial(len, writer.gallery)) as sampler,
            ):
                backbone.start(first, self._lanes)
                added = self._add(writer, self._files(), backbone, self.processes)
                backbone.finish()
            slices += backbone.slices
            memory.append(memory_growth(sampler.samples, backbone.images))
            checked = check_gallery(self._gallery, self.backbone, self._files, added)
            dropped += self._drop(first)
        peak, growth = max(of["peak_mb"] for of in memory), [of["growth"] for of in memory]
        return {
            "report": asdict(added),
            "checked": checked,
            "ingest": summary(slices),
            "without_writing": summary(dropped),
            "memory": {"peak_mb": peak, "growth": growth, "rounds": memory},
        }

    def again(self) -> Figures:
        """Add the same images once more; raises GalleryError if that changes the gallery."""

        def add_again() -> AddReport:
            with GalleryWriter(self._gallery, self.backbone.settings) as writer:
                before = writer.gallery.snapshot
                added = self._add(writer, self._files(), self.backbone, self.processes)
                require(writer.gallery.snapshot == before, f"adding the same images again: {added}")
            return added

        added, seconds = timed(add_again)
        rate = added.unchanged / seconds
        return {"again": {"seconds": seconds, "images_per_second": rate, "report": asdict(added)}}

    def more(self) -> Figures:
        """Add a few made photographs to an empty gallery and to the large one in turn, including opening it."""
        seconds: dict[str, list[float]] = {"empty": [], "large": []}
        for number in range(FEW_ROUNDS):
            folder = self._place(f"more-{number}")
            make_photographs(folder, FEW, 1.5 * self.settings.input_size, seed=1 + number)
            for name, gallery in (("empty", self._place(f"small-{number}")), ("large", self._gallery)):
                added, took = timed(partial(self._add_few, gallery, folder))
                seconds[name].append(took)
                require(added.added + added.copies == FEW, f"{FEW} images into the {name} gallery: {added}")
        medians = {f"{name}_seconds": statistics.median(of) for name, of in seconds.items()}
        return {"more": {"images": FEW, **medians, "seconds": seconds}}

    def _add_few(self, gallery: Path, folder: Path) -> AddReport:
        with GalleryWriter(gallery, self.backbone.settings) as writer:
            return self._add(writer, find_images(folder, f"{folder.name}/"), self.backbone, False)

    def _add(self, writer: GalleryWriter, files: Iterator[ImageFile], backbone: Any, processes: bool) -> AddReport:
        size, workers = self.settings.batch_size, self.settings.workers
        return writer.add(files, backbone, batch_size=size, workers=workers, processes=processes)

    def _drop(self, first: np.ndarray) -> list[Slice]:
        """Decode and compute features as in an ingest, without writing."""
        files = islice(self._files(), self.settings.dropped_images)
        backbone = self._interleaved("without writing")
        backbone.start(first, self._lanes)
        lots = in_lots(self._loaded(files), len(first))
        for _ in backbone.stream((np.stack([image.pixels for image in lot]) for lot in lots), self._lanes):
            pass
        backbone.finish()
        return backbone.slices

    def _loaded(self, files: Iterator[ImageFile]) -> Iterator[Any]:
        return load_all(
            files,
            self.backbone.settings.preprocessing,
            workers=self.settings.workers,
            ahead=4 * self.settings.batch_size,  # as in an ingest
            on_error=lambda error: None,
            processes=self.processes,
        )

    def _first_batch(self) -> np.ndarray:
        """Return pixels uint8 [B, H, W, 3], as many as a lane gets, to time the backbone on at the start."""
        lot = self.settings.batch_size // self._lanes
        batch = [image.pixels for image in self._loaded(islice(self._files(), lot))]
        if not batch:
            raise InputError(f"{self.settings.photographs}: no images that could be decoded")
        return np.stack(batch)

    def _interleaved(self, name: str) -> Interleaved:
        def told(part: Slice) -> None:
            rates = f"{part.rate:,.0f} images/s, backbone alone {part.alone_rate:,.0f}"
            self._note(f"{name}: {rates}, ratio {part.ratio:.3f}")

        return Interleaved(self.backbone, self.settings.slice_images, told)

    def _sources(self) -> Files:
        source, count = self.settings.photographs, self.settings.images
        if source is None:
            source = self._place("photographs")
            make_photographs(source, count or 4000, 1.5 * self.settings.input_size)
        return lambda: islice(find_images(source), count)

    def _place(self, name: str, keep: bool = False) -> Path:
        """Return a path in the folder that does not exist yet, to be removed at the end."""
        path = self._folder / name
        if path.exists():
            raise InputError(f"{path}: is there already: choose another --work, or remove it")
        if not keep:
            self._stack.callback(shutil.rmtree, path, ignore_errors=True)
        return path


def check_gallery(path: Path, backbone: Backbone, files: Files, report: AddReport) -> Figures:
    """Count images, verify every file, and compute the features of some again; raises GalleryError if any is wrong."""
    with Gallery(path) as gallery:
        rows = {row.id: row for row in gallery.images()}
        found = sum(1 for _ in files())
        known = len(rows) + report.copies + report.failed + report.unchanged + report.changed
        require(len(rows) == len(gallery) == report.added, f"{len(rows):,} images in the gallery: {report}")
        require(known == found, f"{found:,} images were given: {report}")
        problems = list(gallery.verify())
        require(not problems, "; ".join(problems))
        sample = set(random.Random(0).sample(sorted(rows), min(SAMPLE, len(rows))))
        errors = [_compare(gallery, backbone, file) for file in files() if file.id in sample]
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
