"""Score images one batch after the other, and print a line or a JSON object for each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from spade_index.method.detector import Detector
from spade_index.method.interest import countable
from spade_index.method.pictures import Joining, Pictures
from spade_index.method.regions import regions_of
from spade_index.views.drawing import Drawing
from spade_index.views.record import answer_of
from spade_index.views.text import likeness_of, worse_than

from .answer_files import AnswerFiles
from .batches import Batches
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
    drawing = None if out is None else Drawing(detector, out, Progress.say)
    with Progress("query") as progress:
        batches = Batches(sources, detector.gallery.settings.preprocessing, loading, progress)
        joining, pictures = Joining.of(detector), Pictures()
        for decoded in batches:
            batch = countable(detector.interest, decoded, batches.on_error)
            for image, detection in pictures.completed(batch, detector.detect(batch) if batch else [], joining):
                regions = regions_of(detection, image.geometry)
                answer = answer_of(detector, image, detection, regions, drawing)
                files.add(answer, image.geometry, regions)
                show(answer)
                batches.answered()
    if drawing is not None:
        with Progress("draw", len(drawing)) as progress:
            drawing.draw(sources.files(), progress.say, progress)
    return batches.failed


def line_of(answer: dict[str, Any]) -> str:
    """Return an answer as one line of text."""
    verdict = {None: "", True: "anomalous", False: "normal"}[answer["anomalous"]]
    nearest = answer["neighbours"][0]["id"]
    meaning = "" if answer["p_value"] is None else f"{worse_than(answer['p_value'])}, "
    line = f"{answer['score']:12.6g}  {verdict:9}  {answer['image']}  ({meaning}nearest {nearest}{_known_in(answer)})"
    return printable(line)


def _known_in(answer: dict[str, Any]) -> str:
    """Return in words which known defect the worst region of an answer is most like; nothing where none is known."""
    known = answer["regions"][0]["known_defect"] if answer["regions"] else None
    return "" if known is None else f"; {likeness_of(known)}"
