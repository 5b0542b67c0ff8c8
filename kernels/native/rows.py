"""Distances to rows of a file, which are read one at a time."""

import numpy as np

from . import library as c


def distances_to_rows(
    file: int, offset: int, rows: np.ndarray, query: np.ndarray, instructions: str | None = None
) -> np.ndarray | None:
    """Return the squared distances float32 [n] of a query float32 [D] to rows int64 [n] of an array float32 [.., D].

    They are computed in float64, to the bits of `((rows - query) ** 2).sum(1)` in numpy. None if not all rows can be
    read, or have finite distances.

    Args:
        file: a descriptor of the file.
        offset: of the array in it, in bytes.
        rows: none negative.
        query: finite.
        instructions: a name in `library.SETS`; by default, the fastest that the processor has.
    """
    rows = np.ascontiguousarray(rows, np.int64)
    wide, row, distances = query.astype(np.float64), np.empty(len(query), np.float32), np.empty(len(rows), np.float32)
    done = c.library().spade_distances_to_rows(
        *(c.number(instructions), file, offset, rows.ctypes.data, len(rows), len(query)),
        *(wide.ctypes.data, row.ctypes.data, distances.ctypes.data),
    )
    return distances if done else None
