"""A demonstration that needs no data: photographs of textures that scikit-image ships, with drawn defects."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFilter

from spade_index.features.backbone import load_backbone
from spade_index.method.dataset import build_gallery, find_test_images
from spade_index.method.detector import Detector
from spade_index.method.evaluation import evaluate
from spade_index.settings import SearchSettings
from spade_index.views.evaluation import COLUMNS, examples_of, rows_of
from spade_index.views.example import Example
from spade_index.views.heatmap import score_limits
from spade_index.views.montage import montage
from spade_index.views.report import Table, write_report

from .progress import Progress

TEXTURES = ("brick", "gravel", "grass")  # photographs of 512x512 pixels, CC0
EDGE = 160  # pixels of a crop
HELD_OUT = (176, 336)  # columns that the test set's crops come from; the gallery's lie to the left and right of them
NORMAL, TEST = 60, 6  # images in each gallery; good ones and ones of each kind of defect in each test set
Drawn = tuple[Image.Image, Image.Image]  # an image with a defect, and its mask
SEARCH = SearchSettings(gallery_neighbours=20)


def run_demo(out: Path, say: Callable[[str], None]) -> None:
    """Make a dataset of each texture, build its gallery, evaluate it, and write `report.html` and `demo.png`."""
    backbone = load_backbone("efficientnet-lite0")
    figures: dict[str, dict[str, Any]] = {}
    examples: list[Example] = []
    with ExitStack() as stack:
        for texture in TEXTURES:
            dataset = out / "data" / texture
            make_dataset(dataset, texture)
            with Progress("build") as progress:
                built = build_gallery(
                    dataset, out / "galleries" / texture, backbone, notice=progress.say, progress=progress
                )
            gallery = stack.enter_context(built)
            detector = Detector(gallery, backbone, SEARCH)
            evaluation = evaluate(detector, find_test_images(dataset))
            say(f"{texture}: {len(gallery)} images in the gallery, {len(evaluation.judged)} tested")
            figures[texture] = evaluation.summary(detector.kind)
            # A scale for each texture: one is far more regular than another.
            limits = score_limits([judged.counted for judged in evaluation.judged])
            examples += examples_of(detector, evaluation, 1, limits)
    _write(out, figures, examples)
    for texture, of in figures.items():
        say(
            f"{texture:8} image ROC AUC {of['image_roc_auc']:.3f}, pixel {of['pixel_roc_auc']:.3f}, PRO {of['pro']:.3f}"
        )
    example = out / "data" / TEXTURES[0] / "test" / "scratch" / "000.png"
    say(
        f"look at {out / 'report.html'}; try: spade-index query {out / 'galleries' / TEXTURES[0]} {example} --out found"
    )


def _write(out: Path, figures: dict[str, dict[str, Any]], examples: list[Example]) -> None:
    write_report(
        out / "report.html",
        title="spade_index: made defects in photographed textures",
        summary=[
            ("Backbone", "efficientnet-lite0"),
            ("Galleries", f"{len(TEXTURES)} of {NORMAL} crops"),
            ("Test images", sum(of["images"] for of in figures.values())),
            ("Neighbours searched", SEARCH.gallery_neighbours),
        ],
        tables=[
            Table("Figures", ["Dataset", *COLUMNS], [[name, *rows_of(of)[-1][1:]] for name, of in figures.items()])
        ],
        examples=examples,
    )
    montage(_one_of_each(examples), out / "demo.png")
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")


def make_dataset(root: Path, texture: str) -> None:
    """Write crops of one photograph as a dataset in MVTec layout; the same files on every call."""
    random = np.random.default_rng(0)
    photograph = getattr(skimage.data, texture)()  # uint8 [512, 512]
    other = getattr(skimage.data, TEXTURES[TEXTURES.index(texture) - 1])()
    for number in range(NORMAL):
        _save(_crop(photograph, random, held_out=False), root / "train" / "good" / f"{number:03d}.png")
    for number in range(TEST):
        _save(_crop(photograph, random, held_out=True), root / "test" / "good" / f"{number:03d}.png")
    for kind, draw in DEFECTS.items():
        for number in range(TEST):
            image, mask = draw(_crop(photograph, random, held_out=True), random, other)
            _save(image, root / "test" / kind / f"{number:03d}.png")
            _save(mask, root / "ground_truth" / kind / f"{number:03d}_mask.png")


def scratch(image: Image.Image, random: np.random.Generator, other: np.ndarray) -> Drawn:
    """Draw a thin bright line with a bend."""
    mask = Image.new("L", image.size)
    points = [tuple(point) for point in random.uniform(0.2 * EDGE, 0.8 * EDGE, (3, 2)).tolist()]
    ImageDraw.Draw(mask).line(points, fill=255, width=4, joint="curve")
    bright = Image.new("L", image.size, 235)
    return Image.composite(bright, image, mask.filter(ImageFilter.GaussianBlur(0.7))), mask


def stain(image: Image.Image, random: np.random.Generator, other: np.ndarray) -> Drawn:
    """Draw a soft dark blot: the texture is still there, darker and blurred."""
    mask = _blot(random, 0.1, 0.16)
    dull = image.filter(ImageFilter.GaussianBlur(3)).point(lambda value: value * 0.55)
    return Image.composite(dull, image, mask.filter(ImageFilter.GaussianBlur(2))), mask


def foreign(image: Image.Image, random: np.random.Generator, other: np.ndarray) -> Drawn:
    """Paste a piece of another texture, as bright as what it covers."""
    mask = _blot(random, 0.1, 0.16)
    piece = np.asarray(_crop(other, random, held_out=True)).astype(np.float32)
    piece += np.asarray(image).mean() - piece.mean()
    return Image.composite(Image.fromarray(piece.clip(0, 255).astype(np.uint8)), image, mask), mask


DEFECTS = {"scratch": scratch, "stain": stain, "foreign": foreign}


def _blot(random: np.random.Generator, smallest: float, largest: float) -> Image.Image:
    mask = Image.new("L", (EDGE, EDGE))
    x, y = random.uniform(0.3 * EDGE, 0.7 * EDGE, 2)
    width, height = random.uniform(smallest * EDGE, largest * EDGE, 2)
    ImageDraw.Draw(mask).ellipse((x - width, y - height, x + width, y + height), fill=255)
    return mask


def _crop(photograph: np.ndarray, random: np.random.Generator, held_out: bool) -> Image.Image:
    edge, (first, last) = photograph.shape[1], HELD_OUT
    if not held_out:
        first, last = ((0, first), (last, edge))[random.integers(2)]
    left = int(random.integers(first, last - EDGE + 1))
    top = int(random.integers(0, photograph.shape[0] - EDGE + 1))
    return Image.fromarray(photograph[top : top + EDGE, left : left + EDGE])


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _one_of_each(examples: list[Example]) -> list[Example]:
    """Return an example of one defect per texture, each of another kind, and of one good image."""
    per_texture = len(DEFECTS) + 1
    chosen = [examples[texture * per_texture + texture] for texture in range(len(TEXTURES))]
    return [*chosen, examples[-1]]
