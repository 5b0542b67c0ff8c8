"""Tuning: choose how to compare by synthetic defects on the gallery's own images, without a label.

Defects pasted into normal images rank ways of comparing as real ones do. Each way is tried on the same images, so that
their differences are paired. The quickest way within a small margin of the best is taken, among those whose search does
not take much longer than the backbone.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from itertools import islice, product
from typing import Any

import torch

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import TUNE_FROM, TUNE_SECONDS, SearchSettings

from .quiet_clock import QuietClock
from .scales import scales_of
from .synthetic import IMAGES, LEAST, Sample, draw_sample
from .trials import Trial, Trials, changed, deviation
from .weighing import weigh

BASE = (28, 20)  # cells of the grid's longer edge, and neighbours whose pixels are compared, where ways are tried first
CHEAPER = ((28, 10), (14, 20), (14, 10), (14, 5), (7, 5))  # in its place where that takes too long
GRIDS = (14, 28, 56)
NEIGHBOURS = (5, 10, 20, 50)
WINDOW = 2  # cells around the same place, for products that lie alike in all images
AGAIN = 3  # ways that are tried again at the grid and the number of neighbours that the best one ends with
SLOWEST = 1.3  # milliseconds of a search, at most, per millisecond of the backbone
MARGIN = 0.005  # of the quality, within which the quicker way is taken
SAME_SPEED = 1.25  # times as long: not a difference
USUAL_SHARE = 0.5  # of the neighbours' maps, subtracted
SHARE_OF_BACKBONE = 0.4  # of the time
SHARE_OF_WEIGHING = 0.25  # of the time, where whole pictures are compared beside their tiles
SHARE_OF_A_WAY = 0.08  # of the time: on a slow or busy machine, fewer images are better than few ways


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and what it was chosen from, as a gallery stores it."""

    search: dict[str, Any]  # settings that differ from the defaults
    why: str  # one line
    snapshot: int  # of the gallery
    images: int  # of the gallery
    sample: int  # images of the sample
    pasted: int  # copies with a defect
    quality: float  # of what was chosen, 0..1: by synthetic defects, so not an expected accuracy
    backbone_ms: float  # per image
    created: str  # ISO 8601, UTC
    seconds: float
    tried: list[dict[str, Any]]  # the best trial of each way, in the order of trying

    @property
    def settings(self) -> SearchSettings:
        """The search settings that were chosen."""
        return SearchSettings(**self.search)


