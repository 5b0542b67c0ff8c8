"""The answers of a request's images: those of a picture's tiles become one."""

import math
from collections.abc import Sequence
from statistics import fmean

from spade_index.images.decode import DecodedImage
from spade_index.method.drift import brightness_of
from spade_index.method.pictures import Picture, Pictures

from .asks import Answer


class AnsweredPictures:
    """Takes images and their answers, lot by lot, so that other requests have their turn between the tiles of one."""

    def __init__(self) -> None:
        self.images: list[Picture] = []
        self.answers: list[Answer] = []
        self.brightness: list[float] = []  # in 0..255; of tiles, their mean
        self._pictures = Pictures()
        self._begin()

    def _begin(self) -> None:
        self._originals: dict[str, tuple[int, int]] = {}  # of the picture that is not complete
        self._waited = math.inf
        self._brightness: list[float] = []

    def take(self, images: Sequence[DecodedImage], answers: Sequence[Answer]) -> None:
        """Take some images, in their order, and their answers."""
        for image, answer in zip(images, answers, strict=True):
            self._originals |= answer.originals
            self._brightness.append(brightness_of(image.pixels))
            self._waited = min(self._waited, answer.waited)
            for picture, detection in self._pictures.completed([image], [answer.detection], answer.joining):
                self.images.append(picture)
                self.brightness.append(fmean(self._brightness))
                self.answers.append(Answer(detection, self._originals, answer.joining, self._waited))
                self._begin()
