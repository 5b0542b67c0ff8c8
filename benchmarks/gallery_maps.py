"""What does a gallery of up to a million images with their maps take, in codes `pq` of some levels?

1. The first photographs are added, and stored by tables that are trained on them (`compact --maps pq --levels`). Others
   are added through the backbone, then crops, turns and shifts of them, up to --real images. Beyond that, images are
   drawn around them, as descriptors and codes (growth_data.py). Photographs that are queries are never in the gallery.
2. At each size, of which a copy is kept, the index is built as `spade-index index --queries` does, and queries are
   measured, warm and cold, each in a process of its own; sizes take turns (maps_measure.py). At the largest, every byte
   is verified, some images are removed, and a compaction is killed at several moments and carried on.
3. Figures are kept in WORK after each step, and the same command carries on after an interruption, or after --minutes.

python benchmarks/gallery_maps.py cifar10.tar WORK --json benchmarks/results/gallery_maps.json
"""

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import click
import psutil

from spade_index.benchmarks import maps_measure
from spade_index.benchmarks.gallery_growth import disk
from spade_index.benchmarks.growth_data import shuffled
from spade_index.benchmarks.harness import Figures, environment, medians, plain, table, write_json
from spade_index.benchmarks.processes import in_own_process

T = TypeVar("T")

INGESTED = 3_000  # photographs that are added to a copy, to time it
MOVING = 1.0  # seconds of moving images, before the last kill
REAL_STEP, DRAWN_STEP = 10_000, 200_000  # images that are added between two notes of figures
COLUMNS = ("images", "real", "GB", "kB each", "whole ms", "backbone", "image", "pixel", "cold ms", "reading", "MB read")


class OutOfTime(Exception):
    """The minutes are over; the same command carries on."""


@dataclass(frozen=True)
class Settings:
    """What is built and measured."""

    photographs: Path
    work: Path
    sizes: tuple[int, ...]
    real: int  # images that go through the backbone
    queries: int  # photographs that test; half as many tune the index
    input_size: int
    levels: tuple[int, ...]
    removed: int  # images before the compaction that is killed
    kills: tuple[float, ...]  # seconds after which it is
    turns: int  # of measuring queries

    @property
    def held(self) -> int:
        """The photographs that are no images of the gallery."""
        return self.queries * 3 // 2

    @property
    def gallery(self) -> Path:
        """Where it grows."""
        return self.work / "gallery"

    def at(self, images: int) -> Path:
        """The gallery as it was at a size: a copy, but for the largest."""
        return self.gallery if images == max(self.sizes) else self.work / f"gallery-{images}"


class Steps:
    """The figures of all steps so far, in a file."""

    def __init__(self, file: Path, minutes: float | None) -> None:
        self._file, self._until = file, None if minutes is None else time.monotonic() + 60 * minutes
        self.figures: Figures = json.loads(file.read_text()) if file.exists() else {}

    def do(self, name: str, function: Callable[..., Figures], *arguments: object) -> Figures:
        """Return the figures of a step, which is done unless it was. Raises OutOfTime where it should not begin."""
        if name not in self.figures:
            if self._until is not None and time.monotonic() > self._until:
                raise OutOfTime
            click.echo(name)
            commit = environment()["commit"]
            self.figures[name] = {**in_own_process(function, *arguments), "commit": commit}
            write_json(self._file, self.figures)
        figures: Figures = self.figures[name]
        return figures


def run(of: Settings, steps: Steps) -> Figures:
    """Do all steps that were not done, and return the figures."""
    size, queries = of.input_size, of.work / "queries.npz"
    do, measure = steps.do, maps_measure
    do("queries", measure.write_queries, queries, of.photographs, size, of.held)
    first, *larger = sorted(of.sizes)
    begun = do("begin", measure.begin, of.gallery, of.photographs, size, of.held, of.levels, first)
    for before, upto in pairwise([first, *larger]):
        do(f"keep {before}", measure.keep, of.gallery, of.at(before))
        for to in stops(upto, of.real):
            if to <= of.real:
                do(f"add to {to}", measure.add, of.gallery, of.photographs, size, of.held, of.work, to)
            else:
                do(f"draw to {to}", measure.draw, of.gallery, of.work, to)
    of_copy = of.photographs, size, of.held, of.work, min(INGESTED, of.real - first)
    ingested = do("ingest", measure.ingest, of.at(first), *of_copy)
    entries = measured(of, steps)
    crash: Figures = {"verified": do("verify", measure.verify, of.gallery)}
    if of.removed:
        crash["removed"] = do("remove", measure.remove, of.gallery, of.removed)
        crash["kills"] = [do(f"kill after {s:g} s", measure.killed, of.gallery, s) for s in of.kills]
        crash["kills"].append(do("kill while moving", measure.killed, of.gallery, MOVING, True))
        crash["carried_on"] = do("compact", measure.compact, of.gallery)
        crash["verified_again"] = do("verify again", measure.verify, of.gallery)
    rates = {kind: rate([one for name, one in steps.figures.items() if name.startswith(kind)]) for kind in RATES}
    return {"begin": begun, "ingest": ingested, "rates": rates, "sizes": entries, "crash": crash}


RATES = ("add to", "draw to")


def stops(upto: int, real: int) -> list[int]:
    """Return the numbers of images after which figures are noted: up to `real`, through the backbone."""
    found = [*range(REAL_STEP, real, REAL_STEP), *range(real, upto, DRAWN_STEP), upto]
    return sorted({to for to in found if to <= upto})


