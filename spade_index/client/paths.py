"""The paths of the service's routes, whatever is in the names of galleries and jobs."""

import re
from urllib.parse import quote

from spade_index.errors import InputError

from .answers import Job

HALF = re.compile("[\\ud800-\\udfff]")  # of a surrogate pair, which is no text


def at(gallery: str, *rest: str) -> str:
    """Return the path of a gallery, or of something of it."""
    return "/".join(("v1/galleries", part(gallery), *rest))


def of_job(job: Job | str) -> str:
    """Return the path of a job, given it or its id."""
    return f"v1/jobs/{part(job.id if isinstance(job, Job) else job)}"


def part(name: str) -> str:
    """Return a name as one part of a path, whatever is in it. Raises InputError."""
    if not isinstance(name, str) or not name or HALF.search(name):
        raise InputError(f"{name!r:.100} is not a name or an id: it is a text")
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")
