"""A new job, while its images come."""

from collections.abc import Callable
from dataclasses import replace

from .forms import FIELD, Sink
from .job import Job
from .job_files import JobFiles
from .problems import Problem


class Staging:
    """Stages the images of a job. Use as a context manager: a job that was not submitted is dropped."""

    def __init__(self, job: Job, files: JobFiles, submit: Callable[[Job], Job], drop: Callable[[Job], None]) -> None:
        self._job: Job | None = job
        self._files = files
        self._submit = submit
        self._drop = drop
        self._names: dict[str, None] = {}

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._job is not None:
            self._drop(self._job)

    def begin(self, number: int, name: str | None) -> Sink:
        """Open the file that the next image goes to. Raises Problem (409, 422), OSError."""
        assert self._job is not None
        if name is None or name in self._names:
            detail = "a file name must be there, and differ from the others': it becomes the image's id"
            raise Problem(422, detail, field=f"{FIELD}[{number}]")
        self._names[name] = None
        try:
            return self._files.create_image(self._job, number)
        except FileNotFoundError:
            raise Problem(409, "the job was cancelled while its images came") from None

    def submit(self) -> Job:
        """Submit the job, whose images have all come. Raises Problem (409)."""
        assert self._job is not None
        submitted = self._submit(replace(self._job, names=list(self._names)))
        self._job = None
        return submitted
