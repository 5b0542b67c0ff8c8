"""How fast is the pixel search, and how much of it can be pruned? `spade-index benchmark kernel`, on real features.

    python benchmarks/pixel_search.py --json benchmarks/results/pixel_search.json --picture kernel.png [OPTIONS]

1. Every contender is compared with the reference backend on small maps, and on each search with exact distances in
   float64 at sampled pixels (pixel_checks.py). One that is wrong gets no time.
2. All run in turn, in every round, on the same threads; quoted are medians. Ours search all K maps. The others search
   the first few, and their times are extrapolated in proportion (`measured_maps`, `measured_pixels`).
3. A large matrix product is timed in the same rounds. Its share is that of the decomposed form's operations, for the
   contenders that do them all: of the best product of the run (`peak_share`), and of the median one in the same rounds
   (`gemm_share`), for on a shared machine both products and searches lose time to others.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from spade_index.benchmarks import pixel_sets
from spade_index.benchmarks.environment import environment
from spade_index.benchmarks.pixel_checks import TOLERANCES, Oracle, check_small, found_at
from spade_index.benchmarks.pixel_memory import peak_memory
from spade_index.benchmarks.pixel_peers import CONTENDERS, OURS, PEERS, Contender, Search, survivors
from spade_index.benchmarks.pixel_report import draw, table
from spade_index.errors import InputError
from spade_index.features.backbone import choose_device

SAMPLE = 64  # query pixels whose exact distances are computed
GEMM = (3136, 1792, 3136)  # the concatenated product of one map
GEMM_REPEATS = {"cpu": 2, "cuda": 50}
Entry = dict[str, Any]  # a contender's row of the results


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    sets: tuple[str, ...] = pixel_sets.SETS
    shapes: tuple[str, ...] = pixel_sets.SHAPES
    tiles: Path | None = None  # the dataset of the set `tiles`
    neighbours: int = 50
    pixel_neighbours: int = 1
    mode: str = "concat-nearest"
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    repeats: int = 3
    peer_maps: int = 2  # that the contenders which are not ours are run for
    input_size: int = 224
    memory: bool = True
    device: str = "auto"

    def __post_init__(self) -> None:
        _require_known("set", self.sets, (*pixel_sets.SETS, pixel_sets.TILES))
        _require_known("contender", self.contenders, CONTENDERS)
        if pixel_sets.TILES in self.sets and self.tiles is None:
            raise InputError("the set `tiles` needs a dataset: give --tiles DATASET")


def run(settings: Settings, json_file: Path | None, picture: Path | None, say: Callable[[str], None]) -> Entry:
    """Measure all sets, print a table of each search, write JSON after each, and the picture at the end."""
    if picture is not None and find_spec("matplotlib") is None:
        raise InputError(f"{picture}: a picture needs matplotlib: pip install matplotlib")
    if picture is not None and not picture.parent.is_dir():
        raise InputError(f"{picture}: no such folder")
    device = choose_device(settings.device)
    threads = _same_threads()
    results: Entry = {
        **environment(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads,
        "features": " ".join((pixel_sets.__doc__ or "").split()),
        "settings": json.loads(json.dumps(asdict(settings), default=str)),
        "tolerances": {name: asdict(TOLERANCES[fast]) for name, fast in (("float32", False), ("fast", True))},
        "sets_left_out": {},
        "cases": [],
    }
    _write(results, json_file)  # before anything is measured, so that a path that cannot be written costs nothing
    wrong = _wrong_on_small(settings, device)
    peaks: dict[str, float] = {}
    for name in settings.sets:
        try:
            pictures = pixel_sets.make_pictures(
                name, settings.neighbours, settings.input_size, settings.tiles, str(device)
            )
        except pixel_sets.NoPicture as error:
            results["sets_left_out"][name] = str(error)
            _write(results, json_file)
            say(f"{name}: left out, {error}\n")
            continue
        for shapes in settings.shapes:
            for case in pixel_sets.make_cases(pictures, shapes, str(device)):
                # Memory depends on the shapes alone, but for what was pruned.
                memory = settings.memory and all(done["shapes"] != shapes for done in results["cases"])
                results["cases"].append(measure(case, settings, wrong, memory, peaks))
                _write(results, json_file)
                say(table(results["cases"][-1]) + "\n")
    if picture is not None and results["cases"]:
        draw(results, picture)
    return results


def measure(
    case: pixel_sets.Case, settings: Settings, wrong: dict[str, str], memory: bool, peaks: dict[str, float]
) -> Entry:
    """Verify and time all contenders on one search.

    `wrong` has those that are out already, with the reasons. `peaks` are the best products so far, which are updated:
    what else the machine does takes from each, so that only the best of many is a peak.
    """
    search = Search(case.levels, case.pool, case.sizes, case.weights, settings.pixel_neighbours, settings.mode)
    rows = torch.randperm(search.pixels, generator=torch.Generator().manual_seed(0))[:SAMPLE].to(search.device)
    entries: dict[str, Entry] = {}
    parts: dict[str, Search] = {}  # what the contenders that are right are timed on
    oracles: dict[tuple[Any, ...], Oracle] = {}
    for key in settings.contenders:
        contender = CONTENDERS[key]
        part = contender.takes(search, min(settings.peer_maps, search.maps), rows)
        entries[key] = {"contender": key, "title": contender.title, "mode": part.mode, "status": "ok"}
        if reason := _unfit(contender, part):
            entries[key] |= {"status": "skipped", "reason": reason}
        elif key in wrong:
            entries[key] |= {"status": "failed", "reason": wrong[key]}
        else:
            try:
                entries[key] |= _verified(contender, part, rows, oracles)
                parts[key] = part
            except Exception as error:  # a contender may fail in any way; the others go on
                entries[key] |= {"status": "failed", "reason": _one_line(error)}
    oracles.clear()
    times, rates = _timed(parts, settings.repeats, search.device, peaks)
    flop = 2 * search.maps * sum(level.shape[1] ** 2 * level.shape[2] for level in search.query)
    for key, part in parts.items():
        entries[key] |= _figures(CONTENDERS[key], search, part, times[key], flop, peaks, rates)
        if memory:
            entries[key]["memory_mb"] = peak_memory(CONTENDERS[key], part)
    for entry in (entries[key] for key in parts):
        entry["faster_than"] = {peer.key: entries[peer.key]["ms"] / entry["ms"] for peer in PEERS if peer.key in parts}
    return {
        **{name: getattr(case, name) for name in ("set", "query", "shapes", "sizes", "weights")},
        "channels": [level.shape[2] for level in search.query],
        "neighbours": search.maps,
        "pixel_neighbours": search.k,
        "mode": search.mode,
        "dense_gflop": flop / 1e9,
        "gemm_peak_gflops": dict(peaks),
        "gemm_gflops": {name: statistics.median(of_type) for name, of_type in rates.items()},
        "contenders": list(entries.values()),
    }


def _wrong_on_small(settings: Settings, device: torch.device) -> dict[str, str]:
    """The contenders that are not right on small maps, with the reasons."""
    wrong = {}
    for key in settings.contenders:
        contender = CONTENDERS[key]
        if contender.missing(device) is None and (contender.own_mode or settings.mode in contender.modes):
            try:
                check_small(contender, settings.pixel_neighbours, settings.mode, device)
            except Exception as error:
                wrong[key] = f"on small maps: {_one_line(error)}"
    return wrong


def _unfit(contender: Contender, part: Search) -> str | None:
    if part.mode not in contender.modes and contender.own_mode is None:
        return f"does not search {part.mode}"
    return contender.missing(part.device)


def _verified(
    contender: Contender, part: Search, rows: torch.Tensor, oracles: dict[tuple[Any, ...], Oracle]
) -> dict[str, Any]:
    """Run once, which also warms up, and compare. Raises WrongResult, or what the contender raises."""
    rows = rows if part.rows is None else part.rows
    asked = (part.mode, part.maps, len(rows))
    if asked not in oracles:
        oracles[asked] = Oracle(part, rows)
    found = contender.run(part, contender.prepare(part))
    checked: dict[str, Any] = oracles[asked].check(found_at(rows, part, found), contender.fast)
    if contender.ours and not contender.dense:
        checked["survivors"] = survivors(part, OURS[contender.key])
    return checked


def _timed(
    parts: dict[str, Search], repeats: int, device: torch.device, peaks: dict[str, float]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds, and GFLOP/s of a large product in each type, of every round; the best product goes to `peaks`."""
    times: dict[str, list[float]] = {key: [] for key in parts}
    rates: dict[str, list[float]] = {}
    for _ in range(repeats):
        for key, part in parts.items():
            given = CONTENDERS[key].prepare(part)
            times[key].append(_milliseconds(partial(CONTENDERS[key].run, part, given), device))
            del given
        for dtype in (torch.float32, torch.bfloat16) if _has_bfloat16(device) else (torch.float32,):
            name = str(dtype).removeprefix("torch.")
            rates.setdefault(name, []).append(_gemm_gflops(dtype, device))
            peaks[name] = max(peaks.get(name, 0.0), rates[name][-1])
    return times, rates


