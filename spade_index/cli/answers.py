"""Score images one batch after the other, and print a line or a JSON object for each."""

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from spade_index.errors import ImageError
from spade_index.images.files import as_text
from spade_index.images.loading import load_all
from spade_index.images.marks import OwnOutput
from spade_index.images.notices import Notices
from spade_index.method.detection import Detection
from spade_index.method.detector import Detector
from spade_index.method.evidence import worst_evidence
from spade_index.method.interest import countable
from spade_index.method.pictures import Joining, Picture, Pictures
from spade_index.method.regions import Region, regions_of
from spade_index.views.drawing import Drawing
from spade_index.views.text import worse_than

from .answer_files import AnswerFiles
from .lines import printable
from .options import LoadingOptions
from .progress import Progress
from .sources import Sources


def answer_images(
    detector: Detector,
    sources: Sources,
    loading: LoadingOptions,
    out: Path | None,
    files: AnswerFiles,
    show: Callable[[dict[str, Any]], None],
) -> int:
    """Score all images, `show` their answers and write them to `files`; with `out`, draw those with a score map.

    Returns the number of images that could not be decoded.
    """
    answered = failed = 0
    drawing = None if out is None else Drawing(detector, out, Progress.say)
    with Progress("query") as progress:

        def on_error(error: ImageError) -> None:
            """Leave out a picture of this package; count and name what cannot be decoded."""
            nonlocal failed
            if isinstance(error, OwnOutput):
                sources.leave_out(error)
            else:
                failed += 1
                progress.say(f"skipped {error}")
            progress(1)

        preprocessing = detector.gallery.settings.preprocessing
        joining = Joining.of(detector)
        notices, pictures = Notices(progress.say), Pictures()
        size = loading.batch_size
        images = load_all(
            sources.counted_files(),
            preprocessing,
            workers=loading.workers,
            ahead=2 * size,
            on_error=on_error,
            thumbnails=False,
        )
        while batch := list(islice(images, size)):
            notices.tell(batch)
            batch = countable(detector.interest, batch, on_error)
            for image, detection in pictures.completed(batch, detector.detect(batch) if batch else [], joining):
                regions = regions_of(detection, image.geometry)
                answer = answer_of(detector, image, detection, regions, drawing)
                files.add(answer, image.geometry, regions)
                show(answer)
                answered += 1
                progress(1)
        notices.end()
    sources.say_passed_over()
    sources.require_some(answered + failed)
    if drawing is not None:
        with Progress("draw", len(drawing)) as progress:
            drawing.draw(sources.files(), progress.say, progress)
    return failed


def answer_of(
    detector: Detector,
    image: Picture,
    detection: Detection,
    regions: Sequence[Region] | None,
    drawing: Drawing | None,
) -> dict[str, Any]:
    """Return the answer of `query --json` for an image; its score map is saved by `drawing`."""
    evidence = worst_evidence(detector.gallery, detection, image.geometry)
    saved = drawing.save(image.file, detection, regions) if drawing is not None else None
    score_map, heatmap = saved if saved is not None else (None, None)
    mask = drawing.mask_path(image.file) if drawing is not None else None
    return {
        "image": image.file.id,
        "path": image.file.path,
        "score": detection.score,
        "scores": detection.scores,
        "threshold": detection.threshold,
        "p_value": detection.p_value,
        "anomalous": detection.anomalous,
        "snapshot": detection.snapshot,
        "neighbours": [{"id": n.id, "distance": n.distance} for n in detection.neighbours],
        "score_map": _text(score_map),
        "heatmap": _text(heatmap),
        "mask": _text(mask),
        "evidence": None if evidence is None else asdict(evidence),
        "regions": None if regions is None else [_region(region) for region in regions],
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else as_text(os.fspath(path))


def _region(region: Region) -> dict[str, Any]:
    return {"polygon": region.polygon, "box": region.box, "area": region.area, "score": region.score}


def line_of(answer: dict[str, Any]) -> str:
    """Return an answer as one line of text."""
    verdict = {None: "", True: "anomalous", False: "normal"}[answer["anomalous"]]
    nearest = answer["neighbours"][0]["id"]
    meaning = "" if answer["p_value"] is None else f"{worse_than(answer['p_value'])}, "
    line = f"{answer['score']:12.6g}  {verdict:9}  {answer['image']}  ({meaning}nearest {nearest})"
    return printable(line)
