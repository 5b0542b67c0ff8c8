"""A gallery of up to millions of images: real photographs, then descriptors drawn around real ones.

A drawn descriptor is r + 0.7 * sum over j < 8 of g_j * (n_j - r) / sqrt(8): r is a real one chosen at random, n_j are
its nearest others, and g_j is standard normal. Its maps are those of r. Features of photographs are computed once:

    WORK/features/  pooled.npy  float32 [n, D]      maps_0.npy ..  float16 [n, H*W, C]
                    ids.json    [n]                 settings.json  of the extraction
                    nearest_HELD.npy  int64 [n - HELD, 8]          queries.npy  float32 [HELD, D]
"""

import io
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import faiss
import numpy as np
import xxhash
from PIL import Image

from spade_index.benchmarks.harness import Figures
from spade_index.gallery.store.record import ImageOrigin, NewImage, StoredImage
from spade_index.gallery.store.shard_writer import PAGE
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images, load
from spade_index.settings import ExtractionSettings

if TYPE_CHECKING:
    from spade_index.features.backbone import Backbone

BACKBONE = "efficientnet-lite0"
SEED = 0
LOT = 1024  # rows that are drawn and added together, so that an interrupted run draws the same ones
BATCH = 64
AROUND = 8  # real neighbours that a descriptor is drawn between
SPREAD = 0.7
ADDED = "added/"  # prefix of the ids of photographs that are added and removed again
OTHER_BYTES = 2048  # of an image on disk, about: id, thumbnail, catalog


@dataclass(frozen=True)
class Features:
    """The features of all photographs, shuffled. The first `held` are never in the gallery."""

    settings: ExtractionSettings
    pooled: np.ndarray  # float32 [n, D]
    maps: list[np.ndarray]  # float16 [n, H*W, C] of each level
    ids: list[str]
    held: int

    @classmethod
    def read(cls, work: Path, held: int) -> "Features":
        """Map the files that `extract` wrote."""
        folder = work / "features"
        settings = ExtractionSettings.from_json((folder / "settings.json").read_text())
        maps = [np.load(folder / f"maps_{level}.npy", mmap_mode="r") for level in range(len(settings.levels))]
        pooled = np.load(folder / "pooled.npy", mmap_mode="r")
        return cls(settings, pooled, maps, json.loads((folder / "ids.json").read_text()), held)

    @property
    def real(self) -> int:
        """Photographs for the gallery."""
        return len(self.ids) - self.held


def extract(work: Path, photographs: Path, input_size: int, held: int) -> Figures:
    """Write the features of all photographs to WORK/features, unless they are there, and `held` into queries.npy.

    Returns the number of photographs for the gallery and the bytes of an image.
    """
    folder = work / "features"
    if not folder.exists():
        temporary = folder.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _extract(temporary, shuffled(photographs), make_backbone(input_size))
        temporary.rename(folder)
    features = Features.read(work, held)
    np.save(folder / "queries.npy", features.pooled[:held])
    settings = features.settings
    levels = [2 * channels * height * width for channels, height, width in settings.level_shapes]
    paged = sum(math.ceil(size / PAGE) * PAGE if size >= PAGE else size for size in levels)
    return {
        "real": features.real,
        "dim": settings.pooled_dim,
        "map_bytes": settings.map_bytes,
        "row_bytes": paged + 4 * settings.pooled_dim + OTHER_BYTES,
    }


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


def _extract(folder: Path, files: list[ImageFile], backbone: "Backbone") -> None:
    settings = backbone.settings
    maps = [
        np.lib.format.open_memmap(
            folder / f"maps_{level}.npy", "w+", np.float16, (len(files), height * width, channels)
        )
        for level, (channels, height, width) in enumerate(settings.level_shapes)
    ]
    pooled = np.empty((len(files), settings.pooled_dim), np.float32)
    for start in range(0, len(files), BATCH):
        batch = slice(start, start + BATCH)
        features = backbone(np.stack([load(file, settings.preprocessing).pixels for file in files[batch]]))
        pooled[batch] = features.pooled.numpy()
        for level, values in zip(maps, features.pyramid, strict=True):
            level[batch] = values.half().numpy()
    np.save(folder / "pooled.npy", pooled)
    (folder / "ids.json").write_text(json.dumps([file.id for file in files]))
    (folder / "settings.json").write_text(settings.to_json())


