"""What a detector is asked, and what it finds: the verdict on an image, its score map, and the evidence."""

from dataclasses import dataclass, field

import numpy as np

from spade_index.gallery.index.search import Neighbour
from spade_index.settings import ImageScore, Maps


@dataclass(frozen=True)
class Match:
    """Evidence for one place: the normal place that is most like it. Places are fractions of width and height."""

    x: float
    y: float
    neighbour: Neighbour
    neighbour_x: float
    neighbour_y: float
    distance: float  # squared, weighted, between the two pixels' features


@dataclass(frozen=True)
class PixelDetection:
    """What stage 2 finds for one image."""

    score_map: np.ndarray  # float32 [H, W], the backbone's input size
    distances: np.ndarray  # float32 [P, kappa], P = H0*W0 pixels of the finest level
    matches: np.ndarray  # int64 [P, kappa], neighbour * P + pixel
    size: tuple[int, int]  # H0, W0
    neighbours: list[Neighbour]

    @property
    def score(self) -> float:
        """The maximum of the score map."""
        return float(self.score_map.max())

    def match(self, x: float, y: float) -> Match:
        """What the place at these fractions of width and height was matched with."""
        height, width = self.size
        column, row = min(int(x * width), width - 1), min(int(y * height), height - 1)
        pixel = row * width + column
        neighbour, place = divmod(int(self.matches[pixel, 0]), height * width)
        there = (place % width + 0.5) / width, (place // width + 0.5) / height
        return Match(x, y, self.neighbours[neighbour], *there, float(self.distances[pixel, 0]))

    def worst(self) -> Match:
        """The match of the score map's maximum."""
        height, width = self.score_map.shape
        row, column = divmod(int(self.score_map.argmax()), width)
        return self.match((column + 0.5) / width, (row + 0.5) / height)


@dataclass(frozen=True)
class Detection:
    """The verdict on one image."""

    snapshot: int
    kind: ImageScore
    scores: dict[ImageScore, float]  # pooled, and map and both where there is a score map
    neighbours: list[Neighbour]  # those of the pooled score
    threshold: float | None
    pixels: PixelDetection | None = field(repr=False)

    @property
    def score(self) -> float:
        """The image score."""
        return self.scores[self.kind]

    @property
    def anomalous(self) -> bool | None:
        """Whether the score is above the threshold; None without one."""
        return None if self.threshold is None else self.score > self.threshold


@dataclass(frozen=True)
class Question:
    """What is asked of one image where that is not what the search settings say."""

    maps: Maps | None = None
    threshold: float | None = None  # of the image score, and of the pooled score by which `auto` goes
