"""The kernel benchmark's figures as a table, and as a picture."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

COLUMNS = ("", "ms/query", "min", "max", "ms/map", "x cdist", "of GEMM", "survivors", "MB", "")
ALIGNED = "{:33}{:>10}{:>10}{:>10}{:>9}{:>9}{:>9}{:>11}{:>7}  {}"
OURS, PEERS = "#1f6f8b", "#b8b8b8"
GOOD, DEFECTIVE = "#5a9e6f", "#c8553d"
SHAPES = {"wrn": "shapes of WideResNet50-2", "native": "efficientnet-lite0"}


def table(case: Entry) -> str:
    """The contenders of one search, a line each."""
    channels = ", ".join(f"{c}x{h}x{w}" for c, (h, w) in zip(case["channels"], case["sizes"], strict=True))
    peaks = ", ".join(f"{name} {gflops:,.0f} GFLOP/s" for name, gflops in case["gemm_gflops"].items())
    lines = [
        f"{case['set']}, {case['query']} query: {channels}; {case['neighbours']} maps, "
        f"{case['pixel_neighbours']} nearest, {case['mode']}; GEMM {peaks}",
        ALIGNED.format(*COLUMNS),
    ]
    return "\n".join(line.rstrip() for line in lines + [_line(entry, case) for entry in case["contenders"]])


def _line(entry: Entry, case: Entry) -> str:
    if entry["status"] != "ok":
        return f"{entry['title']:33}{entry['status']}: {entry['reason']}"
    notes = []
    if entry["measured_maps"] < case["neighbours"]:
        notes.append(f"from {entry['measured_maps']} maps")
    if entry["measured_pixels"] < case["sizes"][0][0] * case["sizes"][0][1]:
        notes.append(f"from {entry['measured_pixels']} query pixels")
    if entry["mode"] != case["mode"]:
        notes.append(entry["mode"])
    if entry["exact_matches"] < 1:
        notes.append(f"{entry['exact_matches']:.1%} of matches exact")
    return ALIGNED.format(
        entry["title"],
        f"{entry['ms']:,.0f}" if entry["ms"] >= 100 else f"{entry['ms']:.2f}",
        f"{entry['ms_min']:,.0f}" if entry["ms"] >= 100 else f"{entry['ms_min']:.2f}",
        f"{entry['ms_max']:,.0f}" if entry["ms"] >= 100 else f"{entry['ms_max']:.2f}",
        f"{entry['ms_per_map']:.3g}",
        _number(entry["faster_than"].get("cdist"), "{:.2f}"),
        _number(entry["gemm_share"], "{:.0%}"),
        _number(entry.get("survivors"), "{:.1%}"),
        _number(entry.get("memory_mb"), "{:,.0f}"),
        ", ".join(notes),
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def draw(results: Entry, path: Path) -> None:
    """Time by contender over all searches of one shape, and what pruning gains on each set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = next(name for name in SHAPES if any(case["shapes"] == name for case in results["cases"]))
    cases = [case for case in results["cases"] if case["shapes"] == shapes]
    times = _by_title(cases)
    gains = _gains(cases)
    height = max(3.0, 1.1 + 0.36 * len(times), 1.1 + 0.5 * len(gains))
    panels = 2 if gains else 1
    figure, axes = pyplot.subplots(1, panels, figsize=(3 + 4.5 * panels, height), layout="constrained", squeeze=False)
    _draw_times(axes[0][0], times, cases)
    if gains:
        _draw_gains(axes[0][1], gains)
    count = cases[0]["neighbours"]
    figure.suptitle(
        f"Pixel search of one query among {count} images, {SHAPES[shapes]}, {cases[0]['mode']}, "
        f"{results['device'] if results['device'] != 'cpu' else results['machine']}",
        fontsize=10,
    )
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _by_title(cases: Iterable[Entry]) -> list[tuple[str, bool, bool, list[float]]]:
    """Title, whether it is ours, whether it was extrapolated, and the times of all searches; the slowest first."""
    times: dict[str, list[float]] = {}
    kinds: dict[str, tuple[bool, bool]] = {}
    for case in cases:
        for entry in case["contenders"]:
            if entry["status"] == "ok":
                times.setdefault(entry["title"], []).append(entry["ms"])
                kinds[entry["title"]] = entry["title"].startswith("ours"), entry["extrapolated"]
    rows = [(title, *kinds[title], values) for title, values in times.items()]
    return sorted(rows, key=lambda row: -statistics.median(row[3]))


