"""Ways of comparing: search settings that tuning tries, and words for them."""

from collections.abc import Iterator

from spade_index.gallery.reader import Gallery
from spade_index.settings import SearchSettings

Kind = tuple[str, tuple[int, ...] | None]  # scaling, and levels that are compared


def ways_of(gallery: Gallery) -> Iterator[SearchSettings]:
    """Yield the ways of comparing for a gallery, scalings and runs of levels, the most promising first."""
    levels = gallery.stored_levels
    every = len(levels) == len(gallery.settings.levels)
    runs = [tuple(levels), tuple(levels[1:]), tuple(levels[:-1]), *((level,) for level in levels[:0:-1])]
    runs = [run for run in dict.fromkeys(runs) if run]
    for scaling, some in (
        *(("length", runs[:2]), ("none", runs[:2]), ("length", runs[2:])),
        *(("root", runs[:2]), ("channel", runs[:2])),
    ):
        for run in some:
            yield SearchSettings(scaling=scaling, compared_levels=None if every and len(run) == len(levels) else run)


def kind_of(search: SearchSettings) -> Kind:
    """Return what tells kinds of ways apart; those of one kind differ in grid, neighbours and window."""
    return search.scaling, search.compared_levels


def describe(search: SearchSettings) -> str:
    """Return search settings in words, in one line."""
    score = "maximum" if search.top_share == 0 else f"mean of the highest {100 * search.top_share:g} %"
    return (
        f"{describe_pixels(search)}, {search.gallery_neighbours} neighbours, sigma {search.smoothing:g}, "
        f"{search.subtract_neighbours:g} of the neighbours' maps subtracted, {score} of the map"
        + (" over the neighbours'" if search.relative_score else "")
        + (" x pooled score" if search.mapped_score == "both" else "")
    )


def describe_pixels(search: SearchSettings) -> str:
    """Return in words how search settings compare pixels."""
    scaled = {
        "none": "divided by deviation",
        "root": "scaled to the root of their length",
        "length": "scaled to length 1",
        "channel": "whitened",
    }[search.scaling]
    levels = "all levels" if search.compared_levels is None else f"levels {', '.join(map(str, search.compared_levels))}"
    return (
        f"{levels} {scaled}"
        + ("" if search.grid is None else f", grid {search.grid}")
        + ("" if search.window is None else f", within {search.window} cells of the same place")
    )
