"""Triton's interpreter in a process of its own, where every kernel's result is compared with a plain kernel's.

Triton decides when it is imported whether it interprets. Its interpreter takes milliseconds for each program.
"""

import math
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from unittest import mock

import torch

from spade_index.kernels import nearest_pixels
from spade_index.kernels.fused import search as fused
from spade_index.kernels.fused.interface import split_keys
from spade_index.kernels.fused.maps import FusedMaps

from .coded import empty_fused
from .kernel_cases import scale
from .plain_kernels import PlainKernels

SMALL = (16, 16, 16, 4, 2)  # rows, columns, channels, warps, stages
POISON = {torch.float32: math.nan, torch.int32: 0, torch.int64: -(0x7F8 << 52)}  # the key of -3e38 and match 0
MARGIN = 64


class Poisoned:
    """Stand-in for torch.empty that fills each tensor with values a test would notice, and adds guard margins.

    It takes whatever torch.empty takes. Tensors of types without a poison, and tensors that are not on a CPU, come
    from torch.empty unchanged.
    """

    def __init__(self):
        self.buffers = []
        self.empty = torch.empty

    def __call__(self, *size, **options):
        asked = self.empty(*size, **options)
        if asked.dtype not in POISON or asked.device.type != "cpu" or asked.layout != torch.strided:
            return asked
        buffer = torch.full((asked.numel() + 2 * MARGIN,), POISON[asked.dtype], dtype=asked.dtype)
        self.buffers.append(buffer)
        return buffer[MARGIN:-MARGIN].view(asked.shape)

    def check(self):
        """Assert that no kernel wrote outside its tensors."""
        for buffer in self.buffers:
            margins = torch.cat([buffer[:MARGIN], buffer[-MARGIN:]])
            poison = torch.full_like(margins, POISON[buffer.dtype])
            torch.testing.assert_close(margins, poison, rtol=0, atol=0, equal_nan=True)


def by_match(keys, pages, pixels):
    """Return the finite distances of keys [B, P, n] by match, and the number of finite ones of each pixel."""
    distances, matches = split_keys(keys)
    finite = distances < math.inf
    places = matches.masked_fill(~finite, 0)
    table = distances.new_full((*keys.shape[:2], pages * pixels), math.inf)
    return table.scatter_reduce_(2, places, distances, "amin"), finite.sum(2)


def search_checked(search, tiles, extra, tolerance, slots, memory):
    """Search with the Triton kernels, and compare each with a plain kernel. Runs in the interpreter's process.

    `extra` replaces fused.EXTRA. `slots` put the pool into those slots of FusedMaps, with the others poisoned;
    `memory` is what `fused.buffer_bytes` returns, or None.
    """
    from spade_index.kernels.fused import triton_backend

    class Checked(triton_backend.TritonKernels):
        def __init__(self, dtype, cells):
            super().__init__(dtype, cells, triton_backend.Tiles(*tiles), triton_backend.Tiles(*tiles))
            self.plain = PlainKernels(None, None, self.tile_rows, self.block_cells)

        def coarse_distances(self, *given):
            found = super().coarse_distances(*given)
            return self.agreed("coarse_distances", found, self.plain.coarse_distances(*given))

        def block_minima(self, *given):
            found = super().block_minima(*given)
            return self.agreed("block_minima", found, self.plain.block_minima(*given))

        def rescan(self, launch, *given):
            found = super().rescan(launch, *given)
            pages, pixels = launch.first_position + launch.positions, launch.geometry.pixels
            tables = [by_match(keys, pages, pixels) for keys in (found, self.plain.rescan(launch, *given))]
            assert torch.equal(tables[0][1], tables[1][1]), "rescan looked at other pixels, or at some twice"
            self.agreed("rescan", tables[0][0], tables[1][0])
            return found

        def differences(self, *given):
            *others, distances = given
            expected = distances.clone()
            super().differences(*given)
            self.plain.differences(*others, expected)
            self.agreed("differences", distances, expected)

        def window_distances(self, *given):
            found = super().window_distances(*given)
            return self.agreed("window_distances", found, self.plain.window_distances(*given))

        def agreed(self, kernel, found, expected):
            torch.testing.assert_close(
                found, expected, rtol=1e-5, atol=tolerance, msg=lambda difference: f"{kernel}: {difference}"
            )
            return found

    assert triton_backend.INTERPRETED
    nearest, poisoned = partial(fused.search, Checked), Poisoned()
    with (
        mock.patch.object(torch, "empty", poisoned),
        mock.patch.object(fused, "EXTRA", extra),
        mock.patch.object(fused, "buffer_bytes", (lambda *_: memory) if memory else fused.buffer_bytes),
        mock.patch.object(triton_backend, "DEEP_CHANNELS", 16),
        mock.patch.object(triton_backend, "RESCAN_CHANNELS", 16),
        mock.patch.object(triton_backend, "WINDOW_PIXELS", 16),
        mock.patch.object(triton_backend, "WINDOW_CHANNELS", 16),
        mock.patch.object(triton_backend, "nearest_pixels", nearest),
    ):
        if slots is not None:
            search = search | in_slots(search, slots)
        found = nearest_pixels(**search, backend="triton")
    poisoned.check()
    return found


