"""The paths of the service's routes, whatever is in the names of galleries and jobs."""

from urllib.parse import quote

from .answers import Job


def at(gallery: str, *rest: str) -> str:
    """Return the path of a gallery, or of something of it."""
    return "/".join(("v1/galleries", part(gallery), *rest))


def of_job(job: Job | str) -> str:
    """Return the path of a job, given it or its id."""
    return f"v1/jobs/{part(job if isinstance(job, str) else job.id)}"


def part(name: str) -> str:
    """Return a name as one part of a path, whatever is in it."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")
