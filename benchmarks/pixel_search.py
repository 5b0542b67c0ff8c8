"""Measure the pixel search on a processor, and the share of it that is pruned: `spade-index benchmark kernel`.

    spade-index benchmark kernel --json benchmarks/results/pixel_search.json --picture kernel.png [OPTIONS]

1. Every contender is compared, on each search, with exact distances in float64 at sampled pixels (pixel_checks.py). A
   contender that is wrong is not timed.
2. All take turns in every round, with the same number of threads; the figures are medians. Ours search all K maps. The
   others search the first few, and their times are extrapolated in proportion (`measured_maps`).
3. A large float32 matrix product is timed in the same rounds. The dense search, which computes all products of the
   decomposed form, gets its share of that rate (`gemm_share`).
"""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

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
from spade_index.benchmarks.pixel_checks import TOLERANCES, Oracle
from spade_index.benchmarks.pixel_peers import CONTENDERS, PEERS, Contender, Search, survivors
from spade_index.benchmarks.pixel_report import draw, report
from spade_index.errors import InputError

SAMPLE = 64  # query pixels whose exact distances are computed
GEMM = (3136, 1792, 3136)  # the concatenated product of one map


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

    def __post_init__(self) -> None:
        require_known("set", self.sets, (*pixel_sets.SETS, pixel_sets.TILES))
        require_known("contender", self.contenders, CONTENDERS)
        if pixel_sets.TILES in self.sets and self.tiles is None:
            raise InputError("the set `tiles` needs a dataset: give --tiles DATASET")


def run(settings: Settings, json_file: Path | None, picture: Path | None, say: Callable[[str], None]) -> Figures:
    """Measure all sets, print a table of each search, write JSON after each, and the picture at the end."""
    check_outputs(json_file, picture)
    results: Figures = {
        **environment(),
        "threads": _same_threads(),
        "features": " ".join((pixel_sets.__doc__ or "").split()),
        "settings": plain(settings),
        "tolerances": TOLERANCES,
        "cases": [],
    }
    for name in settings.sets:
        of_set = pixel_sets.make_pictures(name, settings.neighbours, settings.input_size, settings.tiles)
        for shapes in settings.shapes:
            for pictures in of_set:
                search = pixel_sets.make_search(pictures, shapes, settings.pixel_neighbours, settings.mode)
                labels = {"set": name, "query": pictures.query, "shapes": shapes}
                results["cases"].append(labels | measure(search, settings))
                write_json(json_file, results)
                say(report(results["cases"][-1]) + "\n")
    if picture is not None:
        draw(results, picture)
    return results


def measure(search: Search, settings: Settings) -> Figures:
    """Verify and time all contenders on one search."""
    rows = torch.randperm(search.pixels, generator=torch.Generator().manual_seed(0))[:SAMPLE]
    parts = {key: CONTENDERS[key].takes(search, settings.peer_maps) for key in settings.contenders}
    entries = _verified(parts, rows)
    right = {key: part for key, part in parts.items() if entries[key]["status"] == "ok"}
    timers = {key: partial(_search_ms, CONTENDERS[key], part) for key, part in right.items()}
    timers["product"] = partial(_product_gflops)
    times = take_turns(timers, settings.repeats)
    rate = statistics.median(times["product"])
    gflop = 2e-9 * search.maps * sum(level.shape[1] ** 2 * level.shape[2] for level in search.query)
    for key, part in right.items():
        whole = search.maps / part.maps
        ms = spread([whole * time for time in times[key]], "ms")
        share = 1e3 * gflop / ms["ms"] / rate if CONTENDERS[key].dense else None
        entries[key] |= {"measured_maps": part.maps, "extrapolated": whole != 1, **ms, "gemm_share": share}
    for key in right:
        entries[key]["faster_than"] = {
            peer.key: entries[peer.key]["ms"] / entries[key]["ms"] for peer in PEERS if peer.key in right
        }
    return {
        "sizes": search.sizes,
        "weights": search.weights,
        "channels": [level.shape[2] for level in search.query],
        "neighbours": search.maps,
        "pixel_neighbours": search.k,
        "mode": search.mode,
        "dense_gflop": gflop,
        "gemm_gflops": {"float32": rate},
        "contenders": list(entries.values()),
    }


def _verified(parts: dict[str, Search], rows: torch.Tensor) -> dict[str, Figures]:
    """Run every contender once, which also warms it up, and compare. Returns its row of the results."""
    entries: dict[str, Figures] = {}

    @cache
    def oracle(mode: str, maps: int) -> Oracle:
        return Oracle(next(part for part in parts.values() if (part.mode, part.maps) == (mode, maps)), rows)

    def verify(contender: Contender, part: Search) -> None:
        distances, matches = contender.run(part, contender.prepare(part))
        found = distances[rows], matches[rows]
        entries[contender.key] |= oracle(part.mode, part.maps).check(found, contender.fast)
        if contender.options is not None and not contender.dense:
            entries[contender.key]["survivors"] = survivors(part, contender.options)

    for key, part in parts.items():
        contender = CONTENDERS[key]
        entries[key] = {"contender": key, "title": contender.title, "mode": part.mode, "status": "ok"}
        if reason := contender.unfit(part):
            entries[key] |= {"status": "skipped", "reason": reason}
        elif reason := attempt(partial(verify, contender, part)):
            entries[key] |= {"status": "failed", "reason": reason}
    return entries


def _search_ms(contender: Contender, part: Search) -> float:
    given = contender.prepare(part)
    return 1e3 * timed(partial(contender.run, part, given))[1]


def _product_gflops() -> float:
    """Return the rate of a large matrix product."""
    n, inner, m = GEMM
    a, b = torch.randn(n, inner), torch.randn(inner, m)
    out = a @ b  # also warms up
    return 2e-9 * n * inner * m / timed(partial(torch.mm, a, b, out=out))[1]


def _same_threads() -> int:
    """Give FAISS as many threads as torch has; return their number."""
    threads = torch.get_num_threads()
    if find_spec("faiss"):
        import faiss

        faiss.omp_set_num_threads(threads)
    return threads
