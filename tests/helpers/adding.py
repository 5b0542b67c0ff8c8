"""Calls that add images to the gallery `plain` of a service."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from spade_index.gallery.write.writer import GalleryWriter

from .serving import Server
from .tiny import png
from .uploads import parts

IMAGES = "/v1/galleries/plain/images"


def new_images(count: int, start: int = 100) -> list:
    """Return the parts of a form: images that the gallery does not have."""
    return parts(*[(f"new-{seed}.png", png(seed)) for seed in range(start, start + count)])


def add(server: Server, files: list, **parameters: object) -> str:
    """Send images to be added; return the id of the job."""
    answer = server.http.post(IMAGES, files=files, params=parameters)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def staged(root: Path) -> list[Path]:
    """Return the files of images that were sent and are not yet in the gallery."""
    return sorted((root / ".spade-index" / "jobs").glob("*/images/*"))


@contextmanager
def locked(root: Path, seconds: float | None = None) -> Iterator[None]:
    """Hold the lock of the gallery's writer, for some seconds at most."""
    held, free = threading.Event(), threading.Event()

    def hold() -> None:
        with GalleryWriter(root / "plain"):
            held.set()
            free.wait(seconds)

    holding = threading.Thread(target=hold)
    holding.start()
    try:
        assert held.wait(10)
        yield
    finally:
        free.set()
        holding.join()
