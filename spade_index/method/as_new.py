"""Feature maps of a gallery's own images, as rough as the backbone gives those of new ones.

What codes leave of a map is lost, so an image as `pq` stores it is smoother than a new one, and nearer to others. A
calibration by such maps would call too many new images anomalous. So noise takes the place of what was left: of each
channel's root mean square over the images that the tables were trained on, and the same each time.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spade_index.gallery.catalog.tables import ImageRow
from spade_index.gallery.reader import Gallery

SEED = 2


def maps_as_new(gallery: Gallery, images: Sequence[ImageRow]) -> list[Tensor]:
    """Return the maps of images of a gallery, float32 [n, H*W, C] of each level, [n, 0, C] if it is not stored.

    Raises what `Gallery.read_maps` does.
    """
    levels = [torch.from_numpy(level).float() for level in gallery.maps([row.key for row in images])]
    for place, row in enumerate(images):
        codec = gallery.storage_of(row.shard).codec
        for number, level in enumerate(levels):
            if (errors := codec.of_level(number).errors) is not None:
                random = np.random.default_rng([SEED, row.key, number])
                level[place] += torch.from_numpy(random.standard_normal(level[place].shape, np.float32) * errors)
    return levels
