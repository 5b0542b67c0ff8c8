"""Measure the pixel search, and the share of it that is pruned: `spade-index benchmark kernel`, on real features.

    spade-index benchmark kernel --json benchmarks/results/pixel_search.json --picture kernel.png [OPTIONS]

1. Every contender is compared with the reference backend on small maps, and on each search with exact distances in
   float64 at sampled pixels (pixel_checks.py). A contender that is wrong is not timed.
2. All take turns in every round, with the same number of threads; the figures are medians. Ours search all K maps. The
   others search the first few, and their times are extrapolated in proportion (`measured_maps`, `measured_pixels`).
3. A large matrix product is timed in the same rounds. Contenders that compute all products of the decomposed form get
   their share of its rate: of the best product of the run (`peak_share`), and of the median one in the same rounds
   (`gemm_share`), since on a shared machine other processes slow both products and searches.
4. Peak memory of one search above its maps is measured in a process of its own (pixel_memory.py).
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from spade_index.benchmarks import pixel_sets
from spade_index.benchmarks.harness import (
    Figures,
    attempt,
    check_outputs,
    environment,
    plain,
    require_known,
    spread,
    take_turns,
    timed,
    write_json,
)
from spade_index.benchmarks.pixel_checks import TOLERANCES, Oracle, check_small, found_at
from spade_index.benchmarks.pixel_memory import peak_memory
from spade_index.benchmarks.pixel_peers import CONTENDERS, OURS, PEERS, Contender, Search, survivors
from spade_index.benchmarks.pixel_report import draw, report
from spade_index.errors import InputError
from spade_index.features.backbone import choose_device

SAMPLE = 64  # query pixels whose exact distances are computed
GEMM = (3136, 1792, 3136)  # the concatenated product of one map
GEMM_REPEATS = {"cpu": 2, "cuda": 50}


@dataclass(frozen=True)
class Settings:
    """The searches and contenders to measure. Raises InputError for unknown names."""

    sets: tuple[str, ...] = pixel_sets.SETS
    shapes: tuple[str, ...] = pixel_sets.SHAPES
    tiles: Path | None = None  # the dataset of the set `tiles`
    neighbours: int = 50
    pixel_neighbours: int = 1
    mode: str = "concat-nearest"
    contenders: tuple[str, ...] = tuple(CONTENDERS)
    repeats: int = 3
    peer_maps: int = 2  # that contenders other than ours run for
    input_size: int = 224
    memory: bool = True
    device: str = "auto"

    def __post_init__(self) -> None:
        require_known("set", self.sets, (*pixel_sets.SETS, pixel_sets.TILES))
        require_known("contender", self.contenders, CONTENDERS)
        if pixel_sets.TILES in self.sets and self.tiles is None:
            raise InputError("the set `tiles` needs a dataset: give --tiles DATASET")


def run(settings: Settings, json_file: Path | None, picture: Path | None, say: Callable[[str], None]) -> Figures:
    """Measure all sets, print a table of each search, write JSON after each, and the picture at the end."""
    check_outputs(json_file, picture)
    device = choose_device(settings.device)
    results: Figures = {
        **environment(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": _same_threads(),
        "features": " ".join((pixel_sets.__doc__ or "").split()),
        "settings": plain(settings),
        "tolerances": {name: asdict(TOLERANCES[fast]) for name, fast in (("float32", False), ("fast", True))},
        "sets_left_out": {},
        "cases": [],
    }
    write_json(json_file, results)
    wrong = wrong_on_small(settings, device)
    peaks: dict[str, float] = {}
    for name in settings.sets:
        try:
            pictures = pixel_sets.make_pictures(
                name, settings.neighbours, settings.input_size, settings.tiles, str(device)
            )
        except pixel_sets.NoPicture as error:
            results["sets_left_out"][name] = str(error)
            write_json(json_file, results)
            say(f"{name}: left out, {error}\n")
            continue
        for shapes in settings.shapes:
            for case in pixel_sets.make_cases(pictures, shapes, str(device)):
                # Memory depends on the shapes only, except for what is pruned.
                memory = settings.memory and all(done["shapes"] != shapes for done in results["cases"])
                results["cases"].append(measure(case, settings, wrong, memory, peaks))
                write_json(json_file, results)
                say(report(results["cases"][-1]) + "\n")
    if picture is not None and results["cases"]:
        draw(results, picture)
    return results


def measure(
    case: pixel_sets.Case, settings: Settings, wrong: dict[str, str], memory: bool, peaks: dict[str, float]
) -> Figures:
    """Verify and time all contenders on one search.

    `wrong` has the contenders that failed already, with the reasons. `peaks` are the best rates of the product so far,
    in GFLOP/s, and are updated: other processes slow each product, so only the best of many is a peak.
    """
    search = Search(case.levels, case.pool, case.sizes, case.weights, settings.pixel_neighbours, settings.mode)
    rows = torch.randperm(search.pixels, generator=torch.Generator().manual_seed(0))[:SAMPLE].to(search.device)
    parts = {
        key: CONTENDERS[key].takes(search, min(settings.peer_maps, search.maps), rows) for key in settings.contenders
    }
    entries = _verified(parts, rows, wrong)
    right = {key: part for key, part in parts.items() if entries[key]["status"] == "ok"}
    timers = {key: partial(_search_ms, CONTENDERS[key], part) for key, part in right.items()}
    products = {str(dtype).removeprefix("torch."): dtype for dtype in _product_types(search.device)}
    timers |= {name: partial(_product_gflops, dtype, search.device) for name, dtype in products.items()}
    times = take_turns(timers, settings.repeats)
    rates = {name: statistics.median(times[name]) for name in products}
    peaks |= {name: max(peaks.get(name, 0.0), *times[name]) for name in products}
    flop = 2 * search.maps * sum(level.shape[1] ** 2 * level.shape[2] for level in search.query)
    for key, part in right.items():
        entries[key] |= _speeds(CONTENDERS[key], search, part, times[key], flop, peaks, rates)
        if memory:
            entries[key]["memory_mb"] = peak_memory(CONTENDERS[key], part)
    for key in right:
        entries[key]["faster_than"] = {
            peer.key: entries[peer.key]["ms"] / entries[key]["ms"] for peer in PEERS if peer.key in right
        }
    return {
        **{name: getattr(case, name) for name in ("set", "query", "shapes", "sizes", "weights")},
        "channels": [level.shape[2] for level in search.query],
        "neighbours": search.maps,
        "pixel_neighbours": search.k,
        "mode": search.mode,
        "dense_gflop": flop / 1e9,
        "gemm_peak_gflops": dict(peaks),
        "gemm_gflops": rates,
        "contenders": list(entries.values()),
    }


def wrong_on_small(settings: Settings, device: torch.device) -> dict[str, str]:
    """Return the contenders that are wrong on small maps, with the reasons."""
    wrong = {}
    for key in settings.contenders:
        contender = CONTENDERS[key]
        if contender.missing(device) is None and (contender.own_mode or settings.mode in contender.modes):
            reason = attempt(partial(check_small, contender, settings.pixel_neighbours, settings.mode, device))
            if reason is not None:
                wrong[key] = f"on small maps: {reason}"
    return wrong


def unfit(contender: Contender, part: Search) -> str | None:
    """Return why a contender cannot do a search."""
    if part.mode not in contender.modes and contender.own_mode is None:
        return f"does not search {part.mode}"
    return contender.missing(part.device)


def _verified(parts: dict[str, Search], rows: torch.Tensor, wrong: dict[str, str]) -> dict[str, Figures]:
    """Run every contender once, which also warms it up, and compare. Returns its row of the results."""
    entries: dict[str, Figures] = {}
    oracles: dict[tuple[Any, ...], Oracle] = {}

    def verify(contender: Contender, part: Search) -> None:
        wanted = rows if part.rows is None else part.rows
        asked = (part.mode, part.maps, len(wanted))
        if asked not in oracles:
            oracles[asked] = Oracle(part, wanted)
        found = contender.run(part, contender.prepare(part))
        entries[contender.key] |= oracles[asked].check(found_at(wanted, part, found), contender.fast)
        if contender.ours and not contender.dense:
            entries[contender.key]["survivors"] = survivors(part, OURS[contender.key])

    for key, part in parts.items():
        contender = CONTENDERS[key]
        entries[key] = {"contender": key, "title": contender.title, "mode": part.mode, "status": "ok"}
        if reason := unfit(contender, part):
            entries[key] |= {"status": "skipped", "reason": reason}
        elif reason := wrong.get(key) or attempt(partial(verify, contender, part)):
            entries[key] |= {"status": "failed", "reason": reason}
    return entries


def _speeds(
    contender: Contender,
    search: Search,
    part: Search,
    times: list[float],
    flop: int,
    peaks: dict[str, float],
    rates: dict[str, float],
) -> Figures:
    """Return times in ms, extrapolated to the whole search, and shares of the products' rates."""
    rows = search.pixels if part.rows is None else len(part.rows)
    whole = search.maps / part.maps * search.pixels / rows
    ms = spread([whole * time for time in times], "ms")
    dtype = "bfloat16" if contender.fast and "bfloat16" in peaks else "float32"
    gflops = flop / 1e6 / ms["ms"]
    return {
        "measured_maps": part.maps,
        "measured_pixels": rows,
        "extrapolated": whole != 1,
        **ms,
        "ms_per_map": ms["ms"] / search.maps,
        "peak_share": gflops / peaks[dtype] if contender.dense else None,
        "gemm_share": gflops / rates[dtype] if contender.dense else None,
    }


