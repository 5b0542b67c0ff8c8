"""Make a damaged gallery usable again, without its damaged parts.

The undamaged images of a damaged shard move to a new one first. The damaged ones are dropped in one commit, with the
earlier snapshots that held them, which can no longer be opened. An interrupted `repair` continues when it is called
again.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

from spade_index.errors import GalleryDamaged, storage_errors
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store.layout import layout_to_keep
from spade_index.gallery.store.moments import Totals, no_moments
from spade_index.gallery.verify import Problem, shown

from .calibrate import forget_calibration
from .move import move_images, places
from .reindex import rebuild_index
from .session import Session


def repair(
    session: Session, problems: Iterable[Problem], say: Callable[[str], None], progress: Callable[[int], None]
) -> int:
    """See `GalleryWriter.repair`."""
    problems = list(problems)
    for problem in problems:
        if not (problem.index or problem.calibration) and problem.shard is None and problem.layout is None:
            raise GalleryDamaged(problem.line)
    lost: list[ImageRow] = []
    with storage_errors(session.path):
        for problem in problems:
            if problem.shard is not None:
                lost += problem.lost
                _move_whole(session, problem.shard, {image.key for image in problem.lost}, say)
            if problem.layout is not None:
                _keep_layout(session, problem.layout, say)
            if problem.calibration is not None:
                forget_calibration(session, problem.calibration)
                say(f"dropped the calibration in {problem.calibration}: `spade-index calibrate` makes it again")
        dropped = _drop(session, lost, say, progress) if lost else 0
        if _needs_index(session) or any(problem.index for problem in problems):
            say(f"rebuilt the index: {rebuild_index(session)}")
        session.delete_unused()
    return dropped


def _needs_index(session: Session) -> bool:
    """Return whether the index was disabled, by this call or by one that was interrupted."""
    catalog = session.gallery.catalog
    disabled = catalog.latest_index() is not None and catalog.index(session.gallery.snapshot) is None
    return disabled and len(session.gallery) > 0


def _move_whole(session: Session, shard: int, lost: set[int], say: Callable[[str], None]) -> None:
    """Move the undamaged images of a damaged shard, also removed ones, to a new one."""
    images = [image for image in places(session, shard) if image.key not in lost]
    if images:
        session.require_room(len(images))
        path = _shard_path(session, shard)
        move_images(session, images)
        say(f"{path}: moved {len(images):,} undamaged images to a new shard")


def _keep_layout(session: Session, shard: int, say: Callable[[str], None]) -> None:
    """Keep the layout of a shard that is whole."""
    path = _shard_path(session, shard)
    with session.commit() as changes:
        changes.set_layout(shard, layout_to_keep(shard, path, session.settings))
    say(f"{path}: replaced the layout that the catalog keeps of it")


def _drop(session: Session, lost: list[ImageRow], say: Callable[[str], None], progress: Callable[[int], None]) -> int:
    """Drop images that cannot be read; return the number of those that were not removed before."""
    live = {image.key for image in lost if image.removed is None}
    totals = _totals_without(session, live, progress) if live else None
    with session.commit("repair" if live else None, totals, retires=True) as changes:
        changes.delete_images(image.key for image in lost)
        changes.disable_index()
    for image in lost:
        say(f"dropped {'' if image.key in live else 'the removed '}{shown(image.id)}: it is damaged")
    return len(live)


def _totals_without(session: Session, keys: set[int], progress: Callable[[int], None]) -> Totals:
    """Return the totals of all images but these, read again: the moments of damaged images cannot be subtracted."""
    totals = Totals(0, no_moments(len(session.settings.levels)))
    with session.gallery.in_turn():
        for image in session.gallery.images():
            if image.key not in keys:
                totals = totals.plus(session.stored_moments(image))
                progress(1)
    return totals


def _shard_path(session: Session, shard: int) -> Path:
    return session.path / "shards" / (session.gallery.catalog.shard_file(shard) or "")
