"""Calls that add images to the gallery `plain` of a service."""

from pathlib import Path

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
