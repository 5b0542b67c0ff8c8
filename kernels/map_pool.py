"""A pool of gallery maps on the device that searches them: one slot per image, least recently used evicted first."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .codes import CodedMaps, Coding
from .fused.maps import FusedMaps
from .pyramid import Size

STAGED = 8  # maps of a staging buffer; one is filled while the other is copied to the device

Read = Callable[[Sequence[int], list[list[np.ndarray]]], None]
"""Reads the maps of images, given their keys, into float16 [H*W, C] arrays out[level][image].

For a pool of codes, into uint8 [bytes] arrays, as its `Coding` has them.
"""


@dataclass
class PoolStats:
    """Counts of a pool. An image that several queries of a batch want counts once."""

    hits: int = 0  # images that were resident
    misses: int = 0  # images that were read
    evictions: int = 0  # images that were removed to make room
    bytes_moved: int = 0  # bytes read into the pool

    @property
    def hit_rate(self) -> float | None:
        """The share of images that were resident; None before the first image."""
        wanted = self.hits + self.misses
        return self.hits / wanted if wanted else None


class MapPool:
    """Resident maps of a gallery's images, for `nearest_pixels`.

        pages = pool.fetch([[12, 7, 31], [7, 99, 12]])  # keys of each query's neighbours
        nearest_pixels(query, pool.maps, pages, ...)

    On a GPU, maps are read into pinned buffers and copied on a separate stream, so that the maps of the next search can
    be fetched while a search runs. A search must be launched on the stream that was current at its `fetch`, and before
    the next `fetch`. Not thread-safe.
    """

    @torch.inference_mode(False)  # tensors made in inference mode could not be written later
    def __init__(
        self,
        budget_bytes: int,
        sizes: Sequence[Size],
        channels: Sequence[int],
        read: Read,
        *,
        device: torch.device | str = "cpu",
        fused: bool = False,
        coding: Coding | None = None,
        at_least: int = 1,
        at_most: int | None = None,
        stats: PoolStats | None = None,
    ) -> None:
        """Allocate slots for as many maps as fit into a budget of bytes.

        Args:
            sizes: (H, W) of each level, the finest first.
            channels: C of each level.
            read: reads maps, called from `fetch`.
            fused: whether to store maps in the fused kernels' layout, which only they search, in `concat-nearest`.
            coding: how maps are kept in codes; None: as float16 values.
            device: where the maps are stored.
            at_least: the minimum of slots, whatever the budget.
            at_most: the maximum of slots, such as the number of images; `at_least` takes precedence.
            stats: counts to add to, as those of a pool before.
        """
        self.device = torch.device(device)
        self._sizes, self._channels, self._read = list(sizes), list(channels), read
        fused, dtype = fused and coding is None, torch.float16 if coding is None else torch.uint8
        shapes: list[tuple[int, ...]]  # of what is read of an image
        shapes = [(h * w, c) for (h, w), c in zip(sizes, channels, strict=True)]
        if coding is not None:
            shapes = [(size,) for size in coding.sizes]
        self._map_bytes = dtype.itemsize * sum(map(math.prod, shapes))
        of_slot = slot_bytes(sizes, channels, fused, coding)
        slots = budget_bytes // of_slot
        self.slots = max(at_least, slots if at_most is None else min(at_most, slots))
        self.bytes = self.slots * of_slot
        self.maps: list[Tensor] | FusedMaps | CodedMaps
        if fused:
            self.maps = FusedMaps.empty(self.slots, sizes, channels, torch.float16, self.device)
        elif coding is not None:
            self.maps = coding.empty(self.slots, self.device)
        else:
            self.maps = [torch.zeros(self.slots, *shape, dtype=dtype, device=self.device) for shape in shapes]
        self.stats = PoolStats() if stats is None else stats
        self._resident: OrderedDict[int, int] = OrderedDict()  # key -> slot, the least recently used first
        self._free = list(range(self.slots))[::-1]  # slot 0 first
        # On a CPU, maps are read directly into their slots, unless the layout is another.
        staged = fused or self.device.type != "cpu"
        self._stages = [_Stage(shapes, dtype, self.device) for _ in range(2)] if staged else []
        self._order = _Order(self.device)

    @torch.inference_mode(False)
    @torch.no_grad()
    def fetch(self, wanted: Sequence[Sequence[int]]) -> Tensor:
        """Make the images of queries, keys [B][K], resident; return their slots, int64 [B, K] on the CPU.

        Raises ValueError if there are more images than slots, and whatever `read` raises; the images to be read are
        then not resident.
        """
        keys = dict.fromkeys(key for query in wanted for key in query)
        if len(keys) > self.slots:
            raise ValueError(f"{len(keys)} images do not fit into a pool of {self.slots} slots: search fewer at a time")
        self._order.next()
        missing = []
        for key in keys:
            if key in self._resident:
                self._resident.move_to_end(key)
                self._order.use(self._resident[key])
            else:
                missing.append(key)
        slots = [self._take() for _ in missing]
        try:
            with self._order.copying():
                self._fill(missing, slots)
        except BaseException:
            self._free += slots[::-1]
            raise
        for key, slot in zip(missing, slots, strict=True):
            self._resident[key] = slot
            self._order.use(slot)
        self.stats.hits += len(keys) - len(missing)
        self.stats.misses += len(missing)
        self.stats.bytes_moved += len(missing) * self._map_bytes
        return torch.tensor([[self._resident[key] for key in query] for query in wanted], dtype=torch.int64)

    def forget(self) -> None:
        """Make no image resident, so that all are read again."""
        self._free += self._resident.values()
        self._resident.clear()

    def info(self) -> dict[str, Any]:
        """Return the pool's size and counts, in values for JSON."""
        return {
            "device": str(self.device),
            "codes": isinstance(self.maps, CodedMaps),
            "slots": self.slots,
            "resident": len(self._resident),
            **asdict(self.stats),
            "hit_rate": self.stats.hit_rate,
        }

    def _take(self) -> int:
        """Return a slot to write to, free or evicted."""
        if self._free:
            slot = self._free.pop()
        else:
            _, slot = self._resident.popitem(last=False)
            self.stats.evictions += 1
        self._order.wait(slot)
        return slot

    def _fill(self, keys: list[int], slots: list[int]) -> None:
        """Read images into slots."""
        if not isinstance(self.maps, FusedMaps) and not self._stages:
            if keys:
                self._read(keys, [[level[slot].numpy() for slot in slots] for level in self._levels()])
            return
        places = torch.tensor(slots, device=self.device)  # all at once: each copy would wait for those before it
        for number, first in enumerate(range(0, len(keys), STAGED)):
            some = slice(first, first + STAGED)
            stage = self._stages[number % 2]
            stage.wait()
            here = [level[: len(keys[some])] for level in stage.levels]
            self._read(keys[some], [list(level.numpy()) for level in here])
            there = [level.to(self.device, non_blocking=stage.pinned) for level in here]
            if isinstance(self.maps, FusedMaps):
                self.maps.write(places[some], there)
            else:
                for level, values in zip(self._levels(), there, strict=True):
                    level.index_copy_(0, places[some], values)
            stage.sent()

    def _levels(self) -> list[Tensor]:
        """Return what is read of images, by level: [slots, ...]."""
        if isinstance(self.maps, CodedMaps):
            sizes = self.maps.coding.sizes
            return [level[:, :size] for level, size in zip(self.maps.stored, sizes, strict=True)]
        return [] if isinstance(self.maps, FusedMaps) else self.maps


