"""Regions of interest in the search: cells outside of them neither score nor are matched.

A region is the gallery's, for all pictures, or each picture has its own (`Geometry.region`); where there are both, what
is in both counts.

Cells of the gallery that are outside are moved away in the finest level, farther from every cell of the query than any
cell inside can be, so that every kernel finds the nearest cells inside, and their exact distances, in every mode that
compares levels together. Cells of the query that are outside are searched for as well, and their distances dropped.

The pooled descriptor is of the whole image, so pooled scores do not judge where there is a region; which images are
neighbours is still chosen by it.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from spade_index.errors import ImageError, InputError
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import DecodedImage
from spade_index.images.geometry import Geometry, covered
from spade_index.images.interest import RegionOfInterest
from spade_index.kernels import split_matches
from spade_index.kernels.pyramid import Size
from spade_index.settings import Preprocessing, SearchSettings

from .comparison import Comparison
from .scores import enlarged
from .siblings import own_slices, place_of_row

SPARE = 2.0  # times the distance that is needed, so that it is rarely exceeded by a later query
KEPT = 16_384  # images whose cells are kept
FARTHEST = 60_000.0  # of a value of a cell that is moved away: float16 holds 65504


@dataclass(frozen=True)
class Counted:
    """The distances of cells that count."""

    distances: Tensor  # float32 [B, P, kappa]; 0 where a cell does not count
    cells: Tensor  # bool [B, P]: inside, and compared with at least one cell inside


class Interest:
    """Where the cells of queries and of the gallery's images count, for one way of comparing."""

    def __init__(self, gallery: Gallery, comparison: Comparison, kappa: int) -> None:
        """Prepare a search of a gallery within its region, or those of its images.

        Raises InputError if no cell of the grid is inside, or too few, or the finest level has no weight.
        """
        self._gallery, self._comparison = gallery, comparison
        self._how = gallery.settings.preprocessing
        self.region, self.size = gallery.interest, comparison.size
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()  # cells that count of images, by key
        if not comparison.weights[0]:
            raise InputError(f"{gallery.path}: with a region of interest, the finest level must have a weight above 0")
        if self.region is not None and self._sees_all:
            count = int(self.cells(None).sum())
            if count < kappa:
                height, width = self.size
                raise InputError(
                    f"{gallery.path}: {count} cells of the grid of {height}x{width} are inside of the region of "
                    f"interest, which takes {kappa} at least: use a larger region or a finer grid"
                )
        self._norms = [0.0] * len(comparison.sizes)  # the largest length of a gallery's cell in each level, so far
        self.reach = 0.0  # length of the finest level's vectors of cells that are moved away

    def cells(self, place: Geometry | None) -> np.ndarray:
        """Return which cells of an image count, bool [P]; `place` is what the backbone saw of its picture.

        It may be None where the backbone sees whole images.
        """
        return self._grid(self._whole(place)).reshape(-1)

    def counts(self, place: Geometry | None) -> bool:
        """Return whether a part of a score map counts: of a tile, of what no other tile of its picture sees better."""
        place = self._whole(place)
        cells = self._grid(place)
        if self._how.tile is None:
            return bool(cells.any())
        shown = enlarged(torch.from_numpy(cells.reshape(1, -1)), self.size, self._how.input_size)[0]
        return bool(shown[own_slices(place, self._how.input_size, self._how)].any())

    def require(self, images: Sequence[DecodedImage]) -> None:
        """Raise ImageError if nothing counts of an image that is not a tile, as where all of it was cropped away."""
        for image in images:
            if (error := self.why_nothing(image)) is not None:
                raise error

    def why_nothing(self, image: DecodedImage) -> ImageError | None:
        """Return an error if nothing counts of an image that is not a tile, as where all of it was cropped away."""
        if self._how.tile is not None or self._grid(image.geometry).any():
            return None
        return ImageError(
            f"{image.file.path}: nothing that the backbone sees of it is inside of the region of interest"
        )

    @property
    def _sees_all(self) -> bool:
        """Whether the backbone sees whole images, so that the gallery's region is the same cells of each."""
        return self._how.tile is None and self._how.resize is None

    def _grid(self, place: Geometry) -> np.ndarray:
        """Return which cells count of what the backbone saw of a picture, bool [H, W]."""
        left, top, right, bottom = place.box
        across, down = place.width, place.height  # pictures of any size share the cells of the same part
        part = Geometry(1, 1, (left / across, top / down, right / across, bottom / down))
        shared = np.ones(self.size, bool) if self.region is None else _cells(self.region, part, self.size)
        own = own_cells(place, self.size, self._how)
        return shared if own is None else shared & own

    def _whole(self, place: Geometry | None) -> Geometry:
        if place is not None:
            return place
        if not self._sees_all:
            raise ValueError("a search within a region of interest needs the places of the queries")
        return covered(1, 1, self._how)

    def _cells_of(self, keys: Sequence[int]) -> dict[int, np.ndarray]:
        """Return which cells count of images of the gallery, bool [P], by key."""
        if self._sees_all and self._gallery.region_rule is None:
            return dict.fromkeys(keys, self.cells(None))
        missing = [key for key in keys if key not in self._kept]
        rows = self._gallery.catalog.images_by_key(missing)
        found = {key: self.cells(place_of_row(self._gallery, rows[key])) for key in missing}
        found |= {key: self._kept[key] for key in keys if key in self._kept}
        for key in keys:
            self._kept[key] = found[key]
            self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found

    def read(self, keys: Sequence[int], out: list[list[np.ndarray]]) -> None:
        """Read maps as `Comparison.read` does, and move the cells that are outside away."""
        self._comparison.read(keys, out)
        for number, level in enumerate(out):
            self._norms[number] = max([self._norms[number], *(_longest(torch.from_numpy(of)) for of in level)])
        inside = self._cells_of(keys)
        for key, of_image in zip(keys, out[0], strict=True):
            of_image[~inside[key]] = -self.reach / math.sqrt(of_image.shape[1])  # features are rarely negative

    def must_reach(self, pyramid: Sequence[Tensor]) -> bool:
        """Return whether maps that were read before must be read again, with cells moved away farther than until now.

        `pyramid` are the queries' levels, prepared [B, H*W, C].
        """
        longest = [_longest(level) for level in pyramid]
        pairs = zip(self._comparison.weights, longest, self._norms, strict=True)
        farthest = sum(weight * (mine + max(mine, theirs)) ** 2 for weight, mine, theirs in pairs)
        needed = longest[0] + math.sqrt(farthest / self._comparison.weights[0])
        if not needed > self.reach:
            return False
        most = FARTHEST * math.sqrt(self._comparison.channels[0])
        self.reach = min(SPARE * needed, most)
        if needed > most:
            raise InputError(f"{self._gallery.path}: features are too large to be compared within a region of interest")
        return True

    def counted(
        self,
        distances: Tensor,
        matches: Tensor,
        places: Sequence[Geometry | None],
        candidates: Sequence[Sequence[Neighbour]],
    ) -> Counted:
        """Return what counts of distances and matches [B, P, kappa]; what was found outside takes the others' mean.

        With a window, or tiles, fewer cells than kappa may be inside of what a cell is compared with, or none.
        """
        mine = torch.from_numpy(np.stack([self.cells(place) for place in places])).to(distances.device)  # [B, P]
        found = self.inside(matches, candidates) & mine[..., None]
        count = found.sum(2, keepdim=True)
        mean = (distances * found).sum(2, keepdim=True) / count.clamp_min(1)
        return Counted(torch.where(found, distances, mean), count[..., 0] > 0)

    def inside(self, matches: Tensor, candidates: Sequence[Sequence[Neighbour]]) -> Tensor:
        """Return which matches int64 [B, P, n] are cells that count of the queries' candidates: bool [B, P, n]."""
        of_keys = self._cells_of(sorted({neighbour.key for of_query in candidates for neighbour in of_query}))
        pixels = matches.shape[1]
        theirs = np.zeros((len(candidates), max(map(len, candidates)), pixels), bool)
        for query, neighbours in enumerate(candidates):
            for number, neighbour in enumerate(neighbours):
                theirs[query, number] = of_keys[neighbour.key]
        neighbour_of, pixel = split_matches(matches, pixels)
        query_of = torch.arange(len(matches), device=matches.device)[:, None, None]
        return torch.from_numpy(theirs).to(matches.device)[query_of, neighbour_of, pixel]


