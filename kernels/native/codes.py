"""Encode maps, decode them and sum their values, to the bits that `gallery.store` defines."""

import numpy as np

from . import library as c


def encode_level(values: np.ndarray, bits: int, stored: np.ndarray, instructions: str | None = None) -> None:
    """Write a map in codes of 8 or 4 bits to `stored`, uint8 [bytes], as `gallery.store.codecs.Affine` defines them.

    `values` are float16 [P, C], all finite; both are contiguous.
    """
    code = c.CODE_OF_BITS[bits]
    codes = np.empty(values.size if code == c.NIBBLES else 0, np.uint8)
    c.library().spade_encode_level(
        *(c.number(instructions), values.ctypes.data, *values.shape, code, codes.ctypes.data, stored.ctypes.data)
    )


def decode_level(stored: np.ndarray, bits: int, out: np.ndarray, instructions: str | None = None) -> bool:
    """Write what `encode_level` stored to `out`, float16 [P, C]; return whether it can have stored that.

    Both are contiguous.
    """
    if stored.nbytes != 4 * out.shape[1] + -(-out.size * bits // 8):
        return False
    room = np.empty(2 * (out.shape[1] + c.SIDE), np.float32)
    return bool(
        c.library().spade_decode_level(
            *(c.number(instructions), stored.ctypes.data, *out.shape, c.CODE_OF_BITS[bits]),
            *(room.ctypes.data, out.ctypes.data),
        )
    )


def moments(values: np.ndarray, instructions: str | None = None) -> tuple[float, float]:
    """Return the sum of float16 values, contiguous, and that of their squares, to the bits of numpy's in float64."""
    sums = np.empty(2)
    c.library().spade_moments(c.number(instructions), values.ctypes.data, values.size, sums.ctypes.data)
    return float(sums[0]), float(sums[1])


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
