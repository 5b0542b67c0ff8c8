"""The service behind all routes: galleries, decoders, engine, results and jobs."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request

from spade_index import wire
from spade_index.images.decode import DecodedImage
from spade_index.method.pictures import Picture
from spade_index.method.pixel_search import Elsewhere
from spade_index.settings import Maps, Preprocessing

from .answered import AnsweredPictures
from .asks import Answer
from .candidates import CandidateFinder, Candidates
from .decoding import Decoders, Upload
from .drift import DriftWatch
from .engine import Engine
from .fairness import FairPlaces, client_of
from .galleries import Galleries, LoadBackbone, backbone_of
from .jobs import Jobs
from .keys import Key, Keys
from .limits import AUDITS, PARSERS, PICTURES
from .metrics import Metrics
from .problems import ClientGone, Problem
from .recent import Recent
from .results import Results, described, verdicts
from .settings import ServeSettings
from .statistics import Timed, Times
from .verdicts import Outlet, Verdicts

T = TypeVar("T")


@dataclass(frozen=True)
class Found:
    """A query's images and their answers."""

    preprocessing: Preprocessing  # of the images; the name may be another gallery's by now
    images: list[Picture]
    answers: list[Answer]


class Service:
    """The galleries of one root, served."""

    def __init__(
        self,
        settings: ServeSettings,
        keys: Keys,
        load: LoadBackbone = backbone_of,
        elsewhere: Elsewhere | None = None,
        outlet: Outlet | None = None,
    ) -> None:
        self.settings = settings
        self.keys = keys
        self.metrics = Metrics()
        self.galleries = Galleries(settings, load, elsewhere)
        self.decoders = Decoders(settings, self.metrics)
        self.engine = Engine(self.galleries, settings, self.metrics)
        self.results = Results(settings.results_bytes, settings.results_seconds)
        self.drawing = asyncio.Semaphore(settings.decoders)  # whole images are in memory while it is done
        self.parsing = asyncio.Semaphore(PARSERS)
        self.cutting = FairPlaces(PICTURES)
        self._finder = CandidateFinder(self.galleries)
        self._finding: asyncio.Future[Candidates] | None = None
        self.auditing = threading.BoundedSemaphore(AUDITS)
        self.changing = threading.BoundedSemaphore(settings.changes_waiting)
        self.recent = Recent(settings.replay_images, settings.replay_bytes)
        self.drift = DriftWatch(self.galleries, settings)
        self.metrics.registry.register(self.drift)
        self.jobs = Jobs(self.galleries, settings, self.decoders.jobs, self.recent)
        self.workers = [self.engine.worker, self.jobs.worker, self.decoders.worker]
        self.verdicts = None if outlet is None else Verdicts(outlet)
        if self.verdicts is not None:
            self.workers.append(self.verdicts.worker)
            self.metrics.registry.register(self.verdicts)
        self.metrics.watch(self.galleries.pool_stats, self.results.stats, self.decoders.stats, self.workers)

    def start(self) -> None:
        """Start the threads, and the processes that decode."""
        self.decoders.start()
        self.engine.start()
        self.jobs.start()
        if self.verdicts is not None:
            self.verdicts.start()

    def stop(self) -> None:
        """Stop: answer what was admitted, and leave a running job for the next start."""
        self.jobs.stop()
        self.engine.stop()
        self.decoders.stop()
        if self.verdicts is not None:
            self.verdicts.stop()

    @property
    def ready(self) -> bool:
        """Return whether queries and jobs are taken, and the threads and processes that compute them live."""
        return self.engine.alive and self.decoders.alive and all(worker.alive for worker in self.workers)

    async def find(
        self,
        request: Request,
        gallery: str,
        uploads: Sequence[Upload],
        timed: Timed,
        *,
        snapshot: int | None = None,
        maps: Maps | None = None,
        threshold: float | None = None,
    ) -> Found:
        """Decode images and search for them, for as long as the client waits; else as `find_for`."""
        client = client_of(request)
        found = self.find_for(client, gallery, uploads, timed, snapshot=snapshot, maps=maps, threshold=threshold)
        return await while_waited_for(request, found)

    async def find_for(
        self,
        client: str,
        gallery: str,
        uploads: Sequence[Upload],
        timed: Timed,
        *,
        snapshot: int | None = None,
        maps: Maps | None = None,
        threshold: float | None = None,
    ) -> Found:
        """Decode images and search for them, in the client's turn.

        They must have their place in the queue. Raises Problem, and what opening and searching a gallery raises.
        """
        begun = time.perf_counter()
        how = (await asyncio.to_thread(self.galleries.settings_of, gallery)).preprocessing
        joined, decoding = AnsweredPictures(), time.perf_counter() - begun
        async with aclosing(self._decoded(client, uploads, how)) as decoded:  # also where the client is gone
            async for images, took in decoded:
                decoding += took
                joined.take(images, await self.engine.detect(gallery, snapshot, images, maps, threshold))
        answers = joined.answers
        if snapshot is None:
            self.recent.note(gallery, uploads, joined.images, maps, threshold)
            self.drift.note(gallery, uploads, answers, joined.brightness)
        waited = min(answer.waited for answer in answers)
        times = Times(decoding, waited, time.perf_counter() - begun - decoding - waited)
        timed.found(answers[0].detection.snapshot, len(answers), times)
        return Found(how, joined.images, answers)

    def described(
        self,
        gallery: str,
        uploads: Sequence[Upload],
        images: Sequence[Picture],
        answers: Sequence[Answer],
        how: Preprocessing,
        begun: float,
    ) -> tuple[wire.ResultInfo, ...]:
        """Return the results of images, keep those with a score map, and note all of them for the sinks."""
        infos = described(gallery, uploads, images, answers, how, self.results)
        if self.verdicts is not None:
            self.verdicts.note(gallery, infos, begun)
        return infos

    def note(self, gallery: str, uploads: Sequence[Upload], found: Found, begun: float) -> None:
        """Note the results of a query for the sinks, where its answer does not describe them."""
        if self.verdicts is not None:
            infos = verdicts(gallery, uploads, found.images, found.answers, found.preprocessing)
            self.verdicts.note(gallery, infos, begun)

    async def candidates(self, key: Key) -> Candidates:
        """Return the galleries that an image may be routed to, of those that a key may read. Raises Problem (409).

        They are looked at in one thread at a time, which a client that goes does not end, so many that come and go
        take no more threads.
        """
        while self._finding is not None and not self._finding.done():
            await asyncio.wait({self._finding})
        self._finding = asyncio.ensure_future(asyncio.to_thread(self._finder.among, key))
        return await asyncio.shield(self._finding)

    async def _decoded(
        self, client: str, uploads: Sequence[Upload], how: Preprocessing
    ) -> AsyncGenerator[tuple[list[DecodedImage], float]]:
        """Yield the images of a request, and the seconds that each lot took: whole ones at once, tiles batch by batch.

        Of all requests, few pictures that are cut into tiles are in memory at a time. Raises Problem.
        """
        begun = time.perf_counter()
        if how.tile is None:
            with self.engine.coming(len(uploads)):
                images = await self.decoders.decode(client, uploads, how)
            yield images, time.perf_counter() - begun
            return
        for number, upload in enumerate(uploads):
            async with self.cutting.place(client):
                begun = time.perf_counter()
                async for tiles in self.decoders.tiles(client, number, upload, how, self.settings.batch_images):
                    yield tiles, time.perf_counter() - begun
                    begun = time.perf_counter()


def service_of(request: Request) -> Service:
    """Return the service that answers a request."""
    service: Service = request.app.state.service
    return service


@contextmanager
def without_waiting(places: threading.BoundedSemaphore, who: str) -> Iterator[None]:
    """Take one of some places. Raises Problem (503) where others have them all: a thread must not wait for them."""
    if not places.acquire(blocking=False):
        raise Problem(503, f"{who}: too many at a time", retry_after=2)
    try:
        yield
    finally:
        places.release()


async def while_waited_for(request: Request, work: Awaitable[T]) -> T:
    """Return the result of work, which is cancelled if the client goes. The body must have been read."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, going = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({working, going}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        for task in (working, going):
            task.cancel()
            with suppress(BaseException):
                await task
