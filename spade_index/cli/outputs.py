"""The files and folders that a command writes: checked before its work begins."""

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from spade_index.errors import InputError


def require_writable(
    files: Sequence[Path | None] = (), folders: Sequence[Path | None] = (), inputs: Iterable[Path] = ()
) -> None:
    """Raise InputError if an output cannot be written, or would replace an input or another output.

    Args:
        files: to be written; their folders must be there.
        folders: to be written in; they are made with those above them.
        inputs: what the command reads: files, and folders in which no image is replaced and no gallery written to.
    """
    given = [path for path in inputs if path.exists()]
    seen: set[str] = set()
    for path in (*files, *folders):
        if path is not None:
            real = os.path.realpath(path)
            if real in seen:
                raise InputError(f"{path}: is given for two outputs")
            seen.add(real)
    for file in files:
        if file is not None:
            _require_file(file)
            _require_no_input(file, given)
    for folder in folders:
        if folder is not None:
            _require_folder(folder)
            if gallery := next((path for path in given if _is_gallery(path) and _is_below(folder, path)), None):
                raise InputError(f"{folder}: is in the gallery {gallery}: choose another folder")


def _require_file(path: Path) -> None:
    _require_name(path)
    if path.is_dir():
        raise InputError(f"{path}: is a folder: name a file")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no such folder: {path.parent}")
    special = path.exists() and not path.is_file()  # a device, or a pipe: it is not replaced
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError(f"{path}: cannot be written (permission denied)")
    if not special and (reason := _why_not_in(path.parent)):
        raise InputError(f"{path}: cannot be written ({reason})")


def _require_folder(path: Path) -> None:
    _require_name(path)
    there = next(folder for folder in (path, *path.absolute().parents) if os.path.lexists(folder))
    if not there.is_dir():
        raise InputError(f"{there}: is no folder" + ("" if there == path else f", so {path} cannot be made"))
    if reason := _why_not_in(there):
        raise InputError(f"{there}: cannot be written in ({reason})")


def _why_not_in(folder: Path) -> str | None:
    """Return why no file can be made in a folder, or None: one is made, for permissions do not tell of all systems."""
    if not os.access(folder, os.W_OK):
        return "permission denied"
    try:
        with tempfile.TemporaryFile(dir=folder):
            return None
    except OSError as error:
        return error.strerror or str(error)


def _require_name(path: Path) -> None:
    """Raise InputError for a name that no file can have."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        return  # which is said more clearly
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from error


def _require_no_input(path: Path, inputs: list[Path]) -> None:
    from spade_index.images.files import has_image_suffix

    for given in inputs:
        if _is_gallery(given) and _is_below(path, given):
            raise InputError(f"{path}: is in the gallery {given}: choose another place")
        if path.exists() and path.samefile(given):
            raise InputError(f"{path}: is an input of this command, which would be replaced")
        if path.exists() and has_image_suffix(path.name) and given.is_dir() and _is_below(path, given):
            raise InputError(f"{path}: is an image in {given}, which this command reads, and would be replaced")


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def _is_gallery(path: Path) -> bool:
    return (path / "catalog.sqlite").exists()
