"""Print the results of the GPU benchmark: short enough for the end of a log."""

from collections.abc import Iterator

from spade_index.benchmarks.gpu.runner import Row

CONCATENATED = ("concatenated", "argmin", "cdist", "faiss")
TARGET_MS = 0.7  # of a query, at K = 50 and a batch of 1
SHOWN = 8  # wrong or failed rows of a section
UNITS = {
    "ms": "ms", "search_ms": "ms search", "tflops": "TFLOP/s", "gb_per_s": "GB/s", "fetch_ms": "ms fetch",
    "missed": "read",
}  # fmt: skip


def table(results: Row) -> str:
    """Return all sections, and whether the targets are met."""
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
        elif name != "compile":
            lines += _plain(rows)
        bad = [row for row in rows if row["status"] in ("wrong", "failed")]
        lines += [f"  {row['status'].upper()} {row['name']}: {row.get('reason', '')[:240]}" for row in bad[:SHOWN]]
    lines += ["", "== targets", *targets(sections)]
    return "\n".join(lines)


def targets(sections: dict[str, list[Row]]) -> Iterator[str]:
    """Yield each target and what was reached."""
    found = {(row["contender"], row["neighbours"], row["batch"]): row for row in _ok(sections, "benchmark")}
    at = next(((k, b) for c, k, b in found if c == "triton"), None)
    if at is None:
        yield "  our Triton kernel was not timed"
        return
    ours, peak = found["triton", *at], peak_tflops(sections)
    for how, ms, tflops in (("as called", "ms", "tflops"), ("by CUDA graph", "graph_ms", "graph_tflops")):
        if ms not in ours:
            yield f"  {how}: not measured ({ours.get('graph', '')})"
            continue
        peers = {c: float(row.get(ms) or row["ms"]) for (c, *cell), row in found.items() if tuple(cell) == at}
        parts = [f"{ours[ms]:.3f} ms (at most {TARGET_MS})"]
        parts.append(f"{ours[tflops] / peak:.0%} of the matmul peak (55%)" if peak else "no matmul peak")
        unfused = [peers[c] for c in ("unfused", "compiled") if c in peers]
        parts += [f"{min(unfused) / ours[ms]:.1f}x the best unfused torch (4x)"] if unfused else []
        slow = {c: peers[c] for c in CONCATENATED if c in peers}
        parts += [f"{min(slow.values()) / ours[ms]:.1f}x {min(slow, key=lambda c: slow[c])} (8x)"] if slow else []
        parts += [f"CuPy takes {peers['cupy'] / ours[ms]:.2f}x as long (2x)"] if "cupy" in peers else []
        yield f"  K = {at[0]}, batch {at[1]}, {how}: " + "; ".join(parts)


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
        parts += [f"{s['step']}[{s['level']}] {s['ms']:.3f}" for s in row.get("steps", [])]
        if "launches" in row:
            parts.append(f"{row['launches']:.0f} launches")
            parts += [f"\n      {ms:.4f} {name[:80]}" for name, ms in list(row["kernels"].items())[:9]]
        if "clocks.sm" in row:
            parts.append(f"{row['clocks.sm']} of {row['clocks.max.sm']}, {row['power.draw']}")
        yield f"  {row['name']:44}{', '.join(parts)}".replace(", \n", "\n")
    tiles = [row for row in rows if row["status"] == "ok" and "tiles" in row]
    for kind in dict.fromkeys(" ".join(row["name"].split()[:2]) for row in tiles):
        best = min((row for row in tiles if row["name"].startswith(kind)), key=lambda row: row["ms"])
        yield f"  best: {best['name']}"
