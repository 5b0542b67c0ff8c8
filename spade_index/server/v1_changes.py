"""The native API's changes of a gallery: add images (a job), remove and restore them."""

from typing import Annotated

import anyio
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from spade_index import wire
from spade_index.errors import InputError, storage_errors

from .access import AddRoute, ReadRoute, RequestKey, WriteRoute, permitted
from .decoding import is_multipart
from .forms import FIELD, read_files
from .job import Job, new_id
from .limits import PREFIX_LENGTH
from .problems import Problem, as_problem
from .schema import PROBLEMS, Ids, image_body
from .service import service_of, without_waiting
from .v1 import GalleryName, described
from .writing import open_writer

JobId = Annotated[str, Path(description="Of a job")]

adding = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=AddRoute)
changing = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=WriteRoute)
reading = APIRouter(prefix="/v1", responses=PROBLEMS, route_class=ReadRoute)


def job_of(request: Request, id: JobId) -> Job:
    """Return a job, if the key may do with its gallery what the route does. Raises Problem (403, 404)."""
    found = service_of(request).jobs.get(id)
    permitted(request, found.gallery, write=request.scope["route"].writes)
    return found


KnownJob = Annotated[Job, Depends(job_of)]


@adding.post(
    "/galleries/{gallery}/images",
    status_code=202,
    openapi_extra=image_body(FIELD, raw=False),
    tags=["images"],
)
async def add(
    request: Request,
    response: Response,
    gallery: GalleryName,
    replace: Annotated[bool, Query(description="Take changed images in place of those with their ids")] = False,
    prefix: Annotated[str, Query(max_length=PREFIX_LENGTH, description="Put before each image's id")] = "",
    again: Annotated[bool, Query(description="Take images that were removed before; without it they stay out")] = False,
) -> wire.JobInfo:
    """Add normal images; their file names become their ids. Answers with a job as soon as all have arrived."""
    if not prefix.isprintable():
        raise Problem(422, "it is not printable", field="prefix")
    job = Job(new_id(), gallery, replace, prefix, again)
    return await received(request, response, job, service_of(request).settings.add_images)


@changing.post("/galleries/{gallery}/reload", tags=["galleries"])
def reload(request: Request, gallery: GalleryName, key: RequestKey) -> wire.GalleryInfo:
    """Reopen a gallery. Commits are visible without this."""
    served = service_of(request)
    served.galleries.reload(gallery)
    return described(served, gallery, key)


@changing.post("/galleries/{gallery}/remove", tags=["images"])
def remove(request: Request, gallery: GalleryName, ids: Ids) -> wire.Changed:
    """Remove images, all or none. Scores change at once. Until the gallery is compacted, `restore` undoes it."""
    return _change(request, gallery, ids, "remove")


@changing.post("/galleries/{gallery}/restore", tags=["images"])
def restore(request: Request, gallery: GalleryName, ids: Ids) -> wire.Changed:
    """Restore removed images, all or none."""
    return _change(request, gallery, ids, "restore")


@reading.get("/jobs", tags=["jobs"])
def jobs(request: Request, key: RequestKey) -> wire.JobList:
    """List all jobs of galleries that the key may read, the newest first."""
    all_jobs = service_of(request).jobs.all()
    return wire.JobList(tuple(job.info() for job in all_jobs if key.allows(job.gallery, write=False)))


@reading.get("/jobs/{id}", tags=["jobs"])
def job(found: KnownJob) -> wire.JobInfo:
    """Return the state of a job."""
    return found.info()


@changing.delete("/jobs/{id}", tags=["jobs"])
def cancel(request: Request, found: KnownJob) -> wire.JobInfo:
    """Cancel a job; what it has committed stays."""
    return service_of(request).jobs.cancel(found.id).info()


@changing.post("/jobs/{id}/resume", status_code=202, tags=["jobs"])
def resume(request: Request, found: KnownJob) -> wire.JobInfo:
    """Resume a job that was interrupted because the service ended."""
    return service_of(request).jobs.resume(found.id).info()


async def received(request: Request, response: Response, job: Job, most: int) -> wire.JobInfo:
    """Stage the images of a request, `most` at most, and queue the job that adds them. Raises Problem."""
    served = service_of(request)
    served.galleries.path(job.gallery)
    if not is_multipart(request):
        raise Problem(415, f"send images as multipart/form-data in the field `{FIELD}`", field="Content-Type")
    with (
        storage_errors(served.jobs.files.folder),
        await anyio.to_thread.run_sync(served.jobs.new, job) as staging,
    ):
        await read_files(request, most, staging.begin, anyio.to_thread.run_sync)
        job = await anyio.to_thread.run_sync(staging.submit)
    response.headers["Location"] = f"/v1/jobs/{job.id}"
    return job.info()


def _change(request: Request, gallery: str, ids: Ids, action: str) -> wire.Changed:
    served = service_of(request)
    path = served.galleries.path(gallery)
    with without_waiting(served.changing, "other changes"), open_writer(path, served.settings.change_seconds) as writer:
        try:
            snapshot = writer.remove(ids.ids) if action == "remove" else writer.restore(ids.ids)
        except InputError as error:  # of one to be restored that is there
            raise Problem(409, as_problem(error, served.galleries.root).detail, field="ids") from error
        return wire.Changed(changed=len(set(ids.ids)), images=len(writer.gallery), snapshot=snapshot)
