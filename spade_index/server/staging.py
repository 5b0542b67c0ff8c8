"""A new job, while its images come."""

from dataclasses import replace
from typing import BinaryIO, Protocol

from .forms import FIELD
from .job import Job
from .job_files import JobFiles
from .problems import Problem


class Submits(Protocol):
    """Takes jobs whose images have come."""

    files: JobFiles

    def submit(self, job: Job) -> Job: ...

    def drop(self, job: Job) -> None: ...


class Staging:
    """Stages the images of a job. Use as a context manager: a job that was not submitted is dropped."""

    def __init__(self, jobs: Submits, job: Job) -> None:
        self._jobs = jobs
        self._job: Job | None = job
        self._names: dict[str, None] = {}

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._job is not None:
            self._jobs.drop(self._job)

    def begin(self, number: int, name: str | None) -> BinaryIO:
        """Open the file that the next image goes to. Raises Problem (409, 422), OSError."""
        assert self._job is not None
        if name is None or name in self._names:
            detail = "a file name must be there, and differ from the others': it becomes the image's id"
            raise Problem(422, detail, field=f"{FIELD}[{number}]")
        self._names[name] = None
        try:
            return self._jobs.files.create_image(self._job, number)
        except FileNotFoundError:
            raise Problem(409, "the job was cancelled while its images came") from None

    def submit(self) -> Job:
        """Submit the job, whose images have all come. Raises Problem (409)."""
        assert self._job is not None
        submitted = self._jobs.submit(replace(self._job, names=list(self._names)))
        self._job = None
        return submitted
