"""Copies with a defect differ from their image by the defect alone, however large the image is."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spade_index.gallery import Gallery
from spade_index.method import synthetic
from spade_index.method.synthetic import draw_sample

from helpers.tiny import build, tiny_backbone, write_images


@pytest.mark.parametrize("size", [(40, 36), (120, 100), (300, 40)])
def test_what_is_beside_the_defect_has_the_features_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """Images that were shrunk before defects were pasted were softer all over: any way told them from the others."""
    monkeypatch.setattr(synthetic, "EDGE", 48)
    backbone = tiny_backbone()
    build(tmp_path / "gallery", write_images(tmp_path / "images", 12, size=size), backbone)
    with Gallery(tmp_path / "gallery") as gallery:
        sample = draw_sample(gallery, backbone, 60)
        of_images = np.stack([gallery.maps([row.key])[0] for row in sample.plain])  # of the finest level, [n, P, C]
    same = (sample.pyramid[0].numpy() == of_images[sample.owner].reshape(sample.pyramid[0].shape)).all(2)
    assert np.median(same.mean(1)) > 0.5
    assert not same.all(1).any()


def test_a_long_image_keeps_the_detail_that_the_backbone_sees() -> None:
    image = Image.new("RGB", (3000, 300))
    assert synthetic._shrunk(image, (224, 224)).shape == (224, 2240, 3)
    assert synthetic._shrunk(image.resize((3000, 3000)), (224, 224)).shape == (640, 640, 3)
    assert synthetic._shrunk(image.resize((3000, 3000)), (896, 896)).shape == (896, 896, 3)
    assert np.prod(synthetic._shrunk(image, (896, 896)).shape[:2]) <= synthetic.PIXELS
