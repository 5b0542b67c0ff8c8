"""Workers of a cluster search for a gallery's own images, as to calibrate: what is found is that of one process."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spade_index.cluster import searching
from spade_index.cluster.searching import SearchOnCrew
from spade_index.gallery import Gallery
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images.interest import RegionOfInterest
from spade_index.method.calibration import Calibration, calibrate
from spade_index.method.tuning import tune

from helpers.clusters import SEARCH, WAYS, processes, tiled_backbone
from helpers.tiny import build, tiny_backbone, write_images


def assert_same_scores(found: Calibration, whole: Calibration) -> None:
    """Check that the scores of a gallery's own images are the same, to the bit."""
    assert replace(found, created=whole.created, found=whole.found) == whole
    for name, value in vars(whole.found).items():
        np.testing.assert_equal(vars(found.found)[name], value, err_msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_the_same_calibration_as_by_one_process(gallery: Path, elsewhere: SearchOnCrew, way: str) -> None:
    with Gallery(gallery) as seen:
        found = calibrate(seen, WAYS[way], false_alarms=0.1, elsewhere=elsewhere)
        assert_same_scores(found, calibrate(seen, WAYS[way], false_alarms=0.1))


def test_a_calibration_of_tiles_that_count_in_part(
    tmp_path: Path, elsewhere: SearchOnCrew, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "LOTS", 1)  # more lots than one
    write_images(tmp_path / "images", 12)
    build(tmp_path / "gallery", tmp_path / "images", tiled_backbone(), shard_rows=16)
    with GalleryWriter(tmp_path / "gallery") as writer:
        writer.set_interest(RegionOfInterest(np.tri(8, k=-4, dtype=bool), "test"))
    done: list[int] = []

    def kill(images: int) -> None:
        done.append(images)
        if len(done) == 20:
            processes(elsewhere.crew)[0].kill()

    told.clear()
    with Gallery(tmp_path / "gallery") as seen:
        found = calibrate(seen, SEARCH, false_alarms=0.1, elsewhere=elsewhere, progress=kill)
        assert len(found.found) < len(seen) == sum(done)  # nothing counts of some tiles
        assert_same_scores(found, calibrate(seen, SEARCH, false_alarms=0.1))
    assert len(told) == 1


def test_tuning_chooses_the_same(tmp_path: Path, elsewhere: SearchOnCrew) -> None:
    backbone = tiny_backbone()
    build(tmp_path / "gallery", write_images(tmp_path / "images", 20), backbone, shard_rows=5)
    records = []
    with Gallery(tmp_path / "gallery") as seen:
        for where in (elsewhere, None):
            record = tune(seen, backbone, images=10, ways=1, elsewhere=where).record()
            tried = [{**one, "ms": 0.0} for one in record["tried"]]  # which differs from run to run
            records.append([record[name] for name in ("search", "sample", "pasted", "quality")] + tried)
    assert records[0] == records[1]
