"""How fast does a gallery take in images? `spade-index benchmark ingest`, against the backbone alone.

    spade-index benchmark ingest --photographs cifar10.tar --json benchmarks/results/ingest.json --picture ingest.png

1. One call of `GalleryWriter.add` takes in all images. Every few thousand images its clock is stopped, and the
   backbone alone is timed on as many (interleaved.py), so that what else the machine does slows both down. The clock
   covers all that `add` does: finding the images, starting the decoding processes, the last commit. It does not cover
   loading the backbone, nor the index, which `spade-index build` makes at the end.
2. The same images, or the first of them, go through decoding and the backbone with their features dropped: what is
   between that and the backbone alone is the price of decoding, and what remains that of writing.
3. Resident memory of the process and of those that decode for it is sampled every second. `growth` is the mean of the
   last tenth of the samples over that of the first tenth, of those between the first committed shard and the last
   batch: before, queues and a shard's buffers fill, and after, the decoding processes are gone.
4. The gallery is checked (ingest_checks.py) before a figure is given. Then the same images are added again, and a few
   more to this gallery and to an empty one.
"""

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spade_index.benchmarks.environment import environment
from spade_index.benchmarks.ingest_checks import check_gallery, require
from spade_index.benchmarks.ingest_report import draw, line, table
from spade_index.benchmarks.interleaved import Interleaved, Slice, summary
from spade_index.benchmarks.photographs import make_photographs
from spade_index.benchmarks.process_tree import PROC, MemorySample, MemorySampler
from spade_index.errors import InputError
from spade_index.features.backbone import load_backbone
from spade_index.gallery.write.admission import AddReport
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images
from spade_index.images.loading import in_lots, load_all
from spade_index.settings import PROCESSES_FROM

FEW = 50  # images that are added to a large gallery and to an empty one
FEW_ROUNDS = 3
TENTH = 0.1
Files = Callable[[], Iterator[ImageFile]]


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    photographs: Path | None = None  # None: made ones
    images: int | None = None  # None: all; of made ones, 4,000
    input_size: int = 64
    batch_size: int = 32
    workers: int = os.cpu_count() or 2
    backbone: str = "efficientnet-lite0"
    device: str = "auto"
    slice_images: int = 2000
    dropped_images: int = 10_000  # that go through decoding and backbone alone, at most
    rounds: int = 1
    work: Path | None = None  # None: a temporary folder
    keep: bool = False

    def __post_init__(self) -> None:
        if self.keep and self.work is None:
            raise InputError("a gallery that is kept needs a place: give --work DIR")


