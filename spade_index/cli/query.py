"""What `spade-index query` does: score images, write score maps and heat maps, print a line or an object for each."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

import click
import numpy as np

from spade_index.errors import ImageError
from spade_index.images.decode import DecodedImage, covered, decode
from spade_index.images.find import ImageFile
from spade_index.images.loading import load_all
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.method.evidence import worst_evidence
from spade_index.views.heatmap import heatmap, score_limits
from spade_index.views.report import Example, example_of, write_report

from .options import Progress

SHOWN = 60  # images on the report's page, those with the highest scores


class Query:
    """One run over images. Score maps are kept on disk, so memory does not grow with the number of images."""

    def __init__(self, detector: Detector, out: Path | None, as_json: bool) -> None:
        self._detector = detector
        self._out = out
        self._as_json = as_json
        self._maxima: dict[str, float] = {}  # of the score maps, by the image's path: ids of two folders may be equal
        self._names: dict[str, str] = {}  # what an image's files are called, by its path
        self._taken: set[str] = set()
        self._shown: list[tuple[float, str, Detection]] = []
        self.failed = 0  # images that could not be decoded

    def run(self, files: Callable[[], Iterable[ImageFile]], batch_size: int, workers: int) -> None:
        """Score all images, then draw those that have a score map. `files` is called for each of the two."""
        with Progress("query") as progress:

            def on_error(error: ImageError) -> None:
                self.failed += 1
                progress.say(f"skipped {error}")
                progress(1)

            preprocessing = self._detector.gallery.settings.preprocessing
            images = load_all(files(), preprocessing, workers=workers, ahead=2 * batch_size, on_error=on_error)
            while batch := list(islice(images, batch_size)):
                for image, detection in zip(batch, self._detector.detect(batch), strict=True):
                    result = self._note(image, detection)
                    click.echo(json.dumps(result) if self._as_json else _line(result))
                progress(len(batch))
        if self._out is not None:
            self._draw(files(), self._out)

    def _note(self, image: DecodedImage, detection: Detection) -> dict[str, Any]:
        """Save an image's score map; returns what is printed of it."""
        pixels = detection.pixels
        evidence = worst_evidence(self._detector.gallery, detection, image.geometry)
        result = {
            "image": image.file.id,
            "path": image.file.path,
            "score": detection.score,
            "scores": detection.scores,
            "threshold": detection.threshold,
            "anomalous": detection.anomalous,
            "snapshot": detection.snapshot,
            "neighbours": [{"id": n.id, "distance": n.distance} for n in detection.neighbours],
            "score_map": None,
            "heatmap": None,
            "evidence": None if evidence is None else asdict(evidence),
        }
        if self._out is not None and pixels is not None:
            path = self._place(self._out / "score_maps", image.file, ".npy")
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, pixels.score_map)
            result |= {
                "score_map": str(path),
                "heatmap": str(self._place(self._out / "heatmaps", image.file, ".png")),
            }
            self._maxima[image.file.path] = pixels.score
            self._shown.append((detection.score, image.file.path, detection))
            self._shown = sorted(self._shown, key=lambda shown: -shown[0])[:SHOWN]
        return result

    def _draw(self, files: Iterable[ImageFile], out: Path) -> None:
        """Heat maps with one colour scale for the whole run, and the page of the highest scores."""
        gallery = self._detector.gallery
        limits = score_limits(list(self._maxima.values()), self._detector.thresholds.get("map"))
        shown = {path: detection for _, path, detection in self._shown}
        examples: dict[str, Example] = {}
        with Progress("draw", len(self._maxima)) as progress:
            for file in files:
                if file.path not in self._maxima:
                    continue
                try:
                    image = decode(file.read(), file.path)
                except (ImageError, OSError) as error:  # it has changed since it was scored
                    progress.say(f"no heat map: {error}")
                    continue
                geometry = covered(image.width, image.height, gallery.settings.preprocessing)
                score_map = np.load(self._place(out / "score_maps", file, ".npy"), allow_pickle=False)
                path = self._place(out / "heatmaps", file, ".png")
                path.parent.mkdir(parents=True, exist_ok=True)
                heatmap(image, score_map, geometry, limits).save(path)
                if file.path in shown:
                    examples[file.path] = example_of(gallery, shown[file.path], image, file.id, geometry, limits)
                progress(1)
        write_report(
            out / "report.html",
            title=f"Queries of {gallery.path.name}",
            summary=[
                ("Images", len(self._maxima)),
                ("Gallery", f"{len(gallery):,} images"),
                ("Snapshot", gallery.snapshot),
                ("Image score", self._detector.kind),
            ],
            examples=[examples[path] for _, path, _ in self._shown if path in examples],
            limits=limits,
        )

    def _place(self, folder: Path, file: ImageFile, suffix: str) -> Path:
        """Where a file about an image goes: always below `folder`, and never where another image's is."""
        if file.path not in self._names:
            name = "/".join(part for part in PurePosixPath(file.id).parts if part not in ("/", ".."))
            unique, number = name, 2
            while unique in self._taken:
                unique, number = f"{name}~{number}", number + 1
            self._taken.add(unique)
            self._names[file.path] = unique
        return folder / (self._names[file.path] + suffix)


def _line(result: dict[str, Any]) -> str:
    verdict = {None: "", True: "anomalous", False: "normal"}[result["anomalous"]]
    nearest = result["neighbours"][0]["id"]
    return f"{result['score']:12.6g}  {verdict:9}  {result['image']}  (nearest {nearest})"