def _search_ms(contender: Contender, part: Search) -> float:
    given = contender.prepare(part)
    return 1e3 * timed(partial(contender.run, part, given), _synchronize(part.device))[1]


def _product_gflops(dtype: torch.dtype, device: torch.device) -> float:
    """Return the rate of a large matrix product."""
    n, inner, m = GEMM
    a, b = (torch.randn(shape, device=device).to(dtype) for shape in ((n, inner), (inner, m)))
    out = a @ b
    repeats, wait = GEMM_REPEATS.get(device.type, 2), _synchronize(device)
    if device.type == "cpu":
        seconds = min(timed(lambda: torch.mm(a, b, out=out), wait)[1] for _ in range(repeats))
    else:  # many at once: starting one takes longer than some of them
        seconds = timed(lambda: [torch.mm(a, b, out=out) for _ in range(repeats)], wait)[1] / repeats
    return 2 * n * inner * m / 1e9 / seconds


def _synchronize(device: torch.device) -> Callable[[], object]:
    return partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None


def _product_types(device: torch.device) -> list[torch.dtype]:
    """Return float32, and bfloat16 if the device multiplies it; emulated, it would be slow and no peak."""
    if device.type == "cuda":
        multiplies = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        features = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # torch has no public name for them
        multiplies = any(getattr(torch.cpu, name, lambda: False)() for name in features)
    return [torch.float32, torch.bfloat16] if multiplies else [torch.float32]


def _same_threads() -> int:
    """Give FAISS as many threads as torch has; return their number."""
    threads = torch.get_num_threads()
    if find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(threads)
    return threads
