"""The products that are drawn: the same each time, with defects that can be seen where their masks are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.benchmarks import drawn_sets
from spade_index.benchmarks.drawn_sets import PRODUCTS, draw_normal, draw_tests
from spade_index.method.dataset import find_dataset


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_defect_changes_its_mask_alone(product: str) -> None:
    make, spoil = PRODUCTS[product]
    random = np.random.default_rng(3)
    for _ in range(4):
        drawn = make(random)
        pixels, mask, _ = spoil(drawn, random)
        changed = abs(pixels - drawn.pixels).max(2)
        assert changed[~mask].max() == 0
        assert np.median(changed[mask]) > 4
        assert (pixels.shape, mask.dtype) == ((512, 512, 3), bool)


def test_a_set_is_a_dataset_and_the_same_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawn_sets, "GOOD", 2)
    monkeypatch.setattr(drawn_sets, "DEFECTIVE", 3)
    one, again = (draw_tests("pill", tmp_path / name) for name in ("one", "again"))
    for folder in (one, again):
        draw_normal("pill", folder / "train" / "good", 2, drawing=0)
    found = find_dataset(one)
    assert len(found.test) == 5
    assert sum(image.mask is not None for image in found.test) == 3
    for path in one.rglob("*.png"):
        np.testing.assert_array_equal(Image.open(path), Image.open(again / path.relative_to(one)))
