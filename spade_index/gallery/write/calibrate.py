"""Store what the gallery's images score without themselves, and forget what was damaged or removed."""

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from spade_index.errors import GalleryDamaged, storage_errors
from spade_index.gallery.catalog.tables import CalibrationRow
from spade_index.gallery.store.files import file_digest, make_durable
from spade_index.gallery.store.leave_one_out import FOLDER, LeaveOneOut, remedy, threshold_of
from spade_index.gallery.store.names import snapshot_name

from .session import Session


def set_calibration(session: Session, key: str, value: dict[str, object], found: LeaveOneOut | None) -> None:
    """See `GalleryWriter.set_calibration`."""
    with storage_errors(session.path):
        if found is not None:
            value = {**value, **_written(session, found)}
        with session.commit(retires=session.gallery.catalog.calibration(key) is not None) as changes:
            changes.set_calibration(CalibrationRow(key, json.dumps(value)))
    session.delete_unused()


def forget_calibration(session: Session, file: str) -> None:
    """Delete the calibration whose scores are in a damaged file."""
    with session.commit(retires=True) as changes:
        changes.delete_calibration(file)


def drop_removed(session: Session) -> int:
    """Write the files of calibrations again without images that were removed; return the bytes that become free.

    Their thresholds follow from the scores that are left. Raises GalleryDamaged if a file is not what was written.
    """
    freed = 0
    for value in session.gallery.catalog.calibrations():
        if "file" in value:
            freed += _drop_removed(session, value)
            session.delete_unused()
    return freed


def _drop_removed(session: Session, value: Mapping[str, Any]) -> int:
    path = session.path / FOLDER / value["file"]
    found = LeaveOneOut.read(path)
    images = session.gallery.catalog.images_by_key(found.keys.tolist())
    live = [row for row, key in enumerate(found.keys.tolist()) if key in images and images[key].removed is None]
    if len(live) == len(found):
        return 0
    if file_digest(path) != value["digest"]:
        raise GalleryDamaged(f"{path}: its bytes have changed since it was written: {remedy(path)}")
    size, rows = path.stat().st_size, np.array(live, np.int64)
    if not live:
        forget_calibration(session, value["file"])
        return size
    ascending = {kind: np.sort(scores[rows]) for kind, scores in found.scores.items()}
    rate = float(value["false_alarms"])
    thresholds = {kind: threshold_of(ascending[kind], rate) for kind in value["thresholds"]}
    known = {kind: threshold for kind, threshold in thresholds.items() if threshold is not None}
    written = _written(session, found, rows)
    with session.commit(retires=True) as changes:
        left = {**value, **written, "images": len(rows), "thresholds": known}
        changes.set_calibration(CalibrationRow(value["search"], json.dumps(left)))
    return size - (session.path / FOLDER / written["file"]).stat().st_size


def _written(session: Session, found: LeaveOneOut, rows: np.ndarray | None = None) -> dict[str, str]:
    """Write scores, of all images or those in some rows, to a new file; return its name and digest."""
    session.require_own()
    path = _new_path(session.path, session.gallery.snapshot)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    found.write(temporary, rows)
    session.require_own()
    return {"file": path.name, "digest": make_durable(temporary, path)}


def _new_path(gallery: Path, snapshot: int) -> Path:
    """Return where a new file goes: never the name of one that a reader may be about to open."""
    folder = gallery / FOLDER
    names = (snapshot_name(snapshot, number, ".h5") for number in count(1))
    return next(folder / name for name in names if not (folder / name).exists())
