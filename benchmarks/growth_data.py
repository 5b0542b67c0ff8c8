"""A gallery of up to millions of images: photographs, then descriptors drawn around theirs.

A drawn descriptor is r + 0.7 * sum over j < 8 of g_j * (n_j - r) / sqrt(8): r is the descriptor of a photograph, each
in turn, n_j are its nearest others, and g_j is standard normal. Its maps are those of r.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
import xxhash
from PIL import Image, ImageOps

from spade_index.gallery import Gallery
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store.record import ImageOrigin, NewImage, StoredImage
from spade_index.gallery.store.storage import NEW_MAPS, MapStorage
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images, load
from spade_index.images.loading import in_lots
from spade_index.presets import PAPER_STRIDES

from .harness import Figures

if TYPE_CHECKING:
    from spade_index.features.backbone import Backbone

BACKBONE = "efficientnet-lite0"
SEED = 0
BATCH = 64
AROUND = 8  # neighbours that a descriptor is drawn between
SPREAD = 0.7
STAY = 0.7  # of a drawn image's places: those with the codes of the photograph that it is drawn around
DRAWN = "drawn/"  # prefix of ids


def make_backbone(input_size: int) -> "Backbone":
    """Return the backbone of all features."""
    from spade_index.features.backbone import load_backbone  # loads torch, which takes seconds

    return load_backbone(
        BACKBONE,
        strides=PAPER_STRIDES,
        preprocessing=lambda default: replace(default, input_size=(input_size, input_size)),
        device="cpu",
    )


def shuffled(photographs: Path) -> list[ImageFile]:
    """Return all photographs, in the same random order every time."""
    files = list(find_images(photographs))
    return [files[place] for place in np.random.default_rng(SEED).permutation(len(files))]


def write_queries(path: Path, photographs: Path, input_size: int, held: int) -> Figures:
    """Write descriptors float32 [held, D] of the first photographs; return the sizes of features, as stored."""
    backbone = make_backbone(input_size)
    settings = backbone.settings
    batches = in_lots(shuffled(photographs)[:held], BATCH)
    pixels = (np.stack([load(file, settings.preprocessing).pixels for file in batch]) for batch in batches)
    np.save(path, np.concatenate([backbone(batch).pooled.numpy() for batch in pixels]))
    return {"dim": settings.pooled_dim, "map_bytes": NEW_MAPS.map_bytes(settings)}


def grow(path: Path, photographs: Path, input_size: int, held: int, size: int) -> Figures:
    """Add images to a gallery until it has `size`: photographs that are not held out, then drawn ones."""
    backbone, files = make_backbone(input_size), shuffled(photographs)[held:][:size]
    with GalleryWriter(path, backbone.settings) as writer:
        writer.add(files, backbone)
        real = [row for row in writer.gallery.images() if not row.id.startswith(DRAWN)]
        writer.add_features(drawn_images(writer.gallery, real, size))
        return {"images": len(writer.gallery), "real": len(real)}


def drawn_images(gallery: Gallery, real: Sequence[ImageRow], size: int) -> Iterator[NewImage]:
    """Yield the images that the gallery lacks to have `size`, drawn around its photographs."""
    if (start := len(gallery)) >= size:
        return
    base = gallery.pooled(real)  # [R, D]
    nearest = faiss.knn(base, base, AROUND + 1)[1][:, 1:]  # [R, AROUND]; the first is the photograph or its copy
    for number in range(start, size):
        row, id = real[number % len(real)], f"{DRAWN}{number:07d}"
        digest = xxhash.xxh3_128_digest(id.encode())
        origin = ImageOrigin(id, digest, f"/{id}", row.size, 0, row.width, row.height)
        yield NewImage(origin, replace(gallery.decoded(row), pooled=draw_descriptor(base, nearest, number)))


def draw_descriptor(base: np.ndarray, nearest: np.ndarray, number: int) -> np.ndarray:
    """Return the drawn descriptor float32 [D] with this number, for base [R, D] and its nearest [R, AROUND]."""
    of = number % len(base)
    weights = SPREAD / AROUND**0.5 * np.random.default_rng((SEED, number)).normal(size=AROUND)
    drawn: np.ndarray = base[of] + weights.astype(np.float32) @ (base[nearest[of]] - base[of])
    return drawn


@dataclass(frozen=True)
class Around:
    """The photographs of a gallery of codes `pq`, which other images are drawn around."""

    rows: Sequence[ImageRow]
    pooled: np.ndarray  # float32 [R, D]
    nearest: np.ndarray  # int64 [R, AROUND]
    codes: list[np.ndarray]  # uint8 [R, places, bytes] of each level, [R, 0, 1] of one that is not stored
    thumbnails: list[bytes]
    storage: MapStorage

    @classmethod
    def photographs(cls, gallery: Gallery, kept: Path) -> "Around":
        """Read all that were not drawn; their nearest are read from a file, or kept in it."""
        rows = [row for row in gallery.images() if not row.id.startswith(DRAWN)]
        with gallery.in_turn():
            stored = [gallery.stored(row) for row in rows]
        pooled = np.stack([one.pooled for one in stored])
        if not kept.exists() or len(np.load(kept)) != len(rows):
            np.save(kept, faiss.knn(pooled, pooled, AROUND + 1)[1][:, 1:])
        sizes = [max(1, size) for size in gallery.storage.codec.sizes]  # type: ignore[attr-defined]
        levels = [np.stack([one.maps[level] for one in stored]) for level in range(len(sizes))]
        codes = [
            level.reshape(len(rows), level.shape[1] // size, size) for level, size in zip(levels, sizes, strict=True)
        ]
        return cls(rows, pooled, np.load(kept), codes, [one.thumbnail for one in stored], gallery.storage)

    def drawn(self, number: int) -> NewImage:
        """Return the drawn image with this number.

        Each place of its maps has the codes that a photograph has there: mostly the one that it is drawn around,
        else one of that one's nearest.
        """
        of, id = number % len(self.rows), f"{DRAWN}{number:07d}"
        random = np.random.default_rng((SEED, number, 1))
        others = np.concatenate([[of], self.nearest[of]])
        maps = []
        for codes in self.codes:
            places = codes.shape[1]
            picked = np.where(random.random(places) < STAY, 0, random.integers(1, AROUND + 1, places))
            maps.append(codes[others[picked], np.arange(places)].ravel())
        pooled = draw_descriptor(self.pooled, self.nearest, number)
        row, digest = self.rows[of], xxhash.xxh3_128_digest(id.encode())
        origin = ImageOrigin(id, digest, f"/{id}", row.size, 0, row.width, row.height)
        return NewImage(origin, StoredImage(pooled, maps, self.thumbnails[of], self.storage))


def altered(folder: Path, files: Sequence[ImageFile], count: int) -> list[ImageFile]:
    """Write crops, turns and shifts of photographs into a folder, those that it lacks, and return `count` of them.

    Each photograph in turn loses up to a quarter of its edge on each side, is turned by up to 10 degrees, shifted by up
    to a tenth of its edge and mirrored or not.
    """
    folder.mkdir(exist_ok=True)
    for number in range(count):
        path = folder / f"{number:07d}.png"
        if not path.exists():
            random = np.random.default_rng((SEED, number, 2))
            with Image.open(io.BytesIO(files[number % len(files)].read())) as image:
                _altered(image.convert("RGB"), random).save(path, compress_level=1)
    return list(find_images(folder))[:count]


def _altered(image: Image.Image, random: np.random.Generator) -> Image.Image:
    edge = min(image.size)
    angle, *shift = random.uniform(-1, 1, 3) * (10, edge / 10, edge / 10)
    turned = image.rotate(angle, Image.Resampling.BICUBIC, translate=(round(shift[0]), round(shift[1])))
    left, top, right, bottom = (int(cut) for cut in random.integers(edge // 8, edge // 4 + 1, 4))
    part = turned.crop((left, top, image.width - right, image.height - bottom))
    return ImageOps.mirror(part) if random.random() < 0.5 else part
