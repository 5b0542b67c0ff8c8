"""The defects that a person names in an image: where they lie, and what a gallery stores of them."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.defect import DefectPlace, Found, NewDefect
from spade_index.images.decode import DecodedImage
from spade_index.images.files import ImageFile
from spade_index.images.geometry import Geometry
from spade_index.images.plain import picture_of
from spade_index.images.workers import DecoderPool

from .at_once import calibrate_at_once
from .detection import Detection
from .detector import Detector
from .known_defects import KnownDefects, Place, Samples
from .pictures import Joining, Pictures
from .regions import Polygon, Region, regions_of
from .tuned import tuned_search

MOST_PLACES = 10  # of an image, those with the highest scores
PICTURE_EDGE = 128  # pixels
MARGIN = 0.25  # of a place's longer edge, that its picture shows around it
LEAST_SHOWN = 0.1  # of the image's longer edge, that the picture shows


@dataclass(frozen=True)
class NamedDefects:
    """The defects of one image."""

    file: ImageFile
    digest: bytes  # of the file
    defects: list[NewDefect]


class DefectNamer:
    """Finds the places that feedback about defects is of. They are the regions of a query.

    An image without regions, a missed defect, has the place of its highest score. Boxes that a person gives go before;
    one that is a region's own stands for that region.
    """

    def __init__(
        self,
        gallery: Gallery,
        backbone: Backbone,
        kind: str = "",
        boxes: Sequence[tuple[Place, str]] = (),
        map_memory: int | None = None,
        decoders: DecoderPool | None = None,
    ) -> None:
        """Prepare to search a gallery by its tuned settings. Raises what `Detector` does.

        `boxes` are places in each image, MOST_PLACES of which are taken, each with the kind of its defect. `kind` is
        that of the defects in images without.
        Pictures are drawn in processes of `decoders`, by default the program's own.
        """
        self._decoders = decoders
        search = replace(tuned_search(gallery), maps="always")
        calibration = calibrate_at_once(gallery, search, device=backbone.device, map_memory=map_memory)
        calibrated = True if calibration is None else calibration
        self._detector = Detector(gallery, backbone, search, calibrated=calibrated, map_memory=map_memory)
        self._detector.known = KnownDefects(gallery, [], everywhere=bool(boxes))
        self._kind, self._boxes = kind, boxes[:MOST_PLACES]

    def named(self, images: Iterable[DecodedImage]) -> Iterator[NamedDefects]:
        """Yield the defects of images, one after the other. All tiles of a picture must come, in raster order.

        Raises InputError naming an image that a box is not in, and ImageError for a file that is gone.
        """
        detector, pictures = self._detector, Pictures()
        how, joining = detector.gallery.settings.preprocessing, Joining.of(detector)
        for image in images:
            for picture, detection in pictures.completed([image], detector.detect([image]), joining):
                shown = picture_of(image.file, how, decoders=self._decoders)
                places = self._places(image.file.path, detection, picture.geometry)
                yield NamedDefects(image.file, image.contents, [_defect(place, shown) for place in places])

    def _places(self, path: str, detection: Detection, geometry: Geometry) -> list[NewDefect]:
        """Return the places of an image, without pictures."""
        assert detection.pixels is not None
        samples = Samples(detection.pixels.samples(geometry.box))
        regions = regions_of(detection, geometry) or []
        with_box = {region.box: region for region in regions}
        found: list[NewDefect] = []
        for box, kind in self._boxes:
            _require_inside(path, box, geometry)
            if box in with_box:  # not what else lies in its box
                found.append(_of_region(with_box[box], kind, geometry))
            else:
                found.append(_new("box", kind, box, _rectangle(box), _peak(detection, box, geometry), geometry))
        if not found:
            found = [_of_region(region, self._kind, geometry) for region in regions[:MOST_PLACES]]
        if not found and (worst := samples.highest()):
            found.append(_new("highest", self._kind, worst, _rectangle(worst), detection.pixels.peak, geometry))
        there = []
        for new in found:
            features = samples.worst(new.place.box, new.place.polygon, peaks=new.place.found != "box")
            if features is not None:
                there.append(replace(new, features=features))
        if not there:
            raise InputError(f"{path}: nothing of that place is searched: see `spade-index roi`")
        return there


def _new(found: Found, kind: str, box: Place, polygon: Polygon, score: float, geometry: Geometry) -> NewDefect:
    place = DefectPlace(found, box, polygon, (geometry.width, geometry.height))
    return NewDefect(place, kind, float(score), np.empty(0, "<f2"), b"")


def _of_region(region: Region, kind: str, geometry: Geometry) -> NewDefect:
    return _new("region", kind, region.box, region.polygon, region.score, geometry)


def _require_inside(path: str, box: Place, geometry: Geometry) -> None:
    x, y, width, height = box
    if min(width, height) < 1 or x + width > geometry.width or y + height > geometry.height:
        size = f"{geometry.width}x{geometry.height} pixels"
        raise InputError(f"{path}: the box {x:g} {y:g} {width:g} {height:g} is not in an image of {size}")


def _rectangle(box: Place) -> Polygon:
    x, y, width, height = box
    return ((x, y), (x + width, y), (x + width, y + height), (x, y + height))


def _peak(detection: Detection, box: Place, geometry: Geometry) -> float:
    """Return the maximum of the score map in a box; 0 where the backbone saw nothing of it."""
    assert detection.pixels is not None
    score_map = detection.pixels.score_map
    x, y, width, height = box
    left, top, right, bottom = geometry.box
    ends = np.array([[x - left, x + width - left], [y - top, y + height - top]])
    ends *= np.array([[score_map.shape[1] / (right - left)], [score_map.shape[0] / (bottom - top)]])
    (first, last), (above, below) = np.stack([np.floor(ends[:, 0]), np.ceil(ends[:, 1])], 1).astype(int)
    part = score_map[max(above, 0) : max(below, 0), max(first, 0) : max(last, 0)]
    return float(part.max()) if part.size else 0.0


def _defect(place: NewDefect, image: Image.Image) -> NewDefect:
    """Return a defect with its picture, a JPEG of the place and its surroundings."""
    x, y, width, height = place.place.box
    edge = max(max(width, height) * (1 + 2 * MARGIN), LEAST_SHOWN * max(image.size))
    left, right = (round(x + width / 2 + half * edge) for half in (-0.5, 0.5))
    top, bottom = (round(y + height / 2 + half * edge) for half in (-0.5, 0.5))
    box = max(0, left), max(0, top), min(image.width, max(right, left + 1)), min(image.height, max(bottom, top + 1))
    shown = image.crop(box)
    shown.thumbnail((PICTURE_EDGE, PICTURE_EDGE))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=85, comment=b"")
    return replace(place, picture=buffer.getvalue())
