"""Store what the gallery's images score without themselves, and forget what was damaged."""

import json
from itertools import count
from pathlib import Path

from spade_index.errors import storage_errors
from spade_index.gallery.catalog.tables import CalibrationRow
from spade_index.gallery.store.files import make_durable
from spade_index.gallery.store.leave_one_out import FOLDER, LeaveOneOut

from .session import Session


def set_calibration(session: Session, key: str, value: dict[str, object], found: LeaveOneOut | None) -> None:
    """See `GalleryWriter.set_calibration`."""
    with storage_errors(session.path):
        if found is not None:
            path = _new_path(session.path, session.gallery.snapshot)
            path.parent.mkdir(exist_ok=True)
            temporary = path.with_suffix(".tmp")
            found.write(temporary)
            value = {**value, "file": path.name, "digest": make_durable(temporary, path)}
        with session.commit(retires=session.gallery.catalog.calibration(key) is not None) as changes:
            changes.set_calibration(CalibrationRow(key, json.dumps(value)))
    session.delete_unused()


def forget_calibration(session: Session, file: str) -> None:
    """Delete the calibration whose scores are in a damaged file."""
    with session.commit(retires=True) as changes:
        changes.delete_calibration(file)


def _new_path(gallery: Path, snapshot: int) -> Path:
    """Return where a new file goes: never the name of one that a reader may be about to open."""
    folder = gallery / FOLDER
    names = (f"{snapshot:06d}{f'-{number}' if number > 1 else ''}.h5" for number in count(1))
    return next(folder / name for name in names if not (folder / name).exists())
