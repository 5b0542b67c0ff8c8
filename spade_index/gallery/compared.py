"""Which levels of a gallery are compared."""

from collections.abc import Sequence

from spade_index.settings import ExtractionSettings, SearchSettings

COARSE = 32  # pixels of the input per cell, from which on a cell shows more of what is around it than of itself


def compared_levels(settings: ExtractionSettings, search: SearchSettings) -> tuple[int, ...]:
    """Return the numbers of the levels that are compared, ascending.

    Where search settings name none, these are all, but for the coarsest of the four that backbones have by default: the
    paper has the other three. `tune` decides on the fourth.
    """
    if search.compared_levels is not None:
        return search.compared_levels
    edges = [max(size) for size in settings.sizes]
    has_fourth = len(edges) == 4 and COARSE * edges[3] <= max(settings.preprocessing.input_size) and edges[3] < edges[2]
    return tuple(range(3 if has_fourth else len(edges)))


def default_levels(settings: ExtractionSettings) -> tuple[int, ...]:
    """Return the numbers of the levels that are compared where nothing else is asked for."""
    return compared_levels(settings, SearchSettings())


def levels_inside(settings: ExtractionSettings, levels: Sequence[int]) -> tuple[int, ...]:
    """Return those of some levels that see little of what is outside a region of interest, or all if none does."""
    return tuple(level for level in levels if level in default_levels(settings)) or tuple(levels)
