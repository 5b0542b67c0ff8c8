"""One image to be searched for, and its answer."""

import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from spade_index.images.decode import DecodedImage
from spade_index.method.detection import Detection
from spade_index.method.pictures import Joining
from spade_index.settings import Maps


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

    gallery: str
    snapshot: int | None
    image: DecodedImage
    maps: Maps | None  # None: as the gallery's default
    threshold: float | None
    answer: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    waited: float = 0.0  # seconds until its batch began