def rate(rows: Sequence[Figures]) -> Figures:
    """Return the images of some steps, their seconds, and images in a second."""
    images, seconds = (sum(row[name] for row in rows) for name in ("images", "seconds"))
    return {"images": images, "seconds": seconds, "per_second": images / seconds if seconds else None}


def measured(of: Settings, steps: Steps) -> list[Figures]:
    """Build the index at each size, and measure queries; sizes take turns."""
    queries, sizes = of.work / "queries.npz", sorted(of.sizes)
    entries: list[Figures] = []
    for images in sizes:
        path = of.at(images)
        counted = steps.do(f"count {images}", maps_measure.counts, path)
        built = steps.do(f"index {images}", maps_measure.index, path, queries)
        taken = steps.do(f"disk {images}", disk, path)
        files = {name: taken[name] for name in ("shards", "descriptors", "index", "catalog")}
        entries.append({**counted, "index": built, "disk": {**files, "total": sum(files.values())}})
    for kind, ask in (("search", maps_measure.search), ("cold", maps_measure.cold)):
        for turn in range(of.turns):
            for images, entry in zip(sizes, entries, strict=True):
                found = steps.do(f"{kind} {images}, turn {turn + 1}", ask, of.at(images), queries, of.input_size)
                entry.setdefault(f"{kind}_turns", []).append(found)
    for entry in entries:
        for kind in ("search", "cold"):
            turns = [{k: v for k, v in one.items() if isinstance(v, float)} for one in entry[f"{kind}_turns"]]
            entry[kind] = medians(turns)
    return entries


def report(results: Figures) -> str:
    """Return the figures of all sizes, and of the crash, as text."""
    lines: list[Sequence[str]] = [COLUMNS]
    for entry in results["sizes"]:
        warm, cold, total = entry["search"], entry["cold"], entry["disk"]["total"]
        read = "not counted" if cold["cold_bytes"] is None else f"{cold['cold_bytes'] / 1e6:.1f}"
        times = [warm["whole_ms"], warm["backbone_ms"], warm["image_ms"], warm["pixel_ms"]]
        times += [cold["cold_ms"], cold["reading_ms"]]
        sizes = f"{total / 1e9:.2f}", f"{total / entry['images'] / 1e3:.1f}"
        lines.append((f"{entry['images']:,}", f"{entry['real']:,}", *sizes, *(f"{ms:.1f}" for ms in times), read))
    rates, crash = results["rates"], results["crash"]
    last = results["sizes"][-1]["search_turns"][-1]
    said = [
        f"{rates[kind]['per_second']:,.0f} images/s {how}"
        for kind, how in zip(RATES, ("through the backbone", "drawn"), strict=True)
        if rates[kind]["per_second"]
    ]
    quiet = results["ingest"]
    said.append(f"{quiet['images'] / quiet['seconds']:,.0f} images/s through the backbone, into a copy")
    said.append(f"{last['process_mb']:,.0f} MB resident, {last['resident']['anonymous_mb']:,.0f} of its own")
    checked = crash["verified"]
    said.append(f"verify: {checked['seconds']:,.0f} s, {checked['bytes'] / checked['seconds'] / 1e6:,.0f} MB/s")
    if "kills" in crash:
        killed = sum(one["killed"] for one in crash["kills"])
        said.append(f"killed {killed} times while compacting, carried on in {crash['carried_on']['seconds']:,.0f} s")
    return "\n".join([*table(lines), *said])


def numbers(text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    """Return numbers that are parted by commas. Raises BadParameter."""
    try:
        return tuple(map(kind, text.split(","))) if text else ()
    except ValueError as error:
        raise click.BadParameter(f"{text!r} are no numbers, parted by commas") from error


@click.command(help=__doc__)
@click.argument("photographs", type=click.Path(exists=True, path_type=Path))
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--sizes", default="1000,1000000", show_default=True)
@click.option("--real", default=60_000, show_default=True, help="Images that go through the backbone.")
@click.option("--queries", default=100, show_default=True)
@click.option("--input-size", default=160, show_default=True)
@click.option("--levels", default="1,2", show_default=True, help="Levels that are stored and compared.")
@click.option("--removed", default=5_000, show_default=True, help="Images removed before the compaction.")
@click.option("--kills", default="3,30,90", show_default=True, help="Seconds after which it is killed.")
@click.option("--turns", default=3, show_default=True, help="Of measuring queries at each size.")
@click.option("--minutes", type=float, help="Begin no step after this time; the same command carries on.")
@click.option("--keep", is_flag=True, help="Keep WORK at the end.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    photographs: Path,
    work: Path,
    sizes: str,
    real: int,
    queries: int,
    input_size: int,
    levels: str,
    removed: int,
    kills: str,
    turns: int,
    minutes: float | None,
    keep: bool,
    json_file: Path | None,
) -> None:
    """Grow and measure the gallery, or carry on; print the figures, and write them."""
    of = Settings(
        photographs=photographs,
        work=work,
        sizes=numbers(sizes, int),
        real=real,
        queries=queries,
        input_size=input_size,
        levels=numbers(levels, int),
        removed=removed,
        kills=numbers(kills, float),
        turns=turns,
    )
    work.mkdir(parents=True, exist_ok=True)
    results: Figures = {**environment(), "settings": plain(of), "memory_gb": psutil.virtual_memory().total / 1e9}
    results["photographs"] = len(shuffled(photographs)) - of.held
    try:
        results |= run(of, Steps(work / "steps.json", minutes))
    except OutOfTime:
        click.echo("the minutes are over: the same command carries on")
        return
    click.echo(report(results))
    write_json(json_file, results)
    if not keep:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
