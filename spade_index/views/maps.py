"""Write score maps as benchmark servers take them: TIFF files of half-precision numbers, of the images' own sizes."""

import os
import struct
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spade_index.images.marks import SOFTWARE
from spade_index.method.evaluation import Judged
from spade_index.method.labelled import Dataset

from .files import encode, write_whole
from .heatmap import on_image
from .leftovers import few, left_over
from .names import REFUSED, file_name

MAPS, BINARY_MAPS = "anomaly_images", "anomaly_images_thresholded"
HIGHEST = float(np.finfo(np.float16).max)


class MapWriter:
    """Write the map of each image of a dataset: anomaly_images/CATEGORY/PATH.tiff, PATH being that of the image.

    With a threshold, anomaly_images_thresholded/CATEGORY/PATH.png is 255 above it, and 0 elsewhere. A map covers the
    whole image; what the backbone did not see has the lowest score of the map.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        threshold: float | None,
        notice: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Write below `folder`; `notice` is told of images whose files cannot be written."""
        self._notice = notice
        self._folder = folder
        self._dataset = dataset
        self._threshold = threshold
        self._written: set[str] = set()

    def __call__(self, judged: Judged) -> None:
        """Write the maps of an image. Raises OSError if that fails, unless for the name: others may be written."""
        try:
            self._write(judged)
        except OSError as error:
            if error.errno not in REFUSED:
                raise
            self._notice(f"{judged.image.file.path}: its map cannot be written ({error.strerror}: {error.filename})")

    def end(self) -> None:
        """Tell of maps of this category that an earlier run wrote, and this one did not: a server would take them."""
        category = file_name(self._dataset.name)
        written = {place.removeprefix(f"{category}/") for place in self._written}
        for kind, suffix in ((MAPS, ".tiff"), (BINARY_MAPS, ".png")):
            folder = self._folder / kind / category
            if earlier := left_over(folder, suffix, written if kind == MAPS or self._threshold is not None else ()):
                self._notice(f"{folder}: has {len(earlier):,} maps of earlier runs, too ({few(earlier)})")

    def _write(self, judged: Judged) -> None:
        place = self._place(judged)
        scores = whole_map(judged)
        write_whole(self._folder / MAPS / f"{place}.tiff", half_tiff(scores))
        if self._threshold is not None:
            binary = Image.fromarray(np.where(scores > self._threshold, 255, 0).astype(np.uint8))
            write_whole(self._folder / BINARY_MAPS / f"{place}.png", encode(binary, "PNG"))

    def _place(self, judged: Judged) -> str:
        """Return the path of an image below CATEGORY, without its suffix unless two images differ by it alone."""
        file, base = judged.image.file, self._dataset.path
        path = os.path.relpath(file.path, os.path.abspath(base if base.is_dir() else base.parent))
        if path.startswith(os.pardir):
            path = file.id
        whole = PurePosixPath(file_name(self._dataset.name), file_name(path))
        place = str(whole.with_suffix(""))
        if place in self._written:
            place = str(whole)
        self._written.add(place)
        return place


def whole_map(judged: Judged) -> NDArray[np.float32]:
    """Return the score map of an image at its own size, float32 [H, W]."""
    assert judged.detection.pixels is not None
    score_map = judged.detection.pixels.score_map
    scores, seen = on_image(score_map, judged.geometry, (judged.geometry.width, judged.geometry.height))
    return np.where(seen, scores, score_map.min())


def half_tiff(values: NDArray[np.float32]) -> bytes:
    """Return a TIFF file of one channel of float16, uncompressed; values beyond its range are cut.

    Pillow writes no half-precision numbers.
    """
    pixels = np.clip(values, -HIGHEST, HIGHEST).astype("<f2").tobytes()
    height, width = values.shape
    software = SOFTWARE.encode() + b"\0"
    short, long, text = 3, 4, 2
    entries = [
        (256, long, 1, width),
        (257, long, 1, height),
        (258, short, 1, 16),  # bits of a sample
        (259, short, 1, 1),  # not compressed
        (262, short, 1, 1),  # 0 is black
        (273, long, 1, 0),  # where the pixels begin
        (277, short, 1, 1),  # samples of a pixel
        (278, long, 1, height),  # rows of a strip
        (279, long, 1, len(pixels)),
        (305, text, len(software), 0),  # where the name of the software begins
        (339, short, 1, 3),  # samples are floating-point numbers
    ]
    after = 8 + 2 + 12 * len(entries) + 4
    places = {305: after, 273: after + len(software)}
    directory = b"".join(struct.pack("<HHII", tag, kind, n, places.get(tag, value)) for tag, kind, n, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + struct.pack("<I", 0) + software + pixels
