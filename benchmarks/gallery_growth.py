"""Measure a gallery as it grows: `spade-index benchmark gallery`, one gallery of 1,000 to 1,000,000 images.

    spade-index benchmark gallery --photographs cifar10.tar --work DIR --json growth.json --picture growth.png

1. Photographs come first, then descriptors drawn around theirs (growth_data.py). Photographs that tune and test are
   never in the gallery.
2. At each size the index is built as `spade-index index --queries` does, verified, and then measured, and peers on the
   same descriptors after it, each in a process of its own (growth_measure.py).
3. JSON is written after each size. The gallery grows in WORK, a new folder.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from spade_index.errors import InputError
from spade_index.gallery import CATALOG
from spade_index.gallery.index.descriptors import descriptors_file
from spade_index.images import find_images
from spade_index.settings import STORAGES

from . import growth_data, growth_measure
from .growth_measure import PEERS
from .harness import LINE, Figures, check_outputs, environment, picture, plain, require_known, table, tidy, write_json
from .processes import Failed, in_own_process

Say = Callable[[str], None]

LEAST = 100  # images of a size: K is 50
RESERVE = 1 << 30  # bytes of disk to leave free
OURS = "ours"
COLUMNS = ("images", "", "ms", "p90", "p99", "recall@50", "own MB", "file MB", "build s", "peak MB", "")
COSTS = ("images", "photographs", "GB: shards", "descriptors", "index", "catalog", "ms: first query", "cold", "MB read")


@dataclass(frozen=True)
class Settings:
    """The sizes and peers to measure. Raises InputError for values that cannot be used."""

    photographs: Path
    work: Path
    sizes: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    storage: str = "sq8"
    queries: int = 1_000  # photographs that test; half as many tune
    peers: tuple[str, ...] = tuple(PEERS)
    peer_minutes: float = 30  # that a peer may take
    input_size: int = 64
    keep: bool = False  # the gallery, at the end

    def __post_init__(self) -> None:
        require_known("storage", [self.storage], STORAGES)
        if min(self.sizes, default=0) < LEAST:
            raise InputError(f"sizes must be at least {LEAST} images")
        require_known("peer", self.peers, PEERS)


def run(settings: Settings, json_file: Path | None, picture: Path | None, say: Say) -> Figures:
    """Measure all sizes, print the tables, write JSON after each size, and the picture at the end."""
    check_outputs(json_file, picture)
    photographs = sum(1 for _ in find_images(settings.photographs))
    if photographs < 2 * LEAST:
        raise InputError(f"{settings.photographs}: {photographs} photographs are too few: give at least {2 * LEAST}")
    if settings.work.exists():
        raise InputError(f"{settings.work}: is there already: choose another --work, or remove it")
    held = min(settings.queries * 3 // 2, photographs // 3)
    results: Figures = {
        **environment(),
        "settings": plain(settings),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "photographs": photographs,
        "real": photographs - held,
        "held_out": held,
        "test_queries": held - held // 3,
        "tuning_queries": held // 3,
        "sizes_left_out": {},
        "sizes": [],
    }
    settings.work.mkdir(parents=True)
    given = settings.photographs, settings.input_size, held
    results |= in_own_process(growth_data.write_queries, settings.work / "queries.npy", *given)
    for size in sorted(settings.sizes):
        if reason := unfit(settings.work, size, results):
            results["sizes_left_out"][f"{size}"] = reason
            say(f"{size:,} images: left out, {reason}")
        else:
            results["sizes"].append(measure(settings, size, results, say))
        write_json(json_file, results)
    if results["sizes"]:
        say("\n" + report(results) + "\n\n" + costs(results))
        if picture is not None:
            draw(results, picture)
    if not settings.keep:
        shutil.rmtree(settings.work)
    return results


def unfit(work: Path, size: int, results: Figures) -> str | None:
    """Return why this size cannot be measured."""
    image_bytes = 1.3 * results["map_bytes"] + 9 * results["dim"]  # shards with padding, descriptors file, index
    grown = results["sizes"][-1]["images"] if results["sizes"] else 0
    needed, free = (size - grown) * image_bytes + RESERVE, shutil.disk_usage(work).free
    return f"it takes {needed / 1e9:,.1f} GB of disk, and {free / 1e9:,.1f} are free" if free < needed else None


def measure(settings: Settings, size: int, results: Figures, say: Say) -> Figures:
    """Let the gallery grow, and measure it and its peers. `results` has the smaller sizes."""
    work, gallery = settings.work, settings.work / "gallery"
    given = gallery, work / "queries.npy", work / "limits.npy"

    def step(title: str, function: Callable[..., Figures], *arguments: object, **limit: Any) -> Figures:
        say(f"{size:,} images: {title}")
        return in_own_process(function, *arguments, **limit)

    photographs = settings.photographs, settings.input_size, results["held_out"]
    grown = step("grow", growth_data.grow, gallery, *photographs, size)
    entry: Figures = {
        "images": size,
        "real": grown["real"],
        "drawn": size - grown["real"],
        "commit": environment()["commit"],
        "index": step("index", growth_measure.build, *given[:2], settings.storage),
        "check": step("check", growth_measure.check, *given),
        "disk": disk(gallery),
        "search": step("search", growth_measure.search, *given),
        "cold": step("cold", growth_measure.cold, *given[:2]),
        "peers": {},
    }
    for name in settings.peers:
        try:
            require_possible(name, size, results)
            limit_s = 60 * settings.peer_minutes
            figures = step(PEERS[name].title, growth_measure.peer, name, *given, limit_s=limit_s)
            entry["peers"][name] = {"status": "ok", **figures}
        except Failed as error:
            entry["peers"][name] = {"status": "left out", "reason": str(error)}
    return entry


def require_possible(name: str, size: int, results: Figures) -> None:
    """Raise Failed if a peer cannot be measured."""
    if find_spec(PEERS[name].package) is None:
        raise Failed(f"{PEERS[name].package} is not installed")
    for entry in results["sizes"]:
        if entry["peers"].get(name, {}).get("status") == "left out":
            raise Failed(f"left out at {entry['images']:,} images")
    needs, free = 8 * results["dim"] * size, psutil.virtual_memory().available
    if needs > 0.9 * free:
        raise Failed(f"may take {needs / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} are free")


def disk(gallery: Path) -> Figures:
    """Return the bytes of the gallery's files."""
    index = growth_measure.index_file(gallery)
    files = {"descriptors": descriptors_file(index), "index": index, "catalog": gallery / CATALOG}
    shards = sum(path.stat().st_size for path in (gallery / "shards").iterdir())
    return {"shards": shards, **{name: path.stat().st_size for name, path in files.items()}}


