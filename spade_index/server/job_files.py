"""Jobs on disk: their records, and the images that were sent with them.

ROOT/.spade-index/jobs/ID/job.json    the record; written whole or not at all
ROOT/.spade-index/jobs/ID/images/     what was sent, until the job has ended
ROOT/.spade-index/jobs/ID/cancelled   a client has cancelled the job while it ran
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path

from spade_index.errors import InputError, StorageError
from spade_index.images.files import ImageFile, changed_ns, read_regular

from .job import Job
from .job_records import ID, read_record
from .settings import ServeSettings
from .staged_bytes import StagedBytes, StagedFile

FOLDER = ".spade-index"
UNWANTED = "cancelled"  # its file in the folder of a job
PRIVATE = 0o700  # other users of the machine read nothing that was sent

log = logging.getLogger("spade_index.server")


class JobFiles:
    """The folder of all jobs of a root."""

    def __init__(self, root: Path, most_bytes: int = ServeSettings.staged_bytes) -> None:
        """The images of all jobs take at most `most_bytes`."""
        self.folder = root / FOLDER / "jobs"
        self.staged = StagedBytes(most_bytes)

    def load(self) -> Iterator[Job]:
        """Yield the jobs that are on disk. What is not a job of this service is named in the log, and left alone."""
        if self._is_link():
            log.warning("%s: a link; its jobs are left alone", self.folder)
            return
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:  # there never was a job
            return
        except OSError as error:
            log.warning("%s: cannot be read (%s)", self.folder, error.strerror)
            return
        for name in names:
            job = self._load(self.folder / name)
            if job is not None:
                yield job

    def _load(self, folder: Path) -> Job | None:
        path = folder / "job.json"
        try:
            if folder.is_symlink() or (folder / "images").is_symlink():
                raise ValueError("a link")
            job = read_record(path)
            self.staged.found(job.id, folder / "images")
            return job
        except FileNotFoundError:
            if ID.fullmatch(folder.name):  # killed before the record was there
                shutil.rmtree(folder, ignore_errors=True)
        except (OSError, ValueError) as error:
            log.warning("%s: not a readable job, left alone (%s)", path, getattr(error, "strerror", None) or error)
        return None

    def _is_link(self) -> bool:
        return self.folder.is_symlink() or self.folder.parent.is_symlink()

    def write(self, job: Job) -> None:
        """Write a job's record durably."""
        path = self.folder / job.id / "job.json"
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        with open(temporary, "x", encoding="utf-8") as file:  # "x" follows no link
            json.dump(asdict(job), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)

    def note_unwanted(self, job: Job) -> None:
        """Note that a running job was cancelled, so that it is not taken up after a kill."""
        try:
            with suppress(FileExistsError), open(self.folder / job.id / UNWANTED, "x"):
                pass
        except OSError as error:  # the running service knows it in any case
            log.warning("that job %s was cancelled cannot be written (%s)", job.id, error.strerror)

    def is_unwanted(self, job: Job) -> bool:
        """Return whether a job was cancelled while it ran."""
        return os.path.lexists(self.folder / job.id / UNWANTED)

    def make_folder(self, job: Job) -> None:
        """Make the folder of a new job. Raises OSError, StorageError."""
        if self._is_link():
            raise StorageError(f"{self.folder}: is a link: jobs are written to real folders only")
        self.folder.parent.mkdir(mode=PRIVATE, exist_ok=True)
        self.folder.mkdir(mode=PRIVATE, exist_ok=True)
        self._images(job).parent.mkdir(mode=PRIVATE)
        self._images(job).mkdir(mode=PRIVATE)

    def create_image(self, job: Job, number: int) -> StagedFile:
        """Open the file of an image that is about to come. Raises FileNotFoundError if the job was dropped."""
        return StagedFile(open(self._images(job) / str(number), "xb"), job.id, self.staged)

    def images(self, job: Job) -> Iterator[ImageFile]:
        """Yield the images that were sent with a job, under the ids that they get in the gallery.

        Raises InputError for one that is not there any more.
        """
        for number, name in enumerate(job.names):
            path, shown = self._images(job) / str(number), f"upload::{name}"
            try:
                status = path.lstat()
            except FileNotFoundError as error:
                raise InputError(f"{shown}: it is not there any more: send the images again") from error
            read = partial(read_regular, str(path), shown)
            yield ImageFile(job.prefix + name, shown, status.st_size, changed_ns(status), read)

    def delete_images(self, job: Job) -> None:
        """Delete the images that were sent with a job."""
        shutil.rmtree(self._images(job), ignore_errors=True)
        self.staged.forget(job.id)

    def delete(self, job: Job) -> None:
        """Delete all of a job."""
        shutil.rmtree(self.folder / job.id, ignore_errors=True)
        self.staged.forget(job.id)

    def _images(self, job: Job) -> Path:
        return self.folder / job.id / "images"
