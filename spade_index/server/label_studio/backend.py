"""What the routes for Label Studio share: the images of tasks, their predictions, and annotations."""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from spade_index.errors import InputError
from spade_index.exact import strict_json
from spade_index.images.geometry import Geometry
from spade_index.method.detection import Detection
from spade_index.method.tuned import tuned_search

from ..decoding import Upload
from ..fairness import FairPlaces, client_of
from ..limits import FETCHES
from ..problems import Problem
from ..service import Service, while_waited_for
from .address import Address
from .annotations import Annotations
from .config import Controls
from .images import TaskImages
from .results import prediction

NONE = b"[]"


class Room:
    """The bytes that the predictions of one request may still take: those of masks add up."""

    def __init__(self, free: int) -> None:
        self.free = free

    def has(self, size: int) -> bool:
        """Take room, and return whether there is enough."""
        self.free -= size
        return self.free >= 0


@dataclass(frozen=True)
class Task:
    """A task that asks for a prediction."""

    id: int
    image: str | None  # as the task names it


class Backend:
    """Serves Label Studio with the galleries of a service."""

    def __init__(self, served: Service) -> None:
        """Raises InputError for an address of Label Studio that is none."""
        self._served = served
        settings = served.settings
        url = settings.label_studio
        address = None if url is None else Address.of(url, settings.label_studio_token)
        self._images = TaskImages(address, settings.body_bytes)
        self._threads = ThreadPoolExecutor(FETCHES, thread_name_prefix="label-studio")
        self._places = FairPlaces(FETCHES)  # whole files are in memory meanwhile
        self.annotations = Annotations(served, self._image)

    async def stop(self) -> None:
        """Leave what waits."""
        await self.annotations.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def version(self, gallery: str) -> str:
        """Return the model version: it changes with the gallery's snapshot, and with its calibration."""
        with self._served.galleries.open(gallery) as opened:
            search = self._served.settings.search.settings(tuned_search(opened))
            calibration = opened.catalog.calibration(opened.calibration_key(search))
            name = f"{gallery}@{opened.snapshot}"
        return name if calibration is None else f"{name}+{hashlib.sha256(calibration.encode()).hexdigest()[:6]}"

    async def predictions(
        self, request: Request, gallery: str, tasks: Sequence[Task], controls: Controls
    ) -> tuple[list[bytes], list[str]]:
        """Return the predictions of tasks in JSON, and why some have none, for as long as the client waits.

        A task whose image cannot be had or decoded has an empty list, which Label Studio takes for no prediction.
        Raises Problem, and what opening and searching a gallery raises.
        """
        room = Room(self._served.settings.body_bytes)
        version = await asyncio.to_thread(self.version, gallery)  # before: what comes later is asked for again

        async def all_of_them() -> list[bytes | str]:
            try:
                async with asyncio.TaskGroup() as group:
                    predicted = partial(self._predicted, request, gallery, controls, version, room)
                    asked = [group.create_task(predicted(task)) for task in tasks]
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
            return [one.result() for one in asked]

        found = await while_waited_for(request, all_of_them())
        notices = [one for one in found if isinstance(one, str)]
        return [NONE if isinstance(one, str) else one for one in found], notices

    async def _predicted(
        self, request: Request, gallery: str, controls: Controls, version: str, room: Room, task: Task
    ) -> bytes | str:
        """Return the prediction of a task, or why there is none."""
        if task.image is None:
            return f"task {task.id}: its data has no text {controls.key!r}"
        client = client_of(request)
        try:
            async with self._places.place(client):
                upload = await self._image(task.image)
                with self._served.engine.place() as place:
                    place.take(1)
                    with self._served.metrics.models.request(gallery) as timed:
                        found = await self._served.find_for(client, gallery, [upload], timed)
            detection, geometry = found.answers[0].detection, found.images[0].geometry
            text = await asyncio.to_thread(_in_json, detection, geometry, controls, version)
        except InputError as error:  # of the image
            return f"task {task.id}: {error}"
        except Problem as problem:
            if problem.status_code != 422:
                raise
            return f"task {task.id}: {problem.detail}"
        return (
            text if room.has(len(text)) else f"task {task.id}: the masks are too large: ask for fewer tasks at a time"
        )

    async def _image(self, reference: str) -> Upload:
        """Return the image of a task. Raises InputError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._images.get, reference)


def _in_json(detection: Detection, geometry: Geometry, controls: Controls, version: str) -> bytes:
    return strict_json(prediction(detection, geometry, controls, version)).encode()


def backend_of(request: Request) -> Backend:
    """Return the backend that answers a request."""
    backend: Backend = request.app.state.label_studio
    return backend
