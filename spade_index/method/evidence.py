"""Evidence for a verdict: the pixel that looks least normal, and the normal pixel that it was matched with."""

from dataclasses import dataclass

from spade_index.gallery.reader import Gallery
from spade_index.images.geometry import Geometry, place_of
from spade_index.settings import Preprocessing

from .detection import Detection, Match


@dataclass(frozen=True)
class Evidence:
    """A match in the pixels of the two original images, which are upright (EXIF rotation applied)."""

    pixel: tuple[int, int]  # (x, y) in the query
    neighbour: str  # id of the normal image
    neighbour_pixel: tuple[int, int]  # (x, y) in the normal image; of a tile, in its picture
    distance: float  # squared, weighted, between the features of the two pixels


def locate(match: Match, query: Geometry, neighbour_size: tuple[int, int], preprocessing: Preprocessing) -> Evidence:
    """Return a match in the pixels of the original images.

    Args:
        match: of a pixel of the query; its places are fractions of the backbone's input.
        query: where the backbone's input lies in the query.
        neighbour_size: width and height of the matched normal image, or of the picture that it is a tile of, in pixels.
        preprocessing: of the gallery.
    """
    normal = place_of(match.neighbour.id, *neighbour_size, preprocessing)
    return Evidence(
        pixel=query.to_original(match.x, match.y),
        neighbour=match.neighbour.id,
        neighbour_pixel=normal.to_original(match.neighbour_x, match.neighbour_y),
        distance=match.distance,
    )


def worst_evidence(gallery: Gallery, detection: Detection, query: Geometry) -> Evidence | None:
    """Return the evidence for the maximum of the score map, or None where there is no score map."""
    if detection.pixels is None:
        return None
    match = detection.pixels.worst()
    row = gallery.image(match.neighbour.id)
    return locate(match, query, (row.width, row.height), gallery.settings.preprocessing)
