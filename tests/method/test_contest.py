"""The contest of ways: what is tried on how many images, by what each way is planned to take."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.method import planned
from spade_index.method.contest import (
    BASE,
    ERRORS,
    FINALISTS,
    NEIGHBOURS,
    USUAL_TOP_SHARE,
    Outcome,
    choose,
    hold,
    scored,
)
from spade_index.method.synthetic import LEAST, draw_sample
from spade_index.method.trials import Trial, Trials, deviation
from spade_index.method.ways import kind_of, ways_of
from spade_index.settings import SearchSettings

from helpers.tiny import build, tiny_backbone, write_images

OF_A_QUERY = 0.1  # seconds
OF_MAP: dict[str, Any] = {"top_share": USUAL_TOP_SHARE, "mapped_score": "map"}
USUAL = OF_MAP | {"subtract_neighbours": 0.5, "relative_score": True}


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def path(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contest")
    build(folder / "gallery", write_images(folder / "images", 24), tiny)
    return folder / "gallery"


class Machine:
    """Tries ways in no time, by a clock that shows `times` as long as each was planned to take."""

    def __init__(self) -> None:
        self.planned, self.now, self.times = 0.0, 0.0, 1.0

    def run(self, trials: Trials, search: SearchSettings) -> list[Trial]:
        """Return what trials of a way may find: drawn at random, the same for the same way."""
        self.planned += trials.planned_seconds(search)
        self.now += self.times * trials.planned_seconds(search)
        count = len(trials._sample.plain)
        quality = random.Random(repr(search)).uniform(0.7, 0.9)
        found = Trial(search, quality, quality, 1, trials.planned_ms(search), np.full((count, count), quality))
        return [found, replace(found, search=replace(search, **USUAL))]


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Each query of each way is planned to take as long."""
    machine = Machine()
    monkeypatch.setattr(Trials, "planned_seconds", lambda self, search: OF_A_QUERY * len(self._neighbours))
    monkeypatch.setattr(Trials, "run", lambda self, search: machine.run(self, search))
    monkeypatch.setattr(planned.time, "perf_counter", lambda: machine.now)
    return machine


def held(path: Path, backbone: Backbone, seconds: float, **options: Any) -> tuple[Outcome, int, list[str]]:
    """Hold a contest; return its outcome, the images of the whole sample, and what was told."""
    told: list[str] = []
    with Gallery(path) as gallery:
        sample = replace(draw_sample(gallery, backbone, 60), planned_ms=1e9)  # so that no way is too slow
        outcome = hold(gallery, sample, seconds, progress=told.append, **options)
    return outcome, len(sample.plain), told


def test_with_time_enough_all_ways_are_tried_on_all_images(path: Path, tiny: Backbone) -> None:
    """And none twice, as a grid finer than what is stored would be."""
    outcome, images, told = held(path, tiny, 1e6)
    assert len(outcome.sample.plain) == images
    assert len(told) == len(outcome.tried)
    with Gallery(path) as gallery:
        assert {kind_of(trial.search) for trial in outcome.tried} == {*map(kind_of, ways_of(gallery))}
    assert any(trial.search.window is not None for trial in outcome.tried)
    assert outcome.fixed is not None
    neighbours = {trial.search.gallery_neighbours for trial in outcome.tried}
    assert neighbours == {BASE[1], NEIGHBOURS[0]}  # a search is quick beside the backbone: no reason for fewer
    with Gallery(path) as gallery:
        grid = Trials(gallery, outcome.sample).grid
        ways = [trial.search for trial in outcome.tried]
        tried = [(grid(way), way.gallery_neighbours, way.window, kind_of(way)) for way in ways]
    assert len(tried) == len(set(tried))


def test_with_little_time_the_best_of_few_images_are_tried_on_more(
    path: Path, tiny: Backbone, machine: Machine
) -> None:
    outcome, images, told = held(path, tiny, 70)
    count = len(outcome.sample.plain)
    assert LEAST < count < images
    assert told.count(f"the best of {LEAST} images again, on {count}") == 1
    last = [trial for trial in outcome.tried if trial.wins.shape == (count, count)]
    assert any(trial is outcome.chosen for trial in last)
    assert 1 < len({kind_of(trial.search) for trial in last}) <= FINALISTS
    assert len(outcome.tried) > len(last)
    assert machine.planned <= 70


