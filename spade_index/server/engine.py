"""The queue, the batches made of it, and the one thread that computes.

Images that wait together share a pass through the backbone, whatever their galleries, if those have the same one; and
images of one gallery share its searches. A batch begins as soon as the thread is free; it waits only
briefly, for images that are being decoded.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch import Tensor

from spade_index.errors import GalleryError, SpadeIndexError
from spade_index.features.backbone import Backbone
from spade_index.images.decode import DecodedImage
from spade_index.settings import Maps
from spade_index.wording import number_of

from .asks import Answer, Ask, completed, fail, fail_logged, question
from .forms import MASKS
from .galleries import Galleries, Served
from .limits import STOP_SECONDS
from .metrics import Metrics
from .problems import Problem
from .routing import one_of, settled
from .settings import ServeSettings
from .worker import Worker

IDLE_SECONDS = 2.0  # between two looks for galleries to close
SMOOTHING = 0.1  # of the mean time an image takes

log = logging.getLogger("spade_index.server")


class Place:
    """A request's share of the queue."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self.images = 0

    def take(self, images: int) -> None:
        """Change the share to a number of images. Raises Problem (503) if the queue has no room for them."""
        self._engine.resize(images - self.images)
        self.images = images


class Engine:
    """Answers images in the order of their arrival."""

    def __init__(self, galleries: Galleries, settings: ServeSettings, metrics: Metrics) -> None:
        self._galleries = galleries
        self._settings = settings
        self._metrics = metrics
        self._waiting: deque[Ask] = deque()
        self._admitted = 0  # images of requests that are not answered
        self._coming = 0  # of those, the ones that are being decoded
        self._seconds = 0.1  # that an image takes, smoothed
        self._changed = threading.Condition()
        self._stopping = False
        self.worker = Worker("engine", self._turn)

    def start(self) -> None:
        """Start the thread that computes."""
        self.worker.start()

    def stop(self) -> None:
        """Answer the images that wait, then stop."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self.worker.join(STOP_SECONDS):
            self._galleries.close()
        else:
            log.warning("a batch is left in the middle")

    @property
    def alive(self) -> bool:
        """Return whether the thread that computes is alive."""
        return self.worker.alive and not self._stopping

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Reserve room in the queue while a request is served, once it knows the number of its images.

        Raises Problem (503) if there is none now, before the request's body is read. While the body arrives, other
        requests may take the room.
        """
        with self._changed:
            self._require_room(1)
        place = Place(self)
        try:
            yield place
        finally:
            place.take(0)

    @contextmanager
    def coming(self, images: int) -> Iterator[None]:
        """Announce images that are being decoded: a batch that is not full waits a moment for them."""
        with self._changed:
            self._coming += images
        try:
            yield
        finally:
            with self._changed:
                self._coming -= images
                self._changed.notify()

    def resize(self, images: int) -> None:
        """Admit more images, or fewer."""
        with self._changed:
            if images > 0:
                self._require_room(images)
            self._admitted += images
            self._metrics.queue.set(self._admitted)

    async def detect(
        self,
        gallery: str,
        snapshot: int | None,
        images: Sequence[DecodedImage],
        maps: Maps | None = None,
        threshold: float | None = None,
    ) -> list[Answer]:
        """Return the answers of images, in their order. Raises what `answered` does."""
        answers = await self.answered([Ask(gallery, snapshot, image, maps, threshold) for image in images])
        return [answer for answer in answers if answer is not None]

    async def answered(self, asks: Sequence[Ask]) -> list[Answer | None]:
        """Return the answers of images, in their order; None for one of no gallery. What is cancelled is not computed.

        Raises Problem (503) where their turn does not come in time, and what opening and searching the gallery raises.
        """
        with self._changed:
            if self._stopping:
                raise Problem(503, "the service is shutting down", retry_after=5)
            self._waiting += asks
            self._changed.notify()
        try:
            return list(await asyncio.gather(*(asyncio.wrap_future(ask.answer) for ask in asks)))
        finally:
            for ask in asks:  # of those that one's failure leaves behind
                ask.answer.cancel()

    def _require_room(self, images: int) -> None:
        if self._stopping:
            raise Problem(503, "the service is shutting down", retry_after=5)
        if self._admitted + images > self._settings.queue_images:
            self._metrics.refused.labels("queue").inc()
            wait = self._admitted * self._seconds
            raise Problem(503, f"the queue is full ({number_of(self._admitted, 'image')})", retry_after=wait)

    def _turn(self) -> bool:
        """Answer the next batch; return False at the end."""
        batch = self._next()
        if batch is None:
            return False
        try:
            self._answer(batch)
            self._galleries.tidy()
        except BaseException as error:
            for ask in batch:  # before anything that could fail, too
                fail(ask, error)
            raise
        return True

    def _next(self) -> list[Ask] | None:
        """Return the next batch; an empty one if nothing came for a while, None at the end."""
        with self._changed:
            if not self._waiting:
                if self._stopping:
                    return None
                self._changed.wait(IDLE_SECONDS)
            until = time.monotonic() + self._settings.batch_window
            while self._waiting and self._coming and len(self._waiting) < self._settings.batch_images:
                if (left := until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            count = min(len(self._waiting), self._settings.batch_images)
            return [self._waiting.popleft() for _ in range(count)]

    def _answer(self, batch: list[Ask]) -> None:
        begun = time.monotonic()
        asked: dict[Backbone, list[tuple[Ask, Served]]] = {}
        for ask in batch:
            if not ask.answer.set_running_or_notify_cancel():
                continue
            ask.waited = begun - ask.arrived
            self._metrics.stage("wait", ask.waited)
            try:
                if ask.waited > self._settings.request_seconds:
                    self._metrics.refused.labels("late").inc()
                    raise Problem(503, "its turn did not come in time", retry_after=self._seconds * self._admitted)
                served = self._served(ask)
            except Exception as error:  # of this gallery; others share the batch
                if not isinstance(error, Problem | SpadeIndexError | OSError):
                    log.error("a gallery cannot be used", exc_info=error)
                fail(ask, error)
            else:
                asked.setdefault(served.backbone, []).append((ask, served))
        for backbone, asks in asked.items():
            self._search(backbone, asks)
        if searched := sum(map(len, asked.values())):
            self._metrics.batch.observe(searched)
            self._seconds += SMOOTHING * ((time.monotonic() - begun) / searched - self._seconds)

    def _served(self, ask: Ask) -> Served:
        """Return the gallery of an image; of one to be routed, a gallery whose backbone it needs."""
        if ask.among is not None:
            return one_of(ask.among, self._galleries)
        served = self._galleries.use(ask.gallery, ask.snapshot)
        served.detector.require_answerable(question(ask, served))
        if ask.image.pixels.shape[:2] != served.gallery.settings.preprocessing.input_size:
            raise Problem(503, f"gallery {ask.gallery!r} was built anew meanwhile", retry_after=1)
        if ask.image.geometry.region is not None and served.detector.interest is None:
            detail = f"gallery {ask.gallery!r} has no region of interest, so its images cannot have one"
            raise Problem(422, detail, field=MASKS)
        return served

    def _search(self, backbone: Backbone, asks: list[tuple[Ask, Served]]) -> None:
        """Answer images of galleries that share a backbone; if it refuses one of them, each by itself."""
        begun = time.perf_counter()
        try:
            with self._metrics.timed("backbone"):
                features = backbone(np.stack([ask.image.pixels for ask, _ in asks]))
                pooled = features.pooled.cpu().numpy()
        except Exception as error:
            if len(asks) > 1:
                for one in asks:
                    self._search(backbone, [one])
            else:
                fail_logged(asks[0][0], error)
            return
        spent = time.perf_counter() - begun
        owners = settled(asks, pooled, self._galleries)
        for served in dict.fromkeys(owner for owner in owners if owner is not None):
            places = [place for place, owner in enumerate(owners) if owner is served]
            self._judge(served, [asks[place][0] for place in places], pooled, features.pyramid, places, spent)

    def _judge(
        self,
        served: Served,
        asks: list[Ask],
        pooled: np.ndarray,
        pyramid: list[Tensor],
        places: list[int],
        spent: float,
    ) -> None:
        """Answer images of one gallery, whose features are at these places; if one fails, each alone."""
        try:
            whole = len(places) == len(pooled)
            levels = pyramid if whole else [level[places] for level in pyramid]
            self._detect(served, asks, pooled[places], levels, spent)
        except Exception as error:
            if len(asks) > 1:
                for ask, place in zip(asks, places, strict=True):
                    if not ask.answer.done():
                        self._judge(served, [ask], pooled, pyramid, [place], spent)
            else:
                if isinstance(error, GalleryError):  # of files that may be whole again by then
                    self._galleries.reopen(asks[0].gallery)
                fail_logged(asks[0], error)

    def _detect(self, served: Served, asks: list[Ask], pooled: np.ndarray, pyramid: list[Tensor], spent: float) -> None:
        """Answer each image as soon as its detection is known; their features took `spent` seconds."""
        begun, left = time.perf_counter() - spent, len(asks)
        questions = [question(ask, served) for ask in asks]
        if served.detector.interest is not None:
            served.detector.interest.require([ask.image for ask in asks])
        places = [ask.image.geometry for ask in asks]
        with self._metrics.timed("images"):
            nearest = served.detector.nearest_images(pooled, places=places)
        with self._metrics.timed("pixels"):
            for number, detection in served.detector.judge(nearest, pyramid, questions, places):
                answer = completed(served, detection, asks[number].waited)
                left -= 1
                if not left:  # before a client can ask for statistics
                    seconds = time.perf_counter() - begun
                    self._metrics.models.executed(asks[number].gallery, detection.snapshot, len(asks), seconds)
                asks[number].answer.set_result(answer)
