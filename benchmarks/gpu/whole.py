"""What benchmarks/gpu.sh measures around the search: contenders, the pool of resident maps, and whole queries."""

import atexit
import importlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_index.benchmarks import pixel_checks, pixel_peers
from spade_index.benchmarks.gpu import peers as gpu_peers
from spade_index.benchmarks.gpu.data import (
    Found,
    Inputs,
    Scale,
    graphs,
    milliseconds,
    poisoned,
    spread_of,
    synchronize,
    workload,
)
from spade_index.benchmarks.gpu.runner import Missing, Wrong, one_line
from spade_index.kernels.fused.maps import FusedMaps

ROTATED = {1: 6, 8: 2}  # batches that take turns, by their size


@lru_cache(maxsize=1)  # of one cell of the benchmark at a time
def _cell(scale: Scale, neighbours: int, batch: int, device: torch.device) -> tuple[list[Inputs], list[Any]]:
    """Batches, and exact distances of some pixels of the first and the last query of the first one."""
    work = workload(scale, device)
    batches = work.batches(neighbours, batch, ROTATED.get(batch, 1))
    rows = torch.randperm(scale.pixels, generator=torch.Generator().manual_seed(0))[: scale.sample].to(device)
    oracles = []
    for number in sorted({0, batch - 1}):
        query = [level[number : number + 1] for level in batches[0].query]
        pool = [level[batches[0].pages[number]] for level in work.pool]
        search = pixel_peers.Search(query, pool, scale.sizes, work.weights, 1, gpu_peers.MODE)
        oracles.append((number, pixel_checks.Oracle(search, rows)))
    return batches, oracles


def contend(key: str, scale: Scale, neighbours: int, batch: int, device: torch.device) -> dict[str, Any]:
    """A contender's result compared, and then its time."""
    contender = gpu_peers.CONTENDERS[key]
    work = workload(scale, device)
    batches, oracles = _cell(scale, neighbours, batch, device)
    row: dict[str, Any] = {
        "contender": key,
        "title": contender.title,
        "neighbours": neighbours,
        "batch": batch,
        "queries_timed": len(batches) * batch,
    }
    call, given, notes = contender.prepare(work, batches)
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    with poisoned(device):
        found = call(given[0])
    synchronize(device)
    row |= notes | _verified(found, oracles)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        del found
        found = call(given[0])
        row["working_mb"] = (torch.cuda.max_memory_allocated(device) - before) / 1e6
    row |= _figures(milliseconds(call, given, device, scale.seconds), scale, neighbours, batch)
    if device.type == "cuda" and contender.graph:
        row |= _by_graph(call, given, found, scale, neighbours, batch, device)
    return row


def _verified(found: Found, oracles: Sequence[tuple[int, Any]]) -> dict[str, float]:
    """How far off the sampled pixels are. Raises Wrong."""
    worst: dict[str, float] = {"distance_error": 0.0, "exact_matches": 1.0}
    for number, oracle in oracles:
        try:
            checked = oracle.check((found[0][number, oracle.rows], found[1][number, oracle.rows]))
        except pixel_checks.WrongResult as error:
            raise Wrong(f"query {number}: {error}") from error
        worst["distance_error"] = max(worst["distance_error"], checked["distance_error"])
        worst["exact_matches"] = min(worst["exact_matches"], checked["exact_matches"])
    return worst


def _figures(times: Sequence[float], scale: Scale, neighbours: int, batch: int) -> dict[str, float]:
    of_query = {name: value / batch for name, value in spread_of(times).items()}
    return of_query | {"tflops": scale.flop(neighbours) / of_query["ms"] / 1e9, "calls": len(times)}


