"""The figures of the kernel benchmark as a table and as a picture."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_index.benchmarks.harness import LINE, OTHER, OURS, PEER, Figures, number, picture, table, tidy

COLUMNS = ("", "ms/query", "min", "max", "ms/map", "x cdist", "of GEMM", "survivors", "MB", "")
QUERIES = (("good", "#5a9e6f", -0.2), ("defective", OTHER, 0.2))  # colour, offset of the bar
SHAPES = {"wrn": "shapes of WideResNet50-2", "native": "efficientnet-lite0"}


def report(case: Figures) -> str:
    """Return the contenders of one search as a table."""
    channels = ", ".join(f"{c}x{h}x{w}" for c, (h, w) in zip(case["channels"], case["sizes"], strict=True))
    peaks = ", ".join(f"{name} {gflops:,.0f} GFLOP/s" for name, gflops in case["gemm_gflops"].items())
    rows = [_row(entry, case) for entry in case["contenders"] if entry["status"] == "ok"]
    return "\n".join(
        [
            f"{case['set']}, {case['query']} query: {channels}; {case['neighbours']} maps, "
            f"{case['pixel_neighbours']} nearest, {case['mode']}; GEMM {peaks}",
            *table([COLUMNS, *rows], left=(0, len(COLUMNS) - 1)),
            *(f"{e['title']}  {e['status']}: {e['reason']}" for e in case["contenders"] if e["status"] != "ok"),
        ]
    )


def _row(entry: Figures, case: Figures) -> list[str]:
    notes = []
    if entry["measured_maps"] < case["neighbours"]:
        notes.append(f"from {entry['measured_maps']} maps")
    if entry["measured_pixels"] < case["sizes"][0][0] * case["sizes"][0][1]:
        notes.append(f"from {entry['measured_pixels']} query pixels")
    if entry["mode"] != case["mode"]:
        notes.append(entry["mode"])
    if entry["exact_matches"] < 1:
        notes.append(f"{entry['exact_matches']:.1%} of matches exact")
    form = "{:,.0f}" if entry["ms"] >= 100 else "{:.2f}"
    return [
        entry["title"],
        *(form.format(entry[name]) for name in ("ms", "ms_min", "ms_max")),
        f"{entry['ms_per_map']:.3g}",
        number(entry["faster_than"].get("cdist"), "{:.2f}"),
        number(entry["gemm_share"], "{:.0%}"),
        number(entry.get("survivors"), "{:.1%}"),
        number(entry.get("memory_mb"), "{:,.0f}"),
        ", ".join(notes),
    ]


@dataclass(frozen=True)
class Times:
    """The times of a contender in all searches, in ms."""

    title: str
    extrapolated: bool
    ms: list[float]

    @property
    def median(self) -> float:
        """The median over the searches."""
        return statistics.median(self.ms)


def draw(results: Figures, path: Path) -> None:
    """Draw the time of each contender over all searches of one shape, and the gain of pruning on each set."""
    shapes = next(name for name in SHAPES if any(case["shapes"] == name for case in results["cases"]))
    cases = [case for case in results["cases"] if case["shapes"] == shapes]
    times, gains = _times(cases), _gains(cases)
    device = results["device"] if results["device"] != "cpu" else results["machine"]
    title = (
        f"Pixel search of one query among {cases[0]['neighbours']} images, {SHAPES[shapes]}, {cases[0]['mode']}, "
        f"{device}"
    )
    panels = 2 if gains else 1
    size = 3 + 4.5 * panels, max(3.0, 1.1 + 0.36 * len(times), 1.1 + 0.5 * len(gains))
    with picture(path, title, size, columns=panels) as axes:
        _draw_times(axes[0] if gains else axes, times, len(cases))
        if gains:
            _draw_gains(axes[1], gains)


def _times(cases: Sequence[Figures]) -> list[Times]:
    """Return the times of all contenders, the slowest first."""
    found: dict[str, Times] = {}
    for case in cases:
        for entry in case["contenders"]:
            if entry["status"] == "ok":
                times = found.setdefault(entry["title"], Times(entry["title"], entry["extrapolated"], []))
                times.ms.append(entry["ms"])
    return sorted(found.values(), key=lambda times: -times.median)


def _draw_times(axes: Any, rows: list[Times], searches: int) -> None:
    medians, places = [row.median for row in rows], range(len(rows))
    below, above = zip(*((row.median - min(row.ms), max(row.ms) - row.median) for row in rows), strict=True)
    colours = [OURS if row.title.startswith("ours") else PEER for row in rows]
    axes.barh(places, medians, color=colours, height=0.7, zorder=2)
    axes.errorbar(medians, places, xerr=(below, above), fmt="none", ecolor=LINE, elinewidth=1, zorder=3)
    for place, row in enumerate(rows):
        text = f"{row.median:,.0f}" if row.median >= 10 else f"{row.median:.2g}"
        axes.annotate(text, (max(row.ms), place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, [row.title + " *" * row.extrapolated for row in rows], fontsize=8)
    axes.set(xscale="log", xlim=(min(min(row.ms) for row in rows) / 2, 8 * max(max(row.ms) for row in rows)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
    axes.set_xlabel("ms per query (log scale)")
    axes.set_title(f"Median and range over {searches} searches\n(* extrapolated from some maps)", fontsize=9)
    axes.invert_yaxis()
    tidy(axes, "x")


def _gains(cases: Sequence[Figures]) -> dict[str, dict[str, tuple[float, float]]]:
    """Return, by set and query, the speed of pruning over dense, and the share of level 0 that was left."""
    gains: dict[str, dict[str, tuple[float, float]]] = {}
    for case in cases:
        by_key = {entry["contender"]: entry for entry in case["contenders"] if entry["status"] == "ok"}
        dense, pruned = by_key.get("dense"), by_key.get("default")
        if dense and pruned and pruned.get("survivors") is not None:
            gains.setdefault(case["set"], {})[case["query"]] = dense["ms"] / pruned["ms"], pruned["survivors"]
    return gains


def _draw_gains(axes: Any, gains: dict[str, dict[str, tuple[float, float]]]) -> None:
    largest = max(gain for of in gains.values() for gain, _ in of.values())
    for query, colour, offset in QUERIES:
        bars = [(place + offset, *of[query]) for place, of in enumerate(gains.values()) if query in of]
        places, widths = [place for place, _, _ in bars], [gain for _, gain, _ in bars]
        axes.barh(places, widths, 0.36, color=colour, label=f"{query} query", zorder=2)
        for place, gain, left in bars:
            label = {"textcoords": "offset points", "va": "center", "fontsize": 7}
            axes.annotate(f"{left:.1%}", (max(gain, 1), place), (4, 0), **label)
    axes.axvline(1, color=LINE, linewidth=1, zorder=3)
    axes.set_yticks(range(len(gains)), list(gains), fontsize=8)
    axes.set_xlim(0, 1.18 * max(largest, 1))
    axes.set_xlabel("times as fast as ours dense (line: no gain)")
    axes.set_title("Gain of pruning where it pays (the default), float32\n(labels: fine work that is left)", fontsize=9)
    axes.set_ylim(len(gains) - 0.1, -0.6)  # from above, with room for the legend
    axes.legend(fontsize=8, loc="lower right", ncols=2, frameon=False)
    tidy(axes, "x")
