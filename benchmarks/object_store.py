"""What does a query of a gallery in S3 take, at first and later, in time, requests and bytes, against the same on disk?

The gallery has many shards, of images that are drawn around some photographs (see `growth_data`). The server is moto,
which takes some milliseconds of a core for a request, so times show its work, too; `--wait` adds what a request takes
on the way to a real store. Every answer is compared with that of the disk, to the bit; one that differs ends the run.

Each round starts with an empty cache (on disk: with the gallery out of the system's page cache). One process opens the
gallery, and asks for one image (`first`), another one (`other`), and the first again (`again`); then a new process
opens it with the cache as it is, and asks for the first (`restarted`). Not timed are features of queries, and what a
process does once: each asks a gallery of the photographs, on disk, before.

python benchmarks/object_store.py --json benchmarks/results/object_store.json
"""

import os
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import click
import xxhash

from spade_index.benchmarks.growth_data import drawn_images, make_backbone
from spade_index.benchmarks.harness import Figures, WrongResult, environment, spread, table, timed, write_json
from spade_index.benchmarks.moto_server import BUCKET, Counts, MotoServer, moto_server
from spade_index.benchmarks.photographs import make_photographs
from spade_index.benchmarks.processes import in_own_process
from spade_index.gallery import Gallery
from spade_index.gallery.location import Location
from spade_index.gallery.opening import open_gallery
from spade_index.gallery.remote.cache import CacheSettings
from spade_index.gallery.remote.pull import Pull
from spade_index.gallery.remote.push import Push
from spade_index.gallery.remote.store import Remote
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images, load
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

T = TypeVar("T")
URL = Location.parse(f"s3://{BUCKET}/gallery")
COPIES = ("push", "pull")
STEPS = ("open", "first", "other", "again", "reopen", "restarted")
PROBES = 30
BASE = "base"


def build(gallery: Path, photographs: Path, edge: int, shards: int, rows: int) -> None:
    """Build a gallery of photographs, `base` beside it, and one of shards of `rows` images drawn around them."""
    backbone, base = make_backbone(edge), gallery.with_name(BASE)
    with GalleryWriter(base, backbone.settings, maps="float16") as writer:
        writer.add(find_images(photographs), backbone)
    with Gallery(base) as real, GalleryWriter(gallery, backbone.settings) as writer:
        writer.shard_rows = rows  # full shards are not merged
        writer.add_features(drawn_images(real, list(real.images()), len(real) + shards * rows))
        writer.build_index()


def ask(
    address: str, cache: str, queries: str, numbers: dict[str, int], opening: str, edge: int, search: Figures, url: str
) -> Figures:
    """Open a gallery and ask for images, in a process of its own; return what each step took, and its answer."""
    server = MotoServer(url) if url else None
    backbone = make_backbone(edge)
    images = [load(file, backbone.settings.preprocessing) for file in find_images(queries)]
    settings = SearchSettings(**search)
    with Gallery(Path(queries).with_name(BASE)) as base:
        Detector(base, backbone, settings, calibrated=False).detect(images[:1])
    found: Figures = {}
    gallery, found[opening] = measured(lambda: open_gallery(address, cache=CacheSettings(Path(cache))), server)
    with gallery:
        detector = Detector(gallery, backbone, settings, calibrated=False)
        for name, number in numbers.items():
            features = detector.features([images[number]])
            (answer,), found[name] = measured(lambda: detector.detect_features(*features), server)  # noqa: B023
            found[name]["answer"] = digest(answer)
    return found


def measured(call: Callable[[], T], server: MotoServer | None) -> tuple[T, Figures]:
    """Call a function; return its result, and its milliseconds, requests and bytes."""
    before = server.counts() if server else Counts()
    result, seconds = timed(call)
    asked = server.counts() - before if server else Counts()
    return result, {"ms": 1e3 * seconds, "requests": asked.requests, "bytes": asked.sent + asked.received}


def digest(answer: Detection) -> str:
    """Return a digest of all that an answer says."""
    assert answer.pixels is not None
    near = [(one.id, one.distance) for one in answer.neighbours]
    found = xxhash.xxh3_128(repr((answer.scores, near)).encode())
    for name in ("distances", "matches", "score_map"):
        found.update(getattr(answer.pixels, name).tobytes())
    return found.hexdigest()


class Place:
    """A gallery on disk or in a store, of which the same is asked."""

    def __init__(self, address: Path | Location, work: Path, edge: int, search: Figures, server: MotoServer | None):
        self._address = address
        self._cache = work / "cache"
        self._asked = str(work / "queries"), edge, search, server.url if server else ""

    def round(self, number: int) -> Figures:
        """Ask for two queries that no other round asks for; return what each step took."""
        shutil.rmtree(self._cache, ignore_errors=True)
        if isinstance(self._address, Path):
            forget(self._address)
        one, other = 2 * number, 2 * number + 1
        found = self._ask({"first": one, "other": other, "again": one}, "open")
        return found | self._ask({"restarted": one}, "reopen")

    def _ask(self, numbers: dict[str, int], opening: str) -> Figures:
        queries, *others = self._asked
        return in_own_process(ask, str(self._address), str(self._cache), queries, numbers, opening, *others)


