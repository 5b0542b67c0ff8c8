"""The figures of the growth benchmark as two tables and two pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spade_index.benchmarks.growth_peers import TITLES
from spade_index.benchmarks.harness import LINE, Figures, picture, table, tidy

OURS = "ours"
SIZE = (8.6, 5)  # inches of a picture
COLUMNS = ("images", "", "ms", "p90", "p99", "recall@50", "own MB", "file MB", "build s", "peak MB", "")
MEGABYTES = 1e6, ",.3g"
ROWS: tuple[tuple[str, str, float, str], ...] = (  # title, path in the figures of a size, unit, format
    ("photographs", "real", 1, ",.0f"),
    ("drawn around them", "drawn", 1, ",.0f"),
    ("shards, GB", "disk shards", 1e9, ",.2f"),
    ("descriptors file, GB", "disk descriptors", 1e9, ",.3f"),
    ("index file, GB", "disk index", 1e9, ",.3f"),
    ("catalog, GB", "disk catalog", 1e9, ",.3f"),
    ("open and first query, warm, ms", "search open_and_first_ms", 1, ",.0f"),
    ("open and first query, cold, ms", "cold first_ms", 1, ",.0f"),
    ("   read from disk, MB", "cold first_bytes", *MEGABYTES),
    ("query after it, cold, ms", "cold ms", 1, ",.1f"),
    ("   read from disk, MB", "cold bytes", *MEGABYTES),
    ("   in probed lists, MB", "check list_bytes", *MEGABYTES),
    ("   of candidates, MB", "check candidate_bytes", *MEGABYTES),
    ("resident when opened, own MB", "search opened anonymous_mb", 1, ",.1f"),
    ("   of files, MB", "search opened file_mb", 1, ",.1f"),
    ("50 maps read, warm, ms", "pixels warm maps_ms", 1, ".2f"),
    ("   in shards not read before, ms", "pixels new maps_ms", 1, ".2f"),
    ("   cold, ms", "pixels cold maps_ms", 1, ".1f"),
    ("   cold, read from disk, MB", "pixels cold bytes", *MEGABYTES),
    ("pixel search, warm, ms", "pixels warm search_ms", 1, ".2f"),
    ("images added", "add images", 1, ".0f"),
    ("   seconds", "add add_s", 1, ".2f"),
    ("   to remove them, seconds", "add remove_s", 1, ".2f"),
)


def report(results: Figures) -> str:
    """Return the search for nearest images as a table: a line for each size and contender."""
    lines: list[Sequence[str]] = [COLUMNS]
    for entry in results["sizes"]:
        index = entry["index"]
        ours = entry["search"] | {"seconds": index["seconds"], "peak_mb": index["peak_mb"], "text": index["text"]}
        lines.append((f"{entry['images']:,}", OURS, *_cells(ours)))
        lines += [("", TITLES.get(key, key), *_cells(peer)) for key, peer in entry["peers"].items()]
    return "\n".join(
        [
            f"the 50 nearest images of {results['test_queries']:,} queries, one at a time, in a gallery of "
            f"{results['real']:,} photographs, beyond them descriptors drawn around theirs",
            "own and file MB: resident after all queries; peak MB: of building; all above the libraries' memory",
            *table(lines, left=(1, len(COLUMNS) - 1)),
            *(f"{int(size):,}  left out: {reason}" for size, reason in results["sizes_left_out"].items()),
        ]
    )


def _cells(entry: Figures) -> list[str]:
    if entry.get("status") == "left out":
        return [""] * (len(COLUMNS) - 3) + [f"left out: {entry['reason']}"]
    return [
        *(f"{entry[name]:.2f}" for name in ("ms", "ms_p90", "ms_p99")),
        f"{entry['recall']:.4f}",
        *(f"{entry['resident'][name]:,.0f}" for name in ("anonymous_mb", "file_mb")),
        f"{entry['seconds']:,.1f}",
        f"{entry['peak_mb']:,.0f}",
        entry["text"],
    ]


def costs(results: Figures) -> str:
    """Return the other costs of a gallery as a table: a column for each size."""
    lines = [["images", *(f"{entry['images']:,}" for entry in results["sizes"])]]
    for title, path, unit, form in ROWS:
        lines.append([title, *(_cost(entry, path.split(), unit, form) for entry in results["sizes"])])
    return "\n".join([*table(lines), f"a query's 50 maps are {50 * results['map_bytes'] / 1e6:,.3g} MB"])


def _cost(entry: Figures, path: Sequence[str], unit: float, form: str) -> str:
    """Return a value of a size's figures; some kernels do not count what is read from disk."""
    value: Any = entry
    for name in path:
        value = value[name]
    return "not counted" if value is None else f"{value / unit:{form}}"


def draw(results: Figures, path: Path) -> None:
    """Draw latency with recall to `path`, and the memory of a process that searches to NAME_memory.png."""
    with picture(path, "Nearest 50 images of one query: median, up to p99; recall@50 at each size", SIZE) as axes:
        for title, entries in _contenders(results).items():
            rows = entries.values()
            medians, tails = [row["ms"] for row in rows], [row["ms_p99"] - row["ms"] for row in rows]
            label = f"{title}: " + ", ".join(f"{row['recall']:.3f}" for row in rows)
            axes.errorbar(list(entries), medians, ([0] * len(rows), tails), label=label, **_style(title))
        _finish(axes, results, "ms per query")
    with picture(
        path.with_stem(f"{path.stem}_memory"), "Memory of a process that searches, without its libraries", SIZE
    ) as axes:
        for title, entries in _contenders(results).items():
            own = [max(row["resident"]["anonymous_mb"], 0.1) for row in entries.values()]
            axes.plot(list(entries), own, label=title, **_style(title))
        both = {entry["images"]: sum(entry["search"]["resident"].values()) for entry in results["sizes"]}
        axes.plot(list(both), list(both.values()), "--", color=LINE, label="ours, with pages of its files")
        maps = [size * results["map_bytes"] / 1e6 for size in both]
        axes.plot(list(both), maps, ":", color=LINE, label="all feature maps")
        _finish(axes, results, "MB resident after all queries")


def _contenders(results: Figures) -> dict[str, dict[int, Figures]]:
    """Return the figures of each contender, by its title and the gallery's size; ours first."""
    found = {OURS: {entry["images"]: entry["search"] for entry in results["sizes"]}}
    for entry in results["sizes"]:
        for key, peer in entry["peers"].items():
            if peer["status"] == "ok":
                found.setdefault(TITLES.get(key, key), {})[entry["images"]] = peer
    return found


def _style(title: str) -> Figures:
    return {"marker": "o", "markersize": 4, "linewidth": 2.4 if title == OURS else 1.2}


def _finish(axes: Any, results: Figures, ylabel: str) -> None:
    sizes = [entry["images"] for entry in results["sizes"]]
    axes.set(xscale="log", yscale="log", xlabel=f"images in the gallery; {results['machine']}", ylabel=ylabel)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    if sizes[0] < results["real"] < sizes[-1]:
        label = f"{results['real']:,} photographs; beyond, drawn around them"
        axes.axvline(results["real"], color="#bbbbbb", linewidth=0.8, zorder=0, label=label)
    axes.legend(fontsize=8)
    tidy(axes, "y")
