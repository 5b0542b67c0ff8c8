"""Pictures that are cut into tiles: the detections of the tiles become one of the picture.

The score of a picture is the highest of its tiles', so a defect counts as much in a large picture as in a small one.
The tiles' distances are joined to one score map: where tiles overlap, each weighs less towards its edges, where the
backbone sees the padding of its convolutions in place of what is beyond. Where the whole picture was searched for
beside its tiles, the higher of both counts, as in the score (see `scales`).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.ndimage import gaussian_filter

from spade_index.images.decode import DecodedImage
from spade_index.images.files import ImageFile
from spade_index.images.geometry import Geometry
from spade_index.images.interest import RegionOfInterest
from spade_index.images.loading import in_lots
from spade_index.images.tiles import Box, Piece
from spade_index.settings import BATCH_SIZE, Preprocessing

from .detection import Detection, Match, PixelDetection
from .detector import Detector
from .known_defects import Sample
from .scales import Units
from .scores import inside_only

MOST_EDGE = 2048  # pixels of a joined score map
LEAST_WEIGHT = 1e-3  # of a tile at its own edge, where it may be the only one


@dataclass(frozen=True)
class Picture:
    """An image that was searched for: a whole one, or a picture of which all tiles were."""

    file: ImageFile
    geometry: Geometry
    notice: str | None


@dataclass(frozen=True, kw_only=True)
class JoinedPixels(PixelDetection):
    """The pixel level of a picture: its score map, and the matches of each tile.

    Distances, matches, means and neighbours are those of the tile with the highest score; `size` is the grid that the
    picture would have.
    """

    geometry: Geometry  # of the picture
    tiles: Sequence[tuple[Box, PixelDetection]]  # in raster order; without the tiles' own score maps
    beside: PixelDetection | None = None  # the whole picture's
    by_whole: np.ndarray | None = None  # bool [H, W], where the score map is that of the whole picture

    @property
    def nbytes(self) -> int:
        """The memory of the arrays, in bytes: those of the tiles, and the score map."""
        pieces = [pixels for _, pixels in self.tiles] + ([] if self.beside is None else [self.beside])
        return self.score_map.nbytes + sum(pixels.nbytes for pixels in pieces)

    def samples(self, box: Box) -> list[tuple[Box, Sample]]:
        """Return the sampled cells of each tile, with its box."""
        return [one for of_tile, pixels in self.tiles for one in pixels.samples(of_tile)]

    def match(self, x: float, y: float) -> Match:
        """Return the match of the place at these fractions of width and height.

        It is that of the whole picture where this has the higher score, else of the tile whose centre is nearest.
        """
        if self.beside is not None and self.by_whole is not None:
            height, width = self.by_whole.shape
            if self.by_whole[min(int(y * height), height - 1), min(int(x * width), width - 1)]:
                return self.beside.match(x, y)
        across, down = x * self.geometry.width, y * self.geometry.height

        def inside(of_tile: tuple[Box, PixelDetection]) -> float:
            """Return how far inside of a tile the place is, as a fraction of its edges."""
            left, top, right, bottom = of_tile[0]
            u, v = (across - left) / (right - left), (down - top) / (bottom - top)
            return min(u, 1 - u, v, 1 - v)

        (left, top, right, bottom), pixels = max(self.tiles, key=inside)
        u, v = (across - left) / (right - left), (down - top) / (bottom - top)
        found = pixels.match(min(max(u, 0.0), 1.0), min(max(v, 0.0), 1.0))
        return replace(found, x=x, y=y)


class Joining(NamedTuple):
    """What joining tiles takes of the detector that searched for them."""

    how: Preprocessing  # by which pictures are cut
    smoothing: float  # of score maps, as for `SearchSettings`
    interest: RegionOfInterest | None  # of all pictures; each may have its own besides
    limited: bool  # whether there is either
    units: Units = Units()  # of two scales

    @classmethod
    def of(cls, detector: Detector) -> "Joining":
        """Return what a detector says."""
        gallery = detector.gallery
        how, smoothing = gallery.settings.preprocessing, detector.search.smoothing
        return cls(how, smoothing, gallery.interest, gallery.is_limited, detector.units)


class Pictures:
    """Takes detections in their order, and gives those of whole images at once, those of tiles joined."""

    def __init__(self) -> None:
        self._tiles: list[tuple[Piece, Detection]] = []  # of the picture that is not complete

    def completed(
        self, images: Sequence[DecodedImage], detections: Sequence[Detection], joining: Joining
    ) -> Iterator[tuple[Picture, Detection]]:
        """Yield the pictures that these images complete. All tiles of a picture must come, in raster order.

        Args:
            images: whole ones, or tiles.
            detections: of the images.
            joining: what joining tiles takes of the detector.
        """
        for image, detection in zip(images, detections, strict=True):
            if image.tile is None:
                yield Picture(image.file, image.geometry, image.notice), detection
                continue
            if image.begins:
                self._tiles, self._notice = [], image.notice
            piece = Piece(image.tile.box, image.tile.whole)
            self._tiles.append((piece, detection if piece.whole else _without_map(detection)))
            if image.ends:
                whole = Geometry.of_size(image.geometry.width, image.geometry.height)
                whole = replace(whole, region=image.geometry.region)
                yield Picture(image.file, whole, self._notice), join(self._tiles, whole, joining)
                self._tiles = []


def detect_parts(detector: Detector, parts: Sequence[DecodedImage], batch_size: int = BATCH_SIZE) -> Detection:
    """Return the detection of what one file is to a gallery, as `images.load_parts` gives it.

    Args:
        detector: with a backbone.
        parts: an image, or all tiles of a picture in raster order.
        batch_size: tiles that share a pass through the backbone.

    Raises:
        ValueError: these are not all parts of one file.
    """
    pictures, joining = Pictures(), Joining.of(detector)
    found: list[tuple[Picture, Detection]] = []
    for some in in_lots(parts, batch_size):
        found += pictures.completed(some, detector.detect(some), joining)
    if len(found) != 1:
        raise ValueError(f"{len(parts)} parts are those of {len(found)} files, not of one")
    return found[0][1]


def join(pieces: Sequence[tuple[Piece, Detection]], whole: Geometry, joining: Joining) -> Detection:
    """Return the detection of a picture, from those of all of its pieces. Scores are the highest of theirs."""
    pieces = [of for of in pieces if joining.units.counts(of[0].whole)] or pieces
    # Tiles that are outside of a region of interest do not count; those of the picture that are inside do.
    pieces = [of for of in pieces if of[1].pixels is None or of[1].pixels.counts] or pieces
    worst = max((detection for _, detection in pieces), key=lambda detection: detection.score)
    kinds = [kind for kind in worst.scores if all(kind in detection.scores for _, detection in pieces)]
    scores = {kind: max(detection.scores[kind] for _, detection in pieces) for kind in kinds}
    scores[worst.kind] = worst.score
    mapped = [(piece.box, of.pixels) for piece, of in pieces if of.pixels is not None and not piece.whole]
    beside = next((of.pixels for piece, of in pieces if piece.whole), None)
    pixels = _joined(mapped, whole, joining) if mapped else beside
    if isinstance(pixels, JoinedPixels) and beside is not None:
        pixels = _at_two_scales(pixels, beside)
    return replace(worst, scores=scores, pixels=pixels)


def _at_two_scales(tiles: JoinedPixels, beside: PixelDetection) -> JoinedPixels:
    """Return the pixel level of a picture, of that of its tiles and that of the whole: the higher score counts."""
    size = tiles.score_map.shape[0], tiles.score_map.shape[1]
    score_map = join_maps([(tiles.geometry.box, beside.score_map)], tiles.geometry, size)
    by_whole = score_map > tiles.score_map
    if tiles.inside is not None:
        by_whole &= tiles.inside
    return replace(
        tiles,
        score_map=np.where(by_whole, score_map, tiles.score_map),
        score=max(tiles.score, beside.score),
        beside=replace(beside, score_map=np.empty((0, 0), np.float32)),
        by_whole=by_whole,
    )


def _joined(tiles: Sequence[tuple[Box, PixelDetection]], whole: Geometry, joining: Joining) -> JoinedPixels:
    worst = max((pixels for _, pixels in tiles), key=lambda pixels: pixels.score)
    box = tiles[0][0]
    shown = joining.how.input_size[1] / (box[2] - box[0])  # pixels of the backbone's input in one of the picture
    scale = min(shown, MOST_EDGE / max(whole.width, whole.height))
    size = max(1, round(whole.height * scale)), max(1, round(whole.width * scale))
    sigma, region = joining.smoothing * scale / shown, joining.interest
    joined = join_maps([(of, pixels.means.reshape(pixels.size)) for of, pixels in tiles], whole, size)
    score_map, inside = gaussian_filter(joined, sigma), None
    if joining.limited:  # what is outside has means of 0
        weights = join_maps([(of, _weights(pixels)) for of, pixels in tiles], whole, size)
        inside = weights > 0
        for of_picture in filter(None, (region, whole.region)):
            inside &= of_picture.cells(whole, size)
        score_map = inside_only(score_map, gaussian_filter(weights, sigma), inside)
    rows, columns = worst.size
    grid = (
        max(1, round(rows * whole.height / (box[3] - box[1]))),
        max(1, round(columns * whole.width / (box[2] - box[0]))),
    )
    return JoinedPixels(
        score_map=score_map,
        distances=worst.distances,
        matches=worst.matches,
        means=worst.means,
        size=grid,
        neighbours=worst.neighbours,
        score=worst.score,
        inside=inside,
        geometry=whole,
        tiles=tuple(tiles),
    )


def _weights(pixels: PixelDetection) -> np.ndarray:
    """Return 1 for the cells that count of a tile and 0 for the others, float32 [H0, W0]."""
    cells = np.ones(len(pixels.means), bool) if pixels.cells is None else pixels.cells
    return cells.reshape(pixels.size).astype(np.float32)


def join_maps(tiles: Iterable[tuple[Box, np.ndarray]], whole: Geometry, size: tuple[int, int]) -> np.ndarray:
    """Join maps of tiles, each float32 [H0, W0] over its box, to one of the whole picture, float32 [H, W] of this size.

    Maps are interpolated bilinearly. A place is the mean of the tiles that it is in, each weighing the distance to its
    nearest edge; a place that no tile holds is 0.
    """
    total, weight = np.zeros(size, np.float32), np.zeros(size, np.float32)
    for (left, top, right, bottom), values in tiles:
        rows, across_rows, row_weights = _samples(top, bottom, whole.height, size[0], values.shape[0])
        columns, across_columns, column_weights = _samples(left, right, whole.width, size[1], values.shape[1])
        weights = np.minimum(row_weights[:, None], column_weights)
        total[rows, columns] += weights * (across_rows @ values @ across_columns.T)
        weight[rows, columns] += weights
    return np.divide(total, weight, out=np.zeros(size, np.float32), where=weight > 0)


def _samples(low: float, high: float, length: int, size: int, cells: int) -> tuple[slice, np.ndarray, np.ndarray]:
    """Return how `size` pixels along an edge of a picture take a tile's cells.

    Args:
        low: where the tile begins, in pixels of the picture.
        high: where it ends.
        length: of the picture's edge.
        size: pixels of the joined map along that edge.
        cells: of the tile along that edge.

    Returns:
        The pixels whose centres are in the tile, the share of each cell in each of them float32 [n, cells], and the
        weight of each of them in the tile float32 [n].
    """
    first, last = int(np.ceil(low * size / length - 0.5)), int(np.ceil(high * size / length - 0.5))
    first = min(max(first, 0), size - 1)
    last = min(max(last, first + 1), size)
    inside = ((np.arange(first, last) + 0.5) * length / size - low) / (high - low)  # 0..1
    place = np.clip(inside * cells - 0.5, 0, cells - 1)
    lower = np.minimum(place.astype(int), max(0, cells - 2))
    shares = np.zeros((len(place), cells), np.float32)
    pixels = np.arange(len(place))
    shares[pixels, lower] = 1 - (place - lower)
    if cells > 1:
        shares[pixels, lower + 1] = place - lower
    return slice(first, last), shares, np.clip(np.minimum(inside, 1 - inside), LEAST_WEIGHT, None).astype(np.float32)


def _without_map(detection: Detection) -> Detection:
    """Return the detection of a tile without its score map, which takes most of its memory."""
    if detection.pixels is None:
        return detection
    return replace(detection, pixels=replace(detection.pixels, score_map=np.empty((0, 0), np.float32)))


def shrunk(score_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return a score map [H, W] at a size that is no larger: each pixel is the highest of those it stands for."""
    starts = [np.arange(edge) * whole // edge for edge, whole in zip(size, score_map.shape, strict=True)]
    rows = np.maximum.reduceat(score_map, starts[0], axis=0)
    reduced: np.ndarray = np.maximum.reduceat(rows, starts[1], axis=1)
    return reduced
