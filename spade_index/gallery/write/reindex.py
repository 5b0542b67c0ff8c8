"""A gallery's index built anew from its latest snapshot, and committed."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spade_index.errors import InputError, storage_errors
from spade_index.gallery.catalog.changes import replace_index
from spade_index.gallery.index.build import build_index
from spade_index.gallery.index.descriptors import Descriptors, descriptors_file, write_descriptors
from spade_index.gallery.index.index import IndexDescription
from spade_index.gallery.store.shard import make_durable
from spade_index.settings import IndexSettings

if TYPE_CHECKING:
    from .session import GalleryWriter


def rebuild_index(
    writer: "GalleryWriter", settings: IndexSettings | None, queries: np.ndarray | None, say: Callable[[str], None]
) -> IndexDescription:
    """See `GalleryWriter.build_index`."""
    gallery = writer.gallery
    images, dim = len(gallery), writer.settings.pooled_dim
    if not images:
        raise InputError(f"{writer.path}: the gallery is empty, there is nothing to index")
    settings = settings or writer.index_settings()
    queries = gallery.index_queries() if queries is None else queries
    snapshot = gallery.snapshot
    path = _new_path(writer.path, snapshot)
    with storage_errors(writer.path):
        path.parent.mkdir(exist_ok=True)
        beside = descriptors_file(path)
        temporary = beside.with_suffix(".h5.tmp")
        write_descriptors(temporary, gallery.blocks(), images, dim, queries)
        digest = make_durable(temporary, beside)
        blocks = Descriptors(beside).blocks
        temporary = path.with_suffix(".faiss.tmp")
        description = build_index(temporary, blocks, images, dim, settings, queries, say)
        description = replace(description, descriptors=digest)
        digest = make_durable(temporary, path)
        with gallery.catalog.transaction() as db:
            replace_index(db, snapshot, path.name, digest, description.to_json())
            writer.next_generation(db)
    gallery.at(snapshot)
    writer.forget()
    return description


def _new_path(gallery: Path, snapshot: int) -> Path:
    """Where a new index goes: never the name of one that a reader may be about to open."""
    folder = gallery / "index"
    names = (f"{snapshot:06d}{f'-{number}' if number > 1 else ''}.faiss" for number in count(1))
    return next(folder / name for name in names if not (folder / name).exists())
