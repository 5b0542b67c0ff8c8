"""Jobs on disk: their records, and the images that were sent with them.

ROOT/.spade-index/jobs/ID/job.json    the record; written whole or not at all
ROOT/.spade-index/jobs/ID/images/     what was sent, until the job has ended
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import BinaryIO

from spade_index.images.find import ImageFile

from .decoding import require_cheap
from .job import Job

FOLDER = ".spade-index"

log = logging.getLogger("spade_index.server")


class JobFiles:
    """The folder of all jobs of a root."""

    def __init__(self, root: Path, max_pixels: int) -> None:
        """Images of more than `max_pixels` are not decoded."""
        self.folder = root / FOLDER / "jobs"
        self._max_pixels = max_pixels

    def load(self) -> Iterator[Job]:
        """Yield the jobs that are on disk. A folder without a record is deleted, an unreadable record left alone."""
        for folder in sorted(self.folder.glob("*")):
            path = folder / "job.json"
            if not path.exists():  # the service was killed before it was there
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                yield Job(**json.loads(path.read_text()))
            except (OSError, TypeError, ValueError):
                log.warning("%s: not a readable job, left alone", path)

    def write(self, job: Job) -> None:
        """Write a job's record durably."""
        path = self.folder / job.id / "job.json"
        temporary = path.with_suffix(".tmp")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(asdict(job), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)

    def make_folder(self, job: Job) -> None:
        """Make the folder of a new job."""
        self._images(job).mkdir(parents=True)

    def create_image(self, job: Job, number: int) -> BinaryIO:
        """Open the file of an image that is about to come. Raises FileNotFoundError if the job was dropped."""
        return open(self._images(job) / str(number), "wb")

    def images(self, job: Job) -> Iterator[ImageFile]:
        """Yield the images that were sent with a job, under the ids that they get in the gallery."""
        for number, name in enumerate(job.names):
            path, shown = self._images(job) / str(number), f"upload::{name}"
            status = path.stat()
            read = partial(read_image, path, shown, self._max_pixels)
            yield ImageFile(job.prefix + name, shown, status.st_size, status.st_mtime_ns, read)

    def delete_images(self, job: Job) -> None:
        """Delete the images that were sent with a job."""
        shutil.rmtree(self._images(job), ignore_errors=True)

    def delete(self, job: Job) -> None:
        """Delete all of a job."""
        shutil.rmtree(self.folder / job.id, ignore_errors=True)

    def _images(self, job: Job) -> Path:
        return self.folder / job.id / "images"


def read_image(path: Path, name: str, max_pixels: int) -> bytes:
    """Return the bytes of an image that was sent. Raises ImageError if decoding them would cost too much."""
    data = path.read_bytes()
    require_cheap(data, name, max_pixels)
    return data
