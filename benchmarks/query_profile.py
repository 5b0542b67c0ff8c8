"""Where does the time of a query go? Decoding, backbone, nearest images, reading maps, pixel search, score map.

    python benchmarks/query_profile.py GALLERY IMAGES --json benchmarks/results/query_profile.json

Images are queried one by one, 16 that are spread over all of them; medians are reported, in seconds. The gallery's
files are in the operating system's cache after the first query, which is left out.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click

from spade_index import Detector, Gallery, find_images, load_backbone
from spade_index.benchmarks.harness import environment, medians, table, timed, write_json
from spade_index.images import ImageFile, load
from spade_index.method import pixel_search

COUNT = 16  # queries


@click.command(help=__doc__)
@click.argument("gallery", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(gallery: Path, images: Path, json_file: Path | None) -> None:
    """Profile queries with the default settings."""
    figures = environment()
    files = list(find_images(images))
    files = files[:: max(1, len(files) // COUNT)][:COUNT]
    with Gallery(gallery) as opened:
        backbone = load_backbone(opened.settings.backbone, preprocessing=lambda _: opened.settings.preprocessing)
        seconds = medians(profile(Detector(opened, backbone), files)[1:])
        figures |= {"images_in_gallery": len(opened), "map_bytes": opened.settings.map_bytes, "seconds": seconds}
    whole = seconds["whole query"]
    click.echo("\n".join(table([(name, f"{1e3 * s:.1f} ms", f"{s / whole:.1%}") for name, s in seconds.items()])))
    write_json(json_file, figures)


def profile(detector: Detector, files: list[ImageFile]) -> list[dict[str, float]]:
    """Return the seconds of each stage, and of the whole, of each query."""
    assert detector.backbone is not None
    stages = {
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
def clocked(stages: Mapping[str, tuple[Any, str]]) -> Iterator[dict[str, float]]:
    """Yield the total seconds so far of each stage, an object and the name of its method or function."""
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
