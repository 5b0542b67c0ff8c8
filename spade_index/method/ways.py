"""Ways of comparing: search settings that tuning tries, and words for them."""

from collections.abc import Iterator, Sequence

from spade_index.gallery.compared import default_levels, levels_inside
from spade_index.gallery.reader import Gallery
from spade_index.settings import SearchSettings

Kind = tuple[str, tuple[int, ...] | None]  # scaling, and levels that are compared


def ways_of(gallery: Gallery) -> Iterator[SearchSettings]:
    """Yield the ways of comparing for a gallery, scalings and runs of levels, the most promising first.

    How much each level weighs depends on the sample (`Trials.weighed`).
    """
    levels = _candidates(gallery)
    parts = [tuple(levels), tuple(levels[1:]), tuple(levels[2:]), tuple(levels[:-1]), tuple(levels[1:-1])]
    parts += [(level,) for level in levels[:0:-1]]
    compared = [usual_levels(gallery), *(_compared(gallery, part) for part in parts if part)]
    runs = list(dict.fromkeys(compared))
    for scaling, some in (
        *(("length", runs[:2]), ("none", runs[:2]), ("length", runs[2:])),
        *(("root", runs[:2]), ("channel", runs[:2])),
    ):
        for run in some:
            yield SearchSettings(scaling=scaling, compared_levels=run)


def usual_levels(gallery: Gallery) -> tuple[int, ...] | None:
    """Return the levels that are compared where no others are clearly better; None: by default.

    Of four levels or more, the finest is left out: it sees edges and noise, as pasted defects have them, more than what
    is real.
    """
    levels = _candidates(gallery)
    return _compared(gallery, tuple(levels[1:] if len(levels) > 3 else levels))


def _candidates(gallery: Gallery) -> Sequence[int]:
    """Return the levels that are tried: with a region of interest not the coarsest, which sees what is outside, too."""
    levels = gallery.stored_levels
    return levels_inside(gallery.settings, levels) if gallery.is_limited else levels


def _compared(gallery: Gallery, levels: tuple[int, ...]) -> tuple[int, ...] | None:
    return None if levels == default_levels(gallery.settings) else levels


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
        "none": "divided by deviation" if search.level_weights == "inverse-variance" else "unscaled",
        "root": "scaled to the root of their length",
        "length": "scaled to length 1",
        "channel": "whitened",
    }[search.scaling]
    compared = search.compared_levels
    levels = "the default levels" if compared is None else f"levels {', '.join(map(str, compared))}"
    return (
        f"{levels} {scaled}"
        + ("" if search.grid is None else f", grid {search.grid}")
        + ("" if search.window is None else f", within {search.window} cells of the same place")
    )
