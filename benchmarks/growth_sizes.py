"""One size of the gallery after the other: what is measured of each, kept in WORK/sizes as soon as it is known."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spade_index.benchmarks.environment import environment
from spade_index.benchmarks.growth_peers import PEERS, TITLES, WITHOUT, view_of
from spade_index.benchmarks.growth_process import Failed, in_own_process, machine_memory
from spade_index.errors import InputError
from spade_index.gallery import CATALOG, Gallery
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.settings import STORAGES

Entry = dict[str, Any]
Say = Callable[[str], None]

LEAST = 100  # images of a size: K is 50
ADDED = 50
RESERVE = 1 << 30  # bytes of disk to leave free
PATIENCE = 3  # times --peer-minutes, after which a peer is ended
OURS = ("index", "check", "disk", "search", "cold", "pixels", "add")


@dataclass(frozen=True)
class Settings:
    """What is measured."""

    photographs: Path
    work: Path
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    storage: str = "sq8"
    queries: int = 1_000  # photographs that test; half as many tune, and half as many are left to be added
    peers: tuple[str, ...] = tuple(TITLES)
    peer_minutes: float = 15  # that a peer may take to build
    input_size: int = 64
    keep: bool = True  # the gallery, when all is done

    def __post_init__(self) -> None:
        if self.storage not in STORAGES:
            raise InputError(f"unknown storage {self.storage!r}: choose from {', '.join(STORAGES)}")
        if min(self.sizes, default=0) < LEAST:
            raise InputError(f"sizes must be at least {LEAST} images")
        for name in self.peers:
            if name not in TITLES:
                raise InputError(f"unknown peer {name!r}: choose from {', '.join(TITLES)}")


class Work:
    """The folder --work."""

    def __init__(self, settings: Settings, held: int) -> None:
        self.settings = settings
        self.held = held
        self.path = settings.work
        self.gallery = self.path / "gallery"
        self._queries = self.path / "features" / "queries.npy"
        self._limits = self.path / "limits.npy"

    def claim(self, photographs: int) -> None:
        """Make it, or see that it is of the same photographs. Raises InputError."""
        mark = self.path / "growth.json"
        ours = {
            "photographs": str(self.settings.photographs.resolve()),
            "count": photographs,
            "input_size": self.settings.input_size,
            "held_out": self.held,
            "storage": self.settings.storage,
        }
        if mark.exists():
            theirs = json.loads(mark.read_text())
            for name, value in ours.items():
                if theirs.get(name) != value:
                    raise InputError(
                        f"{self.path}: has a gallery of {name} {theirs.get(name)}, not {value}: take another --work"
                    )
        elif self.path.exists() and any(self.path.iterdir()):
            raise InputError(f"{self.path}: the folder holds something else: choose a new one")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            mark.write_text(json.dumps(ours, indent=2) + "\n")
        (self.path / "sizes").mkdir(exist_ok=True)  # also where only the mark was made

    def images(self) -> int:
        """How many the gallery has."""
        if not (self.gallery / CATALOG).exists():
            return 0
        with Gallery(self.gallery) as gallery:
            return len(gallery)

    def unfit(self, size: int, of: Entry) -> str | None:
        """Why this size cannot be measured."""
        there = self.images()
        if there > size and not set(OURS) <= set(self._known(size)):
            return f"the gallery has grown to {there:,} images; for smaller sizes take a new --work"
        needed = (size - there) * of["row_bytes"] + size * 5 * of["dim"] + RESERVE  # descriptors, index
        free = shutil.disk_usage(self.path).free
        if there < size and free < needed:
            return f"it takes {needed / 1e9:,.1f} GB of disk, and {free / 1e9:,.1f} are free"
        return None

    def measure(self, size: int, of: Entry, before: list[Entry], say: Say) -> Entry:
        """What is known of this size, and what is not yet. `before` has the smaller sizes."""
        entry = self._known(size) or {
            "images": size,
            "real": min(size, of["real"]),
            "drawn": max(0, size - of["real"]),
            "commit": environment()["commit"],
            "peers": {},
        }
        arguments = self.gallery, self._queries, self._limits
        parts: dict[str, Callable[[], Entry]] = {
            "grow": lambda: in_own_process("growth_data:grow", self.path, self.held, size),
            "index": lambda: in_own_process(
                "growth_measure:build", self.gallery, self._queries, self.settings.storage, None
            ),
            "check": lambda: in_own_process("growth_measure:check", *arguments),
            "disk": self._disk,
            "search": lambda: in_own_process("growth_measure:search", *arguments),
            "cold": lambda: in_own_process("growth_measure:cold", self.gallery, self._queries),
            "pixels": lambda: in_own_process("growth_stages:pixels", self.path, self.held),
            "add": lambda: in_own_process(
                "growth_stages:add",
                *(self.path, self.settings.photographs, self.settings.input_size),
                *(self.held, min(ADDED, self.held // 4)),
            ),
        }
        for name, part in parts.items():
            if name not in entry:
                say(f"{size:,} images: {name}")
                entry[name] = part()
                self._keep(entry)
        for key in self.settings.peers:
            if key not in entry["peers"]:
                say(f"{size:,} images: {TITLES[key]}")
                entry["peers"][key] = self._peer(key, entry, of, before)
                self._keep(entry)
        return entry

    def _peer(self, key: str, entry: Entry, of: Entry, before: list[Entry]) -> Entry:
        seconds = _extrapolated(key, entry["images"], before)
        reason = self._peer_unfit(key, entry, of, seconds)
        try:
            if reason is None:
                found = self._without_components() if key == WITHOUT else self._run_peer(key)
                return {"status": "ok", **found}
        except Failed as error:
            reason = str(error)
        return {"status": "left out", "reason": reason, "extrapolated_s": seconds}

    def _peer_unfit(self, key: str, entry: Entry, of: Entry, seconds: float | None) -> str | None:
        images, dim = entry["images"], of["dim"]
        if self.images() != images:
            return "the gallery has grown past this size"
        if key == WITHOUT and entry["index"]["kind"] != "pca-ivf":
            return "the same as ours at this size"
        if key in PEERS and (missing := PEERS[key].missing()):
            return missing
        if seconds is not None and seconds > 60 * self.settings.peer_minutes:
            return f"would take about {seconds / 60:,.1f} minutes to build"
        needs = PEERS[key].needs(images, dim) if key in PEERS else 0
        if needs > 0.9 * (free := machine_memory("MemAvailable")):
            return f"may take {needs / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} are free"
        if key == WITHOUT and shutil.disk_usage(self.path).free < 9 * dim * images + RESERVE:
            return "the disk has no room for its descriptors"
        return None

    def _run_peer(self, key: str) -> Entry:
        return in_own_process(
            "growth_peers:run", key, self.gallery, self._queries, self._limits, seconds=self._patience()
        )

    def _without_components(self) -> Entry:
        view = view_of(self.gallery)
        arguments = self._queries, self._limits
        try:
            built = in_own_process(
                "growth_peers:without_components",
                *(self.gallery, *arguments, self.settings.storage),
                seconds=self._patience(),
            )
            found = in_own_process("growth_measure:search", view, *arguments)
        finally:
            shutil.rmtree(view, ignore_errors=True)  # of the shards only the link
        return {**found, "seconds": built["seconds"], "peak_mb": built["peak_mb"], "text": built["text"]}

    def _patience(self) -> float:
        return PATIENCE * 60 * self.settings.peer_minutes

    def _disk(self) -> Entry:
        """Bytes of the gallery's files."""
        with Gallery(self.gallery) as gallery:
            row = gallery.catalog.index(gallery.snapshot)
        assert row is not None
        index = self.gallery / "index" / row.file
        return {
            "shards": sum(path.stat().st_size for path in (self.gallery / "shards").iterdir()),
            "descriptors": descriptors_file(index).stat().st_size,
            "index": index.stat().st_size,
            "catalog": (self.gallery / CATALOG).stat().st_size,
        }

    def _known(self, size: int) -> Entry:
        file = self._file(size)
        return json.loads(file.read_text()) if file.exists() else {}

    def _keep(self, entry: Entry) -> None:
        file = self._file(entry["images"])
        temporary = file.with_suffix(".tmp")
        temporary.write_text(json.dumps(entry, indent=2) + "\n")
        temporary.rename(file)

    def _file(self, size: int) -> Path:
        return self.path / "sizes" / f"{size}.json"


def _extrapolated(key: str, images: int, before: list[Entry]) -> float | None:
    """Seconds to build, from the largest size at which it was built: as images x log(images)."""
    built = [entry for entry in before if entry["peers"].get(key, {}).get("status") == "ok"]
    if not built:
        return None
    fewer, seconds = built[-1]["images"], built[-1]["peers"][key]["seconds"]
    return float(seconds * images * math.log(images) / (fewer * math.log(fewer)))
