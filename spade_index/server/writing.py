"""Open a gallery for writing beside other writers."""

import time
from collections.abc import Callable
from pathlib import Path

from spade_index.errors import GalleryLocked
from spade_index.gallery.write.writer import GalleryWriter

PAUSE = 0.1  # seconds between two tries


def open_writer(path: Path, seconds: float, check: Callable[[], None] = lambda: None) -> GalleryWriter:
    """Open a gallery for writing, and wait for another writer; `check` is called before each wait and may raise.

    Raises GalleryLocked after this many seconds, and what `GalleryWriter` raises.
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return GalleryWriter(path)
        except GalleryLocked:
            check()
            if time.monotonic() > until:
                raise
            time.sleep(PAUSE)
