"""The files about queries: score maps, heat maps of one colour scale, regions, and a page of the highest scores."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from spade_index.errors import ImageError
from spade_index.images.files import is_drawn
from spade_index.images.find import ImageFile
from spade_index.images.geometry import Geometry, covered
from spade_index.images.plain import picture_of
from spade_index.images.region_files import own_region
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.method.interest import inside_of
from spade_index.method.regions import Region
from spade_index.method.tuned import why_searched

from .example import Example, example_of
from .files import encode, encode_array, write_whole
from .heatmap import heatmap, score_limits
from .leftovers import few, left_over
from .names import REFUSED, file_name
from .regions import coco, mask, outline
from .report import write_report
from .text import size_of

SHOWN = 60  # images on the page, those with the highest scores


@dataclass(frozen=True)
class Shown:
    """An image for the page."""

    score: float
    path: str
    detection: Detection


class Drawing:
    """Score maps go to the disk as they come, so memory does not grow with the number of images.

    Images are known by their paths, for the ids of two folders may be equal.
    """

    def __init__(self, detector: Detector, out: Path, notice: Callable[[str], None] = lambda line: None) -> None:
        """Prepare to write below the folder `out`; `notice` is told of images whose files cannot be written."""
        self._notice = notice
        self._detector = detector
        self._out = out
        self._maxima: dict[str, float] = {}  # path -> maximum of the score map
        self._names: dict[str, str] = {}  # path -> name of the image's files
        self._taken: set[str] = set()
        self._shown: list[Shown] = []
        self._regions: dict[str, Sequence[Region]] = {}  # by path; without images that have no threshold

    def __len__(self) -> int:
        """The number of images with a score map."""
        return len(self._maxima)

    def save(
        self, file: ImageFile, detection: Detection, regions: Sequence[Region] | None = None
    ) -> tuple[Path, Path] | None:
        """Save the score map of an image; return its path and the heat map's, or None where there is no map.

        Raises OSError if that is not for the name: others would fail as well.
        """
        if detection.pixels is None:
            return None
        path = self._score_map(file)
        try:
            write_whole(path, encode_array(detection.pixels.score_map))
        except OSError as error:
            self._refused(error, file)
            return None
        if regions is not None:
            self._regions[file.path] = regions
        self._maxima[file.path] = detection.pixels.peak
        self._shown.append(Shown(detection.score, file.path, detection))
        self._shown = sorted(self._shown, key=lambda shown: -shown.score)[:SHOWN]
        return path, self._heatmap(file)

    def draw(self, files: Iterable[ImageFile], notice: Callable[[str], None], progress: Callable[[int], None]) -> None:
        """Draw the heat maps and masks of the images that were saved, and write the page and `regions.coco.json`.

        Args:
            files: the images again, in any order.
            notice: told of images that have changed and cannot be read any more.
            progress: told of the number of images drawn.
        """
        gallery = self._detector.gallery
        limits = score_limits(list(self._maxima.values()), self._detector.pixel_threshold)
        shown = {image.path: image.detection for image in self._shown}
        examples: dict[str, Example] = {}
        found: list[tuple[str, Geometry, Sequence[Region]]] = []
        for file in files:
            if file.path not in self._maxima:
                continue
            try:
                image = picture_of(file, gallery.settings.preprocessing)
                geometry = covered(image.width, image.height, gallery.settings.preprocessing)
                geometry = replace(geometry, region=own_region(file, geometry))
            except (ImageError, OSError) as error:
                notice(f"no heat map: {error}")
                continue
            regions = self._regions.get(file.path)
            try:
                self._draw_one(file, image, geometry, limits, regions)
            except OSError as error:
                self._refused(error, file)
            if regions is not None:
                found.append((file.id, geometry, regions))
            if file.path in shown:
                example = example_of(gallery, shown[file.path], image, file.id, geometry, limits, regions=regions or ())
                examples[file.path] = example
            progress(1)
        regions_file = self._out / "regions.coco.json"
        if found:
            write_whole(regions_file, json.dumps(coco(found)).encode())
        self._write_page([examples[image.path] for image in self._shown if image.path in examples], limits)
        if earlier := left_over(self._out / "score_maps", ".npy", set(self._names.values())):
            notice(f"{self._out}: has {len(earlier):,} other images of earlier queries, too ({few(earlier)})")
        if not found and regions_file.exists():
            notice(f"{regions_file}: is of an earlier query; this one has no regions, for want of a threshold")

    def mask_path(self, file: ImageFile) -> Path | None:
        """Return the path of an image's mask; None if its regions were not found, for want of a threshold."""
        return self._mask(file) if file.path in self._regions else None

    def _draw_one(
        self,
        file: ImageFile,
        image: Image.Image,
        geometry: Geometry,
        limits: tuple[float, float],
        regions: Sequence[Region] | None,
    ) -> None:
        score_map = np.load(self._score_map(file), allow_pickle=False)
        path = self._heatmap(file)
        inside = inside_of(self._detector.gallery, geometry, self._detector.comparison.size, score_map.shape)
        drawn = outline(heatmap(image, score_map, geometry, limits, inside=inside), regions or (), geometry)
        write_whole(path, encode(drawn, "PNG", small=False))
        mask_path = self._mask(file)
        if regions is not None:
            write_whole(mask_path, encode(mask(regions, geometry), "PNG"))
        elif is_drawn(str(mask_path)):  # of an earlier query, which found regions
            mask_path.unlink()

    def _write_page(self, examples: list[Example], limits: tuple[float, float]) -> None:
        gallery = self._detector.gallery
        write_report(
            self._out / "report.html",
            title=f"Queries of {gallery.name}",
            summary=[
                ("Images", len(self)),
                ("Gallery", size_of(gallery)),
                ("Snapshot", gallery.snapshot),
                ("Image score", self._detector.kind),
                ("False alarms asked for", self._detector.false_alarms),
                ("Compared by", why_searched(gallery, self._detector.search)),
            ],
            examples=examples,
            limits=limits,
            truth=False,
        )

    def _refused(self, error: OSError, file: ImageFile) -> None:
        """Tell that an image's file cannot be written. Raises the error if that is not for its name."""
        if error.errno not in REFUSED:
            raise error
        self._notice(f"{file.path}: its files cannot be written ({error.strerror}: {error.filename})")

    def _score_map(self, file: ImageFile) -> Path:
        return self._out / "score_maps" / f"{self._name(file)}.npy"

    def _heatmap(self, file: ImageFile) -> Path:
        return self._out / "heatmaps" / f"{self._name(file)}.png"

    def _mask(self, file: ImageFile) -> Path:
        return self._out / "masks" / f"{self._name(file)}.mask.png"

    def _name(self, file: ImageFile) -> str:
        """Return the name of an image's files: always below a folder, and never another image's."""
        if file.path not in self._names:
            name = file_name(file.id)
            unique, number = name, 2
            while unique in self._taken:
                unique, number = f"{name}~{number}", number + 1
            self._taken.add(unique)
            self._names[file.path] = unique
        return self._names[file.path]
