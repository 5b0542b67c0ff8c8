"""Run the command line in tests, on images of one object and small galleries, and parse its output."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner, Result
from PIL import Image

from spade_index.cli import main

from helpers.tiny import random_image

BACKBONE = ["--backbone", "efficientnet-lite0", "--input-size", "64", "--precision", "float32", "--workers", "1"]
SIZE = (90, 70)


def run(*arguments: object, status: int = 0, given: str | None = None) -> Result:
    """Run a command; fail with its output if the exit status is not the expected one. `given` is its input."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.output
    return result


def refused(*arguments: object) -> str:
    """Run a command that must fail; return its one line on standard error."""
    result = run(*arguments, status=1)
    (line,) = result.stderr.splitlines()
    assert line.startswith("spade-index: ")
    return line.removeprefix("spade-index: ")


def objects(result: Result) -> list[dict[str, Any]]:
    """Return the objects that `--json` printed, one per line."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def normal(seed: int) -> Image.Image:
    """Return an image of the object, with noise that depends on the seed."""
    noise = np.random.default_rng(seed).integers(-12, 13, (SIZE[1], SIZE[0], 3))
    return Image.fromarray((np.asarray(random_image(1, SIZE)).astype(int) + noise).clip(0, 255).astype(np.uint8))


def write_normal(folder: Path, count: int, start: int = 0) -> Path:
    """Write `count` images of the object, from 000.png on; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        normal(start + number).save(folder / f"{number:03d}.png")
    return folder


def write_dataset(root: Path) -> Path:
    """Write a dataset in MVTec layout with one kind of defect, a hole; return its folder."""
    write_normal(root / "train" / "good", 12)
    write_normal(root / "test" / "good", 3, start=100)
    for folder in (root / "test" / "hole", root / "ground_truth" / "hole"):
        folder.mkdir(parents=True)
    for number in range(3):
        image, mask = normal(200 + number), Image.new("L", SIZE)
        for picture in (image, mask):
            picture.paste("white", (30, 30, 50, 50))
        image.save(root / "test" / "hole" / f"{number:03d}.png")
        mask.save(root / "ground_truth" / "hole" / f"{number:03d}_mask.png")
    return root


def copied(gallery: Path, to: Path) -> Path:
    """A gallery that a test may change."""
    return Path(shutil.copytree(gallery, to))


def tuned_gallery(images: Path, path: Path, *options: object) -> Path:
    """Build, tune and calibrate a gallery; return it. `build` takes longer to choose, which is tested elsewhere."""
    run("build", images, path, "--backbone", "efficientnet-lite0", *options, "--no-tune")
    run("tune", path, "--seconds", 1)
    return path
