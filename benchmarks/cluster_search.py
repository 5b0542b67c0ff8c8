"""How fast do the workers of a cluster search the maps of a gallery, and how many bytes travel for a query?

Every number of workers first answers all queries, and has no figures unless the answers are those of one process, to
the bit. Then it is timed: the image level, the pixel level and the score maps of features that are there. Workers that
wait for each map, as for a GPU, let few cores show it; real ones have a core each.

python benchmarks/cluster_search.py --json benchmarks/results/cluster_search.json
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import click
import numpy as np
from torch import Tensor

from spade_index.benchmarks.harness import Figures, WrongResult, environment, measured, spread, timed, write_json
from spade_index.benchmarks.photographs import make_photographs
from spade_index.cluster import searching
from spade_index.cluster.connection import connected
from spade_index.cluster.searcher import Nearest, Search, Searcher
from spade_index.cluster.searching import searching_on
from spade_index.features.backbone import Backbone, load_backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images, load
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

TRAVELLED = {"to_workers": "bytes_to_workers", "back": "bytes_back"}  # columns, and what they are a query's share of
SMALL = 64  # pixels of the input where workers wait: searching takes next to nothing
COLUMNS = ("workers", "ms", "share_of_linear", "to_workers", "back", "start_s")


@dataclass(frozen=True)
class Task:
    """What is searched: the images of a gallery, and queries, of `edge` pixels."""

    images: int
    queries: int
    edge: int
    rows: int  # of a shard
    maps: str  # how they are stored

    @cached_property
    def backbone(self) -> Backbone:
        """A real one: waiting is for the workers that search."""
        size = partial(replace, input_size=(self.edge, self.edge))
        return load_backbone("efficientnet-lite0", preprocessing=size, device="cpu")

    def build(self, work: Path) -> None:
        """Make the images, and the gallery by one process."""
        make_photographs(work / "images", self.images, self.edge)
        make_photographs(work / "queries", self.queries, self.edge, seed=1)
        with GalleryWriter(work / "gallery", self.backbone.settings, maps=self.maps) as writer:
            writer.shard_rows = self.rows
            writer.add(find_images(work / "images"), self.backbone)


def waiting_searcher(seconds: float) -> type[Searcher]:
    """Return a worker that waits for each map that it searches."""

    class Waiting(Searcher):
        """Waits, and searches."""

        def search(self, of: Search, keys: Sequence[int], levels: Sequence[np.ndarray]) -> Nearest:
            """Find the nearest pixels of a query among those of images, but wait first."""
            time.sleep(seconds * len(keys))
            return super().search(of, keys, levels)

    return Waiting


def compared(task: Task, counts: list[int], search: SearchSettings, rounds: int, work: Path) -> list[Figures]:
    """Search by one process and by each number of workers. Raises WrongResult if answers differ."""
    task.build(work)
    images = [load(file, task.backbone.settings.preprocessing) for file in find_images(work / "queries")]
    with Gallery(work / "gallery") as opened:
        here = Detector(opened, task.backbone, search, calibrated=False)
        features = here.features(images)
        expected = here.detect_features(*features)
        found: list[Figures] = [{"workers": 0, **timed_search(here, features, rounds)}]
        for count in counts:
            with connected("local", cores=count):
                started = time.perf_counter()
                with searching_on("local", workers=count) as elsewhere:
                    ready = time.perf_counter()
                    there = Detector(opened, task.backbone, search, calibrated=False, elsewhere=elsewhere)
                    require_same(there.detect_features(*features), expected, count)
                    info = there.pixel_search.info()
                    row: Figures = {"workers": count, "start_s": ready - started}
                    row |= {name: info[of] / info["queries"] for name, of in TRAVELLED.items()}
                    found.append({**row, **timed_search(there, features, rounds)})
    base = found[1]["ms"] * counts[0]
    for row in found[1:]:
        row["share_of_linear"] = base / (row["ms"] * row["workers"])
    return found


def timed_search(detector: Detector, features: tuple[np.ndarray, list[Tensor]], rounds: int) -> Figures:
    """Return the milliseconds of a query, of a few rounds over all of them."""
    count = len(features[0])
    return spread([1e3 * timed(lambda: detector.detect_features(*features))[1] / count for _ in range(rounds)], "ms")


def require_same(found: list[Detection], expected: list[Detection], count: int) -> None:
    """Raise WrongResult if a score, a match or a score map differs."""
    for one, other in zip(found, expected, strict=True):
        assert one.pixels is not None
        assert other.pixels is not None
        arrays = [
            (getattr(one.pixels, name), getattr(other.pixels, name)) for name in ("distances", "matches", "score_map")
        ]
        if one.scores != other.scores or not all(np.array_equal(*pair) for pair in arrays):
            raise WrongResult(f"{count} workers: an answer differs from that of one process")


@click.command(help=__doc__)
@click.option("--images", default=1000, show_default=True, help="Images of the gallery.")
@click.option("--rows", default=25, show_default=True, help="Images of a shard.")
@click.option("--queries", default=96, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--edge", default=224, show_default=True, help="Pixels of the backbone's input.")
@click.option("--neighbours", default=50, show_default=True, help="Images whose maps are searched for a query.")
@click.option("--maps", default="float16", show_default=True)
@click.option("--wait", default=0.01, show_default=True, help="Seconds for each map, by workers that wait.")
@click.option("--waiting", multiple=True, type=int, default=[1, 2, 4, 8], show_default=True, help="How many wait.")
@click.option("--real", multiple=True, type=int, default=[1, 2], show_default=True, help="How many do not.")
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    images: int,
    rows: int,
    queries: int,
    rounds: int,
    edge: int,
    neighbours: int,
    maps: str,
    wait: float,
    waiting: list[int],
    real: list[int],
    json_file: Path | None,
) -> None:
    """Measure, print tables, and write the figures."""
    figures: Figures = {**environment(), "images": images, "queries": queries, "edge": edge, "neighbours": neighbours}
    figures |= {"maps": maps, "wait_s": wait}
    search = SearchSettings(gallery_neighbours=neighbours)
    with TemporaryDirectory(prefix="spade-index-") as folder:
        task = Task(images, queries, SMALL, rows, maps)
        with patch.object(searching, "Searcher", waiting_searcher(wait)):
            figures["waiting"] = compared(task, list(waiting), search, rounds, Path(folder, "waiting"))
        click.echo(measured(COLUMNS, figures["waiting"]))
        write_json(json_file, figures)
        figures["real"] = compared(replace(task, edge=edge), list(real), search, rounds, Path(folder, "real"))
    click.echo(measured(COLUMNS, figures["real"]))
    write_json(json_file, figures)


if __name__ == "__main__":
    main()
