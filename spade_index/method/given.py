"""What callers of the Python API give: each wrong kind is refused in one line, before anything is computed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spade_index.errors import InputError
from spade_index.exact import require_real, require_whole
from spade_index.features.backbone import Backbone
from spade_index.gallery.reader import Gallery
from spade_index.images.decode import DecodedImage
from spade_index.settings import ExtractionSettings, SearchSettings

from .labelled import LabelledImage


def require_kind(name: str, value: object, kind: Any) -> None:
    """Raise TypeError if a value is of another kind."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} is {type(value).__name__}, not a {getattr(kind, '__name__', kind)}")


def require_parts(
    gallery: object, backbone: object, search: object, device: object = None, map_memory: object = None
) -> None:
    """Raise TypeError if a detector is not made of an open gallery, a backbone and settings.

    Raises InputError for a device that is not there, and for a number of bytes that is none.
    """
    require_kind("gallery", gallery, Gallery)
    require_kind("backbone", backbone, Backbone | None)
    require_kind("search", search, SearchSettings | None)
    if map_memory is not None:
        require_whole("map_memory", map_memory, 0)
    if device is None or isinstance(device, torch.device):
        return
    try:
        kind = torch.device(device).type if isinstance(device, str) else ""
    except RuntimeError:  # of several lines
        kind = ""
    if not kind or (kind == "cuda" and not torch.cuda.is_available()):
        raise InputError(f"there is no device {device!r:.100}: give 'cpu', or 'cuda' where there is a GPU")


def require_calibrating(gallery: object, search: object, sample: object, seconds: object) -> None:
    """Raise TypeError or InputError if something to calibrate with is of another kind."""
    require_kind("gallery", gallery, Gallery)
    require_kind("search", search, SearchSettings)
    require_whole("sample", sample, 1)
    if seconds is not None:
        require_real("seconds", seconds, 0)


def require_tuning(
    gallery: object, backbone: object, seconds: object, ways: object, images: object, scale: object
) -> None:
    """Raise TypeError or InputError if something to tune with is of another kind."""
    require_kind("gallery", gallery, Gallery)
    require_kind("backbone", backbone, Backbone)
    require_real("seconds", seconds, 0)
    for name, value in (("ways", ways), ("images", images)):
        if value is not None:
            require_whole(name, value, 1)
    if scale is not None:
        require_real("scale", scale, 0)


def require_test_set(
    detector: Any, images: Sequence[object], metric_size: object, batch_size: object, workers: object
) -> None:
    """Raise TypeError, ValueError or InputError if something to evaluate with is of another kind."""
    if detector.backbone is None:
        raise ValueError("this detector has no backbone")
    for image in images:
        require_kind("an image", image, LabelledImage)
    require_whole("batch_size", batch_size, 1)
    require_whole("workers", workers, 1)
    if metric_size is not None:
        require_whole("metric_size", metric_size, 1)


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
