"""Print the results of the GPU benchmark: short enough for the end of a log."""

from collections.abc import Iterator

from spade_index.benchmarks.gpu.runner import Row

SHOWN = 8  # wrong or failed rows of a section
UNITS = {"ms": "ms", "tflops": "TFLOP/s"}


def table(results: Row) -> str:
    """Return all sections."""
    sections: dict[str, list[Row]] = results.get("sections", {})
    gpu, versions = results.get("gpu") or {}, results.get("versions", {})
    lines = [
        f"{gpu.get('name', results.get('machine'))}, driver {gpu.get('driver_version')}",
        f"commit {results.get('commit')}",
        ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        f"{results.get('seconds', 0):.0f} s",
    ]
    peak = peak_tflops(sections)
    for name, rows in sections.items():
        lines += ["", f"== {name}: {_counts(rows)}"]
        if name == "checks":
            lines += _checks(rows)
        elif name == "benchmark":
            lines += _benchmark(rows, peak)
        elif name == "ceilings":
            lines += _plain(rows)
        bad = [row for row in rows if row["status"] in ("wrong", "failed")]
        lines += [f"  {row['status'].upper()} {row['name']}: {row.get('reason', '')[:240]}" for row in bad[:SHOWN]]
    return "\n".join(lines)


def peak_tflops(sections: dict[str, list[Row]]) -> float:
    """Return the rate of the run's best product in float16."""
    rows = [row for row in _ok(sections, "ceilings") if row.get("dtype") == "float16"]
    return max((row["tflops"] for row in rows), default=0.0)


def _ok(sections: dict[str, list[Row]], name: str) -> list[Row]:
    return [row for row in sections.get(name, []) if row["status"] == "ok"]


def _counts(rows: list[Row]) -> str:
    statuses = [row["status"] for row in rows]
    return ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))


def _checks(rows: list[Row]) -> Iterator[str]:
    for name in dict.fromkeys(row["name"].split(":")[0] for row in rows):
        mine = [row for row in rows if row["name"].startswith(f"{name}:")]
        searches = sum(row.get("searches", 0) for row in mine)
        why = next((f" ({row['reason']})" for row in mine if row["status"] == "missing"), "")
        yield f"  {name:12}{_counts(mine)}; {searches} random searches{why}"
    if left_out := [row["name"] for row in rows if row["status"] == "left out"]:
        yield f"  left out: {', '.join(left_out)}"[:300]


def _benchmark(rows: list[Row], peak: float) -> Iterator[str]:
    timed = [row for row in rows if "neighbours" in row]
    best = {row["name"]: min(row["ms"], row.get("graph_ms", row["ms"])) for row in timed}
    for cell in dict.fromkeys((row["neighbours"], row["batch"]) for row in timed):
        here = [row for row in timed if (row["neighbours"], row["batch"]) == cell]
        ours = next((best[row["name"]] for row in here if row["contender"] == "triton"), float("nan"))
        yield f"  K = {cell[0]}, batch {cell[1]}: ms a query as called, by graph; TFLOP/s, share of matmul; times ours"
        for row in sorted(here, key=lambda row: row["ms"]):
            tflops = max(row["tflops"], row.get("graph_tflops", 0))
            share = f"{tflops / peak:6.1%}" if peak else ""
            graph = f"{row['graph_ms']:9.3f}" if "graph_ms" in row else "        -"
            ratio = best[row["name"]] / ours
            yield f"    {row['contender']:13}{row['ms']:9.3f}{graph}{tflops:8.1f}{share:>8}{ratio:8.2f}x"
    absent = {row["name"].split(",")[0]: row["reason"] for row in rows if row["status"] == "missing"}
    yield from (f"  without {name}: {reason[:100]}" for name, reason in absent.items())
    uncaptured = {row["contender"]: row["graph"] for row in timed if row.get("graph", "ok") != "ok"}
    yield from (f"  no graph of {name}: {why[:100]}" for name, why in uncaptured.items())


def _plain(rows: list[Row]) -> Iterator[str]:
    for row in rows:
        if row["status"] == "missing":
            yield f"  {row['name']}: {row['reason'][:120]}"
        if row["status"] != "ok":
            continue
        parts = [f"{row[key]:.4g} {unit}" for key, unit in UNITS.items() if key in row]
        yield f"  {row['name']:44}{', '.join(parts)}"
