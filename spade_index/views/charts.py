"""Draw lines and histograms as SVG that stands in a page: no script, no other file, the colours of the page."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

WIDTH, HEIGHT = 380, 290
LEFT, TOP, RIGHT, BOTTOM = 48, 12, 12, 42  # pixels around the axes
MOST_POINTS = 400  # of a line
BARS = 40


@dataclass(frozen=True)
class Line:
    """A line through points, or a filled outline."""

    name: str
    x: NDArray[np.float64]  # [n]
    y: NDArray[np.float64]  # [n]
    style: str = "main"  # a class of the page: main, second, good, bad, limit
    filled: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over two axes."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_limits: tuple[float, float] = (0.0, 1.0)
    y_limits: tuple[float, float] = (0.0, 1.0)
    dots: Sequence[tuple[str, float, float]] = ()  # (name, x, y)
    logarithmic: bool = False  # the lower axis

    def svg(self) -> Markup:
        """Return the chart as an element of a page."""
        names = ", ".join(line.name for line in self.lines)
        head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}: {}">').format(
            WIDTH, HEIGHT, self.title, names
        )
        drawn = [self._line(line) for line in self.lines] + [self._dot(*dot) for dot in self.dots]
        return head + self._axes() + Markup("").join(drawn) + self._names() + Markup("</svg>")

    def _place(self, x: NDArray[np.float64] | float, y: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """Return points in pixels of the drawing, [n, 2]."""
        (left, right), (low, high) = self.x_limits, self.y_limits
        across, start, end = (np.log(v) if self.logarithmic else np.asarray(v, float) for v in (x, left, right))
        columns = LEFT + (across - start) / (end - start) * (WIDTH - LEFT - RIGHT)
        rows = HEIGHT - BOTTOM - (np.asarray(y, float) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)
        return np.column_stack(np.broadcast_arrays(np.atleast_1d(columns), np.atleast_1d(rows)))

    def _line(self, line: Line) -> Markup:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in thinned(self._place(line.x, line.y)))
        shape = "polygon" if line.filled else "polyline"
        return Markup('<{} class="{}" points="{}"><title>{}</title></{}>').format(
            shape, f"{line.style} filled" if line.filled else line.style, points, line.name, shape
        )

    def _dot(self, name: str, x: float, y: float) -> Markup:
        ((column, row),) = self._place(x, y)
        return Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(
            column, row, name
        )

    def _axes(self) -> Markup:
        inner = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        parts = [Markup('<rect class="frame-line" x="{}" y="{}" width="{}" height="{}"/>').format(LEFT, TOP, *inner)]
        for value in self._ticks():
            ((column, _),) = self._place(value, self.y_limits[0])
            parts.append(_text(column, HEIGHT - BOTTOM + 15, f"{value:.3g}", "middle"))
        for value in np.linspace(*self.y_limits, 5):
            ((_, row),) = self._place(self.x_limits[0], value)
            parts.append(_text(LEFT - 6, row + 4, f"{value:.3g}", "end"))
        parts.append(_text(LEFT + inner[0] / 2, HEIGHT - 8, self.x_label, "middle"))
        turned = Markup('<text class="axis" text-anchor="middle" transform="translate(12 {}) rotate(-90)">{}</text>')
        return Markup("").join([*parts, turned.format(TOP + inner[1] / 2, self.y_label)])

    def _ticks(self) -> NDArray[np.float64]:
        return np.geomspace(*self.x_limits, 5) if self.logarithmic else np.linspace(*self.x_limits, 5)

    def _names(self) -> Markup:
        """Return a legend of several lines, in the lower right corner."""
        if len(self.lines) < 2:
            return Markup("")
        row = HEIGHT - BOTTOM - 8 - 16 * (len(self.lines) - 1) if not self.lines[0].filled else TOP + 16
        parts = []
        for at, line in enumerate(self.lines):
            y = row + 16 * at
            parts.append(
                Markup('<rect class="{} key" x="{}" y="{}" width="10" height="4"/>').format(
                    line.style, WIDTH - RIGHT - 20, y - 6
                )
            )
            parts.append(_text(WIDTH - RIGHT - 26, y, line.name, "end"))
        return Markup("").join(parts)


def histogram(
    title: str, x_label: str, groups: Sequence[tuple[str, str, NDArray[np.float64]]], threshold: float | None
) -> Chart:
    """Return a histogram of groups of numbers, (name, style, values [n]); each bar is a share of its group.

    The axis is logarithmic where the numbers are above 0 and far apart.
    """
    everything = np.concatenate([values for _, _, values in groups])
    if threshold is not None and np.isfinite(threshold):
        everything = np.append(everything, threshold)
    low, high = float(everything.min()), float(everything.max())
    logarithmic = bool(low > 0 and high > 20 * np.median(everything))
    if high <= low:
        low, high = low - 0.5, high + 0.5
        logarithmic = False
    edges = np.geomspace(low, high, BARS + 1) if logarithmic else np.linspace(low, high, BARS + 1)
    lines, highest = [], 0.0
    for name, style, values in groups:
        shares = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / max(1, len(values))
        highest = max(highest, float(shares.max()))
        x = np.concatenate([edges[:1], np.repeat(edges, 2)[1:-1], edges[-1:]])
        y = np.concatenate([[0.0], np.repeat(shares, 2), [0.0]])
        lines.append(Line(name, x, y, style, filled=True))
    if threshold is not None and np.isfinite(threshold):
        lines.append(Line("threshold", np.full(2, threshold), np.array([0.0, highest]), "limit"))
    return Chart(
        title, x_label, "share of images", lines, (low, high), (0.0, max(highest, 1e-9)), logarithmic=logarithmic
    )


def thinned(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points of a line [n, 2] that is drawn the same, without those that hardly move it."""
    if len(points) <= MOST_POINTS:
        return points
    moved = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(points, axis=0)).sum(1))])
    step = np.floor(moved / max(moved[-1], 1e-9) * (MOST_POINTS - 2)).astype(int)
    kept = np.flatnonzero(np.diff(step, prepend=-1))
    return points[np.unique(np.append(kept, len(points) - 1))]


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text class="axis" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)