def run(
    settings: Settings,
    json_file: Path | None,
    picture: Path | None,
    say: Callable[[str], None],
    note: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure, print a table, write JSON as figures come in, and the picture. `note` is told of every slice."""
    if picture is not None and find_spec("matplotlib") is None:
        raise InputError(f"{picture}: a picture needs matplotlib: pip install matplotlib")
    if picture is not None and not picture.parent.is_dir():
        raise InputError(f"{picture}: no such folder")
    if not PROC.is_dir():
        raise InputError("this benchmark reads /proc, which only Linux has")
    results: dict[str, Any] = {**environment(), "settings": json.loads(json.dumps(asdict(settings), default=str))}
    _write(results, json_file)
    with ExitStack() as stack:
        folder = settings.work or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="spade-ingest-")))
        run_of = Ingests(settings, folder, stack, note)
        results |= {"device": str(run_of.backbone.device), "threads": torch.get_num_threads()}
        results |= {"decoding": f"{settings.workers} {'processes' if run_of.processes else 'threads'}"}
        results |= {"map_bytes": run_of.backbone.settings.map_bytes}
        for stage in (run_of.ingest, run_of.again, run_of.more):
            results |= stage()
            _write(results, json_file)
    say(table(results))
    if picture is not None:
        draw(results, picture)
    return results


class Ingests:
    """The ingests of one run of the benchmark, in a folder; what they make there is removed with `stack`."""

    def __init__(self, settings: Settings, folder: Path, stack: ExitStack, note: Callable[[str], None]) -> None:
        self.settings, self._stack, self._note = settings, stack, note
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._gallery = self._place("gallery", keep=settings.keep)
        self._files = self._sources()
        self.processes = (
            sum(1 for _ in islice(self._files(), PROCESSES_FROM)) == PROCESSES_FROM
        )  # as `spade-index build` chooses
        edge = settings.input_size
        self.backbone = load_backbone(
            settings.backbone,
            preprocessing=lambda default: replace(default, input_size=(edge, edge)),
            device=settings.device,
        )
        self._lanes = self.backbone.lanes(settings.batch_size)

    def ingest(self) -> dict[str, Any]:
        """Every round: all images into a new gallery, which is checked, and some with their features dropped."""
        first = self._first_batch()
        slices: list[Slice] = []
        dropped: list[Slice] = []
        memory: list[dict[str, Any]] = []
        for _ in range(self.settings.rounds):
            shutil.rmtree(self._gallery, ignore_errors=True)
            backbone = self._interleaved("ingest")
            with (
                GalleryWriter(self._gallery, self.backbone.settings) as writer,
                MemorySampler(partial(getattr, backbone, "images"), partial(len, writer.gallery)) as sampler,
            ):
                backbone.start(first, self._lanes)
                report = self._add(writer, self._files(), backbone, self.processes)
                backbone.finish()
            slices += backbone.slices
            memory.append(_memory(sampler.samples, backbone.images))
            checked = check_gallery(self._gallery, self.backbone, self._files, report)
            dropped += self._drop(first)
        return {
            "report": asdict(report),
            "checked": checked,
            "ingest": summary(slices),
            "without_writing": summary(dropped),
            "memory": {
                "peak_mb": max(of["peak_mb"] for of in memory),
                "growth": [of["growth"] for of in memory],
                "rounds": memory,
            },
        }

    def again(self) -> dict[str, Any]:
        """The same images once more: nothing may be added."""
        started = time.perf_counter()
        with GalleryWriter(self._gallery, self.backbone.settings) as writer:
            before = writer.gallery.snapshot
            report = self._add(writer, self._files(), self.backbone, self.processes)
            require(writer.gallery.snapshot == before, f"adding the same images again: {report}")
        seconds = time.perf_counter() - started
        rate = report.unchanged / seconds
        return {"again": {"seconds": seconds, "images_per_second": rate, "report": asdict(report)}}

    def more(self) -> dict[str, Any]:
        """A few made photographs, into an empty gallery and into the large one in turn; opening it is timed, too."""
        seconds: dict[str, list[float]] = {"empty": [], "large": []}
        for number in range(FEW_ROUNDS):
            folder = self._place(f"more-{number}")
            make_photographs(folder, FEW, 1.5 * self.settings.input_size, seed=1 + number)
            for name, gallery in (("empty", self._place(f"small-{number}")), ("large", self._gallery)):
                started = time.perf_counter()
                with GalleryWriter(gallery, self.backbone.settings) as writer:
                    report = self._add(writer, find_images(folder, f"more-{number}/"), self.backbone, False)
                seconds[name].append(time.perf_counter() - started)
                require(report.added + report.copies == FEW, f"{FEW} images into the {name} gallery: {report}")
        medians = {f"{name}_seconds": statistics.median(of) for name, of in seconds.items()}
        return {"more": {"images": FEW, **medians, "seconds": seconds}}

    def _add(self, writer: GalleryWriter, files: Iterator[ImageFile], backbone: Any, processes: bool) -> AddReport:
        size, workers = self.settings.batch_size, self.settings.workers
        return writer.add(files, backbone, batch_size=size, workers=workers, processes=processes)

    def _drop(self, first: np.ndarray) -> list[Slice]:
        """Decoding and backbone as in an ingest, and nothing written."""
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
        """Pixels uint8 [B, H, W, 3] to time the backbone on before there are others, as many as a lane is given."""
        lot = self.settings.batch_size // self._lanes
        batch = [image.pixels for image in self._loaded(islice(self._files(), lot))]
        if not batch:
            raise InputError(f"{self.settings.photographs}: no images that could be decoded")
        return np.stack(batch)

    def _interleaved(self, what: str) -> Interleaved:
        return Interleaved(self.backbone, self.settings.slice_images, lambda part: self._note(line(what, part)))

    def _sources(self) -> Files:
        source, count = self.settings.photographs, self.settings.images
        if source is None:
            source = self._place("photographs")
            make_photographs(source, count or 4000, 1.5 * self.settings.input_size)
        return lambda: islice(find_images(source), count)

    def _place(self, name: str, keep: bool = False) -> Path:
        """A path in the folder that nothing is at, removed at the end."""
        path = self._folder / name
        if path.exists():
            raise InputError(f"{path}: is there already: choose another --work, or remove it")
        if not keep:
            self._stack.callback(shutil.rmtree, path, ignore_errors=True)
        return path


def _memory(samples: list[MemorySample], images: int) -> dict[str, Any]:
    """Peak, and the last tenth over the first between first commit and last batch; None where that is too short."""
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


def _write(results: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    from spade_index.cli import main

    main(["benchmark", "ingest", *sys.argv[1:]])