def tune(
    gallery: Gallery,
    backbone: Backbone,
    *,
    seconds: float = TUNE_SECONDS,
    ways: int | None = None,
    images: int | None = None,
    progress: Callable[[str], None] = lambda line: None,
    device: torch.device | str | None = None,
    kernel: str | None = None,
    map_memory: int | None = None,
) -> Tuning:
    """Choose search settings for a gallery by synthetic defects on its own images.

    Args:
        gallery: with at least 20 images, whose files can be read where they were added from.
        backbone: the gallery's.
        seconds: that it may take on a machine that does nothing else, approximately, and at most three times as long on
            a busy one; ways that there is no time for are not tried.
        ways: number of ways to try, the most promising first; None: all that there is time for.
        images: of the sample, whatever time that takes, so that the figures of two galleries of the same images can be
            compared; None: up to 60, fewer where time is short.
        progress: told of each way when it has been tried, in one line.
        device: of the pixel search, as for `Detector`.
        kernel: as for `Detector`.
        map_memory: as for `Detector`.

    Raises:
        InputError: the gallery has too few images, or their files cannot be read.
    """
    if len(gallery) < TUNE_FROM:
        raise InputError(f"{gallery.path}: {len(gallery)} images are too few to tune on; add at least {TUNE_FROM}")
    clock = QuietClock()
    if images is not None:
        seconds = math.inf
    sample = draw_sample(gallery, backbone, SHARE_OF_BACKBONE * seconds, images or IMAGES)
    options = {"device": device or backbone.device, "kernel": kernel, "map_memory": map_memory}
    trials = Trials(gallery, sample, **options)
    first = replace(next(ways_of(gallery)), grid=BASE[0], gallery_neighbours=BASE[1])
    of_a_way = SHARE_OF_A_WAY if ways is None else (1 - SHARE_OF_BACKBONE) / ways
    share = of_a_way * seconds / trials.seconds(first)  # of the sample, for which there is time
    if share < 1 and len(sample.plain) > LEAST:
        sample = sample.some(max(LEAST, round(share * len(sample.plain))))
        trials = Trials(gallery, sample, **options)
    scales = scales_of(gallery)
    until = seconds if scales is None else (1 - SHARE_OF_WEIGHING) * seconds
    search = _Search(trials, sample, clock, until, progress)
    search.run(gallery, ways)
    tried = search.tried
    chosen = choose(tried, sample)
    taken, why = chosen.search, _why(chosen, tried)
    rows = [_row(of_way, chosen) for of_way in tried]
    if scales is not None:
        weighed, weight = weigh(gallery, backbone, scales, taken, SHARE_OF_WEIGHING * seconds, **options)
        taken, why = replace(taken, whole_weight=weight), f"{why}; weight of whole pictures {weight:g}"
        rows += [one.row(chosen=one.weight == weight) for one in weighed]
    return Tuning(
        search=changed(taken),
        why=why,
        snapshot=gallery.snapshot,
        images=len(gallery),
        sample=len(sample.plain),
        pasted=len(sample.owner),
        quality=chosen.quality,
        backbone_ms=sample.backbone_ms,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=clock.seconds(),
        tried=rows,
    )


def store(writer: GalleryWriter, tuning: Tuning) -> None:
    """Store a choice in the gallery: queries search so from then on, where nothing else is asked for."""
    writer.set_tuned(asdict(tuning))


class _Search:
    """Tries ways one after the other, and those next that the ones before make promising."""

    def __init__(
        self, trials: Trials, sample: Sample, clock: QuietClock, until: float, progress: Callable[[str], None]
    ) -> None:
        self.tried: list[list[Trial]] = []
        self._trials, self._sample, self._progress = trials, sample, progress
        self._clock, self._until = clock, until
        self._longest = 0.0  # seconds that a way took

    def run(self, gallery: Gallery, ways: int | None) -> None:
        """Try scalings and levels at one grid, then grids, neighbours, a window for the best, then the best three."""
        kinds = list(islice(ways_of(gallery), ways))
        grid, neighbours = BASE
        self._try(replace(kinds[0], grid=grid, gallery_neighbours=neighbours))
        for grid, neighbours in (BASE, *CHEAPER):
            if self._fits(replace(kinds[0], grid=grid, gallery_neighbours=neighbours)):
                break
        for kind in kinds:
            self._try(replace(kind, grid=grid, gallery_neighbours=neighbours))
        if ways is not None:
            return
        best = choose(self.tried, self._sample).search
        for grid, neighbours in product(GRIDS, NEIGHBOURS):
            if self._fits(wanted := replace(best, grid=grid, gallery_neighbours=neighbours)):
                self._try(wanted)
        self._try(replace(choose(self.tried, self._sample).search, window=WINDOW))
        best = choose(self.tried, self._sample).search
        ranked = sorted(self.tried, key=lambda of_way: -_best(of_way).quality)
        pairs = dict.fromkeys((of_way[0].search.scaling, of_way[0].search.compared_levels) for of_way in ranked)
        for scaling, levels in list(pairs)[:AGAIN]:
            self._try(replace(best, scaling=scaling, compared_levels=levels))

    def _try(self, search: SearchSettings) -> None:
        """Try a way, unless it was tried, or there may be no time for it; the first one always."""
        began = self._clock.seconds()
        known = any(_way(of_way[0].search) == _way(search) for of_way in self.tried)
        if known or (self.tried and began + self._longest > self._until):
            return
        self.tried.append(self._trials.run(search))
        self._longest = max(self._longest, self._clock.seconds() - began)
        best = _best(self.tried[-1])
        self._progress(f"{best.image_roc_auc:.3f} {best.pixel_roc_auc:.3f} {best.ms:4.0f} ms  {describe(best.search)}")

    def _fits(self, search: SearchSettings) -> bool:
        """Return whether a search is not expected to take much longer than the backbone, from those that were tried."""
        every = [of_way[0] for of_way in self.tried if of_way[0].search.window is None]
        like = [trial for trial in every if trial.search.compared_levels == search.compared_levels]
        nearest = min(like, key=lambda trial: abs(math.log(self._pairs(trial.search) / self._pairs(search))))
        expected = nearest.ms * self._pairs(search) / self._pairs(nearest.search)
        return expected <= SLOWEST * self._sample.backbone_ms

    def _pairs(self, search: SearchSettings) -> float:
        """Return the number of pairs of pixels that a search without a window compares."""
        height, width = self._trials.grid(search)
        return float((height * width) ** 2 * search.gallery_neighbours)


