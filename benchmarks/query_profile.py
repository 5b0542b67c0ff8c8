"""Where does the time of a query go? Decoding, backbone, nearest images, reading maps, pixel search, score map.

    python benchmarks/query_profile.py GALLERY IMAGES --backbone NAME --json benchmarks/results/query_profile.json

Images are queried one by one, as a line does; quoted are medians, over the images, of seconds on the clock. The
gallery's files are in the operating system's cache after the first query, which is left out.
"""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

from spade_index import Detector, Gallery, SearchSettings, find_images, load_backbone
from spade_index.benchmarks.harness import environment
from spade_index.images import load
from spade_index.method import pixel_search
from spade_index.settings import PIXEL_PRECISIONS

STAGES = ("decoding", "backbone", "nearest images", "reading maps", "pixel search", "score map")


@click.command(help=(__doc__ or "").partition("\n")[0])
@click.argument("gallery", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--backbone", default="efficientnet-lite0", show_default=True, help="The gallery's.")
@click.option("--count", type=click.IntRange(2), default=16, show_default=True, help="Images, spread over all of them.")
@click.option("--neighbours", type=click.IntRange(1), default=50, show_default=True, help="K images searched.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(gallery: Path, images: Path, backbone: str, count: int, neighbours: int, json_file: Path | None) -> None:
    """Profile queries in both precisions of the pixel search."""
    figures: dict[str, Any] = {**environment(), "neighbours": neighbours, "precisions": {}}
    files = list(find_images(images))
    files = files[:: max(1, len(files) // count)][:count]
    with Gallery(gallery) as there:
        figures |= {"images_in_gallery": len(there), "map_bytes": there.settings.map_bytes, "queries": len(files) - 1}
        extractor = load_backbone(backbone, preprocessing=lambda _: there.settings.preprocessing)
        for precision in PIXEL_PRECISIONS:
            search = SearchSettings(gallery_neighbours=neighbours, pixel_precision=precision)
            rows = list(profile(Detector(there, extractor, search), files))[1:]
            seconds = {stage: statistics.median(row[stage] for row in rows) for stage in (*STAGES, "whole query")}
            figures["precisions"][precision] = seconds
            click.echo(f"pixel precision {precision}:")
            for stage, value in seconds.items():
                click.echo(f"  {stage:16}{1e3 * value:8.1f} ms {value / seconds['whole query']:6.1%}")
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n")


def profile(of: Detector, files: list[Any]) -> Iterator[dict[str, float]]:
    """Seconds of each stage, and of the whole, for one query after another."""
    row: dict[str, float] = defaultdict(float)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                row[stage] += time.perf_counter() - started

        return call

    assert of.backbone is not None
    read, extract = timed("decoding", load), timed("backbone", of.backbone)
    with (
        replaced(of.gallery, "nearest", timed("nearest images", of.gallery.nearest)),
        replaced(of.map_pool, "fetch", timed("reading maps", of.map_pool.fetch)),
        replaced(of, "score_maps", timed("score map", of.score_maps)),
        replaced(pixel_search, "nearest_pixels", timed("pixel search", pixel_search.nearest_pixels)),
    ):
        for file in files:
            row.clear()
            started = time.perf_counter()
            image = read(file, of.gallery.settings.preprocessing)
            features = extract(np.stack([image.pixels]))
            of.detect_features(features.pooled.cpu().numpy(), features.pyramid)
            row["whole query"] = time.perf_counter() - started
            yield dict(row)


@contextmanager
def replaced(thing: Any, name: str, value: Any) -> Iterator[None]:
    """With an attribute of a thing replaced."""
    before = getattr(thing, name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        setattr(thing, name, before)


if __name__ == "__main__":
    main()
