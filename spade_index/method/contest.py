"""The contest of ways of comparing: which ones are tried on how many images, and which one is chosen.

A few images tell bad ways from good ones, but not good ones from each other. So where time is short, all kinds of ways
are tried on few images, and the best of them again, with other grids, neighbours and a window, on more. What there is
time for is planned, not measured: a slow or busy machine tries the same as any other.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from spade_index.gallery.reader import Gallery
from spade_index.settings import SearchSettings

from .by_neighbours import needs_own_scores
from .planned import PlannedClock
from .synthetic import LEAST, Sample
from .trials import Trial, Trials, deviation
from .ways import Kind, describe, kind_of, ways_of

BASE = (28, 20)  # cells of the grid's longer edge, and neighbours whose pixels are compared, where kinds are compared
CHEAPER = ((28, 10), (14, 20), (14, 10), (14, 5), (7, 5))  # in its place where that takes too long
GRIDS = (14, 28, 56)
NEIGHBOURS = (5, 10)
WINDOW = 2  # cells around the same place, for products that lie alike in all images
FINALISTS = 4  # kinds of ways that are tried on more images
AGAIN = 3  # kinds that are tried again at the grid, the neighbours and the window that the best one ends with
SLOWEST = 1.0  # milliseconds of a search, at most, per millisecond of the backbone; both as planned
MARGIN = 0.005  # of the quality, within which the quicker way is taken
SAME_SPEED = 1.25  # times as long: not a difference
QUICK = 0.75  # milliseconds of a search per millisecond of the backbone, below which nothing is gained by less
USUAL_SHARE = 0.5  # of the neighbours' maps, subtracted
SHARE_OF_A_WAY = 0.03  # of the time, in the first round
SHARE_OF_FIRST_ROUND = 0.4  # of the time
LAST_ROUND = 6  # ways as slow as those of the first round: about what the last one takes

Told = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a contest ended."""

    chosen: Trial
    fixed: Trial | None  # the best of a way without scaling, tried on the same images
    sample: Sample  # those images
    tried: list[list[Trial]]  # all trials of each way, in the order of trying; of those tried twice, on more images


def hold(
    gallery: Gallery,
    sample: Sample,
    seconds: float,
    *,
    ways: int | None = None,
    progress: Told = lambda line: None,
    **options: Any,
) -> Outcome:
    """Try ways of comparing on a sample of a gallery, and choose one.

    Args:
        gallery: that the sample was drawn from.
        sample: plain images and copies.
        seconds: that it is planned to take; on a slow machine it takes longer, and at most about five times as long.
        ways: number of kinds of ways to try on the whole sample, the most promising first; None: as time allows.
        progress: told of each way when it has been tried, in one line.
        options: device, kernel, map_memory and elsewhere, as for `Detector`.

    Returns:
        What was chosen, and all that was tried.

    Raises:
        GalleryDamaged: maps cannot be read.
    """
    clock, trials = PlannedClock(), Trials(gallery, sample, **options)
    kinds = list(islice(ways_of(gallery), ways))
    first = Round(trials, sample, clock, seconds if ways is None else math.inf, progress)
    grid, neighbours = first.base(kinds[0])
    kinds = [replace(kind, grid=grid, gallery_neighbours=neighbours) for kind in kinds]
    if ways is not None:
        first.attempt_all(kinds)
        return first.outcome()
    of_a_way = trials.planned_seconds(kinds[0])  # on all images
    few = _part(sample, SHARE_OF_A_WAY * seconds, of_a_way)
    if few is not sample:
        first = Round(Trials(gallery, few, **options), few, clock, SHARE_OF_FIRST_ROUND * seconds, progress)
    first.attempt_all(kinds)
    more = _part(sample, seconds - clock.seconds(), LAST_ROUND * of_a_way)
    if len(more.plain) <= len(few.plain):
        first.until = seconds
        first.refine()
        return first.outcome()
    progress(f"the best of {len(few.plain)} images again, on {len(more.plain)}")
    last = Round(Trials(gallery, more, **options), more, clock, seconds, progress)
    best = {kind_of(way): way for way in (kinds[0], *first.best_of_kinds())}  # the most promising kind always
    last.attempt_all(list(best.values())[:FINALISTS])
    last.refine()
    return last.outcome(first)


def _part(sample: Sample, seconds: float, on_all: float) -> Sample:
    """Return as much of a sample as there is time for, 10 images at least; all of it would take `on_all` seconds."""
    if on_all <= seconds:
        return sample
    count = max(LEAST, math.floor(seconds / on_all * len(sample.plain)))
    return sample if count >= len(sample.plain) else sample.some(count)


