"""Measure a gallery as it grows: `spade-index benchmark gallery`, one gallery of 1,000 to 1,000,000 images.

    spade-index benchmark gallery --photographs cifar10.tar --work DIR --json growth.json --picture growth.png

1. Real photographs come first, then descriptors drawn around real ones (growth_data.py). Photographs that tune and test
   are never in the gallery.
2. At each size the index is built as `spade-index index --queries` does, verified, and then measured, each step in a
   process of its own (growth_measure.py); then peers on the same descriptors (growth_peers.py).
3. All measurements are kept in WORK/sizes, and the gallery in WORK/gallery: the same command continues there.
"""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from spade_index.benchmarks import growth_data, growth_measure, growth_peers
from spade_index.benchmarks.growth_peers import PEERS, TITLES, WITHOUT
from spade_index.benchmarks.growth_report import costs, draw, report
from spade_index.benchmarks.harness import Figures, check_outputs, environment, require_known, write_json
from spade_index.benchmarks.processes import Failed, in_own_process
from spade_index.errors import InputError
from spade_index.gallery import CATALOG, Gallery
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.images import find_images
from spade_index.settings import STORAGES, IndexSettings

Say = Callable[[str], None]

LEAST = 100  # images of a size: K is 50
ADDED = 50
RESERVE = 1 << 30  # bytes of disk to leave free
PATIENCE = 3  # times --peer-minutes, after which a peer is stopped


@dataclass(frozen=True)
class Settings:
    """The sizes and peers to measure. Raises InputError for values that cannot be used."""

    photographs: Path
    work: Path
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    storage: str = "sq8"
    queries: int = 1_000  # photographs that test; half as many tune, and half as many are left to be added
    peers: tuple[str, ...] = tuple(TITLES)
    peer_minutes: float = 15  # that a peer may take to build
    input_size: int = 64
    keep: bool = True  # the gallery, at the end

    def __post_init__(self) -> None:
        require_known("storage", [self.storage], STORAGES)
        if min(self.sizes, default=0) < LEAST:
            raise InputError(f"sizes must be at least {LEAST} images")
        require_known("peer", self.peers, TITLES)


