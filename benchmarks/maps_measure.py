"""Grow, check and measure a gallery of images with maps in codes `pq`. Public functions run in a process of their own.

Photographs are added through the backbone. Images beyond them are drawn around them, as codes (see `growth_data`).
"""

import gc
import multiprocessing
import shutil
import signal
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spade_index.gallery import CATALOG, Gallery
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.gallery.store.record import NewImage
from spade_index.gallery.write.add_features import BATCH
from spade_index.gallery.write.append import Appender, commit_shard
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile
from spade_index.images.loading import in_lots, started_ahead
from spade_index.method.detector import Detector
from spade_index.settings import IndexSettings

from .growth_data import DRAWN, Around, altered, make_backbone, shuffled
from .growth_measure import K, index_file, test_of, tuning_of
from .harness import Figures, WrongResult, medians, timed
from .processes import above, forget, read_from_disk, resident

if TYPE_CHECKING:
    from spade_index.features.backbone import Backbone

FIRST = "int8"  # how maps are stored until there are images to train tables on
DRAWERS = 2  # processes that draw images
POLL = 0.2  # seconds between looks at a compaction
COLD = 10  # queries for which the system's cache is emptied


def begin(gallery: Path, photographs: Path, input_size: int, held: int, levels: tuple[int, ...], count: int) -> Figures:
    """Build a gallery of `count` photographs that is searched by these levels, and store these alone, as `pq`."""
    files, backbone = shuffled(photographs)[held:][:count], make_backbone(input_size)
    with GalleryWriter(gallery, backbone.settings, maps=FIRST) as writer:
        _, added = timed(partial(writer.add, files, backbone))
        search = {"compared_levels": levels}
        writer.set_tuned({"search": search, "images": len(writer.gallery), "snapshot": writer.gallery.snapshot})
        before = writer.map_bytes
        _, stored = timed(partial(writer.compact, maps="pq", levels=levels))
        return {"images": count, "add_s": added, "compact_s": stored, "before_bytes": before, **kept(writer.gallery)}


def kept(gallery: Gallery) -> Figures:
    """Return what is stored of an image."""
    storage, settings = gallery.storage, gallery.settings
    plain = [2 * channels * height * width for channels, height, width in settings.level_shapes]
    return {
        "map_bytes": storage.map_bytes(settings),
        "float16_bytes": sum(plain),
        "storage": storage.name,
        "level_shapes": list(map(list, settings.level_shapes)),
        "dim": settings.pooled_dim,
    }


def add(gallery: Path, photographs: Path, input_size: int, held: int, work: Path, upto: int) -> Figures:
    """Add photographs, and beyond them crops, turns and shifts of them, until there are `upto` images."""
    files, backbone = shuffled(photographs)[held:], make_backbone(input_size)
    some: Iterable[ImageFile] = files[:upto]
    if upto > len(files):
        some = [*files, *altered(work / "altered", files, upto - len(files))]
    with GalleryWriter(gallery) as writer:
        before = len(writer.gallery)
        report, seconds = timed(partial(writer.add, islice(some, before, None), backbone))
        return {"images": len(writer.gallery) - before, "seconds": seconds, "report": str(report)}


def ingest(gallery: Path, photographs: Path, input_size: int, held: int, work: Path, count: int) -> Figures:
    """Add more photographs to a copy of a gallery, as fast as it can be."""
    copy = work / "ingest"
    there = keep(gallery, copy)["images"]
    try:
        return add(copy, photographs, input_size, held, work, there + count)
    finally:
        shutil.rmtree(copy)


def draw(gallery: Path, work: Path, upto: int) -> Figures:
    """Add images that are drawn around the photographs until there are `upto`."""
    with GalleryWriter(gallery) as writer:
        around, before = Around.photographs(writer.gallery, work / "nearest.npy"), len(writer.gallery)

        def put() -> None:
            lots = in_lots(range(before, upto), BATCH)
            # Processes that are forked have the photographs without a copy.
            with (
                ProcessPoolExecutor(DRAWERS, multiprocessing.get_context("fork"), _use, (around,)) as pool,
                Appender(writer, partial(commit_shard, writer)) as appender,
            ):
                for lot, batch in started_ahead(lots, lambda numbers: pool.submit(_drawn, numbers), 4 * DRAWERS):
                    writer.require_room(len(lot))
                    appender.put(batch.result())

        _, seconds = timed(put)
        return {"images": len(writer.gallery) - before, "seconds": seconds}


