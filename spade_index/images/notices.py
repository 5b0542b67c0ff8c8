"""What images say about themselves, passed on for the first of them."""

from collections.abc import Callable, Iterable

from .decode import FRAMES, DecodedImage

TOLD = 5  # images; those of one source are usually alike


class Notices:
    """Passes on the notices of a few images, and says in the end how many more there were."""

    def __init__(self, say: Callable[[str], None], *, alike: bool = False) -> None:
        """With `alike`, as the images of a new gallery may be, pass on only that frames were not read."""
        self._say = say
        self._alike = alike
        self._count = 0

    def tell(self, images: Iterable[DecodedImage]) -> None:
        """Pass on what images say about themselves."""
        for notice in (image.notice for image in images):
            if notice is not None and (not self._alike or notice.endswith(FRAMES)):
                self._count += 1
                if self._count <= TOLD:
                    self._say(notice)

    def end(self) -> None:
        """Say how many notices were not passed on."""
        if self._count > TOLD:
            self._say(f"the same of {self._count - TOLD:,} more images")