def in_slots(search, slots):
    """Return the pool of a search in some slots of FusedMaps, with the others NaN, and its pages there."""
    pool, sizes = search["pool"], search["sizes"]
    channels = [level.shape[2] for level in pool]
    maps = FusedMaps.empty(max(slots) + 2, sizes, channels, pool[0].dtype, torch.device("cpu"))
    spare = torch.tensor(sorted(set(range(max(slots) + 2)) - set(slots)))
    for tensor in (*maps.levels, *maps.norms):
        tensor[spare] = math.nan
    maps.write(torch.tensor(slots), pool)
    return {"pool": maps, "pages": torch.tensor(slots)[search["pages"]]}


def search_unchanged(search):
    """Search with the backend as it is. Runs in the interpreter's process."""
    from spade_index.kernels.fused import triton_backend

    assert triton_backend.INTERPRETED
    return nearest_pixels(**search, backend="triton")


def decoded_by_triton(coded, slots):
    """Return levels and norms of the maps of slots, decoded by Triton's kernel. Runs in the interpreter's process."""
    from spade_index.kernels.fused import triton_backend

    assert triton_backend.INTERPRETED
    maps = empty_fused(coded, len(slots))
    for tensor in maps.norms:
        tensor.fill_(math.nan)
    triton_backend.TritonKernels(torch.float16, 16).decode(coded, slots, maps)
    return maps.levels, maps.norms


def _call(pickled):
    """Call a function; tensors travel as bytes, not in shared memory."""
    function, arguments = pickle.loads(pickled)
    return pickle.dumps(function(*arguments))


class Interpreter:
    """Calls functions of this module in the interpreter's process."""

    def __init__(self, worker: ProcessPoolExecutor) -> None:
        self._worker = worker

    def call(self, function: Callable[..., object], *arguments: object):
        """Return what a function returns there."""
        return pickle.loads(self._worker.submit(_call, pickle.dumps((function, arguments))).result())

    def search(self, search, tiles=SMALL, extra=0, slots=None, memory=None):
        """Search in small tiles, with every kernel checked: see `search_checked`."""
        tolerance = 1e-6 * scale(search) if len(search["pages"]) else 0.0
        return self.call(search_checked, search, tiles, extra, tolerance, slots, memory)


@contextmanager
def interpreting() -> Iterator[Interpreter]:
    """Run the interpreter's process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as worker:
        with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "1"}):  # the process starts with the first call
            worker.submit(torch.set_num_threads, 1).result()
        yield Interpreter(worker)
