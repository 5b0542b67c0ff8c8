"""One image to be searched for, and its answer."""

import logging
import time
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field

from spade_index.errors import SpadeIndexError
from spade_index.images.decode import DecodedImage
from spade_index.method.detection import Detection, Question
from spade_index.method.pictures import Joining
from spade_index.method.router import Route
from spade_index.settings import Maps

from .candidates import Candidates
from .galleries import Served

log = logging.getLogger("spade_index.server")


@dataclass(frozen=True)
class Answer:
    """The detection of one image, with all that showing it needs, so that the gallery is not asked again."""

    detection: Detection
    originals: dict[str, tuple[int, int]]  # width and height of the images whose pixels were searched, by their ids
    joining: Joining  # of tiles
    waited: float = 0.0  # seconds in the queue


@dataclass(eq=False)
class Ask:
    """One image to be searched for."""

    gallery: str  # of one to be routed: none, until its route is known
    snapshot: int | None
    image: DecodedImage
    maps: Maps | None  # None: as the gallery's default
    threshold: float | None
    among: Candidates | None = None  # galleries to be routed to; None: its gallery is known
    route: Route | None = None  # once it is known
    answer: Future[Answer | None] = field(default_factory=Future)  # None: it belongs to no gallery
    arrived: float = field(default_factory=time.monotonic)
    waited: float = 0.0  # seconds until its batch began


def question(ask: Ask, served: Served) -> Question:
    """Return what is asked of a gallery's detector."""
    return Question(ask.maps or served.default_maps, ask.threshold)


def completed(served: Served, detection: Detection, waited: float) -> Answer:
    """Return the answer of a detection."""
    rows = {}
    if detection.pixels is not None:
        rows = served.gallery.catalog.images_by_key([n.key for n in detection.pixels.neighbours])
    originals = {row.id: (row.width, row.height) for row in rows.values()}
    return Answer(detection, originals, Joining.of(served.detector), waited)


def fail_logged(ask: Ask, error: Exception) -> None:
    """Answer with an error, and log it if it is unforeseen."""
    if not isinstance(error, SpadeIndexError):
        log.error("a batch failed", exc_info=error)
    fail(ask, error)


def fail(ask: Ask, error: BaseException) -> None:
    """Answer with an error."""
    if not isinstance(error, Exception):  # it would end the event loop, too
        error = RuntimeError(f"the engine was interrupted: {error!r}")
    if not ask.answer.done():
        with suppress(InvalidStateError):  # cancelled in between
            ask.answer.set_exception(error)