def _way(search: SearchSettings) -> tuple[object, ...]:
    return search.scaling, search.compared_levels, search.grid, search.gallery_neighbours, search.window


def _best(trials: Iterable[Trial]) -> Trial:
    return max(trials, key=lambda trial: trial.quality)


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


def choose(tried: list[list[Trial]], sample: Sample) -> Trial:
    """Return the trial to take: the best of the quickest way within the margin.

    Ways whose search takes much longer than the backbone are left out, unless all do. The map score and half of the
    neighbours' maps are the rule; another score must be better by more than the standard error.
    """
    limit = max(SLOWEST * sample.backbone_ms, min(of_way[0].ms for of_way in tried))
    allowed = [trial for of_way in tried if of_way[0].ms <= limit for trial in of_way]
    close = [trial for trial in allowed if trial.quality >= _best(allowed).quality - MARGIN]
    quickest = min(trial.ms for trial in close)
    best = _best(trial for trial in close if trial.ms <= SAME_SPEED * quickest)
    of_way = [trial for trial in allowed if _way(trial.search) == _way(best.search)]
    share = min(USUAL_SHARE, max(trial.search.subtract_neighbours for trial in of_way))  # 0 where none can be known
    usual = [trial for trial in of_way if _is_usual(trial.search, share)]
    return best if _is_better(best, _best(usual), sample) else _best(usual)


def _is_usual(search: SearchSettings, share: float) -> bool:
    return search.subtract_neighbours == share and search.mapped_score == "map"


def _is_better(one: Trial, other: Trial, sample: Sample) -> bool:
    """Return whether a trial is better by more than the standard error of the difference of image ROC AUC."""
    return one.quality - other.quality > deviation(one.wins - other.wins, sample.owner)


def _row(of_way: list[Trial], chosen: Trial) -> dict[str, Any]:
    """Return the best trial of a way, or the one chosen of it, in values for JSON."""
    is_chosen = any(trial is chosen for trial in of_way)
    return {**(chosen if is_chosen else _best(of_way)).row(), "chosen": is_chosen}


def _why(chosen: Trial, tried: list[list[Trial]]) -> str:
    fixed = next((of_way for of_way in tried if of_way[0].search.scaling == "none"), tried[0])
    return (
        f"{describe(chosen.search)}: tells synthetic defects from good images with ROC AUC {chosen.image_roc_auc:.3f} "
        f"({_best(fixed).image_roc_auc:.3f} with {describe_pixels(_best(fixed).search)}), {chosen.ms:.0f} ms per search"
    )


def describe(search: SearchSettings) -> str:
    """Return search settings in words, in one line."""
    score = "maximum" if search.top_share == 0 else f"mean of the highest {100 * search.top_share:g} %"
    return (
        f"{describe_pixels(search)}, {search.gallery_neighbours} neighbours, sigma {search.smoothing:g}, "
        f"{search.subtract_neighbours:g} of the neighbours' maps subtracted, {score} of the map"
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
