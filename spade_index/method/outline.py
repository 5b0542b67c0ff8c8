"""Closed polygons as arrays of points: simplify them, measure them, and fill them."""

from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray


def simplify(points: NDArray[np.float64], tolerance: float, most: int) -> NDArray[np.float64]:
    """Return a closed polygon with fewer points (Douglas and Peucker, the farthest point first).

    Args:
        points: float64 [n, 2], in order; the last is joined to the first.
        tolerance: distance from the result that a point which is left out may have, unless `most` is reached.
        most: points of the result.
    """
    far = int(((points - points[0]) ** 2).sum(1).argmax())  # two points that are kept split the polygon into two lines
    ring = np.concatenate([points, points[:1]])
    kept = {0, far}
    left_out: list[
        tuple[float, int, int, int]
    ] = []  # farthest first: -distance, start of a line, point, end of the line

    def look_between(start: int, end: int) -> None:
        if end - start > 1:
            distances = _distances(ring[start + 1 : end], ring[start], ring[end])
            farthest = int(distances.argmax())
            heappush(left_out, (-float(distances[farthest]), start, start + 1 + farthest, end))

    look_between(0, far)
    look_between(far, len(points))
    while left_out and len(kept) < most and -left_out[0][0] > tolerance:
        _, start, point, end = heappop(left_out)
        kept.add(point)
        look_between(start, point)
        look_between(point, end)
    return points[sorted(kept)]


def enclosed_area(points: NDArray[np.float64]) -> float:
    """Return the area that a closed polygon float64 [n, 2] encloses."""
    x, y = (points - points[0]).T  # near 0, where differences of products are exact
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def fill(polygons: list[NDArray[np.float64]], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels whose centres an odd number of polygons encloses, bool [H, W]: holes stay open.

    Args:
        polygons: float64 [n, 2] each, (x, y); the pixel in column 0 covers x from 0 to 1.
        size: (H, W).
    """
    height, width = size
    crossings = np.zeros((height, width + 1), np.uint8)  # boundaries between a row's start and each pixel's centre
    for polygon in polygons:
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            first, last = np.clip(np.ceil(np.sort([y0, y1]) - 0.5), 0, height).astype(int)
            rows = np.arange(first, last)
            if len(rows):
                at = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                crossings[rows, np.clip(np.ceil(at - 0.5), 0, width).astype(int)] ^= 1
    return np.bitwise_xor.accumulate(crossings, axis=1)[:, :width].astype(bool)


def _distances(
    points: NDArray[np.float64], start: NDArray[np.float64], end: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the distances of points [n, 2] from the line that ends at two points, float64 [n]."""
    along = end - start
    length = along @ along
    share = np.clip((points - start) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.hypot(*(points - start - share[:, None] * along).T)