def test_a_busy_machine_tries_the_same_and_one_much_slower_fewer(path: Path, tiny: Backbone, machine: Machine) -> None:
    def tried() -> list[SearchSettings]:
        return [trial.search for trial in held(path, tiny, 70)[0].tried]

    quiet = tried()
    machine.times = 4.9  # as where others keep the processors busy
    assert tried() == quiet
    machine.times = 30
    assert 1 <= len(tried()) < len(quiet)


def test_with_no_time_one_way_is_tried(path: Path, tiny: Backbone) -> None:
    outcome, _, told = held(path, tiny, 0)
    assert len(told) == len(outcome.tried) == 1


def test_a_number_of_ways_takes_the_time_it_takes(path: Path, tiny: Backbone) -> None:
    outcome, images, _ = held(path, tiny, 0, ways=3)
    assert len(outcome.tried) == 3
    assert len(outcome.sample.plain) == images


def trial(auc: float, ms: float, count: int = 24, **search: object) -> Trial:
    return Trial(SearchSettings(**search), auc, auc, 0, ms, np.full((count, count), auc))


def test_the_quickest_of_the_good_ways_is_chosen(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        sample = replace(draw_sample(gallery, tiny, 60), planned_ms=10.0)
    good, quick, slow = trial(0.9, 10, grid=28), trial(0.897, 4, grid=14), trial(0.99, 50)
    assert choose([good, quick, slow], sample) is quick
    assert choose([good, trial(0.85, 4), slow], sample) is good
    assert choose([slow], sample) is slow
    as_quick = trial(0.9, 8, grid=28)  # beside the 10 ms of the backbone
    assert choose([as_quick, quick], sample) is as_quick


@pytest.mark.parametrize("errors", [0.95 * ERRORS, 1.05 * ERRORS])
def test_other_levels_fewer_neighbours_and_another_score_must_be_clearly_better(
    path: Path, tiny: Backbone, errors: float
) -> None:
    with Gallery(path) as gallery:
        sample = replace(draw_sample(gallery, tiny, 60), planned_ms=10.0)
    noise = np.random.default_rng(0).normal(0, 0.2, (24, 24))
    how = {**USUAL, "compared_levels": (1, 2), "gallery_neighbours": 20}
    usual = trial(0.8, 8, **how)

    def better(ms: float, **search: object) -> Trial:
        of = 0.8 + errors * deviation(noise, sample.owner)
        return replace(trial(of, ms, **how | search), wins=usual.wins + noise)

    clearly = errors > ERRORS
    levels, neighbours = better(8, compared_levels=(0, 1, 2)), better(4, gallery_neighbours=5)
    assert (choose([levels, usual], sample, (1, 2)) is levels) == clearly
    assert (choose([neighbours, usual], sample, (1, 2)) is neighbours) == clearly
    for another in ({"top_share": 0.0}, {"subtract_neighbours": 1.0}, {"relative_score": False}):
        score = better(8, **another)
        assert (scored([score, usual], sample) is score) == clearly


def test_a_clearly_better_way_is_not_hidden_by_one_that_outlines_defects_better(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        sample = replace(draw_sample(gallery, tiny, 60), planned_ms=10.0)
    how = {**USUAL, "gallery_neighbours": 20}
    usual = trial(0.8, 8, **how, compared_levels=(1, 2))
    outlines = replace(trial(0.8, 8, **how, compared_levels=(0, 1, 2)), pixel_roc_auc=1.0)
    better = replace(trial(0.9, 8, **how, compared_levels=(2,)), pixel_roc_auc=0.5)
    assert outlines.quality > better.quality
    assert choose([usual, outlines, better], sample, (1, 2)) is better
    of_way = [replace(one, search=replace(one.search, compared_levels=(1, 2))) for one in (usual, outlines, better)]
    of_way[1:] = [replace(one, search=replace(one.search, top_share=0.003)) for one in of_way[1:]]
    assert scored(of_way, sample) is of_way[2]


def test_without_what_the_neighbours_score_the_usual_score_is_of_the_map_alone(path: Path, tiny: Backbone) -> None:
    with Gallery(path) as gallery:
        sample = draw_sample(gallery, tiny, 60)
    usual, other = trial(0.8, 8, **OF_MAP), trial(0.8, 8)
    assert scored([other, usual], sample) is usual
