"""A tiny backbone, tiny images, and galleries of them."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from spade_index.features.backbone import Backbone
from spade_index.gallery import Gallery
from spade_index.gallery.index.search import Neighbour
from spade_index.gallery.store.record import ImageOrigin, NewImage, StoredImage
from spade_index.gallery.write.admission import AddReport
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images
from spade_index.settings import ExtractionSettings, Preprocessing

INPUT = 32  # pixels; levels of 8x8, 4x4 and 2x2


class ExactConv(nn.Conv2d):
    """A convolution whose sums are float64, so that results do not depend on the batch size or the processor."""

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] to maps of the same dtype."""
        assert self.bias is not None
        maps = F.conv2d(images.double(), self.weight.double(), self.bias.double(), self.stride)
        return maps.to(images.dtype)


class TinyCNN(nn.Module):
    """Strided convolutions with random weights: feature maps at strides 4, 8 and 16."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.fine = ExactConv(3, 6, 4, stride=4)
        self.middle = ExactConv(6, 8, 2, stride=2)
        self.coarse = ExactConv(8, 12, 2, stride=2)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                fan_in = parameter[0].numel()
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 2 / fan_in**0.5)
            self.fine.weight *= 4  # levels differ in scale

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] to the last map [B, 12, H/16, W/16]."""
        fine = self.fine(images)
        middle = self.middle((fine / 4).tanh())
        return self.coarse(middle.tanh())


def tiny_backbone(seed: int = 0, size: int = INPUT) -> Backbone:
    """A backbone of TinyCNN; another seed has other weights."""
    preprocessing = Preprocessing(input_size=(size, size))
    return Backbone(f"tiny-{seed}", TinyCNN(seed), preprocessing, device="cpu", precision="float32")


def random_image(seed: int, size: tuple[int, int] = (40, 36)) -> Image.Image:
    """Return an image of smooth blobs with noise, (width, height) pixels; the same for the same seed."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noisy = np.asarray(blobs).astype(int) + rng.integers(-12, 13, (size[1], size[0], 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_images(folder: Path, count: int, seed: int = 0, size: tuple[int, int] = (40, 36)) -> Path:
    """Write `count` images 000.png, 001.png ... into a folder; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        random_image(1000 * seed + number, size).save(folder / f"{number:03d}.png")
    return folder


def build(
    path: Path,
    images: Path,
    backbone: Backbone,
    *,
    shard_rows: int | None = None,
    index: bool = True,
    maps: str | None = "float16",
    **options: object,
) -> AddReport:
    """Build a gallery or carry on, as `spade-index build` does; of plain maps, whose bytes tests can find.

    With `maps=None`, images are added to a gallery of any codec.
    """
    with GalleryWriter(path, backbone.settings, maps=maps) as writer:
        if shard_rows:
            writer.shard_rows = shard_rows
        report = writer.add(find_images(images), backbone, **options)
        if index and writer.index_is_stale():
            writer.build_index()
    return report


def image_file(id: str, data: bytes, mtime_ns: int = 1) -> ImageFile:
    """Return an image file in memory."""
    return ImageFile(id, f"/nowhere/{id}", len(data), mtime_ns, lambda: data)


def png(seed: int) -> bytes:
    """Return the PNG file of `random_image`."""
    buffer = io.BytesIO()
    random_image(seed).save(buffer, "PNG")
    return buffer.getvalue()


def new_image(id: str, pooled: np.ndarray, maps: list[np.ndarray], thumbnail: bytes = b"thumbnail") -> NewImage:
    """Return an image with pooled float32 [D], maps float16 [H*W, C] for each level, and a made-up origin."""
    return NewImage(ImageOrigin(id, id.encode(), f"/{id}", 1, 1, 1, 1), StoredImage(pooled, maps, thumbnail))


def random_images(settings: ExtractionSettings, count: int, seed: int = 0) -> list[NewImage]:
    """Return images with random features."""
    rng = np.random.default_rng(seed)
    return [
        new_image(
            f"folder/ünï-{number}.png",
            rng.normal(size=settings.pooled_dim).astype(np.float32),
            [rng.normal(size=(h * w, c)).astype(np.float16) for c, h, w in settings.level_shapes],
            rng.bytes(20 + 7 * number),
        )
        for number in range(count)
    ]


def files_of(path: Path) -> set[str]:
    """Return the paths of all files below a folder, relative to it."""
    return {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def parts_of(path: Path) -> set[str]:
    """Return the files that a gallery consists of without unused ones: what `files_of` should return."""
    with Gallery(path) as gallery:
        catalog = gallery.catalog
        shards = {f"shards/{row.file}" for row in catalog.shards().values()}
        index = {f"index/{Path(file).with_suffix(end)}" for file in catalog.index_files() for end in (".faiss", ".h5")}
        return shards | index | {"catalog.sqlite", "catalog.check", "writer.lock", f"readers/{catalog.generation()}"}


def put(path: Path, settings: ExtractionSettings, descriptors: np.ndarray, ids: Sequence[str]) -> None:
    """Add made-up images with these pooled descriptors float32 [n, D] to a gallery, as one commit."""
    maps = random_images(settings, 1)[0].stored.maps
    with GalleryWriter(path, settings) as writer:
        writer.add_features(new_image(id, pooled, maps) for id, pooled in zip(ids, descriptors, strict=True))


def brute_force(query: np.ndarray, images: dict[str, np.ndarray], k: int) -> list[tuple[str, float]]:
    """Return ids and squared distances of the k nearest `images`, computed in float64, ties to the lowest id."""
    if not images:
        return []
    differences = np.stack(list(images.values())).astype(float) - query
    distances = (differences**2).sum(1).astype(np.float32).tolist()
    return [(id, distance) for distance, id in sorted(zip(distances, images, strict=True))[:k]]


def plain(neighbours: list[Neighbour]) -> list[tuple[str, float]]:
    """Return neighbours as `brute_force` does."""
    return [(n.id, n.distance) for n in neighbours]