def run(settings: Settings, json_file: Path | None, picture: Path | None, say: Say) -> Figures:
    """Measure all sizes, print the tables, write JSON after each size, and the pictures at the end."""
    check_outputs(json_file, picture)
    photographs = sum(1 for _ in find_images(settings.photographs))
    if photographs < 2 * LEAST:
        raise InputError(f"{settings.photographs}: {photographs} photographs are too few: give at least {2 * LEAST}")
    held = min(2 * settings.queries, photographs // 3)
    work = Work(settings, held)
    work.claim(photographs)
    say(f"features of {photographs:,} photographs")
    data = in_own_process(growth_data.extract, settings.work, settings.photographs, settings.input_size, held)
    read_ahead = sorted(Path("/sys/block").glob("*/queue/read_ahead_kb"))
    results: Figures = {
        **environment(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "read_ahead_kb": {path.parts[3]: int(path.read_text()) for path in read_ahead},
        "photographs": photographs,
        "held_out": held,
        "test_queries": held // 2,
        "tuning_queries": held // 4,
        "storage": settings.storage,
        "peer_minutes": settings.peer_minutes,
        "sizes_left_out": {},
        "sizes": [],
        **{name: data[name] for name in ("real", "dim", "map_bytes")},
    }
    if work.images():
        in_own_process(growth_data.tidy, settings.work, held)
    for size in sorted(settings.sizes):
        if reason := work.unfit(size, data):
            results["sizes_left_out"][f"{size}"] = reason
            say(f"{size:,} images: left out, {reason}")
        else:
            results["sizes"].append(work.measure(size, data, results["sizes"], say))
        write_json(json_file, results)
    if results["sizes"]:
        say("\n" + report(results) + "\n\n" + costs(results))
        if picture is not None:
            draw(results, picture)
    if not settings.keep:
        shutil.rmtree(work.gallery, ignore_errors=True)
    return results


class Work:
    """The folder --work: features, the gallery, and the measurements of each size."""

    def __init__(self, settings: Settings, held: int) -> None:
        self.settings = settings
        self.held = held
        self.path = settings.work
        self.gallery = self.path / "gallery"
        self.given = self.path / "features" / "queries.npy", self.path / "limits.npy"

    def claim(self, photographs: int) -> None:
        """Make the folder, or raise InputError if it is of other photographs or settings."""
        mark = self.path / "growth.json"
        ours = {
            "photographs": str(self.settings.photographs.resolve()),
            "count": photographs,
            "input_size": self.settings.input_size,
            "held_out": self.held,
            "storage": self.settings.storage,
        }
        if not mark.exists():
            if self.path.exists() and any(self.path.iterdir()):
                raise InputError(f"{self.path}: the folder holds something else: choose a new one")
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(mark, ours)
        theirs = json.loads(mark.read_text())
        for name, value in ours.items():
            if theirs.get(name) != value:
                found = f"a gallery of {name} {theirs.get(name)}, not {value}"
                raise InputError(f"{self.path}: has {found}: take another --work")
        (self.path / "sizes").mkdir(exist_ok=True)  # a run may have been interrupted before it

    def images(self) -> int:
        """Return the number of images in the gallery."""
        if not (self.gallery / CATALOG).exists():
            return 0
        with Gallery(self.gallery) as gallery:
            return len(gallery)

    def unfit(self, size: int, data: Figures) -> str | None:
        """Return why this size cannot be measured."""
        present = self.images()
        if present > size and not set(self._parts(size)) <= set(self._known(size)):
            return f"the gallery has grown to {present:,} images; for smaller sizes take a new --work"
        needed = (size - present) * data["row_bytes"] + size * 5 * data["dim"] + RESERVE  # descriptors, index
        free = shutil.disk_usage(self.path).free
        if present < size and free < needed:
            return f"it takes {needed / 1e9:,.1f} GB of disk, and {free / 1e9:,.1f} are free"
        return None

    def measure(self, size: int, data: Figures, before: list[Figures], say: Say) -> Figures:
        """Measure what is not known of this size yet, and return all of it. `before` has the smaller sizes."""
        real = min(size, data["real"])
        entry = {"images": size, "real": real, "drawn": size - real, "commit": environment()["commit"], "peers": {}}
        entry |= self._known(size)
        steps = [(entry, name, name, part) for name, part in self._parts(size).items()]
        steps += [
            (entry["peers"], key, TITLES[key], partial(self._peer, key, entry, data, before))
            for key in self.settings.peers
        ]
        for figures, name, title, step in steps:
            if name not in figures:
                say(f"{size:,} images: {title}")
                figures[name] = step()
                write_json(self._file(size), entry)
        return entry

    def _parts(self, size: int) -> dict[str, Callable[[], Figures]]:
        """Return the steps of a size, in order; all but `disk` run in a process."""
        settings, gallery, held = self.settings, self.gallery, self.held
        queries, _ = self.given
        index = IndexSettings(settings.storage)
        added = settings.photographs, settings.input_size, held, min(ADDED, held // 4)
        return {
            "grow": partial(in_own_process, growth_data.grow, self.path, held, size),
            "index": partial(in_own_process, growth_measure.build, gallery, queries, index),
            "check": partial(in_own_process, growth_measure.check, gallery, *self.given),
            "disk": self._disk,
            "search": partial(in_own_process, growth_measure.search, gallery, *self.given),
            "cold": partial(in_own_process, growth_measure.cold, gallery, queries),
            "pixels": partial(in_own_process, growth_measure.pixels, self.path, held),
            "add": partial(in_own_process, growth_measure.add, self.path, *added),
        }

    def _disk(self) -> Figures:
        """Return the bytes of the gallery's files."""
        index, _ = growth_measure.index_path(self.gallery)
        return {
            "shards": sum(path.stat().st_size for path in (self.gallery / "shards").iterdir()),
            "descriptors": descriptors_file(index).stat().st_size,
            "index": index.stat().st_size,
            "catalog": (self.gallery / CATALOG).stat().st_size,
        }

    def _peer(self, key: str, entry: Figures, data: Figures, before: list[Figures]) -> Figures:
        """Measure a peer, or say why it is left out."""
        seconds = extrapolated(key, entry["images"], before)
        try:
            if reason := self._peer_unfit(key, entry, data["dim"], seconds):
                raise Failed(reason)
            limit_s = PATIENCE * 60 * self.settings.peer_minutes
            if key == WITHOUT:
                return {"status": "ok", **self._without_components(limit_s)}
            return {"status": "ok", **in_own_process(growth_peers.run, key, self.gallery, *self.given, limit_s=limit_s)}
        except Failed as error:
            return {"status": "left out", "reason": str(error), "extrapolated_s": seconds}

    def _peer_unfit(self, key: str, entry: Figures, dim: int, seconds: float | None) -> str | None:
        images = entry["images"]
        if self.images() != images:
            return "the gallery has grown past this size"
        if seconds is not None and seconds > 60 * self.settings.peer_minutes:
            return f"would take about {seconds / 60:,.1f} minutes to build"
        if key == WITHOUT:
            if entry["index"]["kind"] != "pca-ivf":
                return "the same as ours at this size"
            enough = shutil.disk_usage(self.path).free > 9 * dim * images + RESERVE
            return None if enough else "the disk has no room for its descriptors"
        if missing := PEERS[key].missing():
            return missing
        needs, free = PEERS[key].needs(images, dim), psutil.virtual_memory().available
        if needs > 0.9 * free:
            return f"may take {needs / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} are free"
        return None

    def _without_components(self, limit_s: float) -> Figures:
        """Build, verify and measure our index without PCA, in a gallery that shares the shards."""
        view = growth_peers.make_view(self.gallery)
        index = IndexSettings(self.settings.storage, dimensions=0)
        try:
            built = in_own_process(growth_measure.build, view, self.given[0], index, limit_s=limit_s)
            in_own_process(growth_measure.check, view, *self.given)
            found = in_own_process(growth_measure.search, view, *self.given)
        finally:
            shutil.rmtree(view, ignore_errors=True)  # its shards are a link
        return {**found, **{name: built[name] for name in ("seconds", "peak_mb", "text")}}

    def _known(self, size: int) -> Figures:
        file = self._file(size)
        known: Figures = json.loads(file.read_text()) if file.exists() else {}
        return known

    def _file(self, size: int) -> Path:
        return self.path / "sizes" / f"{size}.json"


def extrapolated(key: str, images: int, before: list[Figures]) -> float | None:
    """Return the expected seconds to build, from the largest size that was built: as images x log(images)."""
    built = [entry for entry in before if entry["peers"].get(key, {}).get("status") == "ok"]
    if not built:
        return None
    fewer, seconds = built[-1]["images"], built[-1]["peers"][key]["seconds"]
    return float(seconds * images * math.log(images) / (fewer * math.log(fewer)))
