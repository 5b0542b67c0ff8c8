"""What a failure of an object store means, in one line that holds nothing of the store's own words.

Those hold URLs, which may be signed, and what servers choose to answer. Only numbers and codes of errors are taken.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from spade_index.errors import RemoteError
from spade_index.gallery.location import Location

CODE = re.compile(r"<Code>([A-Za-z]{1,40})</Code>")
STATUS = re.compile(r"status code: (\d{3})\b")
SYSTEM = re.compile(r"\(os error (\d{1,4})\)")
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
METADATA = ("169.254.169.254", "metadata.google.internal", "InstanceCredentials", "latest/meta-data")
RETRIED = re.compile(r"after [1-9]\d* retries")
VARIABLES = {
    "s3": "$AWS_ACCESS_KEY_ID, $AWS_SECRET_ACCESS_KEY, $AWS_SESSION_TOKEN and $AWS_REGION",
    "gs": "$GOOGLE_APPLICATION_CREDENTIALS or `gcloud auth application-default login`",
    "az": "$AZURE_STORAGE_ACCOUNT_NAME and $AZURE_STORAGE_ACCOUNT_KEY, or a service principal",
    "file": "the rights of the folder",
}
CONFLICTS = (AlreadyExistsError, PreconditionError)
FAILURES = (BaseError, OSError, NotImplementedError)


class Replaced(RemoteError):
    """Another process has replaced gallery.json meanwhile."""


class Damaged(RemoteError):
    """An object is missing, or is not what its name says."""


@contextmanager
def explained(location: Location) -> Iterator[None]:
    """Raise RemoteError for what obstore raises. The cause is left out: its text may hold secrets."""
    try:
        yield
    except FAILURES as error:
        raise meaning(location, error) from None


def lacks_bucket(error: Exception) -> bool:
    """Return whether the bucket is not there, and not only an object."""
    return any(name in str(error) for name in NO_BUCKET)


def may_pass(error: Exception) -> bool:
    """Return whether another try may succeed, and obstore has not made it already."""
    text = str(error)
    if isinstance(error, (OSError, NotImplementedError, PermissionDeniedError, *CONFLICTS)):
        return False
    return not (STATUS.search(text) or RETRIED.search(text) or SYSTEM.search(text) or "redirect" in text)


def meaning(location: Location, error: Exception) -> RemoteError:
    """Return what to raise for an error of obstore."""
    text = str(error)
    codes = [*STATUS.findall(text)[:1], *CODE.findall(text)[:1]]
    shown = f" ({' '.join(codes)})" if codes else ""
    if isinstance(error, CONFLICTS):
        return Replaced(f"{location}: another process has pushed to it meanwhile: run the same command again")
    if lacks_bucket(error):
        return RemoteError(f"{location}: there is no bucket {location.bucket!r}: make it, or correct the URL")
    if any(name in text for name in METADATA) or "Account must be specified" in text:
        return RemoteError(f"{location}: no credentials were found: set {VARIABLES[location.scheme]}")
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or codes[:1] in (["401"], ["403"]):
        return RemoteError(f"{location}: access is refused{shown}: check {VARIABLES[location.scheme]}")
    if "redirect" in text:
        return RemoteError(f"{location}: the bucket is in another region: set $AWS_REGION")
    if isinstance(error, FileNotFoundError):
        return Damaged(f"{location}: an object is missing: push the gallery again")
    if found := SYSTEM.search(text):
        return RemoteError(f"{location}: {os.strerror(int(found[1]))}: see that there is room, and the folder's rights")
    if codes and codes[0][0] == "5":
        return RemoteError(
            f"{location}: the store fails{shown} again and again: try later; the same command carries on"
        )
    if codes:
        return RemoteError(f"{location}: the store refuses a request{shown}: check the URL and the store's settings")
    return RemoteError(
        f"{location}: the store cannot be reached, is too slow, or cuts its answers: check the network and the "
        "endpoint; the same command carries on"
    )
