"""Tuning: choose how to compare by synthetic defects on the gallery's own images, without a label.

Defects pasted into normal images rank ways of comparing as real ones do. Each way is tried on the same images, so that
their differences are paired. The quickest way within a small margin of the best is taken, among those whose search does
not take much longer than the backbone (`contest`). How its distances become scores is then chosen on more images
(`score_choice`).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

import torch

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.settings import TUNE_FROM, TUNE_SECONDS, SearchSettings
from spade_index.wording import too_few

from .alone import Alone
from .calibration import can_calibrate
from .contest import EASY, Outcome, hold
from .given import require_tuning
from .pixel_search import Elsewhere
from .quiet_clock import QuietClock
from .scales import scales_of
from .score_choice import RATES, ScoreChoice, choose_scores
from .synthetic import IMAGES, Sample, draw_sample
from .trials import Trial, changed
from .ways import describe, describe_pixels
from .weighing import weigh

SHARE_OF_BACKBONE = 0.4  # of the time, at most
SCALES = (1.0, 0.5, 0.25)  # of the defects' lengths: the first one at which they are not easy is taken
SHARE_OF_CONTEST = 0.6  # of the time: the backbone takes less than its share, but for large ones
SHARE_OF_SCORES = 0.2  # of the time: most of it is taken off that of calibrating
SHARE_OF_WEIGHING = 0.25  # of the time, where whole pictures are compared beside their tiles


@dataclass(frozen=True)
class Tuning:
    """What was chosen, and what it was chosen from, as a gallery stores it."""

    search: dict[str, Any]  # settings that differ from the defaults
    why: str  # one line
    snapshot: int  # of the gallery
    images: int  # of the gallery
    sample: int  # images of the sample
    pasted: int  # copies with a defect
    scale: float  # of the defects' lengths
    quality: float  # of what was chosen, 0..1: by synthetic defects, so not an expected accuracy
    backbone_ms: float  # per image
    created: str  # ISO 8601, UTC
    seconds: float
    tried: list[dict[str, Any]]  # a trial of each way, in the order of trying: of the usual score, if none is better
    alone: list[Alone] = field(default_factory=list, compare=False, repr=False)  # for `calibrate`; it is not stored

    def record(self) -> dict[str, Any]:
        """Return what is stored, in values for JSON."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "alone"}

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
    scale: float | None = None,
    progress: Callable[[str], None] = lambda line: None,
    searched: Callable[[int], None] = lambda images: None,
    device: torch.device | str | None = None,
    kernel: str | None = None,
    map_memory: int | None = None,
    elsewhere: Elsewhere | None = None,
) -> Tuning:
    """Choose search settings for a gallery by synthetic defects on its own images.

    Args:
        gallery: with at least 20 images, whose files can be read where they were added from.
        backbone: the gallery's.
        seconds: that it may take on two cores that do nothing else, approximately: what is tried is planned for these,
            so that every machine tries the same. A slow or busy one takes longer, at most about five times as long.
        ways: number of ways to try, the most promising first; None: all that there is time for.
        images: of the sample, whatever time that takes, so that the figures of two galleries of the same images can be
            compared; None: up to 60, fewer where time is short.
        scale: of the defects' lengths; None: 1, or less where the most promising way finds nearly all of these.
        progress: told of each way when it has been tried, in one line.
        searched: called with 1 after each image that `calibrate` will not have to search for.
        device: of the pixel search, as for `Detector`.
        kernel: as for `Detector`.
        map_memory: as for `Detector`.
        elsewhere: where maps are searched, as for `Detector`.

    Raises:
        InputError: the gallery has too few images, their files cannot be read, or a number is none.
        TypeError: `gallery` or `backbone` is of another kind.
    """
    require_tuning(gallery, backbone, seconds, ways, images, scale)
    if len(gallery) < TUNE_FROM:
        raise InputError(f"{gallery.path}: {too_few(len(gallery), 'image')} to tune on; add at least {TUNE_FROM}")
    backbone = backbone.limited_to(gallery.settings.levels)
    clock, scales = QuietClock(), scales_of(gallery)
    if images is not None:
        seconds = math.inf
    device = device or backbone.device
    options = {"device": device, "kernel": kernel, "map_memory": map_memory, "elsewhere": elsewhere}
    of_scales = SCALES if scale is None else (scale,)
    how = {"ways": ways, "progress": progress, **options}
    sample, outcome = _hold(gallery, backbone, seconds, images or IMAGES, of_scales, how)
    chosen: ScoreChoice | None = None
    alone: list[Alone] = []
    if can_calibrate(gallery) and images is None:
        progress("how scores are made of the distances")
        of_scores = SHARE_OF_SCORES * seconds
        chosen, alone = choose_scores(gallery, sample, outcome.chosen.search, of_scores, searched=searched, **options)
    taken, why = (outcome.chosen if chosen is None else chosen).search, _why(outcome, chosen)
    rows = [_row(trial, outcome.chosen, chosen) for trial in outcome.tried]
    if scales is not None:
        weighed, weight = weigh(gallery, backbone, scales, taken, SHARE_OF_WEIGHING * seconds, **options)
        taken, why = replace(taken, whole_weight=weight), f"{why}; weight of whole pictures {weight:g}"
        rows += [one.row(chosen=one.weight == weight) for one in weighed]
    return Tuning(
        search=changed(taken),
        why=why,
        snapshot=gallery.snapshot,
        images=len(gallery),
        sample=len(outcome.sample.plain),
        pasted=len(outcome.sample.owner),
        scale=sample.scale,
        quality=outcome.chosen.quality,
        backbone_ms=sample.backbone_ms,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=clock.seconds(),
        tried=rows,
        alone=alone,
    )