_around: list[Around] = []  # of a process that draws


def _use(around: Around) -> None:
    _around.append(around)


def _drawn(numbers: list[int]) -> list[NewImage]:
    return [_around[0].drawn(number) for number in numbers]


def keep(gallery: Path, copy: Path) -> Figures:
    """Copy the gallery as it is now, to be measured beside a larger one."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(gallery, copy)
    return counts(copy)


def counts(gallery: Path) -> Figures:
    """Return the number of images, by where they come from."""
    with Gallery(gallery) as opened:
        drawn = sum(row.id.startswith(DRAWN) for row in opened.images())
        return {"images": len(opened), "real": len(opened) - drawn, "drawn": drawn}


def index(gallery: Path, queries: Path) -> Figures:
    """Build the index, unless it is the one of now."""
    with GalleryWriter(gallery) as writer:
        pooled = tuning_of(np.load(queries)["pooled"])
        description, seconds = timed(partial(writer.build_index, IndexSettings(), pooled))
        return {"seconds": seconds, "kind": description.kind, "recall": description.recall, "text": str(description)}


def write_queries(path: Path, photographs: Path, input_size: int, held: int) -> Figures:
    """Write pixels uint8 [held, H, W, 3] and descriptors float32 [held, D] of the first photographs."""
    from spade_index.images import load

    backbone = make_backbone(input_size)
    files = shuffled(photographs)[:held]
    pixels = np.stack([load(file, backbone.settings.preprocessing).pixels for file in files])
    pooled = np.concatenate([backbone(batch).pooled.numpy() for batch in np.array_split(pixels, max(1, held // 32))])
    np.savez(path, pixels=pixels, pooled=pooled)
    return {"queries": held}


class Asked:
    """A gallery that is opened and asked, step by step."""

    def __init__(self, gallery: Path, backbone: "Backbone") -> None:
        self._backbone = backbone
        self._gallery = Gallery(gallery)
        self._detector = Detector(self._gallery, backbone, calibrated=False)

    def __enter__(self) -> "Asked":
        return self

    def __exit__(self, *exception: object) -> None:
        self._gallery.close()

    def ask(self, pixels: np.ndarray) -> dict[str, float]:
        """Return the milliseconds of a query [H, W, 3]: of the backbone, of the image level, of the pixel level."""
        features, backbone = timed(partial(self._backbone, pixels[None]))
        pooled = features.pooled.numpy()
        nearest, image = timed(partial(self._detector.nearest_images, pooled))
        if len(nearest[0]) != K:
            raise WrongResult(f"{len(nearest[0])} neighbours, not {K}")
        found, pixel = timed(lambda: list(self._detector.nearest_pixels(features.pyramid, nearest)))
        if not np.isfinite(found[0].score_map).all():
            raise WrongResult("a score map has values that are not finite")
        names = ("backbone_ms", "image_ms", "pixel_ms", "whole_ms")
        return dict(zip(names, (1e3 * s for s in (backbone, image, pixel, backbone + image + pixel)), strict=True))

    def statistics(self) -> Figures:
        """Return how many maps were in memory, and how many were read."""
        stats = self._detector.pixel_search.map_stats
        return {"hits": stats.hits, "misses": stats.misses}


def search(gallery: Path, queries: Path, input_size: int) -> Figures:
    """Measure queries one at a time, whose files the system has in its cache, and the memory of the process."""
    backbone, asked = make_backbone(input_size), test_of(np.load(queries)["pixels"])
    backbone(asked[:1])
    before = resident()
    with Asked(gallery, backbone) as opened:
        for pixels in asked:  # reads all files that the second round needs
            opened.ask(pixels)
        rows = [opened.ask(pixels) for pixels in asked]
        figures: Figures = {"queries": len(rows), **medians(rows), **opened.statistics()}
        figures["whole_ms_p90"] = float(np.percentile([row["whole_ms"] for row in rows], 90))
        return {**figures, "resident": above(before), "process_mb": sum(resident().values())}


def cold(gallery: Path, queries: Path, input_size: int) -> Figures:
    """Measure opening a gallery, and a query, with nothing of it in the system's cache; and again with all of it.

    Reading is what the query took longer. Bytes are None where the kernel does not count them.
    """
    path, backbone = index_file(gallery), make_backbone(input_size)
    files = [path, descriptors_file(path), gallery / CATALOG, *(gallery / "shards").iterdir()]
    asked = test_of(np.load(queries)["pixels"])[:COLD]
    backbone(asked[:1])
    rows = []
    for pixels in asked:
        gc.collect()  # pages that are still mapped would stay in the cache
        forget(files)
        row: dict[str, float] = {}
        for name in ("cold", "warm"):
            before = read_from_disk()
            opened, opening = timed(partial(Asked, gallery, backbone))
            between = read_from_disk()
            with opened:
                took = opened.ask(pixels)
            searched = took["image_ms"] + took["pixel_ms"]
            row |= {f"{name}_open_ms": 1e3 * opening, f"{name}_ms": searched, f"{name}_pixel_ms": took["pixel_ms"]}
            row |= {f"{name}_open_bytes": between - before, f"{name}_bytes": read_from_disk() - between}
        rows.append({**row, "reading_ms": row["cold_ms"] - row["warm_ms"]})
    with Gallery(gallery) as counted:
        images = len(counted)
    figures = {
        "queries": len(rows),
        "images": images,
        **medians(rows),
        "reading_ms_max": max(row["reading_ms"] for row in rows),
    }
    return figures if figures["cold_bytes"] else {**figures, "cold_bytes": None, "cold_open_bytes": None}


def verify(gallery: Path) -> Figures:
    """Check every byte. Raises WrongResult if there is a problem."""
    with Gallery(gallery) as opened:
        problems, seconds = timed(lambda: list(opened.verify()))
        if problems:
            raise WrongResult(problems[0])
        return {"seconds": seconds, "bytes": opened.bytes_to_check(), "images": len(opened)}


def remove(gallery: Path, count: int) -> Figures:
    """Remove every second of the images that were added last, `count` in all."""
    with GalleryWriter(gallery) as writer:
        rows = islice(writer.gallery.images(), len(writer.gallery) - 2 * count, None, 2)
        snapshot, seconds = timed(partial(writer.remove, [row.id for row in rows]))
        return {"removed": count, "seconds": seconds, "snapshot": snapshot, "images": len(writer.gallery)}


def compact(gallery: Path) -> Figures:
    """Compact the gallery, or carry on."""
    with GalleryWriter(gallery) as writer:
        moved = writer.images_to_move()
        freed, seconds = timed(writer.compact)
        return {"seconds": seconds, "freed": freed, "moved": moved, "images": len(writer.gallery)}


def _is_indexed(gallery: Path) -> bool:
    with Gallery(gallery) as opened:
        return opened.index_info() is not None


def killed(gallery: Path, seconds: float, moving: bool = False) -> Figures:
    """Compact the gallery, kill that after some seconds (SIGKILL), and open it: its images must be there.

    With `moving`, the seconds count from when the index has been built, and images are moved into new shards.
    """
    with Gallery(gallery) as opened:
        expected = len(opened)
    process = multiprocessing.get_context("spawn").Process(target=compact, args=(gallery,))
    process.start()
    while moving and process.is_alive() and not _is_indexed(gallery):
        process.join(POLL)
    process.join(seconds)
    running = process.is_alive()
    process.kill()
    process.join()
    started = time.perf_counter()
    with Gallery(gallery) as opened:
        last = opened.catalog.snapshots()[-1].action
        if (there := len(opened)) != expected:
            raise WrongResult(f"{there} images after a kill, not {expected}")
        return {
            "after_s": seconds,
            "moving": moving,
            "killed": running and process.exitcode == -signal.SIGKILL,
            "last_action": last,
            "indexed": opened.index_info() is not None,
            "open_ms": 1e3 * (time.perf_counter() - started),
        }
