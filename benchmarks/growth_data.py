"""A gallery of up to millions of images: photographs, then descriptors drawn around theirs.

A drawn descriptor is r + 0.7 * sum over j < 8 of g_j * (n_j - r) / sqrt(8): r is the descriptor of a photograph, each
in turn, n_j are its nearest others, and g_j is standard normal. Its maps are those of r.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
import xxhash
from PIL import Image

from spade_index.benchmarks.harness import Figures
from spade_index.gallery import Gallery
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store.record import ImageOrigin, NewImage, StoredImage
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images, load
from spade_index.images.loading import in_lots, pays_in_processes

if TYPE_CHECKING:
    from spade_index.features.backbone import Backbone

BACKBONE = "efficientnet-lite0"
SEED = 0
BATCH = 64
AROUND = 8  # neighbours that a descriptor is drawn between
SPREAD = 0.7
DRAWN = "drawn/"  # prefix of ids


def make_backbone(input_size: int) -> "Backbone":
    """Return the backbone of all features."""
    from spade_index.features.backbone import load_backbone  # loads torch, which takes seconds

    return load_backbone(
        BACKBONE, preprocessing=lambda default: replace(default, input_size=(input_size, input_size)), device="cpu"
    )


def shuffled(photographs: Path) -> list[ImageFile]:
    """Return all photographs, in the same random order every time."""
    files = list(find_images(photographs))
    return [files[place] for place in np.random.default_rng(SEED).permutation(len(files))]


def write_queries(path: Path, photographs: Path, input_size: int, held: int) -> Figures:
    """Write descriptors float32 [held, D] of the first photographs; return the sizes of features."""
    backbone = make_backbone(input_size)
    settings = backbone.settings
    batches = in_lots(shuffled(photographs)[:held], BATCH)
    pixels = (np.stack([load(file, settings.preprocessing).pixels for file in batch]) for batch in batches)
    np.save(path, np.concatenate([backbone(batch).pooled.numpy() for batch in pixels]))
    return {"dim": settings.pooled_dim, "map_bytes": settings.map_bytes}


def grow(path: Path, photographs: Path, input_size: int, held: int, size: int) -> Figures:
    """Add images to a gallery until it has `size`: photographs that are not held out, then drawn ones."""
    backbone, files = make_backbone(input_size), shuffled(photographs)[held:][:size]
    with GalleryWriter(path, backbone.settings) as writer:
        writer.add(files, backbone, processes=pays_in_processes(files))
        real = [row for row in writer.gallery.images() if not row.id.startswith(DRAWN)]
        writer.add_features(drawn_images(writer.gallery, real, size))
        return {"images": len(writer.gallery), "real": len(real)}


def drawn_images(gallery: Gallery, real: Sequence[ImageRow], size: int) -> Iterator[NewImage]:
    """Yield the images that the gallery lacks to have `size`, drawn around its photographs."""
    if (start := len(gallery)) >= size:
        return
    base = gallery.pooled(real)  # [R, D]
    nearest = faiss.knn(base, base, AROUND + 1)[1][:, 1:]  # [R, AROUND]; the first is the photograph or its copy
    thumbnail = _grey_jpeg()
    for numbers in in_lots(range(start, size), BATCH):
        around = np.array(numbers) % len(real)
        maps = gallery.maps([real[of].key for of in around])
        for place, (number, pooled) in enumerate(zip(numbers, draw_descriptors(base, nearest, numbers), strict=True)):
            id = f"{DRAWN}{number:07d}"
            origin = ImageOrigin(id, xxhash.xxh3_128_digest(id.encode()), f"/{id}", len(thumbnail), 0, 32, 32)
            yield NewImage(origin, StoredImage(pooled, [level[place] for level in maps], thumbnail))


def draw_descriptors(base: np.ndarray, nearest: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Return the drawn descriptors float32 [n, D] of images by number, for base [R, D] and its nearest [R, AROUND]."""
    of = np.array(numbers) % len(base)
    steps = np.stack([np.random.default_rng((SEED, number)).normal(size=AROUND) for number in numbers])
    steps = (SPREAD / AROUND**0.5 * steps).astype(np.float32)
    drawn: np.ndarray = base[of] + np.einsum("nj,njd->nd", steps, base[nearest[of]] - base[of][:, None])
    return drawn


def _grey_jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(buffer, "JPEG")
    return buffer.getvalue()