def _draw_times(axes: Any, rows: list[tuple[str, bool, bool, list[float]]], cases: list[Entry]) -> None:
    medians = [statistics.median(values) for *_, values in rows]
    ranges = [[m - min(v), max(v) - m] for m, (*_, v) in zip(medians, rows, strict=True)]
    colours = [OURS if ours else PEERS for _, ours, _, _ in rows]
    places = range(len(rows))
    axes.barh(places, medians, color=colours, height=0.7, zorder=2)
    axes.errorbar(
        medians, places, xerr=list(zip(*ranges, strict=True)), fmt="none", ecolor="#333333", elinewidth=1, zorder=3
    )
    farthest = [max(values) for *_, values in rows]
    for place, (median, far) in enumerate(zip(medians, farthest, strict=True)):
        text = f"{median:,.0f}" if median >= 10 else f"{median:.2g}"
        axes.annotate(text, (far, place), (5, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(places, [title + (" *" if extrapolated else "") for title, _, extrapolated, _ in rows], fontsize=8)
    axes.set(xscale="log", xlim=(min(min(v) for *_, v in rows) / 2, 8 * max(farthest)))
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}" if x >= 1 else f"{x:g}")
    axes.set_xlabel("ms per query (log scale)")
    axes.set_title(f"Median and range over {len(cases)} searches\n(* extrapolated from some maps)", fontsize=9)
    axes.invert_yaxis()
    _plain(axes)


def _gains(cases: Iterable[Entry]) -> dict[str, dict[str, tuple[float, float]]]:
    """For each set and query, how much faster than dense pruning was, and the share of level 0 that was left."""
    gains: dict[str, dict[str, tuple[float, float]]] = {}
    for case in cases:
        by_key = {entry["contender"]: entry for entry in case["contenders"] if entry["status"] == "ok"}
        dense, pruned = by_key.get("dense"), by_key.get("default")
        if dense and pruned and pruned.get("survivors") is not None:
            gains.setdefault(case["set"], {})[case["query"]] = dense["ms"] / pruned["ms"], pruned["survivors"]
    return gains


def _draw_gains(axes: Any, gains: dict[str, dict[str, tuple[float, float]]]) -> None:
    largest = max(gain for of in gains.values() for gain, _ in of.values())
    for offset, query, colour in ((-0.2, "good", GOOD), (0.2, "defective", DEFECTIVE)):
        there = [(place + offset, of[query]) for place, of in enumerate(gains.values()) if query in of]
        places = [place for place, _ in there]
        axes.barh(places, [gain for _, (gain, _) in there], 0.36, color=colour, label=f"{query} query", zorder=2)
        for place, (gain, left) in there:
            axes.annotate(
                f"{left:.1%}", (max(gain, 1), place), (4, 0), textcoords="offset points", va="center", fontsize=7
            )
    axes.axvline(1, color="#333333", linewidth=1, zorder=3)
    axes.set_yticks(range(len(gains)), list(gains), fontsize=8)
    axes.set_xlim(0, 1.18 * max(largest, 1))
    axes.set_xlabel("times as fast as ours dense (line: no gain)")
    axes.set_title("Gain of pruning where it pays (the default), float32\n(labels: fine work that is left)", fontsize=9)
    axes.set_ylim(len(gains) - 0.1, -0.6)  # from above, with room for the legend
    axes.legend(fontsize=8, loc="lower right", ncols=2, frameon=False)
    _plain(axes)


def _plain(axes: Any) -> None:
    axes.grid(axis="x", color="#dddddd", linewidth=0.7, zorder=0)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
