"""What images say about themselves, passed on for the first of them."""

from collections.abc import Callable, Iterable

from .decode import DecodedImage

TOLD = 5  # images; those of one source are usually alike


class Notices:
    """Passes on the notices of a few images, and says in the end how many more there were."""

    def __init__(self, say: Callable[[str], None], most: int = TOLD) -> None:
        self._say = say
        self._most = most
        self._count = 0

    def tell(self, images: Iterable[DecodedImage]) -> None:
        """Pass on what images say about themselves."""
        for notice in (image.notice for image in images):
            if notice is not None:
                self._count += 1
                if self._count <= self._most:
                    self._say(notice)

    def end(self) -> None:
        """Say how many notices were not passed on."""
        if 0 < self._most < self._count:
            self._say(f"the same of {self._count - self._most:,} more images")
