"""Datasets of HDF5 files that may come from anyone: their values are in the file itself, as they stand there.

HDF5 can be told by a file to read others: by external storage, external links, soft links through these, and virtual
datasets. Filters could make much of a few bytes. No file of a gallery has any of them.
"""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from .files import require_regular


def opened(path: Path) -> h5py.File:
    """Open a file to read. Raises OSError for what is not a regular file, and what h5py raises."""
    require_regular(path)
    return h5py.File(path, "r")


def dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """Return a dataset whose values are in `file`. Raises KeyError, ValueError."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        # The link alone is looked at: what it leads to may be damaged where nothing that is read lies.
        if file.id.links.get_info("/".join(parts[:depth]).encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{name}: a link")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"{name}: not a dataset")
    properties: Any = found.id.get_create_plist()
    if properties.get_external_count() or properties.get_layout() == h5py.h5d.VIRTUAL:
        raise ValueError(f"{name}: it refers to other files")
    if properties.get_nfilters():
        raise ValueError(f"{name}: it has filters")
    return found


def is_named(file: h5py.File, name: str) -> bool:
    """Return whether a file has something of this name, or a link that leads to it; only hard links are followed."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        link = "/".join(parts[:depth]).encode()
        if not file.id.links.exists(link):
            return False
        if file.id.links.get_info(link).type != h5py.h5l.TYPE_HARD:
            break
    return True


def column(file: h5py.File, name: str, kind: str) -> h5py.Dataset:
    """Return a dataset of one value for each row; `kind` is that of its type, as numpy names it. Raises ValueError."""
    found = dataset(file, name)
    if found.dtype.kind != kind or found.ndim != 1:
        raise ValueError(f"{name}: {found.dtype} of {found.ndim} dimensions")
    return found


def array(file: h5py.File, name: str, dtype: str, dimensions: int) -> tuple[h5py.Dataset, int]:
    """Return a contiguous dataset of this type and its byte offset: all of it is within the file. Raises ValueError."""
    found = dataset(file, name)
    if found.dtype != np.dtype(dtype) or found.ndim != dimensions:
        raise ValueError(f"{name}: {found.dtype} of {found.ndim} dimensions")
    offset = found.id.get_offset()
    # HDF5 itself refuses a file that has no name if it is shorter than it says.
    if offset is None or (file.driver != "fileobj" and offset + found.nbytes > os.stat(file.filename).st_size):
        raise ValueError(f"{name}: truncated")
    return found, offset
