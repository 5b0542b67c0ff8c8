"""API keys: who may read which galleries, and who may change them.

One key a line, as `KEY GALLERIES read|write`; what follows a # in the line is a comment, which names the holder in
feedback. GALLERIES are names by commas, or *. In the variable, a ; outside of comments also ends a line.

    9fJ2...  *            read      # the operator's screen
    x81c...  tiles,bolts  write     # the labelling tool
"""

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from spade_index.errors import InputError
from spade_index.private_files import read_private

from .problems import Problem

VARIABLE = "SPADE_INDEX_API_KEYS"
SHORTEST = 16  # characters of a key
WHO_LENGTH = 200  # characters of the name of its holder
BLANKS = re.compile(r"[ \t]+")
NAME = re.compile(r"[^*/\s\x00-\x1f\x7f]+")  # of a gallery
KEY = re.compile(r"[!-\"$-:<-~]+")  # neither # nor ;


@dataclass(frozen=True)
class Key:
    """The rights of the holder of a key."""

    digest: bytes  # SHA-256 of the key: of equal length for all, and the key itself is not kept
    galleries: frozenset[str] | None  # None: all
    writes: bool
    holder: str = ""  # as the comment beside it says

    @property
    def name(self) -> str:
        """The holder in words: the comment, else the start of the key's digest."""
        return self.holder or (f"key {self.digest.hex()[:8]}" if self.digest else "anonymous")

    def allows(self, gallery: str | None, write: bool) -> bool:
        """Return whether it may read a gallery, or change it; None stands for what concerns no single gallery."""
        there = gallery is None or self.galleries is None or gallery in self.galleries
        return there and (self.writes or not write)


ANYONE = Key(b"", None, True)


class Keys:
    """All keys. Without any, everybody may do everything."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        return bool(self._keys)

    def of(self, headers: Mapping[str, str]) -> Key:
        """Return the key of a request. Raises Problem (401) if it has none, or an unknown one; 400 if it has two."""
        if not self._keys:
            return ANYONE
        digest = _digest(_given(headers))
        found = None
        for key in self._keys:  # always all keys, so that the time taken reveals nothing
            if hmac.compare_digest(key.digest, digest):
                found = key
        if found is None:
            detail = "give a known API key: `Authorization: Bearer KEY`, `X-Api-Key: KEY`, or as the password of Basic"
            raise Problem(401, detail, headers={"WWW-Authenticate": 'Bearer realm="spade_index"'})
        return found


def read_keys(file: Path | None, environment: Mapping[str, str] = os.environ) -> Keys:
    """Read the keys of a file, or else of the variable SPADE_INDEX_API_KEYS. Raises InputError."""
    if file is None:
        text = environment.get(VARIABLE, "")
        lines = [part for line in text.split("\n") for part in line.partition("#")[0].split(";")]
        return _required(Keys(_parsed(lines, f"${VARIABLE}")), f"${VARIABLE}") if text else Keys([])
    try:
        text = read_private(file, group=True).decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: API keys cannot be read ({error})") from error
    return _required(Keys(_parsed(text.split("\n"), str(file))), str(file))


def _required(keys: Keys, where: str) -> Keys:
    if not keys:
        raise InputError(f"{where}: there is no key in it: a line is KEY GALLERIES read|write")
    return keys


def _parsed(lines: Sequence[str], where: str) -> list[Key]:
    keys: dict[bytes, Key] = {}
    for number, line in enumerate(lines, 1):
        written, _, comment = line.partition("#")
        words = BLANKS.split(written.strip(" \t\r"))
        if words == [""]:
            continue
        if len(words) != 3 or words[2] not in ("read", "write"):
            raise InputError(f"{where}: line {number}: write KEY GALLERIES read|write")
        key, galleries, may = words
        if len(key) < SHORTEST or not KEY.fullmatch(key):
            raise InputError(
                f"{where}: line {number}: a key has at least {SHORTEST} characters: ASCII letters, digits and signs"
            )
        names = None if galleries == "*" else frozenset(galleries.split(","))
        if names is not None and not all(map(NAME.fullmatch, names)):
            raise InputError(f"{where}: line {number}: GALLERIES are names by commas, or * alone")
        if (digest := _digest(key)) in keys:
            raise InputError(f"{where}: line {number}: this key is there twice")
        holder = "".join(filter(str.isprintable, comment)).strip()[:WHO_LENGTH]
        keys[digest] = Key(digest, names, may == "write", holder)
    return list(keys.values())


def _given(headers: Mapping[str, str]) -> str:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic" and "x-api-key" not in headers:  # with one, Basic is for a proxy
        return _password(key.strip())
    if scheme.lower() != "bearer":
        return headers.get("x-api-key", "")
    if "x-api-key" in headers:
        raise Problem(400, "give one API key: in Authorization, or here", field="X-Api-Key")
    return key.strip()


def _password(credentials: str) -> str:
    """Return the password of Basic authentication (RFC 7617), whatever the user; nothing where it cannot be read."""
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
