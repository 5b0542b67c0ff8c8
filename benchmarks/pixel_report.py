"""The figures of the kernel benchmark as a table and as a picture."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spade_index.benchmarks.harness import LINE, OURS, PEER, Figures, number, picture, table, tidy

COLUMNS = ("", "ms/query", "min", "max", "x cdist", "of GEMM", "survivors", "")


def report(case: Figures) -> str:
    """Return the contenders of one search as a table."""
    channels = ", ".join(f"{c}x{h}x{w}" for c, (h, w) in zip(case["channels"], case["sizes"], strict=True))
    rows = [_row(entry, case) for entry in case["contenders"] if entry["status"] == "ok"]
    return "\n".join(
        [
            f"{case['set']}, {case['query']} query: {channels}; {case['neighbours']} maps, "
            f"{case['pixel_neighbours']} nearest, {case['mode']}; GEMM {case['gemm_gflops']['float32']:,.0f} GFLOP/s",
            *table([COLUMNS, *rows], left=(0, len(COLUMNS) - 1)),
            *(f"{e['title']}  {e['status']}: {e['reason']}" for e in case["contenders"] if e["status"] != "ok"),
        ]
    )


def _row(entry: Figures, case: Figures) -> list[str]:
    notes = []
    if entry["extrapolated"]:
        notes.append(f"from {entry['measured_maps']} maps")
    if entry["mode"] != case["mode"]:
        notes.append(entry["mode"])
    if entry["exact_matches"] < 1:
        notes.append(f"{entry['exact_matches']:.1%} of matches exact")
    form = "{:,.0f}" if entry["ms"] >= 100 else "{:.2f}"
    return [
        entry["title"],
        *(form.format(entry[name]) for name in ("ms", "ms_min", "ms_max")),
        number(entry["faster_than"].get("cdist"), "{:.2f}"),
        number(entry["gemm_share"], "{:.0%}"),
        number(entry.get("survivors"), "{:.1%}"),
        ", ".join(notes),
    ]


def draw(results: Figures, path: Path) -> None:
    """Draw the time of each contender over all searches of the first shapes, and the gain of pruning in each."""
    shapes = results["cases"][0]["shapes"]
    cases = [case for case in results["cases"] if case["shapes"] == shapes]
    title = f"Pixel search of one query among {cases[0]['neighbours']} images ({shapes}), {results['machine']}"
    with picture(path, title, (12, 4.5), columns=2) as (times, gains):
        _draw_times(times, cases)
        _draw_gains(gains, cases)


def _draw_times(axes: Any, cases: Sequence[Figures]) -> None:
    times: dict[str, list[float]] = {}
    for entry in (entry for case in cases for entry in case["contenders"] if entry["status"] == "ok"):
        times.setdefault(entry["title"] + " *" * entry["extrapolated"], []).append(entry["ms"])
    times = dict(sorted(times.items(), key=lambda row: -statistics.median(row[1])))
    medians = [statistics.median(ms) for ms in times.values()]
    ranges = [(middle - min(ms), max(ms) - middle) for middle, ms in zip(medians, times.values(), strict=True)]
    errors = {"xerr": list(zip(*ranges, strict=True)), "error_kw": {"ecolor": LINE, "elinewidth": 1}}
    colours = [OURS if title.startswith("ours") else PEER for title in times]
    axes.set(xscale="log", xlabel="ms per query (log scale)")
    _draw_bars(
        axes,
        list(times),
        medians,
        [f"{ms:,.0f}" if ms >= 10 else f"{ms:.2g}" for ms in medians],
        color=colours,
        **errors,
    )
    axes.set_title(f"Median and range over {len(cases)} searches\n(* extrapolated from some maps)", fontsize=9)


def _draw_gains(axes: Any, cases: Sequence[Figures]) -> None:
    names, gains, left = [], [], []
    for case in cases:
        ours = {entry["contender"]: entry for entry in case["contenders"] if "ms" in entry}
        if {"dense", "default"} <= set(ours):
            names.append(f"{case['set']}, {case['query']}")
            gains.append(ours["dense"]["ms"] / ours["default"]["ms"])
            left.append(number(ours["default"]["survivors"], "{:.1%}"))
    _draw_bars(axes, names, gains, left, color=OURS)
    axes.axvline(1, color=LINE, linewidth=1, zorder=3)
    axes.set_xlabel("times as fast as ours dense (line: no gain)")
    axes.set_title("Gain of pruning where it pays (the default), float32\n(labels: fine work that is left)", fontsize=9)


def _draw_bars(axes: Any, names: list[str], values: list[float], labels: list[str], **options: Any) -> None:
    """Draw horizontal bars from above, each with its name and its label."""
    bars = axes.barh(names, values, height=0.7, zorder=2, **options)
    axes.bar_label(bars, labels, padding=5, fontsize=8)
    axes.tick_params(axis="y", labelsize=8)
    axes.margins(x=0.12)
    axes.invert_yaxis()
    tidy(axes, "x")
