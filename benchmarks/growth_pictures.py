"""The growth benchmark as two pictures: latency with recall, and resident memory, against the gallery's size."""

from pathlib import Path
from typing import Any

from spade_index.benchmarks.growth_peers import TITLES
from spade_index.benchmarks.harness import LINE, OURS, Figures, picture, tidy

Label = tuple[float, float, str, str]  # x, y, text, colour
SIZE = (8.6, 5)  # inches

COLOURS = {
    "flat": "#8a8a8a",
    "hnswlib": "#c8553d",
    "usearch": "#d99a2b",
    "autofaiss": "#7d5ba6",
    "no-components": "#7fb3c4",
}


def draw_latency(results: Figures, path: Path) -> None:
    """Draw the median and p99 of a search for nearest images, with the recall beside each point."""
    title = "Nearest 50 images of one query: median, and up to the 99th percentile (band, lines); left of it recall@50"
    with picture(path, title, SIZE) as axes:
        _prepare(axes, results)
        _draw_latency(axes, results)
        _finish(axes, results)


def _draw_latency(axes: Any, results: Figures) -> None:
    names: list[Label] = []
    recalls: dict[int, list[Label]] = {}
    for key, title, colour, entries in _contenders(results):
        images, medians, tails = (list(of) for of in zip(*((n, e["ms"], e["ms_p99"]) for n, e in entries), strict=True))
        _line(axes, images, medians, colour, key == "ours")
        if key == "ours":
            axes.fill_between(images, medians, tails, color=colour, alpha=0.15, linewidth=0)
        else:
            axes.vlines(images, medians, tails, color=colour, linewidth=0.8, alpha=0.6)
        names.append((images[-1], medians[-1], title, colour))
        for n, entry in entries:
            recalls.setdefault(n, []).append((n, entry["ms"], f"{entry['recall']:.3f}", colour))
    axes.set(ylabel="ms per query (log scale)")
    for labels in recalls.values():
        _write(axes, labels, -6, 7)
    _write(axes, names, 9, 9)


def draw_memory(results: Figures, path: Path) -> None:
    """Draw the resident memory of a process that searches: its own, and that of files."""
    title = "Memory of a process that searches for nearest images, above its libraries; dotted: all maps held in memory"
    with picture(path, title, SIZE) as axes:
        _prepare(axes, results)
        _draw_memory(axes, results)
        _finish(axes, results)


def _draw_memory(axes: Any, results: Figures) -> None:
    sizes = [entry["images"] for entry in results["sizes"]]
    maps = [n * results["map_bytes"] / 1e6 for n in sizes]
    axes.plot(sizes, maps, linestyle=":", linewidth=1.8, color=LINE)
    names: list[Label] = [(sizes[-1], maps[-1], "all feature maps", LINE)]
    for key, title, colour, entries in _contenders(results):
        images, own = [n for n, _ in entries], [max(e["resident"]["anonymous_mb"], 0.1) for _, e in entries]
        _line(axes, images, own, colour, key == "ours")
        names.append((images[-1], own[-1], title, colour))
        if key == "ours":
            both = [sum(e["resident"].values()) for _, e in entries]
            axes.plot(images, both, linestyle="--", linewidth=1.3, color=colour, zorder=3)
            names.append((images[-1], both[-1], "ours, with pages of its files", colour))
    axes.set(ylabel="MB resident after all queries (log scale)")
    _write(axes, names, 9, 9)


def _contenders(results: Figures) -> list[tuple[str, str, str, list[tuple[int, Figures]]]]:
    """Return key, title and colour of each, and its figures by size; ours first."""
    rows = [("ours", "ours", OURS, [(entry["images"], entry["search"]) for entry in results["sizes"]])]
    for key, title in TITLES.items():
        found = [(entry["images"], entry["peers"].get(key, {})) for entry in results["sizes"]]
        there = [(images, peer) for images, peer in found if peer.get("status") == "ok"]
        if there:
            ended = "" if there[-1][0] == found[-1][0] else " (left out beyond)"
            rows.append((key, title + ended, COLOURS[key], there))
    return rows


def _prepare(axes: Any, results: Figures) -> None:
    sizes = [entry["images"] for entry in results["sizes"]]
    axes.set(xscale="log", yscale="log", xlim=(0.5 * sizes[0], sizes[-1] * (sizes[-1] / sizes[0]) ** 0.42 * 1.5))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    if sizes[0] < results["real"] < sizes[-1]:
        axes.axvline(results["real"], color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.annotate(
            f" {results['real']:,} photographs;\n beyond, drawn around them",
            (results["real"], 0.99),
            fontsize=7.5,
            xycoords=("data", "axes fraction"),
            color="#777777",
            va="top",
        )


def _line(axes: Any, x: list[int], y: list[float], colour: str, ours: bool) -> None:
    axes.plot(x, y, marker="o", markersize=4, linewidth=2.4 if ours else 1.3, color=colour, zorder=4 if ours else 3)


def _write(axes: Any, labels: list[Label], right: float, size: float) -> None:
    """Write texts `right` points beside their points, moved up or down so that they do not overlap."""
    from matplotlib.patheffects import withStroke

    axes.figure.draw_without_rendering()
    labels = sorted(labels, key=lambda label: label[1])
    height = 1.25 * size * axes.figure.dpi / 72
    places = [axes.transData.transform(label[:2])[1] for label in labels]
    free = _apart(places, height)
    for (x, y, text, colour), place, moved in zip(labels, places, free, strict=True):
        up = (moved - place) * 72 / axes.figure.dpi
        axes.annotate(
            *(text, (x, y), (right, up)),
            textcoords="offset points",
            ha="left" if right > 0 else "right",
            va="center",
            fontsize=size,
            color=colour,
            weight="bold" if text == "ours" else "normal",
            path_effects=[withStroke(linewidth=2, foreground="white")],
            zorder=5,
        )


def _apart(places: list[float], gap: float) -> list[float]:
    """Return ascending places, moved as little as possible, each at least `gap` above the one before."""
    groups: list[list[float]] = []  # each is spread about its mean
    for place in places:
        groups.append([place])
        while len(groups) > 1 and _span(groups[-2], gap)[1] + gap > _span(groups[-1], gap)[0]:
            last = groups.pop()
            groups[-1] += last
    return [_span(group, gap)[0] + gap * number for group in groups for number in range(len(group))]


def _span(group: list[float], gap: float) -> tuple[float, float]:
    middle, half = sum(group) / len(group), gap * (len(group) - 1) / 2
    return middle - half, middle + half


def _finish(axes: Any, results: Figures) -> None:
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}")
    axes.yaxis.set_minor_formatter("")
    axes.set_xlabel("images in the gallery (log scale)")
    tidy(axes, "y")
    axes.figure.text(0.995, 0.005, results["machine"], fontsize=6.5, color="#999999", ha="right", va="bottom")
