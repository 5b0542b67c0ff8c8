"""The native API's query of no gallery in particular: each image is answered by the gallery that it belongs to."""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Request

from spade_index import wire
from spade_index.method.drift import brightness_of
from spade_index.method.pictures import Picture
from spade_index.method.router import Route
from spade_index.settings import Maps
from spade_index.wire_routes import RoutedAnswer, RoutedInfo, RouteInfo

from .access import ReadRoute, RequestKey
from .asks import Answer, Ask
from .candidates import Candidates
from .decoding import Upload, read_uploads
from .fairness import client_of
from .forms import FIELD
from .limits import NAME_LENGTH
from .schema import PROBLEMS, image_body
from .service import Service, service_of, while_waited_for
from .statistics import Times

router = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=ReadRoute)


@router.post("/query", openapi_extra=image_body(FIELD, many=True), tags=["query"])
async def query_routed(
    request: Request,
    key: RequestKey,
    maps: Annotated[
        Maps | None, Query(description="Score maps as in the query of a gallery [the default of each gallery]")
    ] = None,
    threshold: Annotated[
        float | None, Query(allow_inf_nan=False, description="Call images anomalous above this score [the calibrated]")
    ] = None,
    name: Annotated[str | None, Query(max_length=NAME_LENGTH, description="Of an image that is the whole body")] = None,
) -> RoutedAnswer:
    """Score each image by the gallery that it belongs to, of those of one backbone that the key may read, or by none.

    The images are one as the body, or some in the form field `images`.
    """
    served = service_of(request)
    with served.engine.place() as place:
        uploads = await read_uploads(request, served.settings.request_images)
        place.take(len(uploads))
        begun = time.perf_counter()

        async def found() -> RoutedAnswer:
            among = await served.candidates(key)
            with served.engine.coming(len(uploads)):
                images = await served.decoders.decode(client_of(request), uploads, among.settings.preprocessing)
            decoded = time.perf_counter() - begun
            asks = [Ask("", None, image, maps, threshold, among) for image in images]
            answers = await served.engine.answered(asks)
            pictures = [Picture(image.file, image.geometry, image.notice) for image in images]
            routed = _Routed(served, among, uploads, pictures, asks, answers)
            return await anyio.to_thread.run_sync(routed.described, begun, decoded)

        return await while_waited_for(request, found())


class _Routed:
    """The routes and answers of a request's images."""

    def __init__(
        self,
        served: Service,
        among: Candidates,
        uploads: Sequence[Upload],
        images: Sequence[Picture],
        asks: Sequence[Ask],
        answers: Sequence[Answer | None],
    ) -> None:
        self._served, self._among = served, among
        self._uploads, self._images, self._answers = uploads, images, answers
        self._brightness = [brightness_of(ask.image.pixels) for ask in asks]
        self._routes, self._maps, self._threshold = [_route(ask) for ask in asks], asks[0].maps, asks[0].threshold

    def described(self, begun: float, decoded: float) -> RoutedAnswer:
        """Return the answer, and count a request for each gallery that has answered."""
        found: dict[int, wire.ResultInfo] = {}
        for gallery in dict.fromkeys(route.gallery for route in self._routes if route.taken):
            found |= self._of(gallery, begun, decoded)
        if self._served.verdicts is not None and len(found) < len(self._uploads):
            names = [upload.name for place, upload in enumerate(self._uploads) if place not in found]
            self._served.verdicts.note_unrouted(names, begun)
        return RoutedAnswer(
            tuple(
                RoutedInfo(upload.name, _info(route), found.get(place))
                for place, (upload, route) in enumerate(zip(self._uploads, self._routes, strict=True))
            )
        )

    def _of(self, gallery: str, begun: float, decoded: float) -> dict[int, wire.ResultInfo]:
        """Return the results of one gallery, by the places of their images."""
        answered = {place: answer for place, answer in enumerate(self._answers) if answer is not None}
        of = {place: answer for place, answer in answered.items() if self._routes[place].gallery == gallery}
        answers, how = list(of.values()), self._among.settings.preprocessing
        with self._served.metrics.models.request(gallery) as timed:
            timed.begun = begun
            waited = min(answer.waited for answer in answers)
            times = Times(decoded, waited, time.perf_counter() - begun - decoded - waited)
            timed.found(answers[0].detection.snapshot, len(answers), times)
            uploads, images = [self._uploads[place] for place in of], [self._images[place] for place in of]
            self._served.recent.note(gallery, uploads, images, self._maps, self._threshold)
            self._served.drift.note(gallery, uploads, answers, [self._brightness[place] for place in of])
            infos = self._served.described(gallery, uploads, images, answers, how, begun)
        return dict(zip(of, infos, strict=True))


def _route(ask: Ask) -> Route:
    assert ask.route is not None  # it was answered
    return ask.route


def _info(route: Route) -> RouteInfo:
    values = asdict(route)
    return RouteInfo(**values | {"reaches": route.reaches if math.isfinite(route.reaches) else None})