class Round:
    """Tries ways on one sample, one after the other."""

    def __init__(self, trials: Trials, sample: Sample, clock: PlannedClock, until: float, progress: Told) -> None:
        """Begin with nothing tried. Ways that would not end by `until`, seconds of the clock, will be left out."""
        self.tried: list[list[Trial]] = []
        self.until = until
        self._trials, self._sample, self._clock, self._progress = trials, sample, clock, progress

    def base(self, kind: SearchSettings) -> tuple[int, int]:
        """Return the first of BASE and CHEAPER that is quick enough, or the last."""
        for grid, neighbours in (BASE, *CHEAPER):
            if self._fits(replace(kind, grid=grid, gallery_neighbours=neighbours)):
                break
        return grid, neighbours

    def attempt_all(self, ways: Iterable[SearchSettings]) -> None:
        """Try ways as `attempt` does."""
        for search in ways:
            self.attempt(search)

    def refine(self) -> None:
        """Try a window for the best way, fewer neighbours, other grids, and the best kinds with what is best then.

        Fewer neighbours only where the search is slow beside the backbone: else they would win by chance.
        """
        self.attempt(replace(self._chosen, window=WINDOW))
        chosen = choose(self.tried, self._sample)
        if chosen.planned_ms > QUICK * self._sample.planned_ms:
            fewer = (count for count in NEIGHBOURS if count < chosen.search.gallery_neighbours)
            self.attempt_all(replace(chosen.search, gallery_neighbours=count) for count in fewer)
        best = self._chosen
        self.attempt_all(filter(self._fits, (replace(best, grid=grid) for grid in GRIDS)))
        best = self._chosen
        for kind in self.best_of_kinds()[:AGAIN]:
            self.attempt(replace(best, scaling=kind.scaling, compared_levels=kind.compared_levels))

    def attempt(self, search: SearchSettings) -> None:
        """Try a way, unless it was tried, or there is no time for it; the first one always."""
        if any(self._same(of_way[0].search, search) for of_way in self.tried):
            return
        planned = self._trials.planned_seconds(search)
        if self.tried and self._clock.seconds() + planned > self.until:
            return
        self.tried.append(self._trials.run(search))
        self._clock.spend(planned)
        best = _best(self.tried[-1])
        self._progress(f"{best.image_roc_auc:.3f} {best.pixel_roc_auc:.3f} {best.ms:4.0f} ms  {describe(best.search)}")

    def best_of_kinds(self) -> list[SearchSettings]:
        """Return what would be chosen of each kind of ways, the best first."""
        by_kind: dict[Kind, list[list[Trial]]] = {}
        for of_way in self.tried:
            by_kind.setdefault(kind_of(of_way[0].search), []).append(of_way)
        chosen = [choose(tried, self._sample) for tried in by_kind.values()]
        return [trial.search for trial in sorted(chosen, key=lambda trial: -trial.quality)]

    def outcome(self, earlier: "Round | None" = None) -> Outcome:
        """Return what is chosen of the ways that were tried, and all that was tried, in an earlier round, too."""
        fixed = [of_way for of_way in self.tried if of_way[0].search.scaling == "none"]
        before = [] if earlier is None else earlier.tried
        by_way = {_way(of_way[0].search): of_way for of_way in (*before, *self.tried)}
        return Outcome(
            chosen=choose(self.tried, self._sample),
            fixed=_best(fixed[0]) if fixed else None,
            sample=self._sample,
            tried=list(by_way.values()),
        )

    @property
    def _chosen(self) -> SearchSettings:
        """What would be chosen of the ways that were tried; scores are tried anew for each way."""
        return choose(self.tried, self._sample).search

    def _same(self, one: SearchSettings, other: SearchSettings) -> bool:
        """Return whether two ways are the same: a grid finer than what is stored is what is stored."""
        return self._trials.grid(one) == self._trials.grid(other) and _way(one)[1:] == _way(other)[1:]

    def _fits(self, search: SearchSettings) -> bool:
        """Return whether a search is planned to take no longer than the backbone."""
        return self._trials.planned_ms(search) <= SLOWEST * self._sample.planned_ms


def _way(search: SearchSettings) -> tuple[object, ...]:
    return search.grid, search.gallery_neighbours, search.window, *kind_of(search)


def _best(trials: Iterable[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.quality)


def choose(tried: list[list[Trial]], sample: Sample) -> Trial:
    """Return the trial to take: the best of the quickest ways within the margin.

    What is quick beside the backbone counts as equally quick: fewer neighbours would save little, and cost accuracy
    that synthetic defects on few images do not show. Ways whose search takes much longer than the backbone are left
    out, unless all do. The map score over the neighbours', with half of their maps subtracted, is the rule; another
    score must be better by more than the standard error.
    """
    limit = max(SLOWEST * sample.planned_ms, min(of_way[0].planned_ms for of_way in tried))
    allowed = [trial for of_way in tried if of_way[0].planned_ms <= limit for trial in of_way]
    close = [trial for trial in allowed if trial.quality >= _best(allowed).quality - MARGIN]
    quickest = max(QUICK * sample.planned_ms, min(trial.planned_ms for trial in close))
    best = _best(trial for trial in close if trial.planned_ms <= SAME_SPEED * quickest)
    of_way = [trial for trial in allowed if _way(trial.search) == _way(best.search)]
    known = [trial.search for trial in of_way if needs_own_scores(trial.search)]  # none in a gallery of few images
    usual = [trial for trial in of_way if is_usual(trial.search, bool(known))]
    return best if _is_better(best, _best(usual), sample) else _best(usual)


def is_usual(search: SearchSettings, known: bool) -> bool:
    """Return whether settings take the scores that are the rule; `known`: whether what neighbours score can be."""
    by_neighbours = search.subtract_neighbours, search.relative_score
    return by_neighbours == ((USUAL_SHARE, True) if known else (0, False)) and search.mapped_score == "map"


def _is_better(one: Trial, other: Trial, sample: Sample) -> bool:
    """Return whether a trial is better by more than the standard error of the difference of image ROC AUC."""
    return one.quality - other.quality > deviation(one.wins - other.wins, sample.owner)
