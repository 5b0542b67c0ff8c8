"""What the routes for Label Studio share: the images of tasks, their predictions, and annotations."""

import asyncio
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from spade_index.errors import InputError
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

Prediction = dict[str, Any]


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
    ) -> tuple[list[Prediction | list[Prediction]], list[str]]:
        """Return the predictions of tasks, and why some have none, for as long as the client waits.

        A task whose image cannot be had or decoded has an empty list, which Label Studio takes for no prediction.
        Raises Problem, and what opening and searching a gallery raises.
        """
        version = await asyncio.to_thread(self.version, gallery)  # before: what comes later is asked for again

        async def all_of_them() -> list[Prediction | str]:
            try:
                async with asyncio.TaskGroup() as group:
                    asked = [group.create_task(self._predicted(request, gallery, t, controls, version)) for t in tasks]
            except ExceptionGroup as several:
                raise several.exceptions[0] from None
            return [one.result() for one in asked]

        found = await while_waited_for(request, all_of_them())
        return [[] if isinstance(one, str) else one for one in found], [one for one in found if isinstance(one, str)]

    async def _predicted(
        self, request: Request, gallery: str, task: Task, controls: Controls, version: str
    ) -> Prediction | str:
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
            return await asyncio.to_thread(prediction, detection, geometry, controls, version)
        except InputError as error:  # of the image
            return f"task {task.id}: {error}"
        except Problem as problem:
            if problem.status_code != 422:
                raise
            return f"task {task.id}: {problem.detail}"

    async def _image(self, reference: str) -> Upload:
        """Return the image of a task. Raises InputError."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._images.get, reference)


def backend_of(request: Request) -> Backend:
    """Return the backend that answers a request."""
    backend: Backend = request.app.state.label_studio
    return backend
