"""Which levels of its maps a gallery may keep: those that it stores, and at least those that it is searched by."""

from collections.abc import Sequence

from spade_index.errors import InputError
from spade_index.gallery.compared import default_levels
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.storage import listed


def searched_levels(gallery: Gallery) -> tuple[int, ...]:
    """Return the levels that a gallery is searched by where nothing else is asked for, ascending."""
    every = tuple(range(len(gallery.settings.levels)))
    tuned = gallery.catalog.tuned()
    compared = None if tuned is None else tuned["search"].get("compared_levels")
    try:
        return default_levels(gallery.settings) if compared is None else tuple(n for n in every if n in compared)
    except TypeError:  # not written by `tune`: a search will say so
        return every


def tuned_levels(gallery: Gallery) -> tuple[int, ...]:
    """Return the levels that a gallery was tuned to. Raises InputError if it was not."""
    if gallery.catalog.tuned() is None:
        raise InputError(
            f"{gallery.path}: it was not tuned: `spade-index tune {gallery.path}` chooses its levels first"
        )
    return searched_levels(gallery)


def levels_to_keep(gallery: Gallery, levels: Sequence[int]) -> list[int]:
    """Return levels in ascending order.

    Raises InputError for none, for one that is not stored, and for lack of one that the gallery is searched by.
    """
    number = len(gallery.settings.levels)
    if not levels:
        raise InputError("at least one level must be kept")
    if unknown := [level for level in levels if not 0 <= level < number]:
        raise InputError(f"{gallery.path} has {number} levels, 0 to {number - 1}: there is no level {unknown[0]}")
    if gone := sorted(set(levels) - set(gallery.stored_levels)):
        raise InputError(
            f"{gallery.path} stores levels {listed(gallery.stored_levels)} alone: {listed(gone)} was dropped and stays "
            "lost; build another gallery of the same images instead"
        )
    searched = searched_levels(gallery)
    if not set(searched) & set(gallery.stored_levels) <= set(levels):
        tuned = "it was tuned to" if gallery.catalog.tuned() else "it was not tuned, and is searched by"
        raise InputError(
            f"{gallery.path}: {tuned} levels {listed(searched)}, which must be kept; `spade-index tune "
            f"{gallery.path}` chooses levels"
        )
    return sorted(set(levels))