def _hold(
    gallery: Gallery, backbone: Backbone, seconds: float, images: int, of_scales: Sequence[float], how: dict[str, Any]
) -> tuple[Sample, Outcome]:
    """Hold the contest with defects of the first scale at which they are not easy, or of the last.

    Args:
        gallery: to tune.
        backbone: the gallery's.
        seconds: for all of tuning.
        images: of the sample, at most.
        of_scales: of the defects' lengths.
        how: arguments of `contest.hold`.

    Returns:
        The whole sample, and how the contest ended.
    """
    weighed = SHARE_OF_WEIGHING if scales_of(gallery) is not None else 0
    of_contest, of_backbone = (SHARE_OF_CONTEST - weighed) * seconds, SHARE_OF_BACKBONE * seconds
    for scale in of_scales[:-1]:
        sample = draw_sample(gallery, backbone, of_backbone, images, scale)
        of_backbone -= len(sample.owner) * sample.planned_ms / 1e3
        if (outcome := hold(gallery, sample, of_contest, easy=EASY, **how)) is not None:
            return sample, outcome
        how["progress"]("nearly all synthetic defects are found: smaller ones")
    sample = draw_sample(gallery, backbone, of_backbone, images, of_scales[-1])
    outcome = hold(gallery, sample, of_contest, **how)
    assert outcome is not None
    return sample, outcome


def store(writer: GalleryWriter, tuning: Tuning) -> None:
    """Store a choice in the gallery: queries search so from then on, where nothing else is asked for."""
    writer.set_tuned(tuning.record())


def _row(trial: Trial, chosen: Trial, scores: ScoreChoice | None) -> dict[str, Any]:
    """Return the trial of a way, or of the chosen way what was chosen, in values for JSON."""
    if trial is not chosen or scores is None:
        return {**trial.row(), "chosen": trial is chosen}
    return scores.row(chosen.ms)


def _why(outcome: Outcome, scores: ScoreChoice | None) -> str:
    """Return in one line what was chosen, beside a way without scaling where that was tried on the same images."""
    chosen, fixed = outcome.chosen, outcome.fixed
    search = chosen.search if scores is None else scores.search
    known = f"{describe(search)}: tells synthetic defects from good images with ROC AUC {chosen.image_roc_auc:.3f}"
    if fixed is not None:
        known += f" ({fixed.image_roc_auc:.3f} with {describe_pixels(fixed.search)})"
    if scores is not None:
        known += f", calls {scores.hits:.0%} of them at false alarms of {RATES[0]:.0%} to {RATES[-1]:.0%}"
    return f"{known}, {chosen.ms:.0f} ms per search"