def slot_bytes(sizes: Sequence[Size], channels: Sequence[int], fused: bool, coding: Coding | None = None) -> int:
    """Return the bytes that an image takes in a pool."""
    if coding is not None:
        return coding.map_bytes
    if fused:
        return FusedMaps.slot_bytes(sizes, channels, torch.float16)
    return 2 * sum(h * w * c for (h, w), c in zip(sizes, channels, strict=True))


class _Stage:
    """A staging buffer on the host for a few maps; pinned for a GPU, so that copies do not block."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: torch.dtype, device: torch.device) -> None:
        on_gpu = device.type == "cuda"
        self.pinned = on_gpu
        self.levels = [torch.empty(STAGED, *shape, dtype=dtype, pin_memory=on_gpu) for shape in shapes]
        self._copied = torch.cuda.Event() if on_gpu else None

    def sent(self) -> None:
        """Note that the copies from the buffer have been launched."""
        if self._copied is not None:
            self._copied.record()

    def wait(self) -> None:
        """Wait until the buffer may be written to."""
        if self._copied is not None:
            self._copied.synchronize()


class _Order:
    """Orders the copies into a pool and the searches of it, on two streams of a GPU; does nothing elsewhere.

    A copy into a slot waits for the searches that may still read it; a search waits for the copies before it.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu, self._device = device.type == "cuda", device
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None
        if self._stream is not None:  # wait until the pool's memory is cleared
            self._stream.wait_stream(torch.cuda.current_stream(device))
        self._fetch = 0  # the number of the latest fetch
        self._used: dict[int, int] = {}  # slot -> the fetch after which a search last read it
        self._searched: dict[int, torch.cuda.Event] = {}  # fetch -> the end of the searches before it

    def next(self) -> None:
        """Begin a fetch. The searches of all earlier fetches have been launched."""
        self._fetch += 1
        if self._on_gpu:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))
            self._searched = {n: e for n, e in self._searched.items() if not e.query()} | {self._fetch: event}

    def use(self, slot: int) -> None:
        """Note that the search after this fetch reads a slot."""
        self._used[slot] = self._fetch

    def wait(self, slot: int) -> None:
        """Make later copies wait for the searches that read a slot."""
        done = self._searched.get(self._used.get(slot, 0) + 1)
        if done is not None and self._stream is not None:
            self._stream.wait_event(done)

    @contextmanager
    def copying(self) -> Iterator[None]:
        """Run copies on their own stream, and make later searches wait for them."""
        if self._stream is None:
            yield
            return
        try:
            with torch.cuda.stream(self._stream):
                yield
        finally:  # a pool may be given up after an error
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
