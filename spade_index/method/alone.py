"""Search for a gallery's own images, each without itself, its near-duplicates and the other tiles of its picture."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.reader import Gallery
from spade_index.images.geometry import Geometry
from spade_index.images.loading import in_lots

from .as_new import maps_as_new
from .detector import Detector
from .near_duplicates import PAIRS, near_of
from .scales import scales_of
from .siblings import pictures_of, place_of_row, siblings

AT_ONCE = 256  # tiles of a picture whose nearest images are found together


class Alone(NamedTuple):
    """An image of the gallery, searched for without itself and its near-duplicates, whatever the neighbours score."""

    key: int
    pooled: float
    neighbours: list[int]  # keys of the images whose pixels were searched
    distances: np.ndarray  # float32 [P], on the grid of comparison
    place: Geometry  # in its picture
    cells: np.ndarray | None  # bool [P], those that count; None: all


Beside = tuple[ImageRow, list[Neighbour]]  # an image, and those that it is compared with


def near_distance(gallery: Gallery) -> float:
    """Return the squared distance of pooled descriptors below which two images are near-duplicates.

    At two scales, it is that of tiles (see `Scales.near`).
    """
    rows, scales = gallery.sample(PAIRS), scales_of(gallery)
    return near_of(gallery.pooled(rows if scales is None else scales.tiles(rows)))


def search_alone(
    detector: Detector,
    images: Iterable[ImageRow],
    goes_on: Callable[[int], bool],
    progress: Callable[[int], None] = lambda images: None,
    known: Collection[int] = (),
) -> list[Alone]:
    """Search for images of a gallery, and for all tiles of their pictures, each without itself.

    Args:
        detector: of the gallery, whose settings do not take what the neighbours themselves score.
        images: of the gallery.
        goes_on: called with the number of pictures done; False ends it. Those done are as evenly spread as all are.
        progress: called with 1 after each image.
        known: keys of images that were searched for before: their pictures are left out.
    """
    pictures = pictures_of(detector.gallery, (image for image in images if image.key not in known))
    pictures = [images for images in pictures if not any(image.key in known for image in images)]
    alone = list[Alone]()
    for some in in_lots(_beside(detector, pictures, goes_on, progress), detector.pixel_search.at_once):
        alone += _search_without(detector, some)
    return alone


def _beside(
    detector: Detector,
    pictures: Sequence[Sequence[ImageRow]],
    goes_on: Callable[[int], bool],
    progress: Callable[[int], None],
) -> Iterator[Beside]:
    """Yield the images of pictures, in the order in which they are searched for, with those nearest to them."""
    order, near = np.random.default_rng(0).permutation(len(pictures)), near_distance(detector.gallery)
    for number, place in enumerate(order):
        if not goes_on(number):
            return
        own = {image.key for image in pictures[place]}
        for _, of_scale in groupby(pictures[place], lambda image: place_of_row(detector.gallery, image).whole):
            for some in in_lots(of_scale, AT_ONCE):
                for beside in zip(some, nearest_others(detector, some, near, own), strict=True):
                    yield beside
                    progress(1)  # as soon as another one is asked for: how many are, does not depend on the lots


def nearest_others(
    detector: Detector, images: Sequence[ImageRow], near: float, own: Collection[int] | None = None
) -> list[list[Neighbour]]:
    """Return the nearest images of some of the gallery: without their picture, and images nearer than `near`.

    The images are tiles of one picture, or that picture at the other scale. `own` are the keys of all of its tiles,
    where they are known. `near` is that of tiles, at two scales.
    """
    gallery, places = detector.gallery, [place_of_row(detector.gallery, image) for image in images]
    if own is None:
        own = {sibling.key for sibling in siblings(gallery, images[0])}
    if places[0].whole and detector.scales is not None:
        near = detector.scales.near
    return detector.nearest_images(gallery.pooled(images), own, near, places)


def _search_without(detector: Detector, images: Sequence[Beside]) -> list[Alone]:
    """Search for images; leave out those of which nothing can be compared with anything."""
    gallery, interest = detector.gallery, detector.interest
    asked = [(image, nearest, place_of_row(gallery, image)) for image, nearest in images]
    asked = [one for one in asked if interest is None or interest.counts(one[2])]
    if not asked:
        return []
    pyramid = maps_as_new(gallery, [image for image, _, _ in asked])
    found = detector.nearest_pixels(pyramid, [nearest for _, nearest, _ in asked], [place for _, _, place in asked])
    alone = list[Alone]()
    for (image, nearest, place), pixels in zip(asked, found, strict=True):
        if pixels.counts:
            keys, distances = [neighbour.key for neighbour in pixels.neighbours], pixels.distances.mean(1)
            alone.append(Alone(image.key, detector.pooled_score(nearest), keys, distances, place, pixels.cells))
    return alone
