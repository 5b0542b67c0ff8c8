"""Where Label Studio is, and the token that gets the images of its tasks."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from spade_index.errors import InputError
from spade_index.private_files import read_private

OPTION = "--label-studio"
VARIABLE = "SPADE_INDEX_LABEL_STUDIO_TOKEN"
MOST_TOKEN = 4096  # characters
TOKEN = re.compile(rf"[!-~]{{8,{MOST_TOKEN}}}")
PORTS = {"http": 80, "https": 443}
FOLDERS = ("data", "storage-data", "tasks")  # of Label Studio that serve the images of tasks
AS_IT_IS = "%/:@!$&'()*+,;=~-._?"  # characters of a target


@dataclass(frozen=True)
class Address:
    """A Label Studio that the operator names."""

    secure: bool
    host: str
    port: int
    base: str  # path, without a slash at its end
    token: str | None  # a legacy token, or a personal access token

    @classmethod
    def of(cls, url: str, token: str | None) -> "Address":
        """Read the URL of an option. Raises InputError."""
        try:
            parts = urlsplit(url)
            host, port = _place(parts)
            if not host or "@" in parts.netloc or parts.query or parts.fragment or not url.isascii() or " " in url:
                raise ValueError
        except ValueError as error:
            wanted = "give http://HOST:PORT or https://HOST of Label Studio, without a user"
            raise InputError(f"{OPTION}: {wanted}") from error
        return cls(parts.scheme == "https", host, port, parts.path.rstrip("/"), token)

    def target(self, reference: str) -> str:
        """Return the path and query under which Label Studio has the image of a task.

        `reference` is a path, or a URL of this Label Studio. Raises InputError for anything else: whoever writes tasks
        must not choose what the service connects to, nor what it asks there.
        """
        try:
            parts = urlsplit(reference)
            if parts.scheme or parts.netloc:
                self._require_own(parts)
        except ValueError as error:
            elsewhere = f"the image is not at {self.host}:{self.port}: they are fetched from there alone ({OPTION})"
            raise InputError(elsewhere) from error
        below = parts.path.removeprefix(self.base)
        names = unquote(below).split("/")
        if names[0] or len(names) < 3 or names[1] not in FOLDERS or {".", ".."} & {*names} or "\\" in reference:
            raise InputError(f"the image is not in /{', /'.join(FOLDERS)} of Label Studio")
        query = f"?{parts.query}" if parts.query else ""
        return quote(self.base + below + query, safe=AS_IT_IS)

    def _require_own(self, parts: SplitResult) -> None:
        """Raise ValueError for a URL that is not of this Label Studio."""
        secure = parts.scheme == "https"
        if _place(parts) != (self.host, self.port) or secure != self.secure or "@" in parts.netloc:
            raise ValueError("it is elsewhere")


def name_of(reference: str) -> str:
    """Return the file name of a task's image, as far as its address tells it."""
    parts = urlsplit(reference)
    local = parse_qs(parts.query).get("d", [""])[0]  # of a folder that Label Studio serves
    return PurePosixPath(local).name or PurePosixPath(unquote(parts.path)).name


def read_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token in a file, or else in the variable SPADE_INDEX_LABEL_STUDIO_TOKEN. Raises InputError."""
    if file is None:
        if VARIABLE not in environment:
            return None
        name, text = f"${VARIABLE}", environment[VARIABLE]
    else:
        name = str(file)
        try:
            text = read_private(file, group=True).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: cannot be read ({error})") from error
    if not TOKEN.fullmatch(text.strip()):
        raise InputError(f"{name}: is no token of Label Studio: one line, as its account page shows it")
    return text.strip()


def _place(parts: SplitResult) -> tuple[str, int]:
    """Return the host and port of a URL. Raises ValueError if it is not of http or https."""
    if parts.scheme not in PORTS:
        raise ValueError("neither http nor https")
    return (parts.hostname or "").rstrip("."), parts.port or PORTS[parts.scheme]
