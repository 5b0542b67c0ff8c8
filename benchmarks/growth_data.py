"""A gallery of up to millions of images: photographs, then descriptors drawn around theirs.

A drawn descriptor is r + 0.7 * sum over j < 8 of g_j * (n_j - r) / sqrt(8): r is the descriptor of a photograph, each
in turn, n_j are its nearest others, and g_j is standard normal. Its maps are those of r.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
import xxhash

from spade_index.gallery import Gallery
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.store.record import ImageOrigin, NewImage
from spade_index.gallery.store.storage import NEW_MAPS
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images, load
from spade_index.images.loading import in_lots

from .harness import Figures

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
