"""The maps of a gallery that are in memory: as values that can be searched, or in the gallery's codes."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property

import torch
from torch import Tensor

from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.storage import OtherCodes
from spade_index.kernels import CodedMaps, KernelChoice, MapPool, PoolStats
from spade_index.kernels.codes import Coding
from spade_index.kernels.map_pool import slot_bytes
from spade_index.settings import SearchSettings

from .comparison import Comparison
from .interest import Interest

POOL_BYTES = 64 << 20  # budget of the map pool on a CPU, where the system caches the files, too
WORTH = 0.6  # bytes of codes, as a share of those of values, up to which it is worth the time to decode them
COPIES = {"cupy": 4}  # of a map's values that a backend makes of codes, if it is not one
POOL_SHARE = 0.5  # budget on a GPU, as a share of its free memory


class MapMemory:
    """A pool of maps, which is made when it is first needed.

    Where not all maps of the gallery fit into its budget as values, it keeps codes, if these are much smaller, there is
    no region of interest, and levels are compared together (`concat-nearest`).
    """

    def __init__(
        self,
        gallery: Gallery,
        search: SearchSettings,
        comparison: Comparison,
        kernel: KernelChoice,
        device: torch.device,
        budget: int | None = None,
        interest: Interest | None = None,
    ) -> None:
        """Say whose maps are kept, and for which search; `budget` in bytes: see `PixelSearch`."""
        self._gallery, self._comparison, self._interest = gallery, comparison, interest
        self._device, self._given = device, budget
        self._kernel = kernel.backend
        self.stats = PoolStats()  # of maps found in memory, and of maps read
        self._neighbours = min(search.gallery_neighbours, len(gallery))
        self._is_fused = kernel.fused and search.mode == "concat-nearest"
        self._may_be_codes = interest is None and search.mode == "concat-nearest"

    def fetch(self, wanted: Sequence[Sequence[int]]) -> Tensor | None:
        """Make the images of queries, keys [B][K], resident; return their slots, int64 [B, K].

        None if their maps cannot be kept in codes: then they are kept as values from now on, fewer of them.
        """
        with suppress(OtherCodes):
            return self.pool.fetch(wanted)
        del self.pool  # before there is another
        self._may_be_codes = False
        return None

    @property
    def of_a_launch(self) -> int:
        """The number of maps that queries of a launch share at most, unless one of them has more.

        They take half of the pool: the other half is for the maps that are fetched meanwhile. Where a backend decodes
        all maps of a launch, these do not take more than half of the budget as values, with the copies that it makes.
        """
        most = self.pool.slots
        if isinstance(self.pool.maps, CodedMaps) and self._kernel != "native":
            most = min(most, self._budget // (COPIES.get(self._kernel, 1) * self._slot_bytes))
        return max(1, most // 2)

    @property
    def bytes(self) -> int:
        """Memory that the pool takes; 0 before it is needed."""
        pool: MapPool | None = vars(self).get("pool")  # another thread may ask
        return 0 if pool is None else pool.bytes

    @cached_property
    def pool(self) -> MapPool:
        """The pool itself."""
        coding = self._coding()
        read = self._comparison.read if self._interest is None else self._interest.read
        return MapPool(
            self._budget,
            self._comparison.sizes,
            self._comparison.channels,
            read if coding is None else self._comparison.read_codes,
            device=self._device,
            fused=self._is_fused,
            coding=coding,
            at_least=2 * self._neighbours,  # of the running launch, and of the next
            at_most=len(self._gallery),
            stats=self.stats,
        )

    @cached_property
    def _budget(self) -> int:
        if self._given is None and self._device.type == "cuda":
            return int(POOL_SHARE * torch.cuda.mem_get_info(self._device)[0])
        return POOL_BYTES if self._given is None else self._given

    @cached_property
    def _slot_bytes(self) -> int:
        """The bytes of an image's map as values."""
        return slot_bytes(self._comparison.sizes, self._comparison.channels, self._is_fused)

    def _coding(self) -> Coding | None:
        """Return the codes to keep maps in; None: keep values."""
        if not self._may_be_codes or len(self._gallery) * self._slot_bytes <= self._budget:
            return None
        coding = self._comparison.coding
        plain = slot_bytes(self._comparison.sizes, self._comparison.channels, fused=False)
        return coding if coding.map_bytes <= WORTH * plain else None
