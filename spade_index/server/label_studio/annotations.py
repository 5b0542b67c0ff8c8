"""Annotations that come back as feedback: false alarms, missed defects, and defects of a kind; what changes undoes it.

Label Studio waits a second for the answer to a webhook and does not send it again. So annotations are looked at later,
one after another in the order in which they came.
"""

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from spade_index.errors import SpadeIndexError
from spade_index.gallery.feedback import is_there
from spade_index.images.geometry import Geometry
from spade_index.wire_feedback import Said

from ..decoding import Upload
from ..job import ENDED, Job, new_id
from ..limits import ANNOTATIONS_WAITING
from ..problems import Problem, as_problem
from ..service import Service
from ..v1_feedback import undone
from .drawn import Drawn, in_pixels

TRIES = 10  # of an annotation while others write to the gallery, or the queue is full
PAUSE = 2.0  # seconds between them
LOOK_SECONDS = 0.1  # between two looks whether a job has ended

log = logging.getLogger("spade_index.server")


@dataclass(frozen=True)
class Statement:
    """What an annotation says about an image."""

    gallery: str
    id: int  # of the annotation
    image: str | None  # that it tells of, as its task names it; None: what it has said is taken back
    client: str  # whose turn it is when the image is decoded
    is_normal: bool = False  # else it has defects
    drawn: tuple[Drawn, ...] = ()  # the regions of its defects
    who: str = ""
    note: str = ""

    @property
    def prefix(self) -> str:
        """What the ids of its images in the gallery begin with."""
        return f"feedback/label-studio/{self.id}/"

    @property
    def mark(self) -> str:
        """What its ids have after the time: it tells whether an annotation that was changed says something else."""
        if self.is_normal:
            return ""
        return f"-{hashlib.sha256(repr(self.drawn).encode()).hexdigest()[:8]}"

    def is_said_by(self, id: str) -> bool:
        """Return whether an id, or the prefix of one, is of feedback that says this."""
        return id.removeprefix(self.prefix).partition("/")[0].partition("-")[2] == self.mark[1:]


class Annotations:
    """The annotations that wait, and the task that looks at them. For the event loop alone."""

    def __init__(self, served: Service, get: Callable[[str], Awaitable[Upload]]) -> None:
        """`get` returns the image of a task."""
        self._served = served
        self._get = get
        self._waiting: deque[Statement] = deque()
        self._looking: asyncio.Task[None] | None = None

    def take(self, statement: Statement) -> None:
        """Let an annotation wait until it is looked at. Raises Problem (503) if too many do, or their images are large.

        Images are held where tasks have them as `data:` URIs.
        """
        held = sum(len(one.image or "") for one in (*self._waiting, statement))
        if len(self._waiting) >= ANNOTATIONS_WAITING or held > self._served.settings.body_bytes:
            raise Problem(503, "too many annotations wait", retry_after=PAUSE)
        self._waiting.append(statement)
        if self._looking is None or self._looking.done():
            self._looking = asyncio.ensure_future(self._look())

    async def stop(self) -> None:
        """Leave the annotations that wait."""
        if self._looking is not None and not self._looking.done():
            log.warning("%d annotations of Label Studio were not looked at: save them again", len(self._waiting))
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking

    async def _look(self) -> None:
        while self._waiting:
            one = self._waiting[0]
            try:
                outcome = await self._outcome(one)
            except Exception as error:
                outcome = "failed"
                why = as_problem(error, self._served.galleries.root)
                unforeseen = error if why.status_code == 500 and not isinstance(error, SpadeIndexError) else None
                log.warning("annotation %d of Label Studio: %s", one.id, why.detail, exc_info=unforeseen)
            self._waiting.popleft()
            self._served.metrics.annotations.labels(outcome).inc()

    async def _outcome(self, one: Statement) -> str:
        """Return what became of an annotation; what may pass is tried again. Raises what does not."""
        for tries in range(TRIES):
            try:
                return await (self._taken_back(one) if one.image is None else self._noted(one, one.image))
            except (Problem, SpadeIndexError) as error:
                status = as_problem(error, self._served.galleries.root).status_code
                if status not in (409, 503) or tries + 1 == TRIES:
                    raise
            await asyncio.sleep(PAUSE)
        raise AssertionError("the last try returns or raises")

    async def _noted(self, one: Statement, image: str) -> str:
        for job in self._jobs_of(one):
            if one.is_said_by(job.prefix):
                if job.state != "interrupted":
                    return "unchanged"
                await asyncio.to_thread(self._served.jobs.resume, job.id)
                return str(job.verdict)
        if any(map(one.is_said_by, await asyncio.to_thread(self._ids_of, one))):
            return "unchanged"
        before = await self._taken_back(one)
        upload = await self._get(image)
        anomalous, geometry = await self._judged(one, upload)
        if anomalous == (not one.is_normal) and not any(region.box for region in one.drawn):
            return before
        verdict: Said = "false_alarm" if one.is_normal else "defect" if anomalous else "missed"
        await asyncio.to_thread(self._submit, one, upload, verdict, geometry)
        return verdict

    async def _taken_back(self, one: Statement) -> str:
        while jobs := self._jobs_of(one):
            for job in jobs:
                await asyncio.to_thread(self._served.jobs.cancel, job.id)
            await asyncio.sleep(LOOK_SECONDS)
        ids = await asyncio.to_thread(self._ids_of, one)
        if not ids:
            return "unchanged"
        await asyncio.to_thread(undone, self._served, one.gallery, ids)
        return "undone"

    async def _judged(self, one: Statement, upload: Upload) -> tuple[bool, Geometry]:
        """Return whether an image is called anomalous, and its geometry."""
        with self._served.engine.place() as place:
            place.take(1)
            with self._served.metrics.models.request(one.gallery) as timed:
                found = await self._served.find_for(one.client, one.gallery, [upload], timed)
        return bool(found.answers[0].detection.anomalous), found.images[0].geometry

    def _submit(self, one: Statement, upload: Upload, verdict: Said, geometry: Geometry) -> None:
        # It may be said, undone and said again.
        prefix = f"{one.prefix}{datetime.now(UTC):%Y%m%dT%H%M%S.%f}{one.mark}/"
        job = Job(new_id(), one.gallery, False, prefix, again=True, verdict=verdict, who=one.who, note=one.note)
        if one.drawn:
            placed = [(region.box, region.label) for region in one.drawn if region.box]
            boxes = in_pixels([box for box, _ in placed], geometry)
            job = replace(job, kind=one.drawn[0].label, boxes=boxes, kinds=[kind for _, kind in placed])
        with self._served.jobs.new(job) as staging:
            file = staging.begin(0, upload.name or "image")
            try:
                file.write(upload.data)
            finally:
                file.close()
            staging.submit()

    def _jobs_of(self, one: Statement) -> list[Job]:
        """Return the jobs that add the annotation's image, or may be resumed to."""
        return [
            job
            for job in self._served.jobs.all()
            if job.gallery == one.gallery and job.prefix.startswith(one.prefix) and job.state not in ENDED
        ]

    def _ids_of(self, one: Statement) -> list[str]:
        """Return the ids of images that are in the gallery because of the annotation."""
        with self._served.galleries.open(one.gallery) as opened:
            rows = opened.catalog.feedback()
            return [row.id for row in rows if row.id.startswith(one.prefix) and is_there(opened, row.id)]