@dataclass(frozen=True)
class Rows:
    """Some of the gallery's images."""

    ids: list[str]
    pooled: np.ndarray  # float32 [n, D]
    of: np.ndarray  # int64 [n], the photographs whose maps they have


def rows(features: Features, nearest: np.ndarray, start: int, stop: int) -> Rows:
    """Return the gallery's images `start` to `stop`, which are of one lot; the real ones come first."""
    lot, held, real = start // LOT, features.held, features.real
    numbers = np.arange(start, stop)
    rng = np.random.default_rng((SEED, lot))
    of = held + np.where(numbers < real, numbers, rng.integers(0, real, LOT)[numbers % LOT])
    steps = rng.normal(size=(LOT, AROUND)).astype(np.float32)[numbers % LOT] * np.float32(SPREAD / AROUND**0.5)
    pooled = features.pooled[of]
    drawn = numbers >= real
    around = features.pooled[held + nearest[of[drawn] - held]]  # [m, AROUND, D]
    pooled[drawn] += np.einsum("mj,mjd->md", steps[drawn], around - pooled[drawn][:, None])
    names = [f"drawn/{number:07d}" if number >= real else features.ids[held + number] for number in numbers]
    return Rows(names, pooled, of)


def nearest_real(work: Path, features: Features) -> np.ndarray:
    """Return the (approximately) AROUND nearest other photographs of each in the gallery, int64 [real, AROUND]."""
    file = work / "features" / f"nearest_{features.held}.npy"
    if not file.exists():
        base = np.ascontiguousarray(features.pooled[features.held :])
        lists = max(1, len(base) // 256)
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(base.shape[1]), base.shape[1], lists)
        index.train(base[: 64 * lists])
        index.add(base)
        index.nprobe = min(lists, 8)
        found = index.search(base, AROUND + 1)[1]
        own = found == np.arange(len(base))[:, None]
        own[~own.any(1), -1] = True
        np.save(file, found[~own].reshape(-1, AROUND))
    return np.load(file)


def grow(work: Path, held: int, size: int) -> Figures:
    """Add images to WORK/gallery until it has `size`."""
    features = Features.read(work, held)
    nearest = nearest_real(work, features) if size > features.real else np.empty((0, AROUND), np.int64)
    with GalleryWriter(work / "gallery", features.settings) as writer:
        start = len(writer.gallery)
        for lot in range(start - start % LOT, size, LOT):
            new = rows(features, nearest, max(start, lot), min(size, lot + LOT))
            writer.add_features(_new_images(features, new))
        return {"images": len(writer.gallery), "added": size - start}


def _new_images(features: Features, some: Rows) -> Iterator[NewImage]:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(buffer, "JPEG")
    thumbnail = buffer.getvalue()
    for id, pooled, of in zip(some.ids, some.pooled, some.of, strict=True):
        origin = ImageOrigin(id, xxhash.xxh3_128_digest(id.encode()), f"/{id}", len(thumbnail), 0, 32, 32)
        yield NewImage(origin, StoredImage(pooled, [level[of] for level in features.maps], thumbnail))


def tidy(work: Path, held: int) -> Figures:
    """Remove the images that an interrupted run had added."""
    features = Features.read(work, held)
    with GalleryWriter(work / "gallery", features.settings) as writer:
        return {"removed": remove(writer, [ADDED + id for id in features.ids[:held]])}


def remove(writer: GalleryWriter, ids: list[str]) -> int:
    """Remove those of these images that are in the gallery; return their number."""
    present = list(writer.gallery.catalog.images_by_id(ids, writer.gallery.snapshot))
    if present:
        writer.remove(present)
    return len(present)
