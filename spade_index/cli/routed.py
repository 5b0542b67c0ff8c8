"""Answer the images of `query ROOT IMAGES`: each by the gallery of the folder that it belongs to."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from spade_index.errors import GalleryError, InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery import CATALOG, Gallery
from spade_index.images.decode import DecodedImage
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.method.pictures import Picture
from spade_index.method.regions import regions_of
from spade_index.method.router import Route, Router, largest_group, why_not
from spade_index.settings import Preprocessing

from .answer_files import AnswerFileOptions, AnswerFiles
from .answers import answer_of, line_of
from .batches import Batches
from .lines import printable
from .options import LoadingOptions
from .progress import Progress
from .sources import Sources
from .strict import strict_json


def query_root(
    root: Path,
    found: Sources,
    load: Callable[[Gallery], Backbone],
    made: Callable[[Gallery, Backbone], Detector],
    loading: LoadingOptions,
    files: AnswerFileOptions,
    as_json: bool,
) -> int:
    """Score images by the galleries of a folder; return the number of images that could not be decoded."""

    def show(answer: dict[str, Any]) -> None:
        if not files.to_stdout:
            click.echo(strict_json(answer) if as_json else routed_line(answer))

    with ExitStack() as stack:
        galleries = open_galleries(root, stack)
        first = next(iter(galleries.values()))
        loaded = load(first)
        first.settings.require_equal(loaded.settings, str(first.path))
        routed = RoutedImages(galleries, loaded, lambda opened: made(opened, loaded))
        with AnswerFiles(files) as written:
            return answer_routed(routed, first.settings.preprocessing, found, loading, written, show)


def open_galleries(root: Path, stack: ExitStack) -> dict[str, Gallery]:
    """Open the galleries of a folder that can be chosen among; print a line for each other one.

    Raises InputError if there is none.
    """
    opened = {}
    for path in sorted(path.parent for path in root.glob(f"*/{CATALOG}")):
        if path.name.startswith("."):
            continue
        try:
            gallery = stack.enter_context(Gallery(path))
        except GalleryError as error:
            Progress.say(f"not asked: {error}")
            continue
        if (reason := why_not(gallery)) is None:
            opened[path.name] = gallery
        else:
            Progress.say(f"{path}: not asked: {reason}; name it in place of {root}")
    asked = largest_group({name: gallery.settings for name, gallery in opened.items()})
    if not asked:
        raise InputError(f"{root}: no gallery, and no folder of galleries that can be chosen among")
    for name in sorted(opened.keys() - set(asked)):
        Progress.say(f"{root / name}: not asked: it has another backbone or preprocessing than {root / asked[0]}")
    return {name: opened[name] for name in asked}


class RoutedImages:
    """Routes images and has them scored; features are computed once."""

    def __init__(
        self, galleries: dict[str, Gallery], backbone: Backbone, detector_of: Callable[[Gallery], Detector]
    ) -> None:
        """`detector_of` makes a gallery's detector, which is kept."""
        self._galleries, self._backbone, self._detector_of = galleries, backbone, detector_of
        self._router = Router(galleries)
        self._detectors: dict[str, Detector] = {}

    def detector(self, name: str) -> Detector:
        """Return the detector of a gallery."""
        if name not in self._detectors:
            self._detectors[name] = self._detector_of(self._galleries[name])
        return self._detectors[name]

    def detect(self, images: Sequence[DecodedImage]) -> list[tuple[Route, Detection | None]]:
        """Return the route of each image, and its detection; None where it belongs to no gallery."""
        features = self._backbone(np.stack([image.pixels for image in images]))
        pooled = features.pooled.cpu().numpy()
        routes = self._router.route(pooled)
        found: list[Detection | None] = [None] * len(images)
        for name in dict.fromkeys(route.gallery for route in routes if route.taken):
            places = [place for place, route in enumerate(routes) if route.taken and route.gallery == name]
            levels = [level[places] for level in features.pyramid]
            there = [images[place].geometry for place in places]
            detections = self.detector(name).detect_features(pooled[places], levels, places=there)
            for place, detection in zip(places, detections, strict=True):
                found[place] = detection
        return list(zip(routes, found, strict=True))


def answer_routed(
    routed: RoutedImages,
    preprocessing: Preprocessing,
    sources: Sources,
    loading: LoadingOptions,
    files: AnswerFiles,
    show: Callable[[dict[str, Any]], None],
) -> int:
    """Score all images and `show` their answers; return the number of images that could not be decoded."""
    with Progress("query") as progress:
        batches = Batches(sources, preprocessing, loading, progress)
        for batch in batches:
            for image, (route, detection) in zip(batch, routed.detect(batch), strict=True):
                picture = Picture(image.file, image.geometry, image.notice)
                show(_answer(routed, picture, route, detection, files))
                batches.answered()
    return batches.failed


def _answer(
    routed: RoutedImages, image: Picture, route: Route, detection: Detection | None, files: AnswerFiles
) -> dict[str, Any]:
    """Return the answer for an image. One of no gallery has a route alone, and is in none of the files."""
    if detection is None:
        return {"image": image.file.id, "path": image.file.path, "route": asdict(route)}
    regions = regions_of(detection, image.geometry)
    answer = answer_of(routed.detector(route.gallery), image, detection, regions, None)
    answer["route"] = asdict(route)
    files.add(answer, image.geometry, regions)
    return answer


def routed_line(answer: dict[str, Any]) -> str:
    """Return an answer as one line of text, which names the gallery."""
    route = answer["route"]
    times = f"{route['reaches']:.3g} times as far as the farthest of its own images"
    if not route["taken"]:
        line = f"{'':12}  {'none':9}  {answer['image']}  (of no gallery; nearest is {route['gallery']}, {times})"
        return printable(line)
    share = f"farther than {100 * route['share']:.3g} % of its own images"
    return f"{line_of(answer)}  {printable(route['gallery'])}: {share}"
