"""The images that were judged last, kept as they were sent, so that they can be judged again.

A picture as it was sent takes a hundredth of the memory of its features, and any state of the gallery can judge it.
"""

import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from spade_index.images.geometry import Geometry
from spade_index.method.pictures import Picture
from spade_index.settings import Maps

from .decoding import Upload
from .job import now


@dataclass(frozen=True)
class Kept:
    """An image, and what was asked of it."""

    id: str  # unguessable
    gallery: str
    upload: Upload
    geometry: Geometry
    maps: Maps | None
    threshold: float | None
    judged: str = field(default_factory=now)  # ISO 8601, UTC

    @property
    def bytes(self) -> int:
        """Return the memory that it takes, approximately."""
        pixels = 0 if self.upload.pixels is None else self.upload.pixels.nbytes
        return len(self.upload.data) + pixels + (0 if self.upload.mask is None else len(self.upload.mask.read()))


class Recent:
    """Keeps the images judged last of each gallery, each image once; drops the oldest of all for want of memory."""

    def __init__(self, most_images: int, most_bytes: int) -> None:
        """Keep at most `most_images` of each gallery, and of all together at most `most_bytes`."""
        self._most_images, self._most_bytes = most_images, most_bytes
        self._kept: OrderedDict[tuple[str, bytes], Kept] = OrderedDict()  # the oldest first
        self._counts = Counter[str]()  # by gallery
        self._bytes = 0
        self._lock = threading.Lock()

    def note(
        self,
        gallery: str,
        uploads: Sequence[Upload],
        images: Sequence[Picture],
        maps: Maps | None,
        threshold: float | None,
    ) -> None:
        """Keep the images of a query to a gallery's last snapshot, and what was asked."""
        for upload, image in zip(uploads, images, strict=True):
            self._keep(Kept(secrets.token_urlsafe(12), gallery, upload, image.geometry, maps, threshold))

    def of(self, gallery: str) -> list[Kept]:
        """Return the images of a gallery, the newest first."""
        with self._lock:
            return [kept for kept in reversed(self._kept.values()) if kept.gallery == gallery]

    def get(self, gallery: str, id: str) -> Kept | None:
        """Return an image of a gallery, or None once it was dropped."""
        return next((kept for kept in self.of(gallery) if kept.id == id), None)

    def _keep(self, kept: Kept) -> None:
        with self._lock:
            key = kept.gallery, kept.upload.digest
            self._drop(key)
            self._kept[key] = kept
            self._bytes += kept.bytes
            self._counts[kept.gallery] += 1
            if self._counts[kept.gallery] > self._most_images:
                self._drop(next(key for key in self._kept if key[0] == kept.gallery))
            while self._bytes > self._most_bytes:
                self._drop(next(iter(self._kept)))

    def _drop(self, key: tuple[str, bytes]) -> None:
        if (kept := self._kept.pop(key, None)) is not None:
            self._bytes -= kept.bytes
            self._counts[kept.gallery] -= 1