def _by_graph(
    call: Any, given: Sequence[Any], found: Found, scale: Scale, neighbours: int, batch: int, device: torch.device
) -> dict[str, Any]:
    """The same by replaying CUDA graphs, which leaves the launches' time out."""
    try:
        captured = graphs(call, given[:3])
        captured[0][0].replay()
        torch.cuda.synchronize(device)
        result = captured[0][1]
        if not torch.equal(result[1], found[1]) or not torch.equal(result[0], found[0]):
            return {"graph": "replayed, it gives another result"}
        replays = [graph for graph, _ in captured]
        times = milliseconds(lambda graph: graph.replay(), replays, device, scale.seconds)
    except Exception as error:  # what synchronizes, or allocates by itself, cannot be captured
        torch.cuda.synchronize(device)
        return {"graph": one_line(error)[:160]}
    figures = _figures(times, scale, neighbours, batch)
    return {"graph": "ok", "graph_ms": figures["ms"], "graph_tflops": figures["tflops"]}


def time_pool(case: str, scale: Scale, neighbours: int, device: torch.device) -> dict[str, Any]:
    """A pool's fetch and the search after it: nothing resident, all resident, or nine of ten.

    Maps are read from host memory, which is what a gallery in the operating system's cache costs at least.
    """
    try:
        module = importlib.import_module("spade_index.kernels.map_pool")
    except ImportError as error:
        raise Missing(f"there is no pool ({error})") from error
    name = next((name for name in gpu_peers.FUSED if _there(name)), None)
    pool = _pool(module, scale, 4 * neighbours, device, fused=name is not None)
    work = workload(scale, device)
    (one,) = work.batches(neighbours, 1, 1)
    options = {"sizes": list(scale.sizes), "weights": work.weights, "mode": gpu_peers.MODE}

    def search(pages: Tensor) -> Found:
        if name is not None:
            return gpu_peers.fused_search(name)(one.query, pool.maps, pages, 1, **options)
        from spade_index.kernels import nearest_pixels

        return nearest_pixels(one.query, pool.maps, pages, backend="torch", **options)

    keys = one.pages[0].tolist()
    expected = search(pool.fetch([keys]))  # and compiles
    images = scale.slots
    others = (key % images for key in range(10**9) if key % images not in set(keys))
    times: dict[str, list[float]] = {"fetch": [], "search": []}
    for _ in range(5 if device.type == "cuda" else 1):
        if case != "warm":
            new = neighbours if case == "cold" else max(1, neighbours // 10)
            # The query's own maps make room for others, and `new` of them come back.
            pool = _pool(module, scale, 4 * neighbours, device, fused=name is not None)
            pool.fetch([keys[new:] or [next(others)]])
        synchronize(device)
        before, started = pool.stats.misses, time.perf_counter()
        pages = pool.fetch([keys])
        times["fetch"].append(1e3 * (time.perf_counter() - started))
        found = search(pages)
        synchronize(device)
        times["search"].append(1e3 * (time.perf_counter() - started) - times["fetch"][-1])
        missed = pool.stats.misses - before
        if not torch.equal(found[0], expected[0]) or not torch.equal(found[1], expected[1]):
            raise Wrong("from the pool, another result")
    medians = {f"{what}_ms": statistics.median(of) for what, of in times.items()}
    total = sum(medians.values())
    moved = missed * 2 * sum(h * w * c for (h, w), c in zip(scale.sizes, scale.channels, strict=True))
    return {"kernel": name or "torch", "missed": missed, **medians, "ms": total, "gb_per_s": moved / total / 1e6}


def _there(name: str) -> bool:
    try:
        gpu_peers.backend_module(name)
    except Missing:
        return False
    return True


def _pool(module: Any, scale: Scale, slots: int, device: torch.device, fused: bool) -> Any:
    """A pool of so many slots, that reads the workload's maps from the host: the one place that knows `MapPool`."""
    host = _on_host(scale, device)

    def read(keys: Sequence[int], out: Sequence[Sequence[np.ndarray]]) -> None:
        for level, there in zip(host, out, strict=True):
            for key, values in zip(keys, there, strict=True):
                values[...] = level[key]

    slot_bytes = FusedMaps.slot_bytes(scale.sizes, scale.channels, torch.float16)
    return module.MapPool(
        slots * slot_bytes, scale.sizes, scale.channels, read, device=device, fused=fused, at_most=slots
    )


@lru_cache(maxsize=1)
def _on_host(scale: Scale, device: torch.device) -> list[np.ndarray]:
    return [level.cpu().numpy() for level in workload(scale, device).pool]


def whole_query(backend: str, scale: Scale, neighbours: int, device: torch.device) -> dict[str, Any]:
    """An image's way through a detector: WideResNet50-2 of random weights, a gallery of random pictures.

    `cold_ms` is the median of the first time that images are searched, `ms` of the second, `batch_ms` in batches of 8.
    """
    gpu_peers.backend_module(backend)
    try:
        from PIL import Image

        from spade_index import Detector, Gallery, SearchSettings, find_images
        from spade_index.benchmarks import query_profile
        from spade_index.images import load
    except ImportError as error:
        raise Missing(f"the gallery cannot be imported ({error})") from error
    extractor = _backbone(str(device), small=scale.images < 16)
    folder = _pictures(scale.images, Image)
    gallery = _gallery(str(folder), extractor)
    kept = os.environ.get("SPADE_INDEX_KERNEL")
    os.environ["SPADE_INDEX_KERNEL"] = backend
    try:
        with Gallery(gallery) as there:
            detector = Detector(there, extractor, SearchSettings(gallery_neighbours=min(neighbours, scale.images)))
            files = list(find_images(folder))[: max(3, scale.images // 8)]
            first = list(query_profile.profile(detector, files))[1:]  # without the one that compiles
            rows = list(query_profile.profile(detector, files))
            seconds = {stage: statistics.median(row.get(stage, 0) for row in rows) for stage in rows[0]}
            cold = statistics.median(row["whole query"] for row in first)
            images = [load(file, there.settings.preprocessing) for file in files[:8]]
            detector.detect(images)
            started = time.perf_counter()
            detector.detect(images)
            of_batch = (time.perf_counter() - started) / len(images)
    finally:
        if kept is None:
            del os.environ["SPADE_INDEX_KERNEL"]
        else:
            os.environ["SPADE_INDEX_KERNEL"] = kept
    stages = {stage: 1e3 * value for stage, value in seconds.items() if stage != "whole query"}
    whole = {"ms": 1e3 * seconds["whole query"], "cold_ms": 1e3 * cold, "batch_ms": 1e3 * of_batch}
    return {"kernel": backend, "images": scale.images, **whole, "stages_ms": stages}


@lru_cache(maxsize=1)
def _backbone(device: str, small: bool) -> Any:
    """WideResNet50-2, or a small network where nothing is measured anyway."""
    from spade_index.features.backbone import Backbone
    from spade_index.settings import Preprocessing

    try:
        from torchvision import models
    except ImportError as error:
        raise Missing(f"torchvision cannot be imported ({error})") from error
    torch.manual_seed(0)
    name = "resnet18" if small else "wide_resnet50_2"
    preprocessing = Preprocessing(input_size=(32, 32)) if small else Preprocessing()
    model = models.get_model(name, weights=None)
    with torch.no_grad():  # normalizes its layers, or features grow beyond float16
        model.train()(torch.randn(4, 3, *preprocessing.input_size))
    return Backbone(name, model, preprocessing, device=device)


@lru_cache(maxsize=1)
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="gpu-query-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@lru_cache(maxsize=1)
def _pictures(count: int, image: Any) -> Path:
    folder = _folder() / "pictures"
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        blobs = image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8))
        blobs.resize((256, 256), image.Resampling.BICUBIC).save(folder / f"{number:04}.png")
    return folder


@lru_cache(maxsize=1)
def _gallery(pictures: str, extractor: Any) -> Path:
    from spade_index import GalleryWriter, find_images

    path = _folder() / "gallery"
    with GalleryWriter(path, extractor.settings) as writer:
        writer.add(find_images(pictures), extractor)
        writer.build_index()
    return path
