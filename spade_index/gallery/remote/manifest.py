"""gallery.json: which state of which gallery is at a location. It is replaced last, and says where the catalog is."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import xxhash

from spade_index.errors import FormatTooNew, GalleryError, GalleryNotFound, InputError, RemoteError
from spade_index.exact import read_json
from spade_index.gallery.catalog.catalog import Catalog
from spade_index.gallery.catalog.check import Stamp
from spade_index.gallery.location import Location
from spade_index.gallery.store.format import FORMAT, VERSION, is_too_new

from .failures import Damaged
from .files import DIGEST
from .store import Remote

NAME = "gallery.json"
MOST_BYTES = 1 << 16
LARGEST = 2**62
KIND = f"{FORMAT} in an object store"


@dataclass(frozen=True)
class State:
    """A gallery as of one commit."""

    created: str  # of the gallery, which tells it from others
    snapshot: int
    commit: str  # digest of the snapshot's row, which tells it from one of the same number
    counter: int  # of SQLite, which grows with each commit
    catalog: str  # digest of the catalog's bytes
    size: int  # of the catalog in bytes
    version: int  # of the format

    @classmethod
    def of(cls, catalog: Catalog, stamp: Stamp) -> "State":
        """Return the state of a catalog with these bytes."""
        snapshot = catalog.latest_snapshot()
        commit = commit_of(catalog, snapshot) or ""
        created = catalog.meta("created") or ""
        version = int(catalog.meta("version") or 0)
        return cls(created, snapshot, commit, stamp.counter, stamp.digest, stamp.bytes, version)

    @classmethod
    def here(cls, catalog: Path) -> "State":
        """Return the state of a gallery on this machine, by its catalog. Raises GalleryError, OSError."""
        opened = Catalog(catalog)
        try:
            return cls.of(opened, opened.copy(None))
        finally:
            opened.close()

    def to_json(self) -> bytes:
        """Return the contents of gallery.json."""
        return (json.dumps({"format": KIND, **asdict(self)}, indent=2) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes, location: Location) -> "State":
        """Read what `to_json` wrote. Raises RemoteError, FormatTooNew."""
        try:
            values = read_json(data.decode())
            if values.pop("format") != KIND:
                raise ValueError("another format")
            version = values["version"]
            if type(version) is int and is_too_new(version):
                raise FormatTooNew(
                    f"{location}: format version {values['version']} is newer than this spade_index reads ({VERSION}): "
                    "pip install --upgrade spade_index"
                )
            state = cls(**{field.name: values[field.name] for field in fields(cls)})
            state._require_plausible()
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
            raise RemoteError(f"{location}/{NAME}: not that of a gallery: push to or pull from another URL") from error
        return state

    def _require_plausible(self) -> None:
        """Raise ValueError for what no gallery has: it was read from a file."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and not (type(value) is int and 0 <= value < LARGEST):
                raise ValueError(f"unexpected {field.name}")
            if field.type is str and not isinstance(value, str):
                raise ValueError(f"unexpected {field.name}")
        if not DIGEST.fullmatch(self.catalog) or not DIGEST.fullmatch(self.commit):
            raise ValueError("unexpected digest")


def pushed_state(remote: Remote) -> State:
    """Return which gallery is at a location now. Raises GalleryNotFound, RemoteError, FormatTooNew."""
    found = remote.small(NAME, MOST_BYTES)
    if found is None:
        at = remote.location
        raise GalleryNotFound(f"{at}: no gallery there; `spade-index push GALLERY {at}` brings one")
    return State.from_json(found[0], remote.location)


def described_catalog(path: Path, state: State, location: Location) -> Catalog:
    """Open a catalog that was brought, whose digest is that of `state`. Raises Damaged if it is another."""
    catalog = Catalog(path)
    if State.of(catalog, Stamp(state.counter, state.catalog, state.size)) != state:
        catalog.close()
        raise Damaged(f"{location}/{NAME}: does not describe its catalog: push the gallery again")
    return catalog


def commit_of(catalog: Catalog, snapshot: int) -> str | None:
    """Return the digest of a snapshot's row, or None if there is none, or compaction has deleted it."""
    row = catalog.snapshot(snapshot)
    return None if row is None else xxhash.xxh3_128_hexdigest(json.dumps(asdict(row), sort_keys=True).encode())


def images_of(catalog: Catalog) -> int:
    """Return the number of images at the last snapshot."""
    row = catalog.snapshot(catalog.latest_snapshot())
    return 0 if row is None else row.images


def require_successor(new: Catalog, state: State, name: str, old: State, old_name: str) -> None:
    """Raise unless the gallery `new` is a later state of the `old` one, which it is to replace.

    Raises InputError for another gallery, GalleryError where changes would be lost.
    """
    if old.created != state.created:
        raise InputError(f"{old_name}: holds another gallery than {name}: choose another place")
    if old.snapshot > state.snapshot or old.counter > state.counter:
        raise GalleryError(
            f"{old_name}: holds a later state (snapshot {old.snapshot}) than {name} (snapshot {state.snapshot}): "
            "choose another place, or copy in the other direction"
        )
    known = commit_of(new, old.snapshot)
    if (known is not None and known != old.commit) or (old.counter == state.counter and old.catalog != state.catalog):
        raise GalleryError(f"{old_name}: has changes of its own, which {name} lacks: choose another place")