def _figures(
    contender: Contender,
    search: Search,
    part: Search,
    times: list[float],
    flop: int,
    peaks: dict[str, float],
    rates: dict[str, list[float]],
) -> dict[str, Any]:
    rows = search.pixels if part.rows is None else len(part.rows)
    whole = search.maps / part.maps * search.pixels / rows
    ms = [whole * t for t in times]
    dtype = "bfloat16" if contender.fast and "bfloat16" in peaks else "float32"
    gflops = flop / 1e6 / statistics.median(ms)
    return {
        "measured_maps": part.maps,
        "measured_pixels": rows,
        "extrapolated": whole != 1,
        "ms": statistics.median(ms),
        "ms_min": min(ms),
        "ms_max": max(ms),
        "ms_per_map": statistics.median(ms) / search.maps,
        "peak_share": gflops / peaks[dtype] if contender.dense else None,
        "gemm_share": gflops / statistics.median(rates[dtype]) if contender.dense else None,
    }


def _milliseconds(function: Callable[[], Any], device: torch.device) -> float:
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda device: None
    synchronize(device)
    started = time.perf_counter()
    function()
    synchronize(device)
    return 1e3 * (time.perf_counter() - started)


def _gemm_gflops(dtype: torch.dtype, device: torch.device) -> float:
    n, inner, m = GEMM
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((n, inner), (inner, m)))
    out = a @ b
    repeats = GEMM_REPEATS.get(device.type, 2)
    if device.type == "cpu":
        ms = min(_milliseconds(lambda: torch.mm(a, b, out=out), device) for _ in range(repeats))
    else:  # many at once, for starting one takes longer than some of them
        ms = _milliseconds(lambda: [torch.mm(a, b, out=out) for _ in range(repeats)], device) / repeats
    return 2 * n * inner * m / 1e6 / ms


def _has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; emulated, it would be slow and no peak."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for them
    return any(getattr(torch.cpu, name, lambda: False)() for name in features)


def _same_threads() -> int:
    """Give FAISS as many threads as torch has."""
    threads = torch.get_num_threads()
    if find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(threads)
    return threads


def _require_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"unknown {what} {name!r}: choose from {', '.join(known)}")


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def _write(results: Entry, file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    from spade_index.cli import main

    main(["benchmark", "kernel", *sys.argv[1:]])
