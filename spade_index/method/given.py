"""What callers of the Python API give: each wrong kind is refused in one line, before anything is computed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import DecodedImage
from spade_index.settings import ExtractionSettings, SearchSettings


def require_parts(gallery: object, backbone: object, search: object) -> None:
    """Raise TypeError if a detector is not made of an open gallery, a backbone and settings."""
    for name, value, kind in (
        ("gallery", gallery, Gallery),
        ("backbone", backbone, Backbone | None),
        ("search", search, SearchSettings | None),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"{name} is {type(value).__name__}, not a {getattr(kind, '__name__', kind)}")


def require_images(images: Sequence[object]) -> None:
    """Raise TypeError if something is no decoded image, as `load` returns it."""
    for image in images:
        if not isinstance(image, DecodedImage):
            raise TypeError(f"an image is {type(image).__name__}: load it first, with spade_index.images.load")


def require_features(settings: ExtractionSettings, pooled: np.ndarray, pyramid: Sequence[Tensor]) -> None:
    """Raise ValueError if features are not those of B images, of finite values.

    Args:
        settings: of the gallery, which has as many levels.
        pooled: descriptors [B, D].
        pyramid: levels [B, H*W, C].
    """
    if not np.isfinite(pooled).all():
        raise ValueError("the descriptors have values that are NaN or infinite")
    if len(pyramid) != len(settings.levels):
        raise ValueError(f"{len(pyramid)} levels of features, but the gallery has {len(settings.levels)}")
    for number, level in enumerate(pyramid):
        if not isinstance(level, Tensor) or level.ndim != 3 or len(level) != len(pooled):
            raise ValueError(f"level {number} is no tensor [{len(pooled)}, H*W, C]")
        if not torch.isfinite(level).all():
            raise ValueError(f"level {number} has values that are NaN or infinite")
