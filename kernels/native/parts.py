"""Maps in codes, as the compiled functions take them."""

from collections.abc import Sequence
from ctypes import POINTER, c_void_p, cast

import numpy as np
import torch

from ..codes import Coding, Scalars, TableRows
from ..preparation import SCALINGS
from . import library as c


def takes(coding: Coding) -> bool:
    """Return whether the compiled functions take maps of so many levels and tables."""
    tables = max((len(code.whole) for code in coding.codes if isinstance(code, TableRows)), default=0)
    levels = len(coding.preparation.joined)
    return len(coding.codes) <= c.MOST_PARTS and levels <= c.MOST_LEVELS and tables <= c.MOST_WHOLE


class Parts:
    """The levels of maps as they are kept: see `Part` in nearest.h."""

    def __init__(self, coding: Coding) -> None:
        """Describe them; `point` says where they are. Raises ValueError unless there are few enough."""
        if not takes(coding):
            raise ValueError(f"maps of {len(coding.codes)} levels have too many of them, or of tables")
        self.coding = coding
        self.c = (c.Part * len(coding.codes))()
        self._kept: list[object] = []  # what parts point to
        for part, code, level in zip(self.c, coding.codes, coding.preparation.levels, strict=True):
            part.height, part.width = level.size
            part.rows, part.columns = level.grid
            part.channels, part.scaling = level.channels, SCALINGS.index(level.scaling)
            part.length, part.factor = level.length, level.factor
            if level.mean is not None and level.deviation is not None:
                part.mean, part.scale = self._keep(level.mean.float()), self._keep(1 / level.deviation.float())
            if isinstance(code, Scalars):
                part.code = c.CODE_OF_BITS[code.bits]
            elif isinstance(code, TableRows):
                part.code, part.size, part.whole = c.ROWS, code.pixel_bytes, len(code.whole)
                part.of_row, part.unit = code.parts.shape[2], code.unit
                part.tables, part.parts = self._keep(code.whole), self._keep(code.parts)
        for levels in coding.preparation.joined:
            for number in levels[1:]:
                self.c[number].first = self.c[number - 1].first + self.c[number - 1].channels

    def _keep(self, values: torch.Tensor) -> int:
        self._kept.append(values := values.contiguous())
        return values.data_ptr()

    def point(self, addresses: Sequence[int], sizes: Sequence[int]) -> None:
        """Say where the levels of slot 0 are, and how many bytes from one slot to the next."""
        for part, address, size in zip(self.c, addresses, sizes, strict=True):
            part.stored, part.bytes = address, size

    def put_into(self, plan: c.Plan) -> None:
        """Let a plan take maps from here."""
        plan.parts, plan.part, plan.levels = (
            len(self.c),
            cast(self.c, POINTER(c.Part)),
            len(self.coding.preparation.joined),
        )
        for number, levels in enumerate(self.coding.preparation.joined):
            plan.level[number].first, plan.level[number].parts = levels[0], len(levels)


class Decoder:
    """Decodes and prepares maps, as `Coding` says, in a fraction of torch's time. For one thread at a time."""

    def __init__(self, coding: Coding, instructions: str | None = None) -> None:
        """Prepare to decode, with an instruction set that is a name in `library.SETS`, by default the fastest."""
        self._instructions = c.number(instructions)
        self._parts = Parts(coding)
        self._sizes = coding.sizes
        self._plan = c.Plan()
        self._parts.put_into(self._plan)
        prepared = zip(coding.preparation.sizes, coding.preparation.channels, strict=True)
        for number, ((height, width), channels) in enumerate(prepared):
            level = self._plan.level[number]
            level.pixels, level.channels, level.height, level.width = height * width, channels, height, width
        most = max(self._plan.level[number].channels for number in range(self._plan.levels))
        rooms = 3 * sum(4 * level.channels + 128 for level in coding.preparation.levels) + 2 * most + 256
        self._room = np.empty(rooms, np.uint8)
        self._out = (c_void_p * self._plan.levels)()

    def write(self, stored: Sequence[np.ndarray], out: Sequence[np.ndarray]) -> None:
        """Write one image's map, prepared, to `out`, float16 [H*W, C] of each level that is compared.

        `stored` are its levels as they are kept, of any type. Raises ValueError unless all are contiguous and fit.
        """
        if not all(level.flags.c_contiguous for level in (*stored, *out)) or any(
            level.dtype != np.float16 for level in out
        ):
            raise ValueError("maps must be contiguous, and those that are written float16")
        if [level.nbytes for level in stored] != self._sizes or len(out) != self._plan.levels:
            raise ValueError(f"levels of {[level.nbytes for level in stored]} bytes are not of {self._sizes}")
        self._parts.point([level.ctypes.data for level in stored], self._sizes)
        for number, level in enumerate(out):
            self._out[number] = level.ctypes.data
        c.library().spade_decode_map(self._instructions, self._plan, self._room.ctypes.data, 0, self._out)
