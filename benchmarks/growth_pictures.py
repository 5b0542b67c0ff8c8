"""The growth benchmark as two pictures: latency with recall, and resident memory, against the gallery's size."""

from pathlib import Path
from typing import Any

from spade_index.benchmarks.growth_peers import TITLES

Entry = dict[str, Any]

OURS = "#1f6f8b"
COLOURS = {
    "flat": "#8a8a8a",
    "hnswlib": "#c8553d",
    "usearch": "#d99a2b",
    "autofaiss": "#7d5ba6",
    "no-components": "#7fb3c4",
}
MAPS = "#333333"


def draw_latency(results: Entry, path: Path) -> None:
    """Median and p99 of a query's nearest images; the recall is written beside each point."""
    figure, axes = _axes(results)
    for key, title, colour, entries in _contenders(results):
        images, medians = [n for n, _ in entries], [e["ms"] for _, e in entries]
        width = 2.2 if key == "ours" else 1.3
        axes.plot(images, medians, marker="o", markersize=4, linewidth=width, color=colour, zorder=3)
        axes.fill_between(images, medians, [e["ms_p99"] for _, e in entries], color=colour, alpha=0.13, linewidth=0)
        for n, entry in entries:
            _beside(axes, n, entry["ms"], f"{entry['recall']:.3f}", colour, below=key == "ours")
        _named(axes, images[-1], medians[-1], title, colour, key == "ours")
    axes.set(ylabel="ms per query (log scale)")
    _finish(
        figure,
        axes,
        results,
        "Nearest 50 images of one query: median, and up to the 99th percentile; beside it recall@50",
        path,
    )


def draw_memory(results: Entry, path: Path) -> None:
    """What a process that searches holds in memory of its own, and of files."""
    figure, axes = _axes(results)
    sizes = [entry["images"] for entry in results["sizes"]]
    for key, title, colour, entries in _contenders(results):
        images = [n for n, _ in entries]
        own = [max(e["resident"]["anonymous_mb"], 0.1) for _, e in entries]
        axes.plot(
            images, own, marker="o", markersize=4, linewidth=2.2 if key == "ours" else 1.3, color=colour, zorder=3
        )
        _named(axes, images[-1], own[-1], title, colour, key == "ours")
        if key == "ours":
            both = [sum(e["resident"].values()) for _, e in entries]
            axes.plot(images, both, linestyle="--", linewidth=1.3, color=colour, zorder=3)
            _named(
                axes,
                images[-1],
                both[-1],
                "ours, with pages of its files\nthat the system may take back",
                colour,
                False,
            )
    maps = [n * results["map_bytes"] / 1e6 for n in sizes]
    axes.plot(sizes, maps, linestyle=":", linewidth=1.5, color=MAPS)
    _named(axes, sizes[-1], maps[-1], "all maps in memory", MAPS, False)
    axes.set(ylabel="MB resident after all queries (log scale)")
    _finish(
        figure, axes, results, "Memory of a process that searches, above what it had before it opened the gallery", path
    )


def _contenders(results: Entry) -> list[tuple[str, str, str, list[tuple[int, Entry]]]]:
    """Key, title, colour, and the sizes that each was measured at with its figures; ours first."""
    rows = [("ours", "ours", OURS, [(entry["images"], entry["search"]) for entry in results["sizes"]])]
    for key, title in TITLES.items():
        found = [(entry["images"], entry["peers"].get(key, {})) for entry in results["sizes"]]
        there = [(images, peer) for images, peer in found if peer.get("status") == "ok"]
        rows += [(key, title, COLOURS[key], there)] * bool(there)
    return rows


def _axes(results: Entry) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8.6, 5), layout="constrained")
    sizes = [entry["images"] for entry in results["sizes"]]
    axes.set(xscale="log", yscale="log", xlim=(0.7 * sizes[0], sizes[-1] * (sizes[-1] / sizes[0]) ** 0.42 * 1.5))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    if results["real"] < sizes[-1]:
        axes.axvline(results["real"], color="#bbbbbb", linewidth=0.8, zorder=0)
        axes.annotate(
            f" {results['real']:,} photographs;\n beyond, drawn around them",
            (results["real"], 0.99),
            fontsize=7.5,
            xycoords=("data", "axes fraction"),
            color="#777777",
            va="top",
        )
    return figure, axes


def _beside(axes: Any, x: float, y: float, text: str, colour: str, below: bool) -> None:
    axes.annotate(
        text, (x, y), (0, -11 if below else 6), textcoords="offset points", ha="center", fontsize=7, color=colour
    )


def _named(axes: Any, x: float, y: float, title: str, colour: str, bold: bool) -> None:
    """A curve's name at its end."""
    weight = "bold" if bold else "normal"
    axes.annotate(
        title, (x, y), (8, 0), textcoords="offset points", va="center", fontsize=8.5, color=colour, weight=weight
    )


def _finish(figure: Any, axes: Any, results: Entry, title: str, path: Path) -> None:
    from matplotlib import pyplot

    axes.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}" if y >= 1 else f"{y:g}")
    axes.set_xlabel("images in the gallery (log scale)")
    axes.set_title(title, fontsize=9.5, loc="left")
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.7, zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    figure.text(0.995, 0.005, results["machine"], fontsize=6.5, color="#999999", ha="right", va="bottom")
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
