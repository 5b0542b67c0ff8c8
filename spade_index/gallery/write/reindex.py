"""Build a gallery's index from its latest snapshot, and commit it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from spade_index.errors import GalleryDamaged, InputError, storage_errors
from spade_index.gallery.catalog.tables import IndexRow
from spade_index.gallery.index.build import build_index
from spade_index.gallery.index.descriptors import Descriptors, descriptors_file, write_descriptors
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.store.files import make_durable
from spade_index.gallery.store.names import snapshot_name
from spade_index.settings import IndexSettings

from .session import Session


def index_is_stale(session: Session) -> bool:
    """See `GalleryWriter.index_is_stale`."""
    index = session.gallery.index_info()
    return len(session.gallery) > 0 and (index is None or bool(index["stale"]))


def index_settings(session: Session) -> IndexSettings:
    """See `GalleryWriter.index_settings`."""
    row = session.gallery.catalog.latest_index()
    return IndexDescription.from_json(row.description).settings() if row else IndexSettings()


def index_queries(session: Session) -> np.ndarray | None:
    """Return the descriptors float32 [q, D] that the index was tuned on, or None if on images of its own."""
    row = session.gallery.catalog.latest_index()
    try:
        return Descriptors(descriptors_file(session.gallery.file(f"index/{row.file}"))).queries if row else None
    except (FileNotFoundError, GalleryDamaged):
        return None


def rebuild_index(
    session: Session,
    settings: IndexSettings | None = None,
    queries: np.ndarray | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> IndexDescription:
    """See `GalleryWriter.build_index`."""
    gallery = session.gallery
    images, dim = len(gallery), session.settings.pooled_dim
    if not images:
        raise InputError(f"{session.path}: the gallery is empty, there is nothing to index")
    settings = index_settings(session) if settings is None else settings
    queries = index_queries(session) if queries is None else queries
    _require_kinds(settings, queries, dim)
    session.require_own()
    path = _new_path(session.path, gallery.snapshot)
    with storage_errors(session.path):
        path.parent.mkdir(exist_ok=True)
        beside = descriptors_file(path)
        temporary = beside.with_suffix(".h5.tmp")
        write_descriptors(temporary, gallery.blocks(), images, dim, queries)
        session.require_own()
        digest = make_durable(temporary, beside)
        blocks = Descriptors(beside).blocks
        temporary = path.with_suffix(".faiss.tmp")
        description = build_index(temporary, blocks, images, dim, settings, queries, say)
        description = replace(description, descriptors=digest)
        session.require_own()
        digest = make_durable(temporary, path)
        with session.commit(retires=True) as changes:
            changes.replace_index(IndexRow(gallery.snapshot, path.name, digest, description.to_json()))
    session.delete_unused()
    return description


def _require_kinds(settings: Any, queries: Any, dim: int) -> None:
    """Raise InputError for settings that are none, or queries that no index can be measured with."""
    if not isinstance(settings, IndexSettings):
        raise InputError(f"settings is {type(settings).__name__}, not IndexSettings")
    if queries is None:
        return
    known = isinstance(queries, np.ndarray) and queries.dtype == np.float32 and queries.ndim == 2
    if not known or not len(queries) or queries.shape[1] != dim or not np.isfinite(queries).all():
        raise InputError(f"queries must be descriptors, float32 [q, {dim}], at least one, all finite")


def _new_path(gallery: Path, snapshot: int) -> Path:
    """Return where a new index goes: never the name of one that a reader may be about to open."""
    folder = gallery / "index"
    names = (snapshot_name(snapshot, number, ".faiss") for number in count(1))
    return next(folder / name for name in names if not (folder / name).exists())
