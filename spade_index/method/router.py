"""Choose the gallery that an image belongs to, among galleries of one backbone.

Let d(q) be the squared distance between the pooled descriptor of an image q and the nearest of a gallery G.

1. Calibration: for images g of G, at most `SAMPLE` of them and spread evenly, d(g) is found without g itself and its
   near-duplicates, as in `calibration`: a new image has none. These are the gallery's own distances; the largest of
   them is its reach.
2. The calibrated distance of q from G is the share of own distances that are smaller than d(q): q is farther from G
   than that share of G's own images. Galleries are ordered by it, and by d(q) where it is equal.
3. G takes q if d(q) is at most `RouterSettings.reach` times G's reach. The first gallery in this order that takes q is
   the answer. If there is none, q belongs to none of them, and the one with the smallest d(q) is named as the nearest.

A defective image is often farther than all of a gallery's own images, so the share alone cannot tell it from an image
of something else. Step 3 therefore compares with a multiple of the reach, and not with a share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from spade_index.errors import InputError
from spade_index.exact import require_kinds
from spade_index.gallery.reader import Gallery
from spade_index.settings import ExtractionSettings

from .given import require_kind
from .near_duplicates import near_of
from .siblings import others

SAMPLE = 256  # images of a gallery whose own distances are found
HELD_BYTES = 64 << 20  # of the descriptors of small galleries, which stay in memory
LOOKED_AT = 20  # nearest images of one of the gallery's own, among which one is no near-duplicate, or all are
SPARE = 8  # images of a gallery whose distances are computed again, so that rounding cannot hide the nearest
FEWEST = 3  # images of a gallery that can be asked


@dataclass(frozen=True)
class RouterSettings:
    """When a gallery takes an image."""

    reach: float = 4.0  # times the gallery's largest own distance; squared: twice as far

    def __post_init__(self) -> None:
        require_kinds(self)
        if not self.reach > 0:
            raise InputError(f"reach must be above 0, not {self.reach}")


@dataclass(frozen=True)
class Route:
    """Where an image belongs."""

    gallery: str  # that answers, or the nearest one
    taken: bool  # False: the image belongs to none of them
    distance: float  # squared, to the gallery's nearest image
    share: float  # of the gallery's own images that are nearer to another of them, in [0, 1]
    reaches: float  # distance, as a multiple of the gallery's largest own distance


@dataclass(frozen=True)
class OwnDistances:
    """A gallery's own distances."""

    ascending: np.ndarray = field(repr=False)  # float64 [n]

    @classmethod
    def of(cls, gallery: Gallery) -> "OwnDistances":
        """Find the own distances of a gallery: see step 1."""
        rows = gallery.sample(SAMPLE)
        pooled = gallery.pooled(rows)
        near, found = near_of(pooled), gallery.nearest(pooled, LOOKED_AT)
        pairs = zip(rows, found, strict=True)
        return cls(np.sort([others(neighbours, {row.key}, near)[0].distance for row, neighbours in pairs]))

    def share(self, distance: float) -> float:
        """Return the share of own distances that are smaller."""
        return int(np.searchsorted(self.ascending, distance, "left")) / len(self.ascending)

    def reaches(self, distance: float) -> float:
        """Return a distance as a multiple of the largest own distance."""
        largest = float(self.ascending[-1])
        if largest:
            return distance / largest
        return float("inf") if distance else 0.0  # all images are the same


