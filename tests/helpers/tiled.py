"""Galleries of tiles: pictures of several sizes, tiles of 32 pixels, and a backbone that fails when it is told."""

import io
from dataclasses import replace

from torch import Tensor

from spade_index.errors import InputError
from spade_index.features.backbone import Backbone
from spade_index.images.files import ImageFile
from spade_index.images.tiles import part_ids
from spade_index.settings import ExtractionSettings

from helpers.tiny import TinyCNN, image_file, random_image, tiny_backbone

SIZES = [(80, 56), (56, 80), (33, 32), (20, 90)]  # of versions of a picture, (width, height)


class Failing(TinyCNN):
    """Fails after some batches, with an error after which all that has features is committed, as after Ctrl-C."""

    left = 10**9

    def forward(self, images: Tensor) -> Tensor:
        """As TinyCNN's."""
        if not self.left:
            raise InputError("it was interrupted")
        self.left -= 1
        return super().forward(images)


def tiled_settings(
    backbone: Backbone | None = None, tile: int = 32, overlap: float = 0.25, *, whole: bool = False
) -> ExtractionSettings:
    """Return the settings of a gallery of tiles."""
    of = (backbone or tiny_backbone()).settings
    return replace(of, preprocessing=replace(of.preprocessing, tile=tile, overlap=overlap, whole=whole))


def failing_backbone(batches: int) -> Backbone:
    """Return `tiny_backbone`, which fails after this number of batches."""
    module = Failing()
    module.left = 10**9
    backbone = Backbone("tiny-0", module, tiny_backbone().settings.preprocessing, device="cpu", precision="float32")
    module.left = batches
    return backbone


def picture(id: str, version: int, seed: int = 0) -> ImageFile:
    """Return a picture in memory; its versions have sizes of their own."""
    buffer = io.BytesIO()
    random_image(100 * seed + version, SIZES[version]).save(buffer, "PNG")
    return image_file(id, buffer.getvalue(), mtime_ns=version)


def tiles(id: str, version: int) -> list[str]:
    """Return the ids of the tiles of a version of a picture."""
    return part_ids(id, *SIZES[version], tiled_settings().preprocessing)
