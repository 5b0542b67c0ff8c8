"""Where in which object store a gallery is: `s3://BUCKET/PREFIX`, `gs://`, `az://`, or `file:///FOLDER`."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

from spade_index.errors import InputError

SCHEMES = ("s3", "gs", "az", "file")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")
FORMS = "s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///FOLDER"


@dataclass(frozen=True)
class Location:
    """A prefix in a bucket, or a folder. It holds no credentials, so it may be shown."""

    scheme: str
    bucket: str  # empty for a folder
    prefix: str  # without slashes at its ends; of a folder, the path without the first slash

    @classmethod
    def parse(cls, url: str) -> "Location":
        """Read a URL. Raises InputError, which never repeats what may be a secret."""
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in SCHEMES:
            raise InputError(f"not the URL of a gallery in an object store: write {FORMS}")
        if "?" in rest or "#" in rest or "@" in rest.partition("/")[0]:
            raise InputError(
                f"{scheme}://...: the URL has a user, a query or a fragment: leave them out; credentials are taken "
                "from the environment"
            )
        bucket, _, path = rest.partition("/")
        if scheme == "file":
            path = unquote(path)
        path = path.removesuffix("/")
        parts = path.split("/") if path else []
        if not path.isprintable() or any(part in ("", ".", "..") for part in parts):
            raise InputError(f"{scheme}://...: the path has empty or unprintable parts, or `..`: write {FORMS}")
        if scheme == "file" and (bucket or not parts):
            raise InputError("file://...: name a folder by its whole path: file:///FOLDER")
        if scheme != "file" and not BUCKET.fullmatch(bucket):
            raise InputError(f"{scheme}://...: the name of the bucket is not one: write {FORMS}")
        return cls(scheme, bucket, "/".join(parts))

    @property
    def name(self) -> str:
        """The last part."""
        return self.prefix.rpartition("/")[2] or self.bucket

    def __truediv__(self, name: str) -> "Location":
        """Return the location of this name below it."""
        return Location(self.scheme, self.bucket, f"{self.prefix}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}/{self.prefix}".rstrip("/")