def forget(folder: Path) -> None:
    """Ask the system to drop a folder's files from its page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)


def require_same(place: str, found: list[Figures], expected: list[Figures]) -> None:
    """Raise WrongResult if an answer is not that of the disk."""
    for one, other in zip(found, expected, strict=True):
        for step in STEPS:
            if one[step].get("answer") != other[step].get("answer"):
                raise WrongResult(f"{place}: the answer of {step!r} differs from that of the disk")


def summary(rounds: list[Figures]) -> Figures:
    """Return the medians of each step, with the range of milliseconds."""
    return {
        step: spread([one[step]["ms"] for one in rounds], "ms")
        | {name: statistics.median(one[step][name] for one in rounds) for name in ("requests", "bytes")}
        for step in STEPS
    }


def copied(gallery: Path, server: MotoServer) -> Figures:
    """Push a gallery, pull it, and time single requests for 64 KiB."""

    def push() -> None:
        with Push(gallery, URL) as pushed:
            pushed.send()

    def pull() -> None:
        with Pull(URL, back) as pulled:
            pulled.fetch()

    back = gallery.with_name("back")
    found: Figures = {name: measured(copy, server)[1] for name, copy in (("push", push), ("pull", pull))}
    shutil.rmtree(back)
    remote = Remote(URL)
    name = max(remote.sizes().items(), key=lambda item: item[1])[0]
    times = [timed(lambda: remote.block(name, 0, 1 << 16))[1] for _ in range(PROBES)]
    return found | {"request": spread([1e3 * one for one in times], "ms")}


@click.command(help=__doc__)
@click.option("--shards", default=1000, show_default=True)
@click.option("--rows", default=4, show_default=True, help="Images of a shard.")
@click.option("--photographs", default=300, show_default=True, help="Photographs that images are drawn around.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--edge", default=224, show_default=True, help="Pixels of the backbone's input.")
@click.option("--neighbours", default=50, show_default=True, help="Images whose maps are searched for a query.")
@click.option("--wait", "waits", multiple=True, type=float, default=[0.0, 0.02], show_default=True, help="Seconds.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    shards: int,
    rows: int,
    photographs: int,
    rounds: int,
    edge: int,
    neighbours: int,
    waits: list[float],
    json_file: Path | None,
) -> None:
    """Measure, print a table, and write the figures."""
    figures: Figures = {**environment(), "shards": shards, "rows": rows, "photographs": photographs, "edge": edge}
    search = {"gallery_neighbours": neighbours, "maps": "always"}
    figures |= {"neighbours": neighbours, "rounds": rounds, "stores": []}
    with TemporaryDirectory(prefix="spade-index-") as folder:
        work = Path(folder)
        gallery = work / "gallery"
        make_photographs(work / "images", photographs, edge)
        make_photographs(work / "queries", 2 * rounds, edge, seed=1)
        build(gallery, work / "images", edge, shards, rows)
        figures["bytes"] = sum(path.stat().st_size for path in gallery.rglob("*") if path.is_file())
        disk = Place(gallery, work, edge, search, None)
        expected = [disk.round(number) for number in range(rounds)]
        figures["disk"] = summary(expected)
        for wait in waits:
            with moto_server(wait) as server, server.named():
                store: Figures = {"wait_s": wait, **copied(gallery, server)}
                place = Place(URL, work, edge, search, server)
                found = [place.round(number) for number in range(rounds)]
                require_same(f"S3 after {wait} s", found, expected)
                figures["stores"].append({**store, **summary(found)})
    click.echo(report(figures))
    write_json(json_file, figures)


def report(figures: Figures) -> str:
    """Return a table of what each step took."""
    rows = [["place", "step", "ms", "requests", "MB"]]
    for name, place in places(figures).items():
        for step in (step for step in (*COPIES, *STEPS) if step in place):
            one = place[step]
            rows.append([name, step, f"{one['ms']:,.0f}", f"{one['requests']:,.0f}", f"{one['bytes'] / 1e6:.3g}"])
    return "\n".join(table(rows, left=(0, 1)))


def places(figures: Figures) -> dict[str, Figures]:
    """Return what was measured at each place, by its name."""
    return {"disk": figures["disk"]} | {f"S3, {1e3 * one['wait_s']:.0f} ms": one for one in figures["stores"]}


if __name__ == "__main__":
    main()
