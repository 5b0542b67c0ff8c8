"""Judge images by several detectors, such as those of a gallery before and after a change, with one backbone pass."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from spade_index.images.decode import DecodedImage

from .detection import Detection, Question
from .detector import Detector
from .pictures import Joining, Picture, Pictures


def judged_by_each(
    detectors: Sequence[Detector],
    lots: Iterable[Sequence[DecodedImage]],
    question: Callable[[Detector, DecodedImage], Question],
) -> Iterator[tuple[Picture, list[Detection]]]:
    """Yield each picture with its detections, one of each detector, in their order.

    Args:
        detectors: of galleries with the same backbone and preprocessing; the first one needs the backbone.
        lots: images that share a pass through the backbone: whole ones, or all tiles of pictures in raster order.
        question: what a detector is asked of an image.
    """
    joining = [Pictures() for _ in detectors]
    for lot in lots:
        pooled, pyramid = detectors[0].features(lot)
        places = [image.geometry for image in lot]
        found = []
        for detector, pictures in zip(detectors, joining, strict=True):
            nearest = detector.nearest_images(pooled, places=places)
            judged = dict(detector.judge(nearest, pyramid, [question(detector, image) for image in lot], places))
            detections = [judged[place] for place in range(len(lot))]
            found.append(list(pictures.completed(lot, detections, Joining.of(detector))))
        for of_picture in zip(*found, strict=True):
            yield of_picture[0][0], [detection for _, detection in of_picture]
