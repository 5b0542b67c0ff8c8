"""The contest of ways of comparing: which ones are tried on how many images, and which one is chosen.

A few images tell bad ways from good ones, but not good ones from each other. So where time is short, all kinds of ways
are tried on few images, and the best of them again on more, with other grids, a window, and as many neighbours as a
search has time for. That is planned, not measured: a slow or busy machine tries the same as any other.
"""

import math
from collections.abc import Callable, Iterable, Sequence
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
CHEAPER = ((14, 20), (14, 10), (14, 5), (7, 5))  # in its place where that takes too long
GRIDS = (14, 28, 56)
NEIGHBOURS = (40, 20, 10, 5)
WINDOW = 2  # cells around the same place, for products that lie alike in all images
FINALISTS = 4  # kinds of ways that are tried on more images
USUAL = 2  # of them compare the usual levels
ERRORS = 2.0  # standard errors by which other levels, fewer neighbours, or another score must be better
AGAIN = 3  # kinds that are tried again at the grid, the neighbours and the window that the best one ends with
SLOWEST = 1.25  # milliseconds of a search, at most, per millisecond of the backbone; both as planned
MARGIN = 0.005  # of the quality, within which the quicker way is taken
SAME_SPEED = 1.25  # times as long: not a difference
QUICK = 0.75  # milliseconds of a search per millisecond of the backbone, below which nothing is gained by less
USUAL_SUBTRACTED = 0.5  # share of the neighbours' maps
USUAL_TOP_SHARE = 0.01  # of the map, whose mean is the map score
SHARE_OF_A_WAY = 0.025  # of the time, in the first round
SHARE_OF_FIRST_ROUND = 0.4  # of the time
EASY = 0.9  # image ROC AUC of the first way: above it, nearly all defects are found, and the choice is by chance
LAST_ROUND = 8  # ways as slow as those of the first round: about what the last one takes

Told = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """How a contest ended."""

    chosen: Trial
    fixed: Trial | None  # of the first way without scaling, tried on the same images
    sample: Sample  # those images
    tried: list[Trial]  # of each way, in the order of trying; of those tried twice, on more images


