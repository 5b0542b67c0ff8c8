"""How fast do the workers of a cluster search the maps of a gallery, and how many bytes travel for a query?

Every number of workers first answers all queries, and has no figures unless the answers are those of one process, to
the bit. Then it is timed: the image level, the pixel level and the score maps of features that are there.

python benchmarks/cluster_search.py --json benchmarks/results/cluster_search.json
"""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
from torch import Tensor

from spade_index.benchmarks.harness import Figures, WrongResult, environment, spread, table, timed, write_json
from spade_index.benchmarks.photographs import make_photographs
from spade_index.cluster.connection import connected
from spade_index.cluster.searching import searching_on
from spade_index.features.backbone import Backbone, load_backbone
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import find_images, load
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.settings import SearchSettings

TRAVELLED = {"to_workers": "bytes_to_workers", "back": "bytes_back"}  # columns, and what they are a query's share of
COLUMNS = ("workers", "ms", "share_of_linear", "to_workers", "back", "start_s")


def build(gallery: Path, images: Path, backbone: Backbone, rows: int, maps: str) -> None:
    """Build a gallery by one process."""
    with GalleryWriter(gallery, backbone.settings, maps=maps) as writer:
        writer.shard_rows = rows
        writer.add(find_images(images), backbone)


def compared(
    gallery: Path, queries: Path, backbone: Backbone, counts: list[int], search: SearchSettings, rounds: int
) -> list[Figures]:
    """Search by one process and by each number of workers. Raises WrongResult if answers differ."""
    images = [load(file, backbone.settings.preprocessing) for file in find_images(queries)]
    with Gallery(gallery) as opened:
        here = Detector(opened, backbone, search, calibrated=False)
        features = here.features(images)
        expected = here.detect_features(*features)
        found: list[Figures] = [{"workers": 0, **timed_search(here, features, rounds)}]
        for count in counts:
            with connected("local", cores=count):
                started = time.perf_counter()
                with searching_on("local", workers=count) as elsewhere:
                    ready = time.perf_counter()
                    there = Detector(opened, backbone, search, calibrated=False, elsewhere=elsewhere)
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
@click.option("--rows", default=50, show_default=True, help="Images of a shard.")
@click.option("--queries", default=32, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--edge", default=224, show_default=True, help="Pixels of the backbone's input.")
@click.option("--neighbours", default=50, show_default=True, help="Images whose maps are searched for a query.")
@click.option("--maps", default="float16", show_default=True)
@click.option("--workers", "counts", multiple=True, type=int, default=[1, 2, 4], show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
def main(
    images: int,
    rows: int,
    queries: int,
    rounds: int,
    edge: int,
    neighbours: int,
    maps: str,
    counts: list[int],
    json_file: Path | None,
) -> None:
    """Measure, print a table, and write the figures."""
    figures: Figures = {**environment(), "images": images, "queries": queries, "edge": edge, "neighbours": neighbours}
    with TemporaryDirectory(prefix="spade-index-") as folder:
        work = Path(folder)
        make_photographs(work / "images", images, edge)
        make_photographs(work / "queries", queries, edge, seed=1)
        backbone = load_backbone(
            "efficientnet-lite0", preprocessing=partial(replace, input_size=(edge, edge)), device="cpu"
        )
        build(work / "gallery", work / "images", backbone, rows, maps)
        search = SearchSettings(gallery_neighbours=neighbours)
        figures["maps"] = maps
        figures["search"] = compared(work / "gallery", work / "queries", backbone, list(counts), search, rounds)
    lines = [[f"{row[name]:.3g}" if name in row else "" for name in COLUMNS] for row in figures["search"]]
    click.echo("\n".join(table([COLUMNS, *lines])))
    write_json(json_file, figures)


if __name__ == "__main__":
    main()
