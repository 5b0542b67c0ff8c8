"""Images by the million: real photographs, then descriptors drawn around real ones; and the gallery made of them.

A drawn descriptor is r + 0.7 * sum over j < 8 of g_j * (n_j - r) / sqrt(8): r a real one chosen at random, n_j its
nearest others, g_j standard normal. Its maps are r's. Features of photographs are computed once:

    WORK/features/  pooled.npy  float32 [n, D]      maps_0.npy ..  float16 [n, H*W, C]     moments.npy  int64 [n, L, 3]
                    ids.json    [n]                 settings.json  what they were made with
                    nearest.npy int64 [n - held out, 8]
"""

import io
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import xxhash
from PIL import Image

from spade_index.errors import InputError
from spade_index.gallery.store.moments import image_moments
from spade_index.gallery.store.record import ImageOrigin, NewImage, StoredImage
from spade_index.gallery.store.shard_writer import PAGE
from spade_index.gallery.write.writer import GalleryWriter
from spade_index.images import ImageFile, find_images
from spade_index.images.loading import load_all
from spade_index.settings import ExtractionSettings

if TYPE_CHECKING:
    from spade_index.features.backbone import Backbone

BACKBONE = "efficientnet-lite0"
SEED = 0
LOT = 1024  # rows of a commit; drawn together, so that they are the same wherever a run was interrupted
BATCH = 64
AROUND = 8  # real neighbours that a descriptor is drawn between
SPREAD = 0.7
ADDED = "added/"  # before the ids of photographs that are added and removed again
OTHER_BYTES = 2048  # of an image on disk, about: id, thumbnail, catalog


@dataclass(frozen=True)
class Features:
    """Those of all photographs, shuffled. The first `held` are never in the gallery."""

    settings: ExtractionSettings
    pooled: np.ndarray  # float32 [n, D]
    maps: list[np.ndarray]  # float16 [n, H*W, C] of each level
    moments: np.ndarray  # int64 [n, levels, 3]
    ids: list[str]
    held: int

    @classmethod
    def read(cls, work: Path, held: int) -> "Features":
        """What `extract` wrote, mapped from its files."""
        folder = work / "features"
        settings = ExtractionSettings.from_json((folder / "settings.json").read_text())
        maps = [np.load(folder / f"maps_{level}.npy", mmap_mode="r") for level in range(len(settings.levels))]
        pooled, moments = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("pooled", "moments"))
        return cls(settings, pooled, maps, moments, json.loads((folder / "ids.json").read_text()), held)

    @property
    def real(self) -> int:
        """Photographs for the gallery."""
        return len(self.ids) - self.held


def extract(work: str, photographs: str, input_size: int, held: int) -> dict[str, Any]:
    """Features of all photographs into WORK/features, if they are not there, and the first `held` into queries.npy."""
    folder = Path(work, "features")
    if not folder.exists():
        temporary = folder.with_suffix(".tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        _extract(temporary, shuffled(photographs), make_backbone(input_size))
        temporary.rename(folder)
    features = Features.read(Path(work), held)
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
    """The one that all features are made with."""
    from spade_index.features.backbone import load_backbone  # imports torch, which takes seconds

    return load_backbone(
        BACKBONE, preprocessing=lambda default: replace(default, input_size=(input_size, input_size)), device="cpu"
    )


def shuffled(photographs: str) -> list[ImageFile]:
    """All photographs in the same random order every time."""
    files = list(find_images(photographs))
    return [files[place] for place in np.random.default_rng(SEED).permutation(len(files))]


def _extract(folder: Path, files: list[ImageFile], backbone: "Backbone") -> None:
    settings, kept = backbone.settings, 0
    shapes = [(len(files), height * width, channels) for channels, height, width in settings.level_shapes]
    maps = [
        np.lib.format.open_memmap(folder / f"maps_{level}.npy", "w+", np.float16, shape)
        for level, shape in enumerate(shapes)
    ]
    pooled = np.empty((len(files), settings.pooled_dim), np.float32)
    moments = np.empty((len(files), len(maps), 3), np.int64)
    ids: list[str] = []
    loaded = load_all(files, settings.preprocessing, workers=2, ahead=4 * BATCH, on_error=_raise, processes=True)
    while batch := list(islice(loaded, BATCH)):
        features = backbone(np.stack([image.pixels for image in batch]))
        here = slice(kept, kept + len(batch))
        pooled[here] = features.pooled.numpy()
        for level, values in zip(maps, features.pyramid, strict=True):
            level[here] = values.half().numpy()
        for row in range(here.start, here.stop):
            moments[row] = [image_moments(level[row]) for level in maps]
        ids += [image.file.id for image in batch]
        kept += len(batch)
    np.save(folder / "pooled.npy", pooled)
    np.save(folder / "moments.npy", moments)
    (folder / "ids.json").write_text(json.dumps(ids))
    (folder / "settings.json").write_text(settings.to_json())


def _raise(error: Exception) -> None:
    raise InputError(f"{error}: every photograph is needed")


@dataclass(frozen=True)
class Rows:
    """Some of the gallery's images."""

    ids: list[str]
    pooled: np.ndarray  # float32 [n, D]
    of: np.ndarray  # int64 [n], the photographs whose maps they have


def rows(features: Features, nearest: np.ndarray, start: int, stop: int) -> Rows:
    """The gallery's images `start` to `stop`, all of one lot: the real ones come first."""
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
    """The AROUND nearest other photographs of each one of the gallery, int64 [real, AROUND], about."""
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


def grow(work: str, held: int, size: int) -> dict[str, Any]:
    """Bring WORK/gallery to so many images, from wherever it is."""
    features = Features.read(Path(work), held)
    drawn = size > features.real
    nearest = nearest_real(Path(work), features) if drawn else np.empty((0, AROUND), np.int64)
    with GalleryWriter(Path(work, "gallery"), features.settings) as writer:
        start = len(writer.gallery)
        for first, last in _lots(start, size):
            _commit(writer, features, rows(features, nearest, first, last))
        return {"images": len(writer.gallery), "added": size - start}


def tidy(work: str, held: int) -> dict[str, Any]:
    """Remove the images that a run which was interrupted had added."""
    features = Features.read(Path(work), held)
    with GalleryWriter(Path(work, "gallery"), features.settings) as writer:
        left = added(writer, [ADDED + id for id in features.ids[:held]])
        if left:
            writer.remove(left)
        return {"removed": len(left)}


def added(writer: GalleryWriter, ids: list[str]) -> list[str]:
    """Those of these ids that are in the gallery."""
    return list(writer.gallery.catalog.images_by_id(ids, writer.gallery.snapshot))


def _lots(start: int, stop: int) -> Iterator[tuple[int, int]]:
    while start < stop:
        end = min(stop, (start // LOT + 1) * LOT)
        yield start, end
        start = end


def _commit(writer: GalleryWriter, features: Features, some: Rows) -> None:
    thumbnail = _thumbnail()
    writer.add_features(
        NewImage(
            ImageOrigin(id, xxhash.xxh3_128_digest(id.encode()), f"/{id}", len(thumbnail), 0, 32, 32),
            StoredImage(pooled, [level[of] for level in features.maps], thumbnail),
        )
        for id, pooled, of in zip(some.ids, some.pooled, some.of, strict=True)
    )


def _thumbnail() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(buffer, "JPEG")
    return buffer.getvalue()
