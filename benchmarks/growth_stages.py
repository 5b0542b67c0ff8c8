"""Stage 2, and adding images, at one size of the gallery. Each function is a process's work."""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spade_index import Backbone, Detector, Gallery, SearchSettings
from spade_index.benchmarks.growth_data import ADDED, Features, added, make_backbone, shuffled
from spade_index.benchmarks.growth_measure import K, test_of
from spade_index.benchmarks.growth_process import forget, read_from_disk, timed
from spade_index.benchmarks.query_profile import replaced
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile

QUERIES = 30
REPEATS = 3


def pixels(work: str, held: int) -> dict[str, Any]:
    """Milliseconds of reading the neighbours' maps and of the rest of a query, medians, the pool being empty.

    `new`: the first time, when the process does not know where the rows of the shards are. `warm`: again, with all in
    the system's cache. `cold`: again, with the shards dropped from it before each query.
    """
    features = Features.read(Path(work), held)
    rows = test_of(np.arange(held))[:QUERIES]
    with Gallery(Path(work, "gallery")) as gallery:
        shards = sorted((gallery.path / "shards").iterdir())
        found: dict[str, Any] = {"queries": len(rows), "maps": K, "map_bytes": K * gallery.settings.map_bytes}
        _query(gallery, features, rows[0])  # torch's own first time
        for name in ("new", "warm", "cold"):
            measured = []
            for row in rows:
                if name == "cold":
                    forget(shards)
                measured.append(_query(gallery, features, row))
            names = measured[0].keys()
            found[name] = {part: statistics.median(of[part] for of in measured) for part in names}
    return found


def _query(gallery: Gallery, features: Features, row: int) -> dict[str, float]:
    """One query by a detector whose pool is empty."""
    # Its pool has room for little more than one query's maps: many detectors have one each.
    detector = Detector(gallery, None, SearchSettings(gallery_neighbours=K), map_memory=1)
    seconds: dict[str, float] = {}
    with _noted(detector.map_pool, "fetch", seconds), _noted(gallery, "nearest", seconds):
        before, started = read_from_disk(), time.perf_counter()
        pyramid = [torch.from_numpy(np.array(level[row], np.float32))[None] for level in features.maps]
        detector.detect_features(features.pooled[row][None], pyramid)
        whole, read = time.perf_counter() - started, read_from_disk() - before
    return {
        "images_ms": 1e3 * seconds["nearest"],
        "maps_ms": 1e3 * seconds["fetch"],
        "search_ms": 1e3 * (whole - seconds["nearest"] - seconds["fetch"]),
        "bytes": read,
    }


@contextmanager
def _noted(thing: Any, name: str, seconds: dict[str, float]) -> Iterator[None]:
    function = getattr(thing, name)

    def call(*arguments: Any, **options: Any) -> Any:
        found, took = timed(lambda: function(*arguments, **options))
        seconds[name] = seconds.get(name, 0.0) + took
        return found

    with replaced(thing, name, call):
        yield


def add(work: str, photographs: str, input_size: int, held: int, images: int) -> dict[str, Any]:
    """Seconds of adding so many photographs that are held out, and of removing them again; medians.

    Each opens the gallery for writing and closes it. The backbone is there already.
    """
    backbone = make_backbone(input_size)
    last = [replace(file, id=ADDED + file.id) for file in shuffled(photographs)[held - images : held]]
    backbone(np.zeros((1, input_size, input_size, 3), np.uint8))
    path = Path(work, "gallery")
    rows = []
    for _ in range(REPEATS):
        count, adding = timed(lambda: _add(path, last, backbone))
        removed, removing = timed(lambda: _remove(path, [file.id for file in last]))
        assert removed == count
        rows.append((adding, removing))
    adding, removing = np.median(rows, 0)
    return {"images": count, "add_s": adding, "remove_s": removing}


def _add(path: Path, files: list[ImageFile], backbone: Backbone) -> int:
    with GalleryWriter(path) as writer:
        return writer.add(files, backbone).added


def _remove(path: Path, ids: list[str]) -> int:
    with GalleryWriter(path) as writer:
        there = added(writer, ids)
        writer.remove(there)
        return len(there)
