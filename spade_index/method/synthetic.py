"""A sample of a gallery's own images, plain and with synthetic defects: what ways of comparing are tried on."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import preprocess
from spade_index.images.loading import in_lots
from spade_index.images.tiles import box_of
from spade_index.settings import BATCH_SIZE, Preprocessing

from .defects import paste
from .foreground import own_foreground
from .interest import cells_inside
from .originals import originals
from .planned import PlannedClock, seconds_of_backbone
from .quiet_clock import QuietClock
from .scales import scales_of
from .siblings import place_of_row

IMAGES = 60  # of the sample, at most
PASTED = 3  # defects, one at a time, per image
LEAST = 10  # images; a choice by fewer is chance
EDGE = 640  # pixels: defects are pasted into images of this edge, so that drawing them takes little time
PIXELS = 1 << 20  # of such an image, at most
SHOWN = 112  # longer edge of the masks, in pixels
LIT = 0.25  # share of a pixel of the smaller mask that the defect covers
OBJECTS = 0.9  # share of the images with a clear foreground, from which on they are taken to show objects
BYTES = 512 << 20  # of pasted images' feature maps in memory
QUIET = 0.2  # quantile of times that counts: other work on the machine lengthens the others


@dataclass(frozen=True)
class Sample:
    """n images of a gallery, and m copies of them with one defect each."""

    plain: list[ImageRow]
    owner: np.ndarray  # int64 [m], the plain image that a copy was made of
    pooled: np.ndarray  # float32 [m, D] of the copies
    pyramid: list[Tensor]  # float16 [m, H*W, C] of the copies
    masks: np.ndarray  # bool [m, h, w], True on the defect, as the backbone sees it, at a small size
    backbone_ms: float  # per image, where nothing else takes the processor's time
    planned_ms: float  # the same, as planned: what is chosen does not depend on the machine
    scale: float = 1.0  # of the defects' lengths

    def on(self, plain: list[ImageRow]) -> "Sample":
        """Return the same sample, of the same plain images where they are now."""
        return replace(self, plain=plain)

    def some(self, count: int) -> "Sample":
        """Return `count` of the plain images, evenly spread, with their copies."""
        kept = np.linspace(0, len(self.plain) - 1, count).round().astype(np.int64)
        copies = np.flatnonzero(np.isin(self.owner, kept))
        return replace(
            self,
            plain=[self.plain[image] for image in kept],
            owner=np.searchsorted(kept, self.owner[copies]),
            pooled=self.pooled[copies],
            pyramid=[level[copies] for level in self.pyramid],
            masks=self.masks[copies],
        )


def draw_sample(gallery: Gallery, backbone: Backbone, seconds: float, most: int = IMAGES, scale: float = 1.0) -> Sample:
    """Paste defects into some of the gallery's images and compute their features; the same each time.

    Fewer are taken where the backbone or reading takes long, or where feature maps are large.

    Args:
        gallery: with at least 10 images, whose files can still be read where they were added from.
        backbone: the gallery's.
        seconds: that the backbone may be planned to take, approximately, and that reading may take.
        most: images, at most.
        scale: of the defects' lengths.

    Raises:
        InputError: fewer than 10 of the images can be read, or no defect can be seen in them.
    """
    per_image = PASTED * 2 * sum(c * h * w for c, h, w in gallery.settings.level_shapes)
    rows, scales = gallery.sample(max(LEAST, min(most, BYTES // per_image))), scales_of(gallery)
    rows = [row for row in (rows if scales is None else scales.tiles(rows)) if _counts(gallery, row)]
    images = _read(gallery, rows, seconds)
    if len(images) < LEAST:
        raise InputError(
            f"{gallery.path}: only {len(images)} of its images can be read where they were added from, unchanged; "
            f"tuning needs {LEAST} of them"
        )
    owners: list[int] = []
    masks: list[np.ndarray] = []
    pooled: list[np.ndarray] = []
    levels: list[list[Tensor]] = []
    seconds_of: list[float] = []  # batches, per image
    clock, planned = PlannedClock(), 0.0
    for batch in in_lots(_pasted(images, _where(gallery, images), scale), BATCH_SIZE):
        if clock.seconds() > seconds and len({*owners}) >= LEAST:
            break
        pixels = np.stack([images[owner].changed(copy) for owner, copy, _ in batch])
        planned = planned or seconds_of_backbone(backbone, pixels[0])
        of_batch = QuietClock()
        features = backbone(pixels)
        clock.spend(len(batch) * planned)
        seconds_of.append(of_batch.seconds() / len(batch))
        owners += [owner for owner, _, _ in batch]
        masks += [_small(mask, gallery) for _, _, mask in batch]
        pooled.append(features.pooled.cpu().numpy())
        levels.append([level.half().cpu() for level in features.pyramid])
    if not owners:
        raise InputError(f"{gallery.path}: its images are of one colour: no synthetic defect can be seen in them")
    return Sample(
        plain=[image.row for image in images],
        owner=np.array(owners),
        pooled=np.concatenate(pooled),
        pyramid=[torch.cat(parts) for parts in zip(*levels, strict=True)],
        masks=np.stack(masks),
        backbone_ms=1e3 * float(np.quantile(seconds_of, QUIET)),
        planned_ms=1e3 * planned,
        scale=scale,
    )


@dataclass(frozen=True, eq=False)
class _Plain:
    """An image of the gallery that defects are pasted into, at a size that drawing takes little time at."""

    row: ImageRow
    pixels: np.ndarray  # uint8 [H, W, 3]
    seen: np.ndarray  # uint8 [h, w, 3], as the backbone saw the image when it was added
    how: Preprocessing

    @classmethod
    def of(cls, row: ImageRow, image: Image.Image, how: Preprocessing) -> "_Plain":
        return cls(row, _shrunk(image, how.input_size), preprocess(image, how)[0], how)

    def changed(self, copy: np.ndarray) -> np.ndarray:
        """Return what the backbone sees of a copy with a defect, uint8 [h, w, 3].

        The defect alone is added to what it saw: an image that was shrunk before is softer all over, which would be
        taken for the defect.
        """
        before, after = (preprocess(Image.fromarray(of), self.how)[0].astype(np.int16) for of in (self.pixels, copy))
        return (self.seen + (after - before)).clip(0, 255).astype(np.uint8)


def _read(gallery: Gallery, rows: list[ImageRow], seconds: float) -> list[_Plain]:
    """Return the images that can be read; where that takes longer than this, fewer, at least 10."""
    rows, how = random.Random(0).sample(rows, len(rows)), gallery.settings.preprocessing
    clock = QuietClock()
    images = list[_Plain]()
    for row, image in originals(rows, how):
        images.append(_Plain.of(row, image, how))
        if clock.seconds() > seconds and len(images) >= LEAST:
            break
    return sorted(images, key=lambda image: image.row.key)


def _counts(gallery: Gallery, row: ImageRow) -> bool:
    """Return whether anything of an image is in the region of interest: of a tile, there may be nothing."""
    cells = cells_inside(gallery, place_of_row(gallery, row), (16, 16))
    return cells is None or bool(cells.any())


def _where(gallery: Gallery, images: Sequence[_Plain]) -> list[np.ndarray | None]:
    """Return where defects may lie in each image, bool [H, W]; None: anywhere.

    That is the region of interest, or the object, where images show objects before a plain background: a defect beside
    the object is found by any way.
    """
    if gallery.is_limited:
        return [_inside(gallery, image) for image in images]
    objects = [own_foreground(image.pixels) for image in images]
    clear = sum(one is not None for one in objects)
    return objects if clear >= OBJECTS * len(images) else [None] * len(images)


def _inside(gallery: Gallery, image: _Plain) -> np.ndarray | None:
    """Return which pixels of an image lie in the region of interest, bool [H, W]; None where all count."""
    row = image.row
    box = box_of(row.id, row.width, row.height, image.how)
    return cells_inside(gallery, replace(place_of_row(gallery, row), box=box), image.pixels.shape[:2])


def _pasted(
    images: Sequence[_Plain], insides: Sequence[np.ndarray | None], scale: float
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield (owner, copy, mask), the first copy of every image first, so that what time allows is spread."""
    for number in range(PASTED):
        for owner, image in enumerate(images):
            other, shape = images[(owner + 7 * number + 5) % len(images)].pixels, image.pixels.shape
            if other.shape != shape:
                other = np.asarray(Image.fromarray(other).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
            if (made := paste(image.pixels, other, (owner, number), insides[owner], scale)) is not None:
                yield owner, made.pixels, made.mask


def _small(mask: np.ndarray, gallery: Gallery) -> np.ndarray:
    """Return a mask as the backbone sees the image, at a size of at most 112 pixels: bool [h, w]."""
    how = gallery.settings.preprocessing
    height, width = _shown_size(how.input_size)
    grey = Image.fromarray(mask.astype(np.uint8) * 255).convert("RGB")
    seen, _ = preprocess(grey, how)
    small = Image.fromarray(seen[..., 0]).resize((width, height), Image.Resampling.BOX)
    return np.asarray(small) >= LIT * 255


def _shown_size(input_size: tuple[int, int]) -> tuple[int, int]:
    """Return the size (h, w) of the masks for a backbone's input size."""
    scale = min(1.0, SHOWN / max(input_size))
    return max(1, round(input_size[0] * scale)), max(1, round(input_size[1] * scale))


def _shrunk(image: Image.Image, input_size: tuple[int, int]) -> np.ndarray:
    """Return an image of at most EDGE pixels, or of the input's edges where these are longer, uint8 [H, W, 3]."""
    edges = max(EDGE / max(image.size), input_size[0] / image.height, input_size[1] / image.width)
    scale = min(1.0, edges, (PIXELS / (image.width * image.height)) ** 0.5)
    if scale < 1:
        size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)
