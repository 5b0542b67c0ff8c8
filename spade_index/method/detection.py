"""Questions to a detector, and its answers: the verdict on an image, its score map, and matched pixels."""

from dataclasses import dataclass, field

import numpy as np

from spade_index.gallery.index.search import Neighbour
from spade_index.images.tiles import Box
from spade_index.settings import ImageScore, Maps

from .known_defects import KnownDefects, Sample

Part = tuple[slice, slice]  # rows and columns of a score map
EVERYWHERE: Part = (slice(None), slice(None))


@dataclass(frozen=True)
class Match:
    """A place of the query and the nearest normal place; both as fractions of the input's width and height."""

    x: float
    y: float
    neighbour: Neighbour
    neighbour_x: float
    neighbour_y: float
    distance: float  # squared, weighted, between the features of the two pixels


@dataclass(frozen=True)
class PixelDetection:
    """The result of the pixel level for one image."""

    score_map: np.ndarray  # float32 [H, W], the backbone's input size
    distances: np.ndarray  # float32 [P, kappa], P = H0*W0 cells of the grid of comparison
    matches: np.ndarray  # int64 [P, kappa], neighbour * P + pixel
    means: np.ndarray  # float32 [P], of the distances, less what the neighbours themselves score
    size: tuple[int, int]  # H0, W0
    neighbours: list[Neighbour]
    score: float  # the maximum of the score map, or the mean of its highest share, in the part that counts
    part: Part = EVERYWHERE  # of the score map that counts: not what another tile of the picture sees better
    cells: np.ndarray | None = None  # bool [P], those that count in a region of interest; None: all
    inside: np.ndarray | None = None  # bool [H, W], the score map's pixels in these cells; None: all
    sample: Sample | None = None  # of its cells, where known defects are looked for

    @property
    def counted(self) -> np.ndarray:
        """The part of the score map that counts, float32 [h, w]; what is outside of a region of interest is -inf."""
        part = self.score_map[self.part]
        return part if self.inside is None else np.where(self.inside[self.part], part, -np.inf)

    @property
    def counts(self) -> bool:
        """Whether any of it counts: of a tile, nothing may be inside of a region of interest."""
        return self.inside is None or bool(self.inside[self.part].any())

    @property
    def peak(self) -> float:
        """The maximum of the score map; 0 where nothing of it counts."""
        return float(self.counted.max()) if self.counts else 0.0

    def is_inside(self, x: float, y: float) -> bool:
        """Return whether the place at these fractions of width and height, each in 0..1, is in what counts."""
        if self.inside is None:
            return True
        height, width = self.inside.shape
        return bool(self.inside[min(int(y * height), height - 1), min(int(x * width), width - 1)])

    @property
    def nbytes(self) -> int:
        """The memory of the arrays, in bytes."""
        sampled = 0 if self.sample is None else self.sample.nbytes
        return self.score_map.nbytes + self.distances.nbytes + self.matches.nbytes + self.means.nbytes + sampled

    def samples(self, box: Box) -> list[tuple[Box, Sample]]:
        """Return the sampled cells, with the part of the original that they are sampled of: `box`, or a tile of it."""
        return [] if self.sample is None else [(box, self.sample)]

    def match(self, x: float, y: float) -> Match:
        """Return the match of the place at these fractions of width and height, each in 0..1."""
        height, width = self.size
        column, row = min(int(x * width), width - 1), min(int(y * height), height - 1)
        pixel = row * width + column
        neighbour, place = divmod(int(self.matches[pixel, 0]), height * width)
        there = (place % width + 0.5) / width, (place // width + 0.5) / height
        return Match(x, y, self.neighbours[neighbour], *there, float(self.distances[pixel, 0]))

    def worst(self) -> Match:
        """Return the match of the score map's maximum."""
        height, width = self.score_map.shape
        part = self.counted
        row, column = divmod(int(part.argmax()), part.shape[1])
        row, column = row + (self.part[0].start or 0), column + (self.part[1].start or 0)
        return self.match((column + 0.5) / width, (row + 0.5) / height)


@dataclass(frozen=True)
class Detection:
    """The verdict on one image."""

    snapshot: int  # of the gallery
    kind: ImageScore
    scores: dict[ImageScore, float]  # `pooled`; with a score map also `map` and `both`
    neighbours: list[Neighbour]  # the images of the pooled score, the nearest first
    threshold: float | None
    pixels: PixelDetection | None = field(repr=False)
    p_value: float | None = None  # share of normal images that score as high; None where nothing was calibrated
    pixel_threshold: float | None = None  # of the score map: normal images rarely have a higher place
    known: KnownDefects | None = field(default=None, repr=False)  # of the gallery, for regions to be compared with

    @property
    def score(self) -> float:
        """The image score."""
        return self.scores[self.kind]

    @property
    def anomalous(self) -> bool | None:
        """True if the score is above the threshold; None where nothing was calibrated.

        With a p-value and no threshold, there are too few normal images to call any image anomalous: False.
        """
        if self.threshold is None:
            return None if self.p_value is None else False
        return self.score > self.threshold


@dataclass(frozen=True)
class Question:
    """Options of the query of one image; None: the value of the search settings or the calibration."""

    maps: Maps | None = None
    threshold: float | None = None  # for the image score, and for the pooled score where maps are `auto`
