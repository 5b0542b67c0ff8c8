"""What normal images score when each is searched for without itself: scores and maps, in a file of their own.

    attrs    format="spade-index", version, kinds=<JSON: names of the scores>
    /key     [n]             int64, ascending: the images
    /scores  [n, kinds]      float64
    /maps    [n, P]          float16, contiguous: mean squared distances on the grid of comparison, raster order

A file never changes. The catalog names it, with the digest of its bytes, in the row of its calibration.
"""

import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from spade_index.errors import GalleryDamaged
from spade_index.exact import read_json

from .codecs import is_finite
from .format import FORMAT, PLAIN
from .hdf5 import array, attribute, unreadable
from .rows import FileRows, LocalFile
from .sink import Sink

FOLDER = "calibrations"
LARGEST = 65504.0  # the largest finite float16
ROWS = 256  # maps written at a time
KINDS = 20  # of scores, at most


@dataclass(frozen=True)
class LeaveOneOut:
    """Scores and maps of n images; `maps` stays in its file where it was read from one."""

    keys: np.ndarray  # int64 [n], ascending
    scores: dict[str, np.ndarray]  # float64 [n] of each kind
    maps: np.ndarray | FileRows  # float16 [n, P]
    path: Path | None = None  # that it was read from

    def __len__(self) -> int:
        return len(self.keys)

    def rows(self, keys: Sequence[int]) -> np.ndarray:
        """Return the rows int64 [m] of those of the images with these keys that are here."""
        wanted = np.asarray(keys, np.int64)
        if not len(self.keys):
            return np.empty(0, np.int64)
        rows = np.searchsorted(self.keys, wanted).clip(max=len(self.keys) - 1)
        return rows[self.keys[rows] == wanted]

    def maps_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the maps float32 [m, P] of these rows. Raises GalleryDamaged if they are not there or not finite."""
        maps = np.asarray(self.maps[rows])
        if self.path is not None and maps.size and not is_finite(maps):
            raise GalleryDamaged(f"{self.path}: maps that are not finite: {remedy(self.path)}")
        return maps.astype(np.float32)

    def write(self, path: Path, rows: np.ndarray | None = None) -> None:
        """Write the file: all images, or those in these rows, ascending, int64 [m]. Raises OSError."""
        rows = np.arange(len(self)) if rows is None else rows
        with closing(Sink(path)) as sink, sink.checked(), h5py.File(sink, "w") as file:
            file.attrs["format"] = FORMAT
            file.attrs["version"] = PLAIN
            file.attrs["kinds"] = json.dumps(list(self.scores))
            file.create_dataset("key", data=self.keys[rows].astype("<i8"))
            file.create_dataset("scores", data=np.stack(list(self.scores.values()), 1)[rows].astype("<f8"))
            maps = file.create_dataset("maps", (len(rows), self.maps.shape[1]), "<f2")
            for first in range(0, len(rows), ROWS):
                maps[first : first + ROWS] = self.maps[rows[first : first + ROWS]]

    @classmethod
    def read(cls, path: Path) -> "LeaveOneOut":
        """Read a file; its maps are read when they are asked for. Raises GalleryDamaged, StorageError."""
        try:
            local = LocalFile(path)
            with local.opened() as file:
                (keys, _), (scores, _) = array(file, "key", "<i8", 1), array(file, "scores", "<f8", 2)
                maps, offset = array(file, "maps", "<f2", 2)
                kinds = read_json(attribute(file, "kinds"))
                if len({len(keys), len(scores), len(maps)}) > 1 or not maps.size or not scores.size:
                    raise ValueError("its arrays do not fit each other")
                if (
                    scores.shape[1] > KINDS
                    or not all(isinstance(kind, str) for kind in kinds)
                    or len({*kinds}) < len(kinds)
                ):
                    raise ValueError("unexpected kinds of scores")
                known, values = np.asarray(keys[:], np.int64), np.asarray(scores[:], np.float64)
                if known[0] < 0 or (np.diff(known) <= 0).any() or not np.isfinite(values).all():
                    raise ValueError("unexpected keys or scores")
                stored = FileRows(local, "<f2", offset, maps.shape, remedy(path))
                return cls(known, dict(zip(kinds, values.T, strict=True)), stored, path)
        except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise unreadable(path, error, remedy(path)) from error


def threshold_of(scores: np.ndarray, false_alarms: float) -> float | None:
    """Return the score that a share of normal images is above, of their ascending scores; None if they are too few.

    The p-value of a score above it is at most `false_alarms`: see `method.normal_scores`.
    """
    place = math.floor(false_alarms * (1 + len(scores)) + 1e-9)  # from the highest
    return float(scores[max(0, len(scores) - place)]) if place else None


def as_stored(maps: Sequence[np.ndarray]) -> np.ndarray:
    """Return maps float32 [P] as they are stored: float16 [n, P], at most the largest finite one."""
    return np.minimum(np.stack(maps), LARGEST).astype(np.float16)


def remedy(path: Path) -> str:
    """Return what to do about a damaged file."""
    return f"`spade-index calibrate {path.parent.parent}` makes it again"