class HeldDescriptors:
    """The descriptors of small galleries, in memory: to ask an index takes longer than to compare with all of them."""

    def __init__(self, galleries: Mapping[str, Gallery], most: int = HELD_BYTES) -> None:
        """Read the descriptors of the smallest galleries, up to `most` bytes together. Raises GalleryDamaged."""
        self._slices: dict[str, slice] = {}
        blocks: list[np.ndarray] = []
        end = 0
        for name, gallery in sorted(galleries.items(), key=lambda item: (len(item[1]), item[0])):
            if 4 * (end + len(gallery)) * gallery.settings.pooled_dim > most:
                break
            read = [descriptors for _, descriptors in gallery.blocks()]
            begin, end = end, end + sum(map(len, read))
            self._slices[name] = slice(begin, end)
            blocks += read
        self._all = np.concatenate(blocks) if blocks else np.empty((0, 0), np.float32)  # [N, D]
        self._norms = np.einsum("nd,nd->n", self._all, self._all)

    def __contains__(self, name: str) -> bool:
        return name in self._slices

    @property
    def nbytes(self) -> int:
        """Return the memory that they take."""
        return self._all.nbytes

    def nearest(self, pooled: np.ndarray) -> dict[str, list[float]]:
        """Return the squared distance of each descriptor float32 [B, D] to the nearest image of each gallery."""
        if not self._slices:
            return {}
        about = self._norms - 2 * pooled @ self._all.T  # [B, N], less the norm of the query
        found: dict[str, list[float]] = {}
        for name, place in self._slices.items():
            own, there = self._all[place], about[:, place]
            count = min(SPARE, len(own))
            near = np.argpartition(there, count - 1, axis=1)[:, :count]  # [B, n]
            apart = own[near].astype(np.float64) - pooled[:, None]  # [B, n, D]
            found[name] = (apart**2).sum(2).min(1).tolist()
        return found


class Router:
    """Routes images to galleries. The galleries stay the caller's, and open."""

    def __init__(self, galleries: Mapping[str, Gallery], settings: RouterSettings | None = None) -> None:
        """Find the own distances of every gallery.

        Raises InputError if one cannot be asked, TypeError if one is none, GalleryError.
        """
        self.settings = settings or RouterSettings()
        require_kind("settings", self.settings, RouterSettings)
        require_kind("galleries", galleries, Mapping)
        for name, gallery in galleries.items():
            require_kind(str(name), gallery, Gallery)
            if (reason := why_not(gallery)) is not None:
                raise InputError(f"{name}: {reason}")
        if len({gallery.settings for gallery in galleries.values()}) != 1:
            raise InputError("galleries of one backbone and preprocessing are needed to choose among")
        self._galleries = dict(galleries)
        self._own = {name: OwnDistances.of(gallery) for name, gallery in galleries.items()}
        self._held = HeldDescriptors(galleries)

    def route(self, pooled: np.ndarray) -> list[Route]:
        """Return the routes of images by their descriptors, float32 [B, D]."""
        asked = self._held.nearest(pooled)
        for name, gallery in self._galleries.items():
            if name not in self._held:
                asked[name] = [near[0].distance for near in gallery.nearest(pooled, 1)]
        found = [{name: of[query] for name, of in asked.items()} for query in range(len(pooled))]
        return [first_of(distances, self._own, self.settings) for distances in found]


def first_of(distances: Mapping[str, float], own: Mapping[str, OwnDistances], settings: RouterSettings) -> Route:
    """Return the route of an image by its squared distances to galleries, at least one: see steps 2 and 3."""
    routes = []
    for name, distance in sorted(distances.items()):
        reaches = own[name].reaches(distance)
        routes.append(Route(name, reaches <= settings.reach, distance, own[name].share(distance), reaches))
    if taking := [route for route in routes if route.taken]:
        return min(taking, key=lambda route: (route.share, route.distance))
    return min(routes, key=lambda route: route.distance)


def why_not(gallery: Gallery) -> str | None:
    """Return why a gallery cannot be asked; None if it can."""
    if len(gallery) < FEWEST:
        return f"it has fewer than {FEWEST} images, so distances from it mean nothing"
    if gallery.settings.preprocessing.tile is not None:
        return "its pictures are cut into tiles"
    if gallery.is_limited:
        return "it has a region of interest"
    return None


def largest_group(settings: Mapping[str, ExtractionSettings]) -> list[str]:
    """Return the names of the most galleries that have equal settings; of groups of equal size, the first by name."""
    groups: dict[ExtractionSettings, list[str]] = {}
    for name in sorted(settings):
        groups.setdefault(settings[name], []).append(name)
    return max(groups.values(), key=len, default=[])
