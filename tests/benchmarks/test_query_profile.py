"""Tests of the stages of a query."""

from spade_index import Detector, Gallery, find_images
from spade_index.benchmarks.query_profile import clocked, profile

from helpers.tiny import build, tiny_backbone, write_images


def test_each_stage_of_a_query_is_timed(tmp_path):
    images, backbone = write_images(tmp_path / "images", 4), tiny_backbone()
    build(tmp_path / "gallery", images, backbone)
    with Gallery(tmp_path / "gallery") as gallery:
        rows = profile(Detector(gallery, backbone), list(find_images(images)))
    assert len(rows) == 4
    for row in rows:
        whole = row.pop("whole query")
        assert set(row) == {"decoding", "backbone", "nearest images", "reading maps", "pixel search", "score map"}
        assert all(0 < seconds < whole for seconds in row.values())
        assert sum(row.values()) <= whole


def test_calls_of_a_stage_add_up_and_the_function_is_restored():
    class Owner:
        def work(self, value, *, more):
            return value + more

    owner = Owner()
    with clocked({"work": (owner, "work")}) as seconds:
        assert owner.work(1, more=2) == 3
        once = seconds["work"]
        owner.work(1, more=2)
    assert 0 < once < seconds["work"]
    assert "work" not in vars(owner)