def report(results: Figures) -> str:
    """Return the search for nearest images as a table: a line for each size and contender."""
    lines: list[Sequence[str]] = [COLUMNS]
    for entry in results["sizes"]:
        built = {name: entry["index"][name] for name in ("seconds", "peak_mb", "text")}
        lines.append((f"{entry['images']:,}", OURS, *_cells(entry["search"] | built)))
        lines += [("", _title(key), *_cells(peer)) for key, peer in entry["peers"].items()]
    return "\n".join(
        [
            f"the 50 nearest images of {results['test_queries']:,} queries, one at a time, in a gallery of "
            f"{results['real']:,} photographs, beyond them descriptors drawn around theirs",
            "own and file MB: resident after all queries; peak MB: of building; all above the libraries' memory",
            *table(lines, left=(1, len(COLUMNS) - 1)),
            *(f"{int(size):,}  left out: {reason}" for size, reason in results["sizes_left_out"].items()),
        ]
    )


def _title(key: str) -> str:
    return PEERS[key].title if key in PEERS else key


def _cells(entry: Figures) -> list[str]:
    if entry.get("status") == "left out":
        return [""] * (len(COLUMNS) - 3) + [f"left out: {entry['reason']}"]
    return [
        *(f"{entry[name]:.2f}" for name in ("ms", "ms_p90", "ms_p99")),
        f"{entry['recall']:.4f}",
        *(f"{entry['resident'][name]:,.0f}" for name in ("anonymous_mb", "file_mb")),
        f"{entry['seconds']:,.1f}",
        f"{entry['peak_mb']:,.0f}",
        entry["text"],
    ]


def costs(results: Figures) -> str:
    """Return the disk space at each size, and the milliseconds of opening and a first query, warm and cold."""
    lines: list[Sequence[str]] = [COSTS]
    for entry in results["sizes"]:
        disk, cold = entry["disk"], entry["cold"]
        files = (f"{disk[name] / 1e9:,.3f}" for name in ("shards", "descriptors", "index", "catalog"))
        first = f"{entry['search']['open_and_first_ms']:,.0f}", f"{cold['first_ms']:,.0f}"
        read = "not counted" if cold["first_bytes"] is None else f"{cold['first_bytes'] / 1e6:,.0f}"
        lines.append((f"{entry['images']:,}", f"{entry['real']:,}", *files, *first, read))
    return "\n".join(table(lines))


def draw(results: Figures, path: Path) -> None:
    """Draw latency with recall, and below it the memory of a process that searches."""
    sizes = [entry["images"] for entry in results["sizes"]]
    searches = [entry["search"] for entry in results["sizes"]]
    with picture(path, "The nearest 50 images of one query", (8.6, 9), rows=2) as (latency, memory):
        for title, found in _contenders(results).items():
            style = {"marker": "o", "markersize": 4, "linewidth": 2.4 if title == OURS else 1.2}
            rows = list(found.values())
            tails = [row["ms_p99"] - row["ms"] for row in rows]
            label = f"{title}: recall@50 " + ", ".join(f"{row['recall']:.3f}" for row in rows)
            latency.errorbar(list(found), [row["ms"] for row in rows], ([0] * len(rows), tails), label=label, **style)
            own = [max(row["resident"]["anonymous_mb"], 0.1) for row in rows]
            memory.plot(list(found), own, label=title, **style)
        both = [sum(search["resident"].values()) for search in searches]
        memory.plot(sizes, both, "--", color=LINE, label="ours, with pages of its files")
        maps = [size * results["map_bytes"] / 1e6 for size in sizes]
        memory.plot(sizes, maps, ":", color=LINE, label="all feature maps")
        _finish(latency, results, "ms per query: median, up to p99")
        _finish(memory, results, "MB resident, without libraries")


def _contenders(results: Figures) -> dict[str, dict[int, Figures]]:
    """Return the figures of each contender, by its title and the gallery's size; ours first."""
    found = {OURS: {entry["images"]: entry["search"] for entry in results["sizes"]}}
    for entry in results["sizes"]:
        for key, peer in entry["peers"].items():
            if peer["status"] == "ok":
                found.setdefault(_title(key), {})[entry["images"]] = peer
    return found


def _finish(axes: Any, results: Figures, ylabel: str) -> None:
    sizes = [entry["images"] for entry in results["sizes"]]
    axes.set(xscale="log", yscale="log", xlabel=f"images in the gallery; {results['machine']}", ylabel=ylabel)
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    if sizes[0] < results["real"] < sizes[-1]:
        label = f"{results['real']:,} photographs; beyond, drawn around them"
        axes.axvline(results["real"], color="#bbbbbb", linewidth=0.8, zorder=0, label=label)
    axes.legend(fontsize=8)
    tidy(axes, "y")
