"""The contest of ways: what is tried on how many images, by a clock that tells how long each way takes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.method.contest import BASE, FINALISTS, Outcome, hold
from spade_index.method.synthetic import LEAST, draw_sample
from spade_index.method.trials import Trial, Trials
from spade_index.method.ways import kind_of, ways_of
from spade_index.settings import SearchSettings

from helpers.tiny import build, tiny_backbone, write_images

OF_A_QUERY = 0.1  # seconds


class Clock:
    """Stands still but while ways are tried."""

    now = 0.0

    def seconds(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def tiny() -> Backbone:
    return tiny_backbone()


@pytest.fixture(scope="module")
def path(tiny: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contest")
    build(folder / "gallery", write_images(folder / "images", 24), tiny)
    return folder / "gallery"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock by which each query of each way takes as long."""
    clock, run = Clock(), Trials.run

    def timed(self: Trials, search: SearchSettings) -> list[Trial]:
        clock.now += OF_A_QUERY * len(self._neighbours)
        return run(self, search)

    monkeypatch.setattr(Trials, "run", timed)
    monkeypatch.setattr(Trials, "ms", lambda self, search: 1e3 * OF_A_QUERY)
    return clock


def held(path: Path, backbone: Backbone, clock: Clock, until: float, **options: Any) -> tuple[Outcome, int, list[str]]:
    """Hold a contest; return its outcome, the images of the whole sample, and what was told."""
    told: list[str] = []
    with Gallery(path) as gallery:
        sample = replace(draw_sample(gallery, backbone, 60), backbone_ms=1e3)  # so that no way is too slow
        outcome = hold(gallery, sample, clock, until, progress=told.append, **options)  # type: ignore[arg-type]
    return outcome, len(sample.plain), told


def test_with_time_enough_all_ways_are_tried_on_all_images(path: Path, tiny: Backbone, clock: Clock) -> None:
    """And none twice, as a grid finer than what is stored would be."""
    outcome, images, told = held(path, tiny, clock, 1e6)
    assert len(outcome.sample.plain) == images
    assert len(told) == len(outcome.tried)
    with Gallery(path) as gallery:
        assert {kind_of(of_way[0].search) for of_way in outcome.tried} == {*map(kind_of, ways_of(gallery))}
    assert any(of_way[0].search.window is not None for of_way in outcome.tried)
    assert outcome.fixed is not None
    neighbours = {of_way[0].search.gallery_neighbours for of_way in outcome.tried}
    assert neighbours == {BASE[1]}  # a search is quick beside the backbone, so fewer could only win by chance
    with Gallery(path) as gallery:
        grid = Trials(gallery, outcome.sample).grid
        ways = [of_way[0].search for of_way in outcome.tried]
        tried = [(grid(way), way.gallery_neighbours, way.window, kind_of(way)) for way in ways]
    assert len(tried) == len(set(tried))


def test_with_little_time_the_best_of_few_images_are_tried_on_more(path: Path, tiny: Backbone, clock: Clock) -> None:
    outcome, images, told = held(path, tiny, clock, 70)
    count = len(outcome.sample.plain)
    assert LEAST < count < images
    assert told.count(f"the best of {LEAST} images again, on {count}") == 1
    last = [of_way for of_way in outcome.tried if of_way[0].wins.shape == (count, count)]
    assert any(trial is outcome.chosen for of_way in last for trial in of_way)
    assert 1 < len({kind_of(of_way[0].search) for of_way in last}) <= FINALISTS
    assert len(outcome.tried) > len(last)
    assert clock.now <= 70


def test_with_no_time_one_way_is_tried(path: Path, tiny: Backbone, clock: Clock) -> None:
    outcome, _, told = held(path, tiny, clock, 0)
    assert len(told) == len(outcome.tried) == 1


def test_a_number_of_ways_takes_the_time_it_takes(path: Path, tiny: Backbone, clock: Clock) -> None:
    outcome, images, _ = held(path, tiny, clock, 0, ways=3)
    assert len(outcome.tried) == 3
    assert len(outcome.sample.plain) == images
