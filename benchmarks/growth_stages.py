"""Measures the pixel search and adding images at one size of the gallery. Public functions run in a process."""

from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from spade_index import Backbone, Detector, Gallery, SearchSettings
from spade_index.benchmarks.growth_data import ADDED, Features, make_backbone, present, shuffled
from spade_index.benchmarks.growth_measure import K, test_of
from spade_index.benchmarks.harness import Figures, medians, timed
from spade_index.benchmarks.processes import forget, read_from_disk
from spade_index.benchmarks.query_profile import replaced
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile

QUERIES = 30
REPEATS = 3


def pixels(work: Path, held: int) -> Figures:
    """Return median milliseconds of reading the neighbours' maps and of the rest of a query, with an empty map pool.

    `new`: the first time, when the process does not know yet where the rows of the shards are. `warm`: again, with all
    in the system's cache. `cold`: again, with the shards dropped from the cache before each query.
    """
    features = Features.read(work, held)
    rows = test_of(np.arange(held))[:QUERIES]
    with Gallery(work / "gallery") as gallery:
        shards = sorted((gallery.path / "shards").iterdir())
        figures: Figures = {"queries": len(rows), "maps": K, "map_bytes": K * gallery.settings.map_bytes}
        _query(gallery, features, rows[0])  # warms up torch
        for name in ("new", "warm", "cold"):
            measured = []
            for row in rows:
                if name == "cold":
                    forget(shards)
                measured.append(_query(gallery, features, row))
            figures[name] = medians(measured)
    return figures


def _query(gallery: Gallery, features: Features, row: int) -> dict[str, float]:
    """Measure one query with a detector whose map pool is empty."""
    # The pool has room for little more than one query's maps: there are many detectors, each with its own.
    detector = Detector(gallery, None, SearchSettings(gallery_neighbours=K), map_memory=1)
    pyramid = [torch.from_numpy(np.array(level[row], np.float32))[None] for level in features.maps]
    seconds: dict[str, float] = {}

    def clocked(owner: object, name: str) -> AbstractContextManager[None]:
        function = getattr(owner, name)

        def call(*arguments: object, **options: object) -> object:
            result, took = timed(partial(function, *arguments, **options))
            seconds[name] = seconds.get(name, 0.0) + took
            return result

        return replaced(owner, name, call)

    with clocked(detector.map_pool, "fetch"), clocked(gallery, "nearest"):
        before = read_from_disk()
        _, whole = timed(partial(detector.detect_features, features.pooled[row][None], pyramid))
        read = read_from_disk() - before
    return {
        "images_ms": 1e3 * seconds["nearest"],
        "maps_ms": 1e3 * seconds["fetch"],
        "search_ms": 1e3 * (whole - seconds["nearest"] - seconds["fetch"]),
        "bytes": read,
    }


def add(work: Path, photographs: Path, input_size: int, held: int, images: int) -> Figures:
    """Return median seconds of adding `images` held-out photographs, and of removing them again.

    Each opens the gallery for writing and closes it; loading the backbone is not timed.
    """
    backbone = make_backbone(input_size)
    last = [replace(file, id=ADDED + file.id) for file in shuffled(photographs)[held - images : held]]
    backbone(np.zeros((1, input_size, input_size, 3), np.uint8))
    rows = []
    for _ in range(REPEATS):
        count, adding = timed(partial(_add, work / "gallery", last, backbone))
        removed, removing = timed(partial(_remove, work / "gallery", [file.id for file in last]))
        assert removed == count
        rows.append({"add_s": adding, "remove_s": removing})
    return {"images": count, **medians(rows)}


def _add(path: Path, files: list[ImageFile], backbone: Backbone) -> int:
    with GalleryWriter(path) as writer:
        return writer.add(files, backbone).added


def _remove(path: Path, ids: list[str]) -> int:
    with GalleryWriter(path) as writer:
        there = present(writer, ids)
        writer.remove(there)
        return len(there)
