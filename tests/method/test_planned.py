"""What work is planned to take: the same each time, and more for more of it."""

import numpy as np
import pytest

from spade_index.features.backbone import Backbone
from spade_index.method import planned
from spade_index.method.planned import SLOWEST, PlannedClock, seconds_of_backbone, seconds_of_search
from spade_index.settings import Preprocessing

from helpers.tiny import TinyCNN


def test_a_clock_shows_what_was_planned_unless_far_more_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(planned.time, "perf_counter", lambda: now[0])
    clock = PlannedClock()
    clock.spend(2)
    now[0] += 2 * SLOWEST
    assert clock.seconds() == 2
    now[0] += SLOWEST
    assert clock.seconds() == 3


def test_a_backbone_is_planned_by_its_work() -> None:
    def seconds(edge: int) -> float:
        backbone = Backbone("tiny-0", TinyCNN(0), Preprocessing(input_size=(edge, edge)), device="cpu")
        return seconds_of_backbone(backbone, np.zeros((edge, edge, 3), np.uint8))

    assert seconds(32) == seconds(32)
    assert seconds(64) == pytest.approx(4 * seconds(32), rel=0.1)


def test_a_search_is_planned_by_its_work() -> None:
    usual = seconds_of_search([(28, 28), (14, 14)], [40, 112], 20, None)
    assert seconds_of_search([(28, 28), (14, 14)], [40, 112], 10, None) == pytest.approx(usual / 2)
    assert seconds_of_search([(14, 14)], [152], 20, None) < usual / 3
    assert seconds_of_search([(28, 28), (14, 14)], [400, 1120], 20, None) > 2 * usual
    window = seconds_of_search([(28, 28), (14, 14)], [40, 112], 20, 2)
    assert seconds_of_search([(28, 28), (14, 14)], [40, 112], 20, 1) == pytest.approx(window * 9 / 25)
