"""How fast do the workers of a cluster find the nearest images, by their shares of the lists of an index?

Descriptors are random, so that a query is searched in a large share of the lists, as many bytes as it would be among
many more images. Every number of workers first answers all queries, and has no figures unless the neighbours are those
of one process, to the bit. Then it is timed: queries one at a time, and all together. Workers that wait for each list,
as for a disk, let few cores show how lists are shared; real ones have a core each.

python benchmarks/cluster_index.py WORK --json benchmarks/results/cluster_index.json
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import click
import numpy as np

from spade_index.benchmarks.harness import Figures, WrongResult, environment, measured, spread, timed, write_json
from spade_index.cluster import searching
from spade_index.cluster.connection import connected
from spade_index.cluster.searcher import Searcher
from spade_index.cluster.searching import SearchOnCrew, searching_on
from spade_index.cluster.there import Seen
from spade_index.gallery import Gallery
from spade_index.gallery.index.lists import Candidates, Probes
from spade_index.gallery.index.search import ImageSearcher
from spade_index.gallery.store.record import ImageOrigin, NewImage, StoredImage
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import ExtractionSettings, IndexSettings, Preprocessing

DIM = 192  # of the lists' descriptors, as by default
COLUMNS = ("workers", "ms", "share_of_linear", "together_ms", "to_workers", "back")


def build(path: Path, images: int, recall: float) -> None:
    """Make a gallery of random descriptors, with next to no maps, unless it is there."""
    if path.exists():
        return
    settings = ExtractionSettings("random", "", ("a",), ((1, 1, 1),), DIM, Preprocessing())
    with GalleryWriter(path, settings, maps="float16") as writer:
        writer.add_features(random_images(images))
        writer.build_index(IndexSettings("sq8", 0, recall), say=click.echo)


def random_images(count: int) -> Iterator[NewImage]:
    """Yield images with random descriptors."""
    random, maps = np.random.default_rng(0), [np.zeros((1, 1), np.float16)]
    for number in range(count):
        id = f"{number:07d}"
        origin = ImageOrigin(id, id.encode(), f"/{id}", 1, 1, 1, 1)
        yield NewImage(origin, StoredImage(random.normal(size=DIM).astype(np.float32), maps, b""))


def waiting_searcher(seconds: float) -> type[Searcher]:
    """Return a worker that waits for each list that it scans."""

    class Waiting(Searcher):
        """Waits, and scans."""

        def scan(self, of: Seen, probes: Probes, count: int) -> Candidates:
            """Find the nearest images of queries in some lists, but wait first."""
            time.sleep(seconds * int((probes.lists >= 0).sum()))
            return super().scan(of, probes, count)

    return Waiting


def compared(gallery: Gallery, counts: list[int], queries: np.ndarray, k: int, rounds: int) -> list[Figures]:
    """Search by one process and by each number of workers. Raises WrongResult if neighbours differ."""
    expected = gallery.nearest(queries, k)
    found: list[Figures] = [{"workers": 0, **timed_search(gallery, queries, k, rounds)}]
    for count in counts:
        with connected("local", cores=count), searching_on("local", workers=count, scanned_here=0) as elsewhere:
            images = elsewhere.image_search(gallery)
            if images.nearest(queries, k) != expected:
                raise WrongResult(f"{count} workers: neighbours differ from those of one process")
            found.append({"workers": count, **travelled(elsewhere), **timed_search(images, queries, k, rounds)})
    base = found[1]["ms"] * counts[0]
    for row in found[1:]:
        row["share_of_linear"] = base / (row["ms"] * row["workers"])
    return found


def travelled(elsewhere: SearchOnCrew) -> Figures:
    """Return the bytes of a query."""
    scanned = elsewhere.scanned
    return {"to_workers": scanned.bytes_to_workers / scanned.queries, "back": scanned.bytes_back / scanned.queries}


def timed_search(images: ImageSearcher, queries: np.ndarray, k: int, rounds: int) -> Figures:
    """Return the milliseconds of a query, one at a time and all together, of a few rounds over all of them."""

    def milliseconds(search: Callable[[], object]) -> list[float]:
        return [1e3 * timed(search)[1] / len(queries) for _ in range(rounds)]

    alone = milliseconds(lambda: [images.nearest(query[None], k) for query in queries])
    together = milliseconds(lambda: images.nearest(queries, k))
    return {**spread(alone, "ms"), **spread(together, "together_ms")}


@click.command(help=__doc__)
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--images", default=400_000, show_default=True, help="Images of the gallery, which WORK keeps.")
@click.option("--recall", default=0.99, show_default=True)
@click.option("--queries", default=12, show_default=True)
@click.option("--neighbours", default=50, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--wait", default=0.001, show_default=True, help="Seconds for each list, by workers that wait.")
@click.option("--waiting", multiple=True, type=int, default=[1, 2, 4, 8], show_default=True, help="How many wait.")
@click.option("--real", multiple=True, type=int, default=[1, 2], show_default=True, help="How many do not.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    work: Path,
    images: int,
    recall: float,
    queries: int,
    neighbours: int,
    rounds: int,
    wait: float,
    waiting: list[int],
    real: list[int],
    json_file: Path | None,
) -> None:
    """Measure, print tables, and write the figures."""
    build(work, images, recall)
    asked = np.random.default_rng(1).normal(size=(queries, DIM)).astype(np.float32)
    with Gallery(work) as gallery:
        index = gallery.index_info()
        assert index is not None
        gallery.nearest(asked, neighbours)  # which reads the lists
        names = ("images", "nlist", "nprobe", "candidates", "recall")
        figures: Figures = {**environment(), "index": {name: index[name] for name in names}, "dim": DIM}
        figures |= {"list_bytes": index["images"] * (DIM + 8) * index["nprobe"] / index["nlist"], "wait_s": wait}
        figures |= {"queries": queries, "neighbours": neighbours}
        figures["real"] = compared(gallery, list(real), asked, neighbours, rounds)
        click.echo(measured(COLUMNS, figures["real"]))
        with patch.object(searching, "Searcher", waiting_searcher(wait)):
            figures["waiting"] = compared(gallery, list(waiting), asked, neighbours, 1)
        click.echo(measured(COLUMNS, figures["waiting"]))
    write_json(json_file, figures)


if __name__ == "__main__":
    main()