def interest_of(gallery: Gallery, comparison: Comparison, search: SearchSettings) -> Interest | None:
    """Return a gallery's regions of interest for a search; None where all of every picture counts."""
    return Interest(gallery, comparison, search.pixel_neighbours) if gallery.is_limited else None


def own_cells(place: Geometry, size: Sequence[int], how: Preprocessing) -> np.ndarray | None:
    """Return which cells of a grid are in a picture's own region, bool [H, W]; None where it has none.

    Of a whole image that is a cell at least, for it is compared with others.
    """
    if place.region is None:
        return None
    return place.region.cells(place, size, least_one=how.tile is None)


def cells_inside(gallery: Gallery, place: Geometry, size: Sequence[int]) -> np.ndarray | None:
    """Return which cells of a grid over a part of a picture count, bool [H, W]; None where all do."""
    if not gallery.is_limited:
        return None
    own = own_cells(place, size, gallery.settings.preprocessing)
    if gallery.interest is None:
        return np.ones(tuple(size), bool) if own is None else own
    shared = gallery.interest.cells(place, size)
    return shared if own is None else shared & own


def countable(
    interest: Interest | None, images: Sequence[DecodedImage], on_error: Callable[[ImageError], None]
) -> list[DecodedImage]:
    """Return the images of which anything counts; `on_error` is told of the others."""
    kept = []
    for image in images:
        error = None if interest is None else interest.why_nothing(image)
        if error is None:
            kept.append(image)
        else:
            on_error(error)
    return kept


