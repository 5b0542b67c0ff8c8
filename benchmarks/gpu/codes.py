"""Check on this GPU that maps in codes are searched as the values that they stand for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from spade_index import kernels
from spade_index.benchmarks.gpu.checks import BACKENDS
from spade_index.benchmarks.gpu.peers import backend_module
from spade_index.benchmarks.gpu.runner import Row, Wrong
from spade_index.benchmarks.gpu.workload import Scale, workload
from spade_index.kernels.codes import CodedMaps, Coding, LevelCode, Scalars, TableRows
from spade_index.kernels.preparation import Preparation, Scaled
from spade_index.kernels.pyramid import Size

KINDS = ("int8", "int4", "pq")
PREPARED = {None: 2.0**-9, "float32": 2.0**-9, "fast": 2.0**-6}  # allowed error of a distance, of squared norms
WHOLE, WIDTH = 3, 8  # tables over all channels of `pq`, and channels of the others


def check_codes(name: str, scale: Scale, kind: str, device: torch.device) -> Row:
    """Decode codes on the device and on the CPU, and search them, and what they stand for: the same bits."""
    backend_module(BACKENDS[name]["backend"])
    (one,) = workload(scale, device).batches(scale.few, 2, 1, seed=3)
    maps = random_codes(kind, scale)
    slots = torch.arange(maps.slots)
    there = CodedMaps(maps.coding.to(device), [level.to(device) for level in maps.stored])
    values, pages = there.decoded(slots.to(device)), one.pages % maps.slots
    for number, (level, right) in enumerate(zip(values, maps.decoded(slots), strict=True)):
        if not torch.equal(level.cpu(), right):
            raise Wrong(f"level {number}: {int((level.cpu() != right).sum())} values are decoded to others")
    options = {"sizes": list(scale.sizes)} | BACKENDS[name]
    found, expected = (kernels.nearest_pixels(one.query, pool, pages, 2, **options) for pool in (there, values))
    for what, of_codes, of_values in zip(("distances", "matches"), found, expected, strict=True):
        if not torch.equal(of_codes, of_values):
            raise Wrong(f"{int((of_codes != of_values).sum())} {what} are others")
    return {"slots": maps.slots, "bytes_of_map": maps.coding.map_bytes}


def check_prepared(name: str, scale: Scale, kind: str, device: torch.device) -> Row:
    """Search codes that are averaged, scaled by channel and joined on the way: as the float64 reference does.

    Both decode float16 values; where they are scaled, the last bit may be another.
    """
    backend_module(BACKENDS[name]["backend"])
    coarse = [(-(-h // 2), -(-w // 2)) for h, w in scale.sizes]
    grids = [coarse[0], coarse[0], *coarse[2:]][: len(coarse)]
    maps = random_codes(kind, scale, grids)
    prepared = maps.coding.preparation
    generator = torch.Generator().manual_seed(1)
    shapes = zip(prepared.sizes, prepared.channels, strict=True)
    query = [torch.randn(1, h * w, c, generator=generator) / c**0.5 for (h, w), c in shapes]
    pages = torch.arange(min(2, maps.slots))[None]
    there = CodedMaps(maps.coding.to(device), [level.to(device) for level in maps.stored])
    options: dict[str, Any] = {"sizes": prepared.sizes, "k": 2, "pages": pages}
    found = kernels.nearest_pixels([level.to(device) for level in query], there, **options, **BACKENDS[name])
    expected = kernels.nearest_pixels(query, maps, **options, backend="reference")
    worst = float((found[0].cpu() - expected[0]).abs().max())
    norms = [float(level.square().sum(2).max()) for level in query]
    largest = sum(norms) + sum(level.factor**2 for level in prepared.levels)
    if not worst <= PREPARED[BACKENDS[name].get("precision")] * largest:
        raise Wrong(f"a distance is off by {worst:.3g}, of squared norms of {largest:.3g}")
    return {"worst": worst / largest}


def random_codes(kind: str, scale: Scale, grids: Sequence[Size] | None = None) -> CodedMaps:
    """Return maps of a scale in random codes, on the CPU; with `grids`, averaged to them, scaled, two joined."""
    generator = torch.Generator().manual_seed(0)
    codes: list[LevelCode] = []
    for channels in scale.channels:
        if kind == "pq":
            parts = -(-channels // WIDTH)
            tables = ((WHOLE, 256, channels), (parts, 256, WIDTH))
            codes.append(TableRows(2.0**-9, *(_numbers(-2000, 2000, shape, generator) for shape in tables)))
        else:
            codes.append(Scalars({"int8": 8, "int4": 4}[kind]))
    levels = tuple(Scaled(size, size, of) for size, of in zip(scale.sizes, scale.channels, strict=True))
    joined = [range(number, number + 1) for number in range(len(levels))]
    if grids is not None:
        levels = tuple(_scaled(level, grid, generator) for level, grid in zip(levels, grids, strict=True))
        joined = [range(min(2, len(levels))), *joined[2:]]
    preparation = Preparation(levels, tuple(joined))
    maps = Coding(tuple(codes), preparation).empty(min(scale.slots, 2 * scale.few), torch.device("cpu"))
    for stored, channels in zip(maps.stored, scale.channels, strict=True):
        stored.copy_(_numbers(0, 256, stored.shape, generator))
        if kind != "pq":  # the lowest and the highest value of each channel
            ends = torch.randn(len(stored), 2, channels, generator=generator).sort(1).values.half()
            stored[:, : 4 * channels] = ends.flatten(1).view(torch.uint8)
    return maps


def _scaled(level: Scaled, grid: Size, generator: torch.Generator) -> Scaled:
    """Return a level averaged to a grid and scaled by channel, by random moments."""
    mean, deviation = torch.randn(2, level.channels, generator=generator)
    return replace(level, grid=grid, scaling="channel", factor=0.7, mean=mean, deviation=deviation.abs() + 0.5)


def _numbers(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random whole numbers, int16."""
    return torch.randint(low, high, shape, generator=generator, dtype=torch.int16)
