"""Features to search: those of a CNN on photographs, because random features have nothing in common to prune.

Objects are one photograph cropped repeatedly at nearly the same place; textures are crops, with queries from another
part of the picture than the gallery's; `photos` are crops of any photograph. All pictures come with scikit-image;
nothing is downloaded. `tiles` is a dataset in MVTec layout, searched as the detector does: among the K images of
train/good whose pooled descriptors are nearest to the query's.

There are two queries of each set: a good one, and one with a defect. The features are efficientnet-lite0's, in one of
two shapes:

- `native`: its usual pyramid, weighted by inverse variance, as in a search of its gallery.
- `wrn`: the shapes of WideResNet50-2, whose weights would have to be downloaded: 256, 512 and 1024 channels. The
  expanded features before the projections of the same blocks (144, 240 and 672 channels) are multiplied by a matrix
  with orthonormal columns. That keeps all distances, so that pruning gains what real features allow, at the cost of
  WideResNet50-2. Weights are 1.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from skimage.transform import SimilarityTransform, warp
from torch import Tensor

from spade_index import Preprocessing, find_images, load_backbone
from spade_index.benchmarks.pixel_peers import Search
from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.store.moments import image_moments, moments_variance
from spade_index.images import decode, load, preprocess
from spade_index.method.dataset import GOOD, find_test_images
from spade_index.presets import PAPER_STRIDES

SHAPES = ("wrn", "native")
WRN = {"_blocks.2._swish": 256, "_blocks.4._swish": 512, "_blocks.10._swish": 1024}  # its channels, by level
TILES = "tiles"
BATCH = 8

OBJECTS = {  # file, row and column of the centre, edge of the crop, pixels of shift, degrees of rotation
    "coffee": ("coffee.png", 200, 300, 380, 4, 2),
    "cat": ("chelsea.png", 140, 230, 260, 4, 2),
    "camera": ("camera.png", 200, 250, 400, 12, 10),
}
TEXTURES = ("brick", "grass", "gravel")
TEXTURE_EDGE, GALLERY_PART = 150, 0.68  # pixels of a crop; the left part of the picture is the gallery's
PHOTOS = (
    *("astronaut.png", "coffee.png", "chelsea.png", "camera.png", "coins.png", "rocket.jpg", "page.png", "text.png"),
    *("moon.png", "hubble_deep_field.jpg", "ihc.png"),
)
SETS = (*OBJECTS, *TEXTURES, "photos")


@dataclass(frozen=True)
class Pictures:
    """One query and its gallery."""

    query: str  # `good` or `defective`
    image: np.ndarray  # uint8 [H, W, 3]
    gallery: np.ndarray = field(repr=False)  # uint8 [K, H, W, 3]


def make_pictures(name: str, count: int, edge: int, tiles: Path | None) -> list[Pictures]:
    """Return the good and the defective query of a set, each with `count` gallery images of edge x edge pixels.

    Raises InputError if `tiles` cannot be used.
    """
    preprocessing = Preprocessing(input_size=(edge, edge))
    if name == TILES:
        assert tiles is not None
        return _tile_pictures(tiles, count, preprocessing)
    random = np.random.default_rng(list(name.encode()))
    crops = [Image.fromarray(_crop(name, random, number < count)) for number in range(count + 2)]
    *gallery, good, other = (preprocess(crop, preprocessing)[0] for crop in crops)
    images = {"good": good, "defective": _damaged(other, random)}
    return [Pictures(query, image, np.stack(gallery)) for query, image in images.items()]


def make_search(pictures: Pictures, shapes: str, k: int, mode: str) -> Search:
    """Return the search of a query for its k nearest pixels, in one of `SHAPES`."""
    backbone = _backbone(len(pictures.image), shapes)
    query, pool = (_extract(backbone, images, shapes) for images in (pictures.image[None], pictures.gallery))
    pool = [level.half() for level in pool]
    # As in a gallery: of the stored values of all its images.
    variances = [moments_variance(*image_moments(level.numpy())) for level in pool]
    weights = [1.0 if shapes == "wrn" else 1 / variance for variance in variances]
    return Search(query, pool, backbone.settings.sizes, weights, k, mode)


@cache
def _backbone(edge: int, shapes: str) -> Backbone:
    return load_backbone(
        "efficientnet-lite0",
        preprocessing=lambda default: replace(default, input_size=(edge, edge)),
        strides=PAPER_STRIDES,
        device="cpu",
        # A block calls one activation twice; the last output, which the projection takes, is captured.
        levels=tuple(WRN) if shapes == "wrn" else None,
    )


def _extract(backbone: Backbone, images: np.ndarray, shapes: str) -> list[Tensor]:
    """Return the levels of images uint8 [n, H, W, 3]: float32 [n, H*W, C]."""
    batches = [backbone(images[start : start + BATCH]).pyramid for start in range(0, len(images), BATCH)]
    levels = [torch.cat(parts) for parts in zip(*batches, strict=True)]
    if shapes == "native":
        return levels
    return [level @ _orthonormal(c, level.shape[2]).T for level, c in zip(levels, WRN.values(), strict=True)]


def _orthonormal(rows: int, columns: int) -> Tensor:
    """Return a fixed matrix float32 [rows, columns] with orthonormal columns."""
    random = torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))
    return torch.linalg.qr(random).Q.float()


def _crop(name: str, random: np.random.Generator, gallery: bool) -> np.ndarray:
    """Return a crop of a set, for its gallery or for a query: uint8 [H, W, 3]."""
    if name in OBJECTS:
        file, row, column, edge, shift, turn = OBJECTS[name]
        y, x = row + random.uniform(-shift, shift), column + random.uniform(-shift, shift)
        angle, bright = random.uniform(-turn, turn), random.uniform(0.92, 1.08)
        return _cut(_picture(file), y, x, edge * random.uniform(0.98, 1.02), random, angle, bright)
    if name in TEXTURES:
        picture = _picture(f"{name}.png")
        height, width = picture.shape[:2]
        # The corners of a rotated crop are this far from its centre, so the parts do not overlap.
        reach = TEXTURE_EDGE / 2 * 1.06
        first, last = (0.0, GALLERY_PART * width) if gallery else (GALLERY_PART * width, float(width))
        y, x = random.uniform(reach, height - reach), random.uniform(first + reach, last - reach)
        return _cut(picture, y, x, TEXTURE_EDGE, random, random.uniform(-3, 3), random.uniform(0.95, 1.05))
    picture = _picture(PHOTOS[random.integers(len(PHOTOS))])
    edge = min(picture.shape[:2]) * random.uniform(0.5, 0.9)
    y, x = (random.uniform(edge / 2, extent - edge / 2) for extent in picture.shape[:2])
    return _cut(picture, y, x, edge, random, 0.0, 1.0)


@cache
def _picture(file: str) -> np.ndarray:
    """Return a picture of scikit-image, float32 [H, W, 3] in 0..1."""
    path = Path(skimage.data.__file__).with_name(file)  # skimage.data's functions would download what is not there
    return np.asarray(decode(path.read_bytes(), str(path)), np.float32) / 255


def _cut(
    picture: np.ndarray, y: float, x: float, edge: float, random: np.random.Generator, angle: float, bright: float
) -> np.ndarray:
    """Return a square of `edge` pixels around (y, x), rotated by `angle` degrees, with noise: uint8 [edge, edge, 3]."""
    pixels = round(edge)
    centred = SimilarityTransform(translation=(-pixels / 2, -pixels / 2))
    turned = SimilarityTransform(scale=edge / pixels, rotation=np.deg2rad(angle), translation=(x, y))
    cut = warp(picture, centred + turned, output_shape=(pixels, pixels), order=1, mode="reflect")
    cut = cut * bright + random.normal(0, 0.01, cut.shape)
    return (255 * cut.clip(0, 1)).round().astype(np.uint8)


def _damaged(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the image with a defect: a piece of it, upside down and off colour, in another place."""
    edge = len(image)
    height, width = (round(part * edge) for part in random.uniform(0.06, 0.16, 2))
    top, left = (int(part * edge) for part in random.uniform(0.27, 0.67, 2))
    from_top, from_left = (int(part * edge) for part in random.uniform(0, 0.8, 2))
    piece = image[from_top : from_top + height, from_left : from_left + width][::-1]
    damaged = image.copy()
    damaged[top : top + height, left : left + width] = 0.7 * piece + 0.15 * random.uniform(0, 255, 3)
    return damaged


def _tile_pictures(dataset: Path, count: int, preprocessing: Preprocessing) -> list[Pictures]:
    """Return the first good and the first defective test image, each with the nearest images of train/good."""
    tested = find_test_images(dataset)
    files = list(find_images(dataset / "train" / GOOD))
    if len(files) < count:
        raise InputError(f"{dataset}: train/good has {len(files)} images: ask for no more --neighbours")
    backbone = _backbone(preprocessing.input_size[0], "native")
    gallery = np.stack([load(file, preprocessing).pixels for file in files])
    pooled = torch.cat([backbone(gallery[start : start + BATCH]).pooled for start in range(0, len(files), BATCH)])
    found = []
    for query, wanted in (("good", True), ("defective", False)):
        file = next(image.file for image in tested if (image.kind == GOOD) == wanted)
        image = load(file, preprocessing).pixels
        distances = (pooled - backbone(image[None]).pooled).square().sum(1)
        nearest = distances.topk(count, largest=False).indices.numpy()
        found.append(Pictures(query, image, gallery[nearest]))
    return found