def require_countable(gallery: Gallery, interest: Interest | None, images: Sequence[DecodedImage]) -> None:
    """Raise ImageError if nothing counts of an image, InputError if only it has a region, but not the gallery."""
    if interest is not None:
        interest.require(images)
    elif (own := next((image for image in images if image.geometry.region is not None), None)) is not None:
        raise InputError(f"{own.file.path}: has a region of interest of its own, but {gallery.path} has none")


def inside_of(gallery: Gallery, place: Geometry, grid: Size, size: Sequence[int]) -> np.ndarray | None:
    """Return which pixels of a score map count, bool [H, W]; None where all do.

    Args:
        gallery: that is searched.
        place: what the score map covers of its picture.
        grid: (H0, W0) of the comparison; the map of a picture that is cut into tiles is finer than the grids of these.
        size: (H, W) of the score map.
    """
    cells = cells_inside(gallery, place, size if gallery.settings.preprocessing.tile is not None else grid)
    if cells is None or gallery.settings.preprocessing.tile is not None:
        return cells
    found: np.ndarray = enlarged(torch.from_numpy(cells.reshape(1, -1)), grid, size)[0]
    return found


def require_cells(gallery: Gallery, region: RegionOfInterest) -> None:
    """Raise InputError if nothing of a region is left on the grid of a gallery's features."""
    how, (height, width) = gallery.settings.preprocessing, gallery.settings.sizes[0]
    whole = how.tile is None and how.resize is None
    if whole and not region.cells(covered(1, 1, how), (height, width)).any():
        raise InputError(
            f"{gallery.path}: no cell of the grid of {height}x{width} is inside of the region of interest "
            f"({region.source}) by half: use a larger region"
        )


@lru_cache(maxsize=1024)
def _cells(region: RegionOfInterest, place: Geometry, size: Size) -> np.ndarray:
    return region.cells(place, size)


def _longest(level: Tensor) -> float:
    """Return the length of the longest of a level's vectors [..., C]."""
    if not level.numel():
        return 0.0
    return float(torch.linalg.vector_norm(level, dim=-1, dtype=torch.float32).max())
