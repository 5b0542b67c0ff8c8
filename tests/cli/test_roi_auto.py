"""`--roi auto`: the foreground of images of aligned products is the region of interest."""

from pathlib import Path

import numpy as np
from PIL import Image

from helpers.cli_runs import BACKBONE, copied, normal, refused, run


def test_the_foreground_of_aligned_products(tmp_path: Path) -> None:
    """Products before a plain background that is lit differently each time."""
    (tmp_path / "products").mkdir()
    random = np.random.default_rng(3)
    for number in range(12):
        pixels = np.full((70, 90, 3), random.integers(190, 230), float) + random.normal(0, 2, (70, 90, 3))
        pixels[20:50, 25:65] = np.asarray(normal(number)).astype(float)[20:50, 25:65] * 0.5
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / "products" / f"{number:02d}.png")
    said = run("build", tmp_path / "products", tmp_path / "g", *BACKBONE, "--no-tune", "--roi", "auto")
    assert "foreground of 12 images" in run("info", tmp_path / "g").stdout, said.stdout
    run("roi", tmp_path / "g", "--show", tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as shown:
        inside = np.asarray(shown.resize((90, 70))) > 127
    product = np.zeros((70, 90), bool)
    product[20:50, 25:65] = True
    assert inside[product].all()
    assert inside[~product].mean() < 0.15
    run("roi", tmp_path / "g", tmp_path / "shown.png")  # what was shown may be edited, and given again


def test_a_texture_has_no_foreground(built: Path, tmp_path: Path) -> None:
    gallery = copied(built, tmp_path / "g")
    assert "no clear foreground" in refused("roi", gallery, "auto")
    random = np.random.default_rng(4)
    (tmp_path / "texture").mkdir()
    for number in range(12):
        texture = random.integers(0, 256, (70, 90, 3), np.uint8)
        Image.fromarray(texture).save(tmp_path / "texture" / f"{number:02d}.png")
    run("build", tmp_path / "texture", tmp_path / "t", *BACKBONE, "--no-tune")
    assert "no clear foreground" in refused("roi", tmp_path / "t", "auto")