def hold(
    gallery: Gallery,
    sample: Sample,
    seconds: float,
    *,
    ways: int | None = None,
    easy: float = math.inf,
    progress: Told = lambda line: None,
    **options: Any,
) -> Outcome | None:
    """Try ways of comparing on a sample of a gallery, and choose one.

    Args:
        gallery: that the sample was drawn from.
        sample: plain images and copies.
        seconds: that it is planned to take; on a slow machine it takes longer, and at most about five times as long.
        ways: number of kinds of ways to try on the whole sample, the most promising first; None: as time allows.
        easy: the image ROC AUC of the first way above which nothing else is tried.
        progress: told of each way when it has been tried, in one line.
        options: device, kernel, map_memory and elsewhere, as for `Detector`.

    Returns:
        What was chosen, and all that was tried; None if the defects are easy.

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
    first.attempt(kinds[0])
    if first.tried[0].image_roc_auc > easy:
        return None
    first.attempt_all(kinds)
    more = _part(sample, seconds - clock.seconds(), LAST_ROUND * of_a_way)
    if len(more.plain) <= len(few.plain):
        first.until = seconds
        first.refine()
        return first.outcome()
    progress(f"the best of {len(few.plain)} images again, on {len(more.plain)}")
    last = Round(Trials(gallery, more, **options), more, clock, seconds, progress)
    best = first.best_of_kinds()
    usual = [way for way in best if way.compared_levels == trials.levels]
    finalists = {kind_of(way): way for way in (kinds[0], *usual[:USUAL], *best)}  # the most promising kind always
    last.attempt_all(list(finalists.values())[:FINALISTS])
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
        self.tried: list[Trial] = []  # of each way
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
        """Try a window for the best way, other grids, and the best kinds with what is best then.

        Each with as many neighbours as there is time for in a search.
        """
        self._attempt_widest(replace(self._chosen, window=WINDOW))
        best = self._chosen
        for grid in GRIDS:
            self._attempt_widest(replace(best, grid=grid))
        best = self._chosen
        for kind in self.best_of_kinds()[:AGAIN]:
            self._attempt_widest(replace(best, scaling=kind.scaling, compared_levels=kind.compared_levels))
        self._attempt_widest(self._chosen)

    def _attempt_widest(self, search: SearchSettings) -> None:
        """Try a way with the most neighbours whose search is quick enough, if any is."""
        ways = (replace(search, gallery_neighbours=count) for count in NEIGHBOURS)
        self.attempt_all(islice(filter(self._fits, ways), 1))

    def attempt(self, search: SearchSettings) -> None:
        """Try a way, unless it was tried, or there is no time for it; the first one always."""
        if any(self._same(trial.search, search) for trial in self.tried):
            return
        planned = self._trials.planned_seconds(search)
        if self.tried and self._clock.seconds() + planned > self.until:
            return
        trial = scored(self._trials.run(search), self._sample)
        self.tried.append(trial)
        self._clock.spend(planned)
        figures = f"{trial.image_roc_auc:.3f} {trial.pixel_roc_auc:.3f} {trial.ms:4.0f} ms"
        self._progress(f"{figures}  {describe(trial.search)}")

    def best_of_kinds(self) -> list[SearchSettings]:
        """Return what would be chosen of each kind of ways, the best first."""
        by_kind: dict[Kind, list[Trial]] = {}
        for trial in self.tried:
            by_kind.setdefault(kind_of(trial.search), []).append(trial)
        chosen = [choose(tried, self._sample, self._trials.levels) for tried in by_kind.values()]
        return [trial.search for trial in sorted(chosen, key=lambda trial: -trial.quality)]

    def outcome(self, earlier: "Round | None" = None) -> Outcome:
        """Return what is chosen of the ways that were tried, and all that was tried, in an earlier round, too."""
        before = [] if earlier is None else earlier.tried
        by_way = {_way(trial.search): trial for trial in (*before, *self.tried)}
        return Outcome(
            chosen=choose(self.tried, self._sample, self._trials.levels),
            fixed=next((trial for trial in self.tried if trial.search.scaling == "none"), None),
            sample=self._sample,
            tried=list(by_way.values()),
        )

    @property
    def _chosen(self) -> SearchSettings:
        """What would be chosen of the ways that were tried."""
        return choose(self.tried, self._sample, self._trials.levels).search

    def _same(self, one: SearchSettings, other: SearchSettings) -> bool:
        """Return whether two ways are the same: a grid finer than what is stored is what is stored."""
        return self._trials.grid(one) == self._trials.grid(other) and _way(one)[1:] == _way(other)[1:]

    def _fits(self, search: SearchSettings) -> bool:
        """Return whether a search is planned to be quick enough beside the backbone."""
        return self._trials.planned_ms(search) <= SLOWEST * self._sample.planned_ms


def _way(search: SearchSettings) -> tuple[object, ...]:
    return search.grid, search.gallery_neighbours, search.window, *kind_of(search)


def _but_for_neighbours(search: SearchSettings) -> tuple[object, ...]:
    return _way(replace(search, gallery_neighbours=1))


def _best(trials: Iterable[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.quality)


def choose(tried: Sequence[Trial], sample: Sample, levels: tuple[int, ...] | None = None) -> Trial:
    """Return the trial to take: the best of the quickest ways within the margin.

    What is quick beside the backbone counts as equally quick. Ways whose search takes much longer than the backbone are
    left out, unless all do. The usual `levels` are the rule, and more neighbours, which cost no accuracy; the image
    ROC AUC of others must be higher by more than twice the standard error: pasted defects have edges, which fine levels
    see, and outline, better than what real ones have.
    """
    limit = max(SLOWEST * sample.planned_ms, min(trial.planned_ms for trial in tried))
    allowed = [trial for trial in tried if trial.planned_ms <= limit]
    best = _quickest_of_best(allowed, sample)
    if usual := [trial for trial in allowed if trial.search.compared_levels == levels]:
        best_usual = _quickest_of_best(usual, sample)
        others = [trial for trial in allowed if trial.search.compared_levels != levels]
        better = [trial for trial in others if _is_better(trial, best_usual, sample)]
        best = _quickest_of_best(better, sample) if better else best_usual
    alike = [trial for trial in allowed if _but_for_neighbours(trial.search) == _but_for_neighbours(best.search)]
    widest = max(alike, key=lambda trial: trial.search.gallery_neighbours)
    return best if _is_better(best, widest, sample) else widest


def scored(of_way: Sequence[Trial], sample: Sample) -> Trial:
    """Return the trial of a way's scores to take: of the usual ones, unless another is clearly better."""
    known = any(needs_own_scores(trial.search) for trial in of_way)  # not in a gallery of few images
    usual = _best(trial for trial in of_way if is_usual(trial.search, known))
    best = max(of_way, key=lambda trial: (trial.image_roc_auc, trial.quality))
    return best if _is_better(best, usual, sample) else usual


def is_usual(search: SearchSettings, known: bool) -> bool:
    """Return whether settings take the scores that are the rule; `known`: whether what neighbours score can be."""
    by_neighbours = search.subtract_neighbours, search.relative_score
    rule = (USUAL_SUBTRACTED, True) if known else (0, False)
    return by_neighbours == rule and search.top_share == USUAL_TOP_SHARE and search.mapped_score == "map"


def _quickest_of_best(trials: Sequence[Trial], sample: Sample) -> Trial:
    """Return the best of the quickest trials within the margin."""
    close = [trial for trial in trials if trial.quality >= _best(trials).quality - MARGIN]
    quickest = max(QUICK * sample.planned_ms, min(trial.planned_ms for trial in close))
    return _best(trial for trial in close if trial.planned_ms <= SAME_SPEED * quickest)


def _is_better(one: Trial, other: Trial, sample: Sample) -> bool:
    """Return whether the image ROC AUC of a trial is higher by more than ERRORS standard errors of the difference."""
    return one.image_roc_auc - other.image_roc_auc > ERRORS * deviation(one.wins - other.wins, sample.owner)
