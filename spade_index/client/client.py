"""A client of `spade-index serve`.

    with Client("http://127.0.0.1:8765") as client:
        for result in client.query("tiles", ["suspect.jpg"]):
            print(result.image, result.score, result.anomalous, result.neighbours[0].id)
            result.overlay().save("overlay.png")

An image is a path, a file's bytes, a PIL image or a NumPy array (uint8, [H, W] grey or [H, W, 3] RGB); the last two are
sent as PNG, without loss. Errors are ServiceError, or InputError if nothing could be sent.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, Unpack

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spade_index.errors import JobFailed, ServiceError, Unavailable
from spade_index.exact import require_texts, require_whole
from spade_index.wire import GalleryImages, GalleryList, QueryAnswer
from spade_index.wire_feedback import FeedbackFilters, FeedbackList

from .answers import (
    AuditInfo,
    Changed,
    DriftInfo,
    FeedbackInfo,
    GalleryImage,
    GalleryInfo,
    GallerySummary,
    Job,
    Jobs,
    MatchInfo,
    Result,
    ServiceInfo,
    checked,
    result_of,
)
from .arguments import parameters, require_seconds
from .boxes import Box, Kind, of_kind
from .exchange import Service
from .images import Images, form_of, named_files, with_names
from .paths import at, of_job, part
from .received import json_of, map_of, picture_of
from .refusals import error_of

PAGE = 1000  # images


class Client:
    """A service. Use as a context manager, or call `close`."""

    def __init__(
        self, url: str, api_key: str | None = None, timeout: float = 120, tries: int = 5, longest: float = 600
    ) -> None:
        """`timeout`: seconds without data from the service, where a query may wait in the queue for 60.

        `longest`: seconds until an answer is there as a whole, beyond what the request takes at 32 KiB/s, however
        slowly it comes. An answer has 1 GiB at most. A request that a busy service refuses (503) is sent `tries` times
        in all, after the delays that it asks for.
        """
        require_seconds("timeout", timeout, least=0.001)
        require_seconds("longest", longest, least=0.001)
        require_whole("tries", tries, 1)
        self._service = Service(url, api_key, timeout, tries, longest)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._service.close()

    def ready(self) -> bool:
        """Return whether the service is there and takes queries."""
        try:
            return self._service.answer("GET", "v2/health/ready", tries=1).is_success
        except ServiceError:
            return False

    def service(self) -> ServiceInfo:
        """Return the version and the limits of the service."""
        return checked(ServiceInfo, self._json("GET", "v1"))

    def galleries(self) -> list[GallerySummary]:
        """Return all galleries that the key may read."""
        return [*checked(GalleryList, self._json("GET", "v1/galleries")).galleries]

    def gallery(self, name: str) -> GalleryInfo:
        """Return one gallery."""
        return checked(GalleryInfo, self._json("GET", at(name)))

    def reload(self, name: str) -> GalleryInfo:
        """Reopen a gallery. Commits are visible without this."""
        return checked(GalleryInfo, self._json("POST", at(name, "reload")))

    def images(self, gallery: str, removed: bool = False) -> Iterator[GalleryImage]:
        """Yield the images of a gallery in the order in which they were added, or those that `restore` can restore."""
        after: int | None = -1
        while after is not None:
            page = checked(
                GalleryImages, self._json("GET", at(gallery, "images"), after=after, limit=PAGE, removed=removed)
            )
            yield from page.images
            if page.next is not None and page.next <= after:
                raise ServiceError(f"the next page after {after} begins at {page.next}: not an answer of spade_index")
            after = page.next

    def thumbnail(self, gallery: str, id: str, snapshot: int | None = None) -> Image.Image:
        """Return a small picture of an image of a gallery."""
        return picture_of(self._asked("GET", at(gallery, "thumbnail"), id=id, snapshot=snapshot))

    def query(
        self,
        gallery: str,
        images: Images,
        maps: Literal["always", "auto", "never"] | None = None,
        threshold: float | None = None,
        snapshot: int | None = None,
        masks: Images | None = None,
    ) -> list[Result]:
        """Score images, in their order: as many as the service takes at once (`service().limits["images"]`).

        `maps` selects those that get a score map: by default all, or, if there is a threshold for the pooled score,
        those above it. `masks`, pictures or JSON files of polygons, say what counts: one for each image, or for all.
        Raises ServiceError, whose `fields` name an image that cannot be decoded as images[0], ...
        """
        named = named_files(images)
        files = form_of("images", named) + ([] if masks is None else form_of("masks", named_files(masks)))
        told = self._json("POST", at(gallery, "query"), files, maps=maps, threshold=threshold, snapshot=snapshot)
        results = checked(QueryAnswer, told).results
        if len(results) != len(named):
            raise ServiceError(f"{len(results)} results of {len(named)} images: not an answer of spade_index")
        return [result_of(self, gallery, name, result) for (name, _), result in zip(named, results, strict=True)]

    def score_map(self, result_id: str) -> NDArray[np.float32]:
        """Return the score map of a kept result."""
        return map_of(self._asked("GET", f"v1/results/{part(result_id)}/score_map.npy"))

    def picture(
        self, result_id: str, kind: Literal["overlay", "heat", "grey"], opacity: float | None = None
    ) -> Image.Image:
        """Return the score map of a kept result as a picture; `opacity` is that of the overlay."""
        return picture_of(self._asked("GET", f"v1/results/{part(result_id)}/{kind}.png", opacity=opacity))

    def match(self, result_id: str, x: int, y: int) -> MatchInfo:
        """Return what a pixel of the image of a kept result was matched with."""
        return checked(MatchInfo, self._json("GET", f"v1/results/{part(result_id)}/match", x=x, y=y))

    def add(self, gallery: str, images: Images, replace: bool = False, prefix: str = "", *, again: bool = False) -> Job:
        """Add normal images; return as soon as they have arrived. Their ids are `prefix` and their names.

        Names are paths' last parts; give {name: image} for others, and for images that are not files. Images that were
        removed before stay out, unless `again`.
        """
        options = {"replace": replace, "prefix": prefix, "again": again}
        return checked(Job, self._json("POST", at(gallery, "images"), with_names(images), **options))

    def say_false_alarm(self, gallery: str, images: Images, note: str = "") -> Job:
        """Say that images were called anomalous and are fine: they are added, and noted with the key's holder.

        Return as soon as they have arrived. `undo_feedback` takes each of the job's `feedback_ids`.
        """
        options = {"verdict": "false_alarm", "note": note}
        return checked(Job, self._json("POST", at(gallery, "feedback"), with_names(images), **options))

    def preview_false_alarm(self, gallery: str, images: Images) -> Job:
        """Change nothing: find out which verdicts of the images judged last would change if these were called fine.

        Return as soon as they have arrived; once the job is done, its `previewed` tells.
        """
        options = {"verdict": "false_alarm", "preview": True}
        return checked(Job, self._json("POST", at(gallery, "feedback"), with_names(images), **options))

    def say_defect(self, gallery: str, images: Images, kind: Kind, note: str = "", box: Box | None = None) -> Job:
        """Say that images show a defect of a kind: their regions, or the `box` of one, become known defects.

        Of one image with several defects, `kind` may be {box: kind}.
        """
        options = {"verdict": "defect", "note": note, **of_kind(kind, box)}
        return checked(Job, self._json("POST", at(gallery, "feedback"), with_names(images), **options))

    def say_missed(self, gallery: str, images: Images, kind: Kind = "", note: str = "", box: Box | None = None) -> Job:
        """Say that images were called normal and show a defect: so are their regions, or else their worst places."""
        options = {"verdict": "missed", "note": note, **of_kind(kind, box)}
        return checked(Job, self._json("POST", at(gallery, "feedback"), with_names(images), **options))

    def feedback(
        self, gallery: str, contains: str = "", limit: int = PAGE, **filters: Unpack[FeedbackFilters]
    ) -> list[FeedbackInfo]:
        """Return what was said, the newest first; `contains` is looked for in ids, names, notes and kinds."""
        told = self._json("GET", at(gallery, "feedback"), contains=contains, limit=limit, **filters)
        return [*checked(FeedbackList, told).feedback]

    def undo_feedback(self, gallery: str, id: str) -> Changed:
        """Remove an image that feedback added."""
        return checked(Changed, self._json("DELETE", at(gallery, "feedback"), id=id))

    def drift(self, gallery: str) -> DriftInfo:
        """Return whether the images judged last are like those of the calibration, in score and brightness."""
        return checked(DriftInfo, self._json("GET", at(gallery, "drift")))

    def audit(self, gallery: str, count: int = 20) -> AuditInfo:
        """Return up to `count` odd images of a gallery, and its near-duplicates. Raises ServiceError."""
        return checked(AuditInfo, self._json("GET", at(gallery, "audit"), count=count))

    def remove(self, gallery: str, ids: Iterable[str]) -> Changed:
        """Remove images, all or none."""
        return checked(Changed, self._json("POST", at(gallery, "remove"), body={"ids": require_texts("ids", ids)}))

    def restore(self, gallery: str, ids: Iterable[str]) -> Changed:
        """Restore removed images, all or none."""
        return checked(Changed, self._json("POST", at(gallery, "restore"), body={"ids": require_texts("ids", ids)}))

    def jobs(self) -> list[Job]:
        """Return all jobs of galleries that the key may read, the newest first."""
        return [*checked(Jobs, self._json("GET", "v1/jobs")).jobs]

    def job(self, job: Job | str) -> Job:
        """Return the current state of a job."""
        return checked(Job, self._json("GET", of_job(job)))

    def cancel(self, job: Job | str) -> Job:
        """Cancel a job; images that it has committed stay."""
        return checked(Job, self._json("DELETE", of_job(job)))

    def resume(self, job: Job | str) -> Job:
        """Resume a job that was interrupted because the service ended."""
        return checked(Job, self._json("POST", f"{of_job(job)}/resume"))

    def wait(
        self, job: Job | str, progress: Callable[[Job], object] | None = None, timeout: float | None = None
    ) -> Job:
        """Wait until a job is done, and return it; `progress` is called with it whenever it has advanced.

        Raises JobFailed if it ends otherwise, Unavailable if it takes longer than `timeout` seconds.
        """
        if timeout is not None:
            require_seconds("timeout", timeout)
        until = math.inf if timeout is None else time.monotonic() + timeout
        before, pause = None, 0.05
        while True:
            now = self.job(job)
            if progress is not None and now != before:
                progress(now)
            if now.state == "done":
                return now
            if now.over:
                raise JobFailed(f"job {now.id} of {now.gallery}: {now.state}" + (f": {now.error}" if now.error else ""))
            if time.monotonic() > until:
                raise Unavailable(f"job {now.id} of {now.gallery} is {now.state} after {timeout:g} seconds")
            before, pause = now, min(pause * 1.5, 1.0)
            time.sleep(pause)

    def _json(self, method: str, path: str, files: Any = None, body: Any = None, **parameters: Any) -> Any:
        """Return the value of a successful answer in JSON. Raises ServiceError."""
        return json_of(self._asked(method, path, files, body, **parameters))

    def _asked(self, method: str, path: str, files: Any = None, body: Any = None, **given: Any) -> httpx.Response:
        """Return a successful answer. Raises ServiceError."""
        response = self._service.answer(method, path, params=parameters(given), files=files, json=body)
        if not response.is_success:
            raise error_of(response)
        return response
