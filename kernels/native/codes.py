"""Encode maps and decode them, to the bits that `gallery.store` defines."""

import numpy as np

from . import library as c


def encode_bytes(
    values: np.ndarray, steps: int, instructions: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lowest and the highest value of each channel, float32 [C], and whole numbers between, uint8 [P, C].

    `values` are float16 [P, C], all finite, contiguous. A channel's highest value is the number `steps`.
    """
    points, channels = values.shape
    lowest, highest = np.empty(channels, np.float32), np.empty(channels, np.float32)
    codes = np.empty((points, channels), np.uint8)
    c.library().spade_encode_bytes(
        *(c.number(instructions), values.ctypes.data, points, channels, steps),
        *(lowest.ctypes.data, highest.ctypes.data, codes.ctypes.data),
    )
    return lowest, highest, codes


def decode_bytes(
    codes: np.ndarray, lowest: np.ndarray, step: np.ndarray, out: np.ndarray, instructions: str | None = None
) -> None:
    """Write lowest + code * step, computed in float32, to `out`, float16 [P, C].

    `codes` are uint8 [P, C], `lowest` and `step` float32 [C]; all are contiguous.
    """
    c.library().spade_decode_bytes(
        *(c.number(instructions), codes.ctypes.data, *out.shape),
        *(lowest.ctypes.data, step.ctypes.data, out.ctypes.data),
    )


def decode_rows(
    codes: np.ndarray, whole: np.ndarray, parts: np.ndarray, out: np.ndarray, instructions: str | None = None
) -> None:
    """Write the sums of the rows that codes name to `out`, float16 [P, C], cut off at its largest value.

    Args:
        codes: uint8 [P, bytes]: a row of each of the whole tables, then of each part.
        whole: float32 [tables, 256, C].
        parts: float32 [parts * 256, width].
        out: contiguous, as the others.
        instructions: a name in `library.SETS`; by default, the fastest that the processor has.
    """
    row = np.empty(max(out.shape[1], (codes.shape[1] - len(whole)) * parts.shape[1]), np.float32)
    c.library().spade_decode_rows(
        *(c.number(instructions), codes.ctypes.data, *out.shape, codes.shape[1], len(whole), parts.shape[1]),
        *(whole.ctypes.data, parts.ctypes.data, row.ctypes.data, out.ctypes.data),
    )
