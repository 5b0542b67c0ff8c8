"""Jobs that add images: staged on disk, run one at a time, and still known after a kill.

A failure leaves a gallery at its last commit, and an image that is in it is not added twice. So an interrupted job can
be resumed.
"""

import logging
import threading
from contextlib import suppress
from dataclasses import replace
from queue import Empty, Queue
from typing import Any

from spade_index.errors import InputError, SpadeIndexError
from spade_index.images.workers import DecoderPool, DecodersEnded

from .adder import Adder
from .galleries import Galleries
from .job import ENDED, RESTING, Job, now
from .job_files import JobFiles
from .limits import NOTICE_LENGTH, NOTICES, STOP_SECONDS
from .problems import Problem, as_problem
from .recent import Recent
from .settings import ServeSettings
from .staging import Staging
from .worker import Worker

SAVE_SECONDS = 2.0  # between tries to write what could not be written

log = logging.getLogger("spade_index.server")


class Cancelled(InputError):
    """Ends an ingest whose client has cancelled it; what it has committed stays."""


class Jobs:
    """All jobs of a root, and the thread that runs them."""

    def __init__(self, galleries: Galleries, settings: ServeSettings, decoders: DecoderPool, recent: Recent) -> None:
        """`recent` are the images that previews of feedback judge again."""
        self._adder = Adder(galleries, settings, decoders, recent)
        self._galleries = galleries
        self.files = JobFiles(galleries.folder, settings.staged_bytes)
        self._settings = settings
        self._jobs: dict[str, Job] = {}
        self._queue: Queue[str | None] = Queue()
        self._lock = threading.RLock()
        self._unwanted: set[str] = set()
        self._stopping = False
        self._unsaved: set[str] = set()  # jobs whose records could not be written
        self.worker = Worker("jobs", self._turn)

    def start(self) -> None:
        """Load the jobs on disk: queued jobs continue, those that ran when the service was killed are interrupted."""
        for job in self.files.load():
            self._jobs[job.id] = job
            if job.state in ENDED:  # and the service, before it could tidy up
                self.files.delete_images(job)
            elif job.state == "receiving":
                self._end(job, state="failed", error="the service ended before all images had come: send them again")
            elif job.preview:  # the images that it would judge again are gone
                self._end(job, state="failed", error="the service ended before it was done: ask for it again")
            elif self.files.is_unwanted(job):
                self._end(job, state="cancelled", snapshot=self._committed(job)[0])
            elif job.state == "running":
                self._interrupt(job)
        for job in sorted(self._jobs.values(), key=lambda job: job.created):
            if job.state == "queued":
                self._queue.put(job.id)
        self.worker.start()

    def stop(self) -> None:
        """Stop the running job at its next image; it is queued again, as those behind it still are.

        An index that is being built is not waited for: the next start carries on.
        """
        self._stopping = True
        self._queue.put(None)
        if not self.worker.join(STOP_SECONDS):
            log.warning("a job is left in the middle of a step; unless it was cancelled, it is queued again")
            with self._lock:
                for job in self.all():
                    if job.state == "running" and job.id in self._unwanted:
                        self._save(replace(job, state="cancelled", ended=now()))
                    elif job.state == "running":
                        self._requeue(job)

    def all(self) -> list[Job]:
        """Return all jobs, the newest first."""
        with self._lock:
            return sorted(self._jobs.values(), key=lambda job: job.created, reverse=True)

    def get(self, id: str) -> Job:
        """Return a job. Raises Problem (404)."""
        job = self._jobs.get(id)
        if job is None:
            raise Problem(404, "no such job (any more)", field="id")
        return job

    def new(self, job: Job) -> Staging:
        """Begin a job whose images are about to come. Raises Problem (503) if too many wait, OSError."""
        with self._lock:
            if sum(job.state not in RESTING for job in self._jobs.values()) >= self._settings.jobs_waiting:
                detail = f"{self._settings.jobs_waiting} jobs wait already"
                raise Problem(503, detail, retry_after=self._settings.job_seconds)
            try:
                self.files.make_folder(job)
                self._put(job)
            except BaseException:
                self.files.delete(job)
                raise
        return Staging(job, self.files, self.submit, self.drop)

    def submit(self, job: Job) -> Job:
        """Queue a job whose images have come. Raises Problem (409) if it was cancelled meanwhile."""
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
        """Cancel a job; what it has committed stays. Raises Problem (404)."""
        with self._lock:
            job = self.get(id)
            if job.state == "running":
                self._unwanted.add(id)
                self.files.note_unwanted(job)
            elif job.state not in ENDED:
                self._end(job, state="cancelled")
            return self._jobs[id]

    def drop(self, job: Job) -> None:
        """Forget a job whose images did not come."""
        with self._lock:
            self._jobs.pop(job.id, None)
        self.files.delete(job)

    def _turn(self) -> bool:
        """Run the next job, if one comes soon; return False at the end."""
        self._save_late()
        try:
            id = self._queue.get(timeout=SAVE_SECONDS)
        except Empty:
            return True
        if id is None or self._stopping:
            return False
        with self._lock:
            job = self._jobs.get(id)
            if job is None or job.state != "queued":
                return True
            job = self._save(replace(job, state="running", started=now()))
        try:
            self._add(job)
        except (Cancelled, DecodersEnded):
            snapshot, _ = self._committed(job)
            with self._lock:  # a client may cancel it while it is stopped
                if id in self._unwanted:
                    self._end(self._jobs[id], state="cancelled", snapshot=snapshot)
                else:
                    self._requeue(self._jobs[id])
        except BaseException as error:
            self._fail(job, error)
        return True

    def _fail(self, job: Job, error: BaseException) -> None:
        detail = "the service has failed"
        try:
            problem = as_problem(error, self._galleries.root)
            detail = str(problem.detail)[:NOTICE_LENGTH]
            if problem.status_code == 500 and not isinstance(error, SpadeIndexError):
                log.exception("job %s failed", job.id)
        finally:
            with self._lock:
                state = "cancelled" if job.id in self._unwanted else "failed"
                self._end(self._jobs[job.id], state=state, error=detail)

    def _requeue(self, job: Job) -> None:
        self._save(replace(job, state="queued", done=0, notices=[], started=None))

    def _add(self, job: Job) -> None:
        def note(line: str) -> None:
            notices = self._jobs[job.id].notices
            if len(notices) < NOTICES:
                self._put(replace(self._jobs[job.id], notices=[*notices, line[:NOTICE_LENGTH]]), durably=False)

        def progress(images: int) -> None:
            current = self._jobs[job.id]
            self._put(replace(current, done=current.done + images), durably=False)
            self._require_wanted(job)

        found = self._adder.run(job, self.files.images(job), note, progress, lambda: self._require_wanted(job))
        self._end(self._jobs[job.id], state="done", **found)

    def _require_wanted(self, job: Job) -> None:
        if self._stopping or job.id in self._unwanted:
            raise Cancelled("cancelled")

    def _interrupt(self, job: Job) -> None:
        snapshot, there = self._committed(job)
        self._save(
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
        """Return the snapshot of the gallery, and the number of the job's images in it."""
        with suppress(SpadeIndexError, Problem), self._galleries.open(job.gallery) as gallery:
            if job.names_defects:
                return gallery.snapshot, sum(gallery.catalog.defects_told(id) is not None for id in job.ids)
            return gallery.snapshot, len(gallery.catalog.images_by_id(job.ids, gallery.snapshot))
        return None, 0

    def _end(self, job: Job, **changes: Any) -> None:
        with self._lock:
            self._unwanted.discard(job.id)
            self._save(replace(job, ended=now(), **changes))
        self.files.delete_images(job)
        ended = [job for job in self.all() if job.state in ENDED]
        for old in ended[self._settings.jobs_kept :]:
            self.drop(old)

    def _put(self, job: Job, durably: bool = True) -> Job:
        """Note the state of a job, also on the disk. Raises OSError, and then nothing is noted."""
        with self._lock:
            if durably:
                self.files.write(job)
                self._unsaved.discard(job.id)
            self._jobs[job.id] = job
        return job

    def _save(self, job: Job) -> Job:
        """Note the state of a job; where it cannot be written now, it is written later."""
        with self._lock:
            self._jobs[job.id] = job
            try:
                self.files.write(job)
                self._unsaved.discard(job.id)
            except Exception as error:  # of the disk, or for want of memory
                self._unsaved.add(job.id)
                log.warning("the state of job %s cannot be written now (%s)", job.id, error)
        return job

    def _save_late(self) -> None:
        with self._lock:
            late = [self._jobs[id] for id in self._unsaved if id in self._jobs]
            self._unsaved.clear()
            for job in late:
                self._save(job)
