"""The native API's audit: a gallery's odd images, with their maps, and near-duplicates. `v1_changes` removes them."""

from typing import Annotated
from urllib.parse import quote

import anyio
import numpy as np
import torch
from fastapi import APIRouter, Query, Request, Response

from spade_index import wire
from spade_index.errors import InputError
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import THUMBNAIL_EDGE
from spade_index.images.geometry import covered
from spade_index.images.tiles import box_of
from spade_index.method.audit import COUNT, audit
from spade_index.method.comparison import compared_sizes
from spade_index.method.interest import cells_inside
from spade_index.method.normal_scores import stored_calibration
from spade_index.method.scores import PEAK, enlarged, score_maps
from spade_index.method.siblings import place_of_row
from spade_index.method.tuned import tuned_search
from spade_index.views.files import encode
from spade_index.views.heatmap import heat, score_limits

from .access import ReadRoute
from .limits import AUDIT_IMAGES
from .problems import Problem, as_problem
from .results import thumbnail_link
from .schema import PROBLEMS, binary
from .service import Service, service_of, without_waiting
from .v1 import GalleryName

router = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=ReadRoute)


@router.get("/galleries/{gallery}/audit", tags=["images"])
def odd_images(
    request: Request, gallery: GalleryName, count: Annotated[int, Query(ge=1, le=AUDIT_IMAGES)] = COUNT
) -> wire.AuditInfo:
    """Rank the images that the calibration scored by what each scores without itself, and group near-duplicates."""
    served = service_of(request)
    with without_waiting(served.auditing, "another audit"), served.galleries.open(gallery) as opened:
        try:
            found = audit(opened, count)
        except InputError as error:
            detail = as_problem(error, served.galleries.root).detail
            raise Problem(409, detail, field="gallery") from error
    return wire.AuditInfo(
        gallery=gallery,
        snapshot=found.snapshot,
        kind=found.kind,
        images=found.images,
        ranked=found.scored,
        compared=found.compared,
        odd=tuple(
            wire.OddImageInfo(
                id=image.id,
                score=image.score,
                p_value=image.p_value,
                thumbnail=thumbnail_link(gallery, image.id, found.snapshot),
                heat=f"/v1/galleries/{quote(gallery, safe='')}/audit/heat.png?id={quote(image.id, safe='')}",
            )
            for image in found.odd
        ),
        near_duplicates=tuple(map(tuple, found.doubled)),
    )


@router.get(
    "/galleries/{gallery}/audit/heat.png", response_class=Response, responses=binary("image/png"), tags=["images"]
)
async def audit_heat(
    request: Request, gallery: GalleryName, id: Annotated[str, Query(description="Of an image that was ranked")]
) -> Response:
    """Return the colours of an image's map, searched for without itself, to be laid over its thumbnail."""
    served = service_of(request)
    async with served.drawing:
        return Response(await anyio.to_thread.run_sync(_heat_of, served, gallery, id), media_type="image/png")


def _heat_of(served: Service, name: str, id: str) -> bytes:
    with served.galleries.open(name) as opened:
        return _heat(opened, id)


def _heat(gallery: Gallery, id: str) -> bytes:
    """Draw the map that the calibration stored. Raises UnknownImage, Problem (404), GalleryDamaged."""
    row, search, how = gallery.image(id), tuned_search(gallery), gallery.settings.preprocessing
    stored = stored_calibration(gallery, search)
    scores = None if stored is None else stored.scores
    distances = None if scores is None else scores.map_of(row.key)
    if stored is None or scores is None or distances is None:
        raise Problem(404, f"image {id!r} was not scored: `spade-index calibrate` scores a sample", field="id")
    place, cells = place_of_row(gallery, row), None
    about = scores.own_map([], place.whole)  # what its neighbours score
    distances = (distances - search.subtract_neighbours * about) * np.float32(scores.units.of(PEAK, place.whole))
    grid = compared_sizes(gallery, search)[0]
    if (inside_grid := cells_inside(gallery, place, grid)) is not None:
        cells = torch.from_numpy(inside_grid.reshape(1, -1))
    (score_map,) = score_maps(torch.from_numpy(distances)[None], grid, how.input_size, search.smoothing, cells)
    inside = None if cells is None else enlarged(cells, grid, score_map.shape)[0]
    left, top, right, bottom = box_of(row.id, row.width, row.height, how)  # what the thumbnail shows
    width, height = round(right - left), round(bottom - top)
    scale = THUMBNAIL_EDGE / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    limits = score_limits([score_map.max()], scores.threshold(PEAK, stored.false_alarms))
    return encode(heat(size, score_map, covered(width, height, how), limits, inside=inside), "PNG")
