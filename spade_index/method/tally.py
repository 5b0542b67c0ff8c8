"""Count pixels by score: the figures of any number of score maps, in memory that does not grow with them.

The bits of a float32, read as an integer, are in the order of the numbers. A tally keeps how many pixels have each such
integer. When there are more than `most` of them, they lose their lowest bit, and neighbours are counted together, until
they fit: the figures are exact as long as there are at most `most` different scores, and nearly so beyond. The counts
at the edges of entries stay exact, so `PixelTally.errors` bounds what the rest can do: by default about 0.00001.
"""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from .metrics import Curve, PixelMetrics, checked, largest_errors, metrics_of, region_shares, saturating_shares

MOST = 1 << 17  # different scores that are kept apart: 5 MB
NORMAL, DEFECTIVE, REGIONS, SATURATING = range(4)  # rows of counts: pixels, and shares of regions
Rows = tuple[NDArray[np.uint32], NDArray[np.float64]]  # keys [n], counts [4, n]


class PixelTally:
    """The pixels of a test set, counted by score.

    Args:
        most: different scores that are kept apart, at least 2.
    """

    def __init__(self, most: int = MOST) -> None:
        self.most = most
        self.images = 0
        self._shift = 0  # low bits that the keys have lost
        self._rows: Rows = (np.empty(0, np.uint32), np.empty((4, 0)))  # sorted by key, which is unique
        self._pending: list[Rows] = []
        self._waiting = 0  # rows in _pending

    @property
    def exact(self) -> bool:
        """True if no two different scores are counted together."""
        return self._shift == 0

    def add(
        self,
        mask: NDArray[np.bool_],
        score_map: NDArray[np.float32],
        regions: Sequence[tuple[NDArray[np.bool_], float]] = (),
        inside: NDArray[np.bool_] | None = None,
    ) -> None:
        """Count the pixels of an image.

        Args:
            mask: bool [H, W], True where defective.
            score_map: float32 [H, W], higher is more anomalous.
            regions: for sPRO, the pixels of each ground-truth region, bool [H, W], and how many of them are enough.
            inside: bool [H, W], the pixels that are counted; None: all.

        Raises:
            ValueError: a score is NaN, the mask is not bool, or differs from the map in size.
        """
        defective, values = checked(np.asarray(mask), np.asarray(score_map, np.float32), "mask and score map")
        keys = _keys(values)
        if inside is None:
            inside = np.ones_like(defective)
        defective = defective & inside
        self._append(keys[inside & ~defective], NORMAL)
        if defective.any():
            self._append(keys[defective], DEFECTIVE, region_shares(defective))
        for region, enough in regions:
            pixels = region & inside
            if pixels.any():
                self._append(keys[pixels], SATURATING, saturating_shares(values[pixels], enough))
        self.images += 1
        if self._waiting > self.most:
            self._settle()

    def joined(self, other: "PixelTally") -> "PixelTally":
        """Return a tally of the images of both."""
        both = PixelTally(max(self.most, other.most))
        both.images = self.images + other.images
        for tally in (self, other):
            tally._settle()
        both._shift = max(self._shift, other._shift)
        for tally in (self, other):
            keys, counts = tally._rows
            both._pending.append((keys >> np.uint32(both._shift - tally._shift), counts))
        both._settle()
        return both

    def curve(self) -> Curve:
        """Return how many pixels have each score, the highest first."""
        self._settle()
        return Curve(*self._rows[1][:, ::-1])

    def metrics(self) -> PixelMetrics:
        """Return the figures."""
        return metrics_of(self.curve())

    def errors(self) -> PixelMetrics:
        """Return by how much each figure can be off; 0 where the tally is exact."""
        found = largest_errors(self.curve())
        if self.exact:  # what is not defined stays NaN
            return PixelMetrics(**{field.name: 0.0 * getattr(found, field.name) for field in fields(found)})
        return found

    def _append(self, keys: NDArray[np.uint32], kind: int, *shares: NDArray[np.float64]) -> None:
        """Count pixels in the row `kind` of the counts, and add their shares, if given, to the next."""
        distinct, entry = np.unique(keys >> np.uint32(self._shift), return_inverse=True)
        counts = np.zeros((4, len(distinct)))
        for row, weights in enumerate((None, *shares) if kind != SATURATING else shares, kind):
            counts[row] = np.bincount(entry, weights, len(distinct))
        self._pending.append((distinct, counts))
        self._waiting += len(distinct)

    def _settle(self) -> None:
        """Merge what is pending; let keys lose low bits until they fit."""
        if not self._pending:
            return
        rows = _merged([self._rows, *self._pending])
        while len(rows[0]) > self.most:
            self._shift += 1
            rows = _merged([(rows[0] >> np.uint32(1), rows[1])])
        self._rows, self._pending, self._waiting = rows, [], 0


def _keys(values: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Return integers in the order of float32 numbers; both zeros are one."""
    bits = (values + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _merged(parts: list[Rows]) -> Rows:
    """Return rows with unique, sorted keys."""
    keys = np.concatenate([part[0] for part in parts])
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=keys[:1] + np.uint32(1)))
    counts = np.concatenate([part[1] for part in parts], axis=1)[:, order]
    return keys[first], np.add.reduceat(counts, first, axis=1) if len(first) else counts
