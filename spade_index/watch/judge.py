"""Judge the files of one look with an open gallery."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from spade_index.errors import ImageError
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import DecodedImage
from spade_index.images.files import ImageFile, MaskFile, as_text, on_disk, status_of
from spade_index.images.loading import load_all
from spade_index.method.detector import Detector
from spade_index.method.interest import countable
from spade_index.method.pictures import Joining, Pictures
from spade_index.method.regions import regions_of
from spade_index.sinks.record import head_of
from spade_index.views.record import answer_of

from .folder import Arrival


@dataclass(frozen=True)
class Judge:
    """A gallery that is open, and how its images are loaded and limited."""

    detector: Detector
    batch_size: int
    workers: int
    region: Callable[[ImageFile], MaskFile | None]  # the mask of what counts of it
    is_mask: Callable[[str], bool]  # of a name below the folder: whether it is such a mask, and no image

    @property
    def gallery(self) -> Gallery:
        """The gallery."""
        return self.detector.gallery

    @property
    def lot(self) -> int:
        """The images that are judged together: a batch, or one picture that is cut into tiles."""
        return 1 if self.gallery.settings.preprocessing.tile is not None else self.batch_size

    def verdicts(self, arrivals: Sequence[Arrival]) -> list[dict[str, Any]]:
        """Return the records of at most `lot` files, in order; a file that cannot be decoded has an error.

        A file that went, or changed while it was read, has none. Raises GalleryError.
        """
        files = [self._file(arrival) for arrival in arrivals]
        errors: list[ImageError] = []
        wrong: dict[ImageFile, ImageError] = {}  # not by path: names that are no UTF-8 may be shown alike
        answers: dict[ImageFile, dict[str, Any]] = {}
        joining, pictures = Joining.of(self.detector), Pictures()
        images = load_all(
            files,
            self.gallery.settings.preprocessing,
            workers=min(self.workers, max(self.lot, 2)),
            ahead=2 * self.batch_size,
            on_error=errors.append,
            thumbnails=False,
        )
        loaded: set[ImageFile] = set()
        while batch := list(islice(images, self.batch_size)):
            loaded |= {image.file for image in batch}
            batch = [image for image in batch if self._counts(image, wrong)]
            for picture, detection in pictures.completed(batch, self.detector.detect(batch) if batch else [], joining):
                regions = regions_of(detection, picture.geometry)
                answers[picture.file] = answer_of(self.detector, picture, detection, regions, None)
        failed = (file for file in files if file not in loaded)
        wrong.update(zip(failed, errors, strict=True))  # both in the order of the files
        records = []
        for arrival, file in zip(arrivals, files, strict=True):
            if arrival.is_unchanged():
                records.append(self._record(arrival, file, answers.get(file), wrong.get(file)))
        return records

    def _counts(self, image: DecodedImage, wrong: dict[ImageFile, ImageError]) -> bool:
        """Return whether an image has anything that counts; what is wrong with it goes into `wrong`."""

        def on_error(error: ImageError) -> None:
            wrong[image.file] = error

        return bool(countable(self.detector.interest, [image], on_error))

    def _file(self, arrival: Arrival) -> ImageFile:
        file = on_disk(arrival.path, arrival.name, status_of(arrival.path))
        return replace(file, region=self.region(file))

    def _record(
        self, arrival: Arrival, file: ImageFile, answer: dict[str, Any] | None, error: ImageError | None
    ) -> dict[str, Any]:
        """Return what `query --json` says of an image, after the first fields of a verdict."""
        wrong = None if answer is not None else as_text(" ".join(str(error).split()))
        head = head_of(arrival.id, arrival.mtime_ns / 1e9, self.gallery.name, wrong)
        return {**head, **({"image": file.id, "path": file.path} if answer is None else answer)}
