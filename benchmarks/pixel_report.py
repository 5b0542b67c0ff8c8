"""The figures of the kernel benchmark as a table and as a picture."""

import statistics
from pathlib import Path

from spade_index.benchmarks.harness import LINE, OURS, PEER, Figures, number, picture, table, tidy

COLUMNS = ("", "ms/query", "min", "max", "x cdist", "survivors", "")


def report(case: Figures) -> str:
    """Return the contenders of one search as a table."""
    channels = ", ".join(f"{c}x{h}x{w}" for c, (h, w) in zip(case["channels"], case["sizes"], strict=True))
    rows = [_row(entry, case) for entry in case["contenders"] if entry["status"] == "ok"]
    return "\n".join(
        [
            f"{case['set']}, {case['query']} query: {channels}; {case['neighbours']} maps, "
            f"{case['pixel_neighbours']} nearest, {case['mode']}",
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
        number(entry.get("survivors"), "{:.1%}"),
        ", ".join(notes),
    ]


def draw(results: Figures, path: Path) -> None:
    """Draw the time of each contender, the median and the range over all searches of the first shapes."""
    shapes = results["cases"][0]["shapes"]
    cases = [case for case in results["cases"] if case["shapes"] == shapes]
    times: dict[str, list[float]] = {}
    for entry in (entry for case in cases for entry in case["contenders"] if entry["status"] == "ok"):
        times.setdefault(entry["title"] + " *" * entry["extrapolated"], []).append(entry["ms"])
    times = dict(sorted(times.items(), key=lambda row: -statistics.median(row[1])))
    medians = [statistics.median(ms) for ms in times.values()]
    ranges = [(middle - min(ms), max(ms) - middle) for middle, ms in zip(medians, times.values(), strict=True)]
    title = f"Pixel search of one query among {cases[0]['neighbours']} images ({shapes})\n{results['machine']}"
    with picture(path, title, (8, 1.5 + 0.3 * len(times))) as axes:
        colours = [OURS if name.startswith("ours") else PEER for name in times]
        errors = {"xerr": list(zip(*ranges, strict=True)), "error_kw": {"ecolor": LINE, "elinewidth": 1}}
        bars = axes.barh(list(times), medians, height=0.7, color=colours, zorder=2, **errors)
        axes.bar_label(bars, [f"{ms:,.0f}" if ms >= 10 else f"{ms:.2g}" for ms in medians], padding=5, fontsize=8)
        axes.set(
            xscale="log", xlabel=f"ms, median and range over {len(cases)} searches (* extrapolated from some maps)"
        )
        axes.margins(x=0.12)
        axes.invert_yaxis()
        tidy(axes, "x")
