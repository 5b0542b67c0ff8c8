"""Check on this GPU that maps in codes are searched as the values that they stand for."""

import torch
from torch import Tensor

from spade_index import kernels
from spade_index.benchmarks.gpu.checks import BACKENDS
from spade_index.benchmarks.gpu.peers import backend_module
from spade_index.benchmarks.gpu.runner import Row, Wrong
from spade_index.benchmarks.gpu.workload import Scale, workload
from spade_index.kernels.codes import CodedMaps, Coding, LevelCode, Scalars, TableRows
from spade_index.kernels.preparation import Preparation, Scaled

KINDS = ("int8", "int4", "pq")
WHOLE, WIDTH = 3, 8  # tables over all channels of `pq`, and channels of the others


def check_codes(name: str, scale: Scale, kind: str, device: torch.device) -> Row:
    """Decode codes on the device and on the CPU, and search them, and what they stand for: the same bits."""
    backend_module(BACKENDS[name]["backend"])
    (one,) = workload(scale, device).batches(scale.few, 2, 1, seed=3)
    maps = random_codes(kind, scale)
    slots = torch.arange(maps.slots)
    there = CodedMaps(_on(maps.coding, device), [level.to(device) for level in maps.stored])
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


def random_codes(kind: str, scale: Scale) -> CodedMaps:
    """Return maps of a scale in random codes, on the CPU."""
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
    preparation = Preparation(levels, tuple(range(number, number + 1) for number in range(len(levels))))
    maps = Coding(tuple(codes), preparation).empty(min(scale.slots, 2 * scale.few), torch.device("cpu"))
    for stored, channels in zip(maps.stored, scale.channels, strict=True):
        stored.copy_(_numbers(0, 256, stored.shape, generator))
        if kind != "pq":  # the lowest and the highest value of each channel
            ends = torch.randn(len(stored), 2, channels, generator=generator).sort(1).values.half()
            stored[:, : 4 * channels] = ends.flatten(1).view(torch.uint8)
    return maps


def _numbers(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return random whole numbers, int16."""
    return torch.randint(low, high, shape, generator=generator, dtype=torch.int16)


def _on(coding: Coding, device: torch.device) -> Coding:
    return Coding(tuple(code.to(device) for code in coding.codes), coding.preparation)
