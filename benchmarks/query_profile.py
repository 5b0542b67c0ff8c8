"""Where does the time of a query go? Decoding, backbone, nearest images, reading maps, pixel search, score map.

    python benchmarks/query_profile.py GALLERY IMAGES --backbone NAME --json benchmarks/results/query_profile.json

Images are queried one by one; medians over the images are reported, in seconds. The gallery's files are in the
operating system's cache after the first query, which is left out.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click

from spade_index import Detector, Gallery, SearchSettings, find_images, load_backbone
from spade_index.benchmarks.harness import Figures, environment, medians, timed, write_json
from spade_index.images import ImageFile, load
from spade_index.method import pixel_search
from spade_index.settings import PIXEL_PRECISIONS

Stages = dict[str, tuple[Any, str]]  # an object and the name of its method or function, by stage


@click.command(help=__doc__)
@click.argument("gallery", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--backbone", default="efficientnet-lite0", show_default=True, help="The gallery's.")
@click.option("--count", type=click.IntRange(2), default=16, show_default=True, help="Images, spread over all of them.")
@click.option("--neighbours", type=click.IntRange(1), default=50, show_default=True, help="K images searched.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(gallery: Path, images: Path, backbone: str, count: int, neighbours: int, json_file: Path | None) -> None:
    """Profile queries in both precisions of the pixel search."""
    figures: Figures = {**environment(), "neighbours": neighbours, "precisions": {}}
    files = list(find_images(images))
    files = files[:: max(1, len(files) // count)][:count]
    with Gallery(gallery) as opened:
        figures |= {"images_in_gallery": len(opened), "map_bytes": opened.settings.map_bytes, "queries": len(files) - 1}
        extractor = load_backbone(backbone, preprocessing=lambda _: opened.settings.preprocessing)
        for precision in PIXEL_PRECISIONS:
            search = SearchSettings(gallery_neighbours=neighbours, pixel_precision=precision)
            seconds = medians(profile(Detector(opened, extractor, search), files)[1:])
            figures["precisions"][precision] = seconds
            click.echo(f"pixel precision {precision}:")
            for stage, value in seconds.items():
                click.echo(f"  {stage:16}{1e3 * value:8.1f} ms {value / seconds['whole query']:6.1%}")
    write_json(json_file, figures)


def profile(detector: Detector, files: list[ImageFile]) -> list[dict[str, float]]:
    """Return the seconds of each stage, and of the whole, of each query."""
    assert detector.backbone is not None
    stages: Stages = {
        "nearest images": (detector.gallery, "nearest"),
        "reading maps": (detector.map_pool, "fetch"),
        "pixel search": (pixel_search, "nearest_pixels"),
        "score map": (detector, "score_maps"),
    }
    rows = []
    for file in files:
        with clocked(stages) as seconds:
            started = time.perf_counter()
            image, decoding = timed(partial(load, file, detector.gallery.settings.preprocessing))
            features, extraction = timed(partial(detector.backbone, image.pixels[None]))
            detector.detect_features(features.pooled.cpu().numpy(), features.pyramid)
            whole = time.perf_counter() - started
        rows.append({"decoding": decoding, "backbone": extraction, **seconds, "whole query": whole})
    return rows


@contextmanager
def clocked(stages: Stages) -> Iterator[dict[str, float]]:
    """Yield the total seconds of each stage so far."""
    seconds = dict.fromkeys(stages, 0.0)

    def call(stage: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        result, took = timed(partial(function, *arguments, **options))
        seconds[stage] += took
        return result

    with ExitStack() as stack:
        for stage, (owner, name) in stages.items():
            stack.enter_context(patch.object(owner, name, partial(call, stage, getattr(owner, name))))
        yield seconds


if __name__ == "__main__":
    main()
