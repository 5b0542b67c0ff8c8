"""Choose what is stored before a gallery is built: the usual input size, or twice that with maps averaged to a grid.

The larger one takes the backbone four times as long; its maps take about as many bytes, for they are averaged to the
grid that ways of comparing are tried on first. It is chosen where synthetic defects on a sample of the images are found
better by more than a margin. They are small, for large ones are found at any size. Where pictures are cut into tiles,
the images of the sample are tiles of them.
"""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from spade_index.errors import ImageError, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.decode import decode
from spade_index.images.find import ImageFile, find_images
from spade_index.images.ranges import longer_edge, spread
from spade_index.images.tiles import crop, tile_boxes
from spade_index.settings import Preprocessing

from .contest import BASE
from .tuning import Tuning, tune

SAMPLE = 120  # images
CUT = 24  # pictures that tiles of the sample are cut from, at most: large ones take long to decode
LEAST = 20  # images; with fewer the usual size is taken
MARGIN = 0.015  # of the quality: what chance does not give
ODDS = 1.25  # of the quality, times as high, at least: what four times the time of the backbone must buy
SHARPER = 1.5  # times the usual size that the images' longer edges must have, in the median
TRIED = 40  # images of it that ways are tried on, the same at each size: time decides nothing
WAYS = 3  # that are tried at each size
SMALL = 0.5  # of the usual size: the defects' lengths

Size = tuple[int, int]


@dataclass(frozen=True)
class SizeChoice:
    """The backbone to build a gallery with, and why."""

    backbone: Backbone
    why: str  # one line


def choose_input_size(
    files: Iterable[ImageFile],
    usual: Backbone,
    load: Callable[[Size, int], Backbone],
    *,
    seconds: float,
    say: Callable[[str], None] = lambda line: None,
) -> SizeChoice:
    """Choose between a backbone's usual input size and twice that.

    Args:
        files: the normal images.
        usual: the backbone at its usual input size.
        load: loads the backbone for an input size, with levels averaged to this many cells along the longer edge.
        seconds: that the backbone may take at the larger size.
        say: told what is tried, in one line each.

    Raises:
        BackboneError: the backbone cannot be loaded for the larger size.
    """
    how = usual.settings.preprocessing
    if how.tile is None:
        return _choose(spread(files, SAMPLE), usual, load, seconds, say)
    size = how.input_size
    if how.tile < SHARPER * max(size):
        return SizeChoice(usual, f"input size {_text(size)}: the tiles have no more detail")
    with tempfile.TemporaryDirectory(prefix="spade-index-") as folder:
        for number, tile in enumerate(_tiles(spread(files, CUT), how)):
            tile.save(Path(folder) / f"{number}.png", compress_level=1)
        return _choose(list(find_images(folder)), usual, load, seconds, say)


def _tiles(pictures: list[ImageFile], how: Preprocessing) -> Iterator[Image.Image]:
    """Yield up to SAMPLE tiles, spread evenly over the pictures that can be decoded."""
    for picture in pictures:
        try:
            image = decode(picture.read(), picture.path, how=how)
        except (ImageError, OSError):  # adding it names it
            continue
        boxes = tile_boxes(image.width, image.height, how)
        step = max(1, math.ceil(len(boxes) * len(pictures) / SAMPLE))
        yield from (crop(image, box) for box in boxes[::step])


def _choose(
    sample: list[ImageFile],
    usual: Backbone,
    load: Callable[[Size, int], Backbone],
    seconds: float,
    say: Callable[[str], None],
) -> SizeChoice:
    height, width = size = usual.settings.preprocessing.input_size
    if len(sample) < LEAST:
        return SizeChoice(usual, f"input size {_text(size)}")
    if float(np.median([longer_edge(file) for file in sample])) < SHARPER * max(size):
        return SizeChoice(usual, f"input size {_text(size)}: the images have no more detail")
    with tempfile.TemporaryDirectory(prefix="spade-index-") as folder:
        first = _try(sample, usual, Path(folder) / "usual")
        if first is None:
            return SizeChoice(usual, f"input size {_text(size)}")
        say(f"input size {_text(size)}: {_figures(first)}")
        if 4 * first.backbone_ms / 1e3 * (len(sample) + first.pasted) > seconds:
            return SizeChoice(usual, f"input size {_text(size)}: a larger one would take the backbone too long")
        doubled = (2 * height, 2 * width)
        larger = load(doubled, BASE[0])
        second = _try(sample, larger, Path(folder) / "larger")
    if second is None:
        return SizeChoice(usual, f"input size {_text(size)}")
    say(f"input size {_text(doubled)}: {_figures(second)}")
    why = (
        f"synthetic defects are found with quality {second.quality:.3f} at {_text(doubled)}, "
        f"{first.quality:.3f} at {_text(size)}"
    )
    higher = _odds(second.quality) > ODDS * _odds(first.quality)
    if higher and second.quality > first.quality + MARGIN:
        return SizeChoice(larger, f"input size {_text(doubled)}, stored grid {BASE[0]}: {why}")
    return SizeChoice(usual, f"input size {_text(size)}: {why}")


def _try(files: list[ImageFile], backbone: Backbone, path: Path) -> Tuning | None:
    """Tune a gallery of a sample, or return None where that cannot be done."""
    whole = replace(backbone.settings.preprocessing, tile=None, overlap=0.0)  # the files are tiles already
    with GalleryWriter(path, replace(backbone.settings, preprocessing=whole)) as writer:
        writer.add(files, backbone)
        try:
            return tune(writer.gallery, backbone, ways=WAYS, images=TRIED, scale=SMALL)
        except InputError:  # too few of the images can be decoded, or they show nothing
            return None


def _odds(quality: float) -> float:
    """Return how many times as much is found as is not: near 1, a small difference is most of what is left."""
    return quality / max(1e-9, 1 - quality)


def _text(size: Size) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def _figures(tuning: Tuning) -> str:
    return f"quality {tuning.quality:.3f}, backbone {tuning.backbone_ms:.0f} ms"
