"""Measure the pixel search on a processor, and the share of it that is pruned: `spade-index benchmark kernel`.

    spade-index benchmark kernel --json benchmarks/results/pixel_search.json --picture kernel.png [OPTIONS]

1. Every contender is compared, on each search, with exact distances in float64 at sampled pixels (pixel_checks.py). A
   contender that is wrong is not timed.
2. All take turns in every round, with the same number of threads; the figures are medians. Ours search all K maps. The
   others search the first few, and their times are extrapolated in proportion (`measured_maps`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from spade_index.benchmarks import pixel_sets
from spade_index.benchmarks.harness import (
    Figures,
    check_outputs,
    environment,
    one_line,
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
        "threads": torch.get_num_threads(),
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
    for key, times in take_turns(timers, settings.repeats).items():
        whole = search.maps / right[key].maps
        entries[key] |= {"measured_maps": right[key].maps, "extrapolated": whole != 1}
        entries[key] |= spread([whole * time for time in times], "ms")
    for key in right:
        peers = [peer.key for peer in PEERS if peer.key in right]
        entries[key]["faster_than"] = {peer: entries[peer]["ms"] / entries[key]["ms"] for peer in peers}
    return {
        "sizes": search.sizes,
        "weights": search.weights,
        "channels": [level.shape[2] for level in search.query],
        "neighbours": search.maps,
        "pixel_neighbours": search.k,
        "mode": search.mode,
        "dense_gflop": 2e-9 * search.maps * sum(level.shape[1] ** 2 * level.shape[2] for level in search.query),
        "contenders": list(entries.values()),
    }


def _verified(parts: dict[str, Search], rows: Tensor) -> dict[str, Figures]:
    """Run every contender once, which also warms it up, and compare. Returns its row of the results."""
    entries: dict[str, Figures] = {}
    oracles: dict[tuple[str, int], Oracle] = {}
    for key, part in parts.items():
        contender, asked = CONTENDERS[key], (part.mode, part.maps)
        entry = entries[key] = {"contender": key, "title": contender.title, "mode": part.mode, "status": "ok"}
        if reason := contender.unfit(part):
            entry |= {"status": "skipped", "reason": reason}
            continue
        oracles[asked] = oracles.get(asked) or Oracle(part, rows)
        try:
            distances, matches = contender.run(part, contender.prepare(part))
            entry |= oracles[asked].check((distances[rows], matches[rows]), contender.fast)
            if contender.prunes and contender.options is not None:
                entry["survivors"] = survivors(part, contender.options)
        except Exception as error:  # for example, out of memory; the others continue
            entry |= {"status": "failed", "reason": one_line(error)}
    return entries


def _search_ms(contender: Contender, part: Search) -> float:
    given = contender.prepare(part)
    return 1e3 * timed(partial(contender.run, part, given))[1]
