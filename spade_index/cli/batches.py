"""Decode the images of a query in batches, with progress; count and name what cannot be decoded."""

from collections.abc import Iterator
from itertools import islice

from spade_index.errors import ImageError
from spade_index.images.decode import DecodedImage
from spade_index.images.loading import load_all
from spade_index.images.marks import OwnOutput
from spade_index.images.notices import Notices
from spade_index.settings import Preprocessing

from .options import LoadingOptions
from .progress import Progress
from .sources import Sources


class Batches:
    """The images of a query. Iterate once; count what is answered by `answered`."""

    def __init__(
        self, sources: Sources, preprocessing: Preprocessing, loading: LoadingOptions, progress: Progress
    ) -> None:
        """Decode the images of `sources`, `loading.batch_size` at a time."""
        self.failed = 0  # images that could not be decoded
        self._answered = 0
        self._sources, self._preprocessing, self._loading = sources, preprocessing, loading
        self._progress = progress

    def __iter__(self) -> Iterator[list[DecodedImage]]:
        """Yield batches; at the end, say what was passed over. Raises InputError if there was no image."""
        notices, size = Notices(self._progress.say), self._loading.batch_size
        images = load_all(
            self._sources.counted_files(),
            self._preprocessing,
            workers=self._loading.workers,
            ahead=2 * size,
            on_error=self.on_error,
            thumbnails=False,
        )
        while batch := list(islice(images, size)):
            notices.tell(batch)
            yield batch
        notices.end()
        self._sources.say_passed_over()
        self._sources.require_some(self._answered + self.failed)

    def answered(self) -> None:
        """Note that an image has its answer."""
        self._answered += 1
        self._progress(1)

    def on_error(self, error: ImageError) -> None:
        """Leave out a picture of this package; count and name what cannot be decoded."""
        if isinstance(error, OwnOutput):
            self._sources.leave_out(error)
        else:
            self.failed += 1
            self._progress.say(f"skipped {error}")
        self._progress(1)
