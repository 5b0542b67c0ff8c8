"""The parts of the ablation that are no more than evaluations."""

import numpy as np
import pytest

from spade_index.benchmarks.ablation import ShownRegions, defects
from spade_index.method.dataset import find_test_images

from helpers.datasets import write_dataset


def test_defects_are_drawn_of_all_kinds_in_turns(tmp_path):
    write_dataset(tmp_path / "dataset")
    kinds = sorted({image.kind for image in find_test_images(tmp_path / "dataset")} - {"good"})
    drawn = defects(tmp_path / "dataset", len(kinds) + 1)
    assert [file.id.split("/")[1] for file in drawn] == [*kinds, kinds[0]]
    assert len({file.id for file in drawn}) == len(drawn)
    assert all(file.read() for file in drawn)


def test_shares_of_nothing_are_not_numbers():
    assert all(np.isnan(share) for share in ShownRegions().shares().values())
    shown = ShownRegions()
    shown._good += [True, False]
    assert shown.shares()["good_with_regions"] == pytest.approx(0.5)
