"""Jobs that add images: staged on disk, run one at a time, and still known after a kill.

    ROOT/.spade-index/jobs/ID/job.json    what it is and how far it came; written whole or not at all
    ROOT/.spade-index/jobs/ID/images/     what was sent, until the job has ended

A gallery is at its last commit whatever happens, and an image that is there is not added twice; so a job that was
interrupted can be resumed.
"""

import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from queue import Queue
from time import monotonic, sleep
from typing import Any, BinaryIO

from spade_index.errors import GalleryLocked, InputError, SpadeIndexError
from spade_index.gallery.write.admission import AddReport
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.find import ImageFile

from .decoding import require_cheap
from .forms import FIELD
from .galleries import Galleries
from .job import ENDED, RESTING, Job, now
from .problems import Problem, as_problem

FOLDER = ".spade-index"
NOTICES = 100  # lines kept of a job
WAITING = 100  # jobs that have not been run, beyond which no more are taken
KEPT = 100  # ended jobs that are remembered
LOCKED_SECONDS = 60  # to wait for another writer
BATCH = 8  # images; queries of the same backbone wait for as many

log = logging.getLogger("spade_index.server")


class Cancelled(InputError):
    """What ends an ingest whose client does not want it any more; what it has done is committed."""


class Jobs:
    """All jobs of a root, and the thread that runs them."""

    def __init__(self, galleries: Galleries, max_pixels: int) -> None:
        """`max_pixels` is what an image may have at most."""
        self._galleries = galleries
        self._max_pixels = max_pixels
        self.folder = galleries.root / FOLDER / "jobs"
        self._jobs: dict[str, Job] = {}
        self._queue: Queue[str | None] = Queue()
        self._lock = threading.RLock()
        self._unwanted: set[str] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)

    def start(self) -> None:
        """Take up what is there: queued jobs go on, those that ran when the service was killed say so."""
        for folder in sorted(self.folder.glob("*")):
            path = folder / "job.json"
            if not path.exists():  # the service was killed before it was there
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                job = Job(**json.loads(path.read_text()))
            except (OSError, TypeError, ValueError):
                log.warning("%s: not a readable job, left alone", path)
                continue
            self._jobs[job.id] = job
            if job.state in ENDED:  # and the service, before it could tidy up
                shutil.rmtree(folder / "images", ignore_errors=True)
            elif job.state == "receiving":
                self._end(job, state="failed", error="the service ended before all images had come: send them again")
            elif job.state == "running":
                self._interrupt(job)
        for job in sorted(self._jobs.values(), key=lambda job: job.created):
            if job.state == "queued":
                self._queue.put(job.id)
        self._thread.start()

    def stop(self) -> None:
        """End the running job at its next image; it is queued again, as those behind it still are."""
        self._stopping = True
        self._queue.put(None)
        self._thread.join()

    def all(self) -> list[Job]:
        """The newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)

    def get(self, id: str) -> Job:
        """A job. Raises Problem (404)."""
        job = self._jobs.get(id)
        if job is None:
            raise Problem(404, "no such job (any more)", field="id")
        return job

    def new(self, gallery: str, replace: bool, prefix: str) -> "Staging":
        """A job whose images are about to come. Raises Problem (503) if too many wait."""
        job = Job(secrets.token_hex(8), gallery, replace, prefix)
        with self._lock:
            if sum(job.state not in RESTING for job in self._jobs.values()) >= WAITING:
                raise Problem(503, f"{WAITING} jobs wait already", retry_after=LOCKED_SECONDS)
            folder = self.folder / job.id / "images"
            folder.mkdir(parents=True)
            self._put(job)
        return Staging(self, job, folder)

    def submit(self, job: Job) -> Job:
        """Have a job run whose images have come. Raises Problem (409) if it was cancelled meanwhile."""
        with self._lock:
            if self._jobs[job.id].state != job.state:
                raise Problem(409, f"job {job.id} was {self._jobs[job.id].state} meanwhile", field="id")
            job = self._put(replace(job, state="queued"))
        self._queue.put(job.id)
        return job

    def resume(self, id: str) -> Job:
        """Run an interrupted job again. Raises Problem (404, 409)."""
        with self._lock:
            job = self.get(id)
            if job.state != "interrupted":
                raise Problem(409, f"job {id} is {job.state}: only an interrupted one can be resumed", field="id")
            return self.submit(replace(job, done=0, error=None, notices=[], snapshot=None, started=None, ended=None))

    def cancel(self, id: str) -> Job:
        """End a job; what it has committed stays. Raises Problem (404)."""
        with self._lock:
            job = self.get(id)
            if job.state == "running":
                self._unwanted.add(id)
            elif job.state not in ENDED:
                self._end(job, state="cancelled")
            return self._jobs[id]

    def drop(self, job: Job) -> None:
        """Forget a job whose images did not come."""
        with self._lock:
            self._jobs.pop(job.id, None)
        shutil.rmtree(self.folder / job.id, ignore_errors=True)

    def _run(self) -> None:
        while (id := self._queue.get()) is not None and not self._stopping:
            with self._lock:
                job = self._jobs.get(id)
                if job is None or job.state != "queued":
                    continue
                job = self._put(replace(job, state="running", started=now()))
            try:
                self._add(job)
            except Cancelled:
                if self._stopping:
                    self._put(replace(self._jobs[id], state="queued", done=0, notices=[], started=None))
                else:
                    self._end(self._jobs[id], state="cancelled", snapshot=self._committed(job)[0])
            except Exception as error:  # the thread must outlive whatever happens to a job
                problem = as_problem(error, str(self._galleries.root))
                if problem.status_code == 500 and not isinstance(error, SpadeIndexError):
                    log.exception("job %s failed", id)
                self._end(self._jobs[id], state="failed", error=str(problem.detail))

    def _add(self, job: Job) -> None:
        def note(line: str) -> None:
            notices = self._jobs[job.id].notices
            if len(notices) < NOTICES:
                self._put(replace(self._jobs[job.id], notices=[*notices, line]), durably=False)

        def progress(images: int) -> None:
            current = self._jobs[job.id]
            self._put(replace(current, done=current.done + images), durably=False)
            self._require_wanted(job)

        with self._writer(job) as writer:
            report = writer.add(
                self._files(job),
                self._galleries.backbone(writer.gallery),
                replace=job.replace,
                batch_size=BATCH,
                notice=note,
                progress=progress,
            )
            snapshot = writer.gallery.snapshot
            if writer.index_is_stale():
                try:
                    writer.build_index()
                except InputError as error:  # new images are found without
                    note(f"the index was not built again: {error}")
        self._end(self._jobs[job.id], state="done", report=_counts(report), snapshot=snapshot)

    def _require_wanted(self, job: Job) -> None:
        if self._stopping or job.id in self._unwanted:
            raise Cancelled("cancelled")

    def _writer(self, job: Job) -> GalleryWriter:
        """The gallery, as soon as no other process writes to it. Raises GalleryLocked if that takes long."""
        until = monotonic() + LOCKED_SECONDS
        while True:
            try:
                return GalleryWriter(self._galleries.path(job.gallery))
            except GalleryLocked:
                self._require_wanted(job)
                if monotonic() > until:
                    raise
            sleep(0.2)

    def _files(self, job: Job) -> Iterator[ImageFile]:
        for number, name in enumerate(job.names):
            path, name_there = self.folder / job.id / "images" / str(number), f"upload::{name}"
            status = path.stat()
            read = partial(_read, path, name_there, self._max_pixels)
            yield ImageFile(job.prefix + name, name_there, status.st_size, status.st_mtime_ns, read)

    def _interrupt(self, job: Job) -> None:
        snapshot, there = self._committed(job)
        self._put(
            replace(
                job,
                state="interrupted",
                done=there,
                snapshot=snapshot,
                ended=now(),
                error=f"the service ended while it ran: {there:,} of {len(job.names):,} images are in the gallery at "
                f"its last commit, snapshot {snapshot}; POST /v1/jobs/{job.id}/resume adds the rest",
            )
        )

    def _committed(self, job: Job) -> tuple[int | None, int]:
        """The gallery's snapshot, and how many of a job's images it has."""
        with suppress(SpadeIndexError, Problem), self._galleries.open(job.gallery) as gallery:
            ids = [job.prefix + name for name in job.names]
            return gallery.snapshot, len(gallery.catalog.images_by_id(ids, gallery.snapshot))
        return None, 0

    def _end(self, job: Job, **changes: Any) -> None:
        with self._lock:
            self._unwanted.discard(job.id)
            self._put(replace(job, ended=now(), **changes))
        shutil.rmtree(self.folder / job.id / "images", ignore_errors=True)
        ended = [job for job in self.all() if job.state in ENDED]
        for old in ended[KEPT:]:
            self.drop(old)

    def _put(self, job: Job, durably: bool = True) -> Job:
        with self._lock:
            self._jobs[job.id] = job
            if durably:
                path = self.folder / job.id / "job.json"
                temporary = path.with_suffix(".tmp")
                with open(temporary, "w", encoding="utf-8") as file:
                    json.dump(asdict(job), file)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.rename(path)
        return job


class Staging:
    """The images of a job, as they come. Use as a context manager: what is not submitted is dropped."""

    def __init__(self, jobs: Jobs, job: Job, folder: Path) -> None:
        self._jobs = jobs
        self._job: Job | None = job
        self._folder = folder
        self._names: dict[str, None] = {}

    def __enter__(self) -> "Staging":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._job is not None:
            self._jobs.drop(self._job)

    def begin(self, number: int, name: str | None) -> BinaryIO:
        """Where the next file goes. Raises Problem (409, 422, 503)."""
        if name is None or name in self._names:
            detail = "a file name must be there, and differ from the others': it becomes the image's id"
            raise Problem(422, detail, field=f"{FIELD}[{number}]")
        self._names[name] = None
        try:
            return open(self._folder / str(number), "wb")
        except FileNotFoundError:
            raise Problem(409, "the job was cancelled while its images came") from None

    def submit(self) -> Job:
        """All have come. Raises Problem (409)."""
        assert self._job is not None
        submitted = self._jobs.submit(replace(self._job, names=list(self._names)))
        self._job = None
        return submitted


def _read(path: Path, name: str, max_pixels: int) -> bytes:
    data = path.read_bytes()
    require_cheap(data, name, max_pixels)
    return data


def _counts(report: AddReport) -> dict[str, int]:
    return dict(vars(report))
