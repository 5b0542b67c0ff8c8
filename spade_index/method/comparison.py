"""How the pixels of two images are compared: which levels, scaled how, on which grid.

Feature maps are prepared before the pixel search sees them, the query's and the gallery's alike, so every kernel
searches them as they are. A level that is left out is not read. Cells are averaged to the grid of comparison, then a
cell's vector x in a level is scaled to

    none     x, and the level weighs the inverse of its variance
    root     x / sqrt(|x| m), m the mean of |x| over a sample of the gallery: half way between `none` and `length`
    length   x / |x|
    channel  y / |y|, y = (x - mean) / deviation of each channel over the sample
"""

import math
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from spade_index.errors import InputError
from spade_index.features.grids import average, averaged
from spade_index.gallery.compared import compared_levels
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.storage import require_stored
from spade_index.kernels.native.library import hindrance as native_hindrance
from spade_index.kernels.native.preparation import Preparation, Scaled
from spade_index.kernels.pyramid import Size
from spade_index.settings import SearchSettings

SAMPLE = 64  # images that the channels' means and deviations are computed on
SMALLEST = 1e-6  # deviation of a channel, and length of a vector
SAMPLED = ("root", "channel")  # scalings that depend on the sample
PREPARED = 4  # maps that are prepared together, so that they stay in a core's cache


class Moments(NamedTuple):
    """Statistics of a level over a sample of the gallery."""

    mean: Tensor  # float32 [C]
    deviation: Tensor  # float32 [C]
    length: float  # of a pixel's vector, in the mean


class Comparison:
    """The way of comparing that search settings name, for one gallery."""

    def __init__(self, gallery: Gallery, search: SearchSettings) -> None:
        """Read what the way depends on: with scaling `root` or `channel`, maps of up to 64 images.

        Raises InputError if a level or the level weights do not fit the gallery, or it does not store a level.
        """
        settings = gallery.settings
        stored = len(settings.levels)
        self.levels = compared_levels(settings, search)
        if self.levels[-1] >= stored:
            raise InputError(
                f"{gallery.path} has {stored} levels, 0 to {stored - 1}: there is no level {self.levels[-1]}"
            )
        require_stored(gallery.path, gallery.stored_levels, self.levels)
        self._gallery, self._scaling = gallery, search.scaling
        self._stored = [settings.sizes[level] for level in self.levels]
        self._averaged = compared_sizes(gallery, search)
        self._as_stored = self._averaged == self._stored and search.scaling == "none"
        channels = [settings.level_shapes[level][0] for level in self.levels]
        of_gallery = level_weights(gallery, search)
        weights = [of_gallery[level] for level in self.levels]
        # Levels of one size are joined: one product of matrices in place of two. Their values make up for the weights.
        sizes = self._averaged
        starts = [n for n in range(len(sizes)) if self._as_stored or n == 0 or sizes[n] != sizes[n - 1]]
        self._joined = [range(*ends) for ends in pairwise([*starts, len(sizes)])]
        self.sizes = [sizes[start] for start in starts]
        self.weights = [max(weights[level] for level in joined) for joined in self._joined]
        shares = zip(self._joined, self.weights, strict=True)
        self._factors = [math.sqrt(weights[n] / most) if most else 1.0 for joined, most in shares for n in joined]
        self.channels = [sum(channels[level] for level in levels) for levels in self._joined]
        self._moments = self._sampled_moments(channels) if search.scaling in SAMPLED else None

    @property
    def size(self) -> Size:
        """(H, W) of the finest level, after averaging: the grid of comparison."""
        return self.sizes[0]

    def prepare(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Return what is compared, [B, H*W, C] per size, of a pyramid of all stored levels."""
        return self._prepare([pyramid[level] for level in self.levels])

    def read(self, keys: Sequence[int], out: list[list[np.ndarray]]) -> None:
        """Read and prepare the maps of the images with these keys, into float16 [H*W, C] arrays, out[level][image].

        Raises GalleryDamaged if they cannot be read, or have values that are not finite.
        """
        if self._as_stored:
            self._gallery.read_maps(keys, out, self.levels)
            return
        for first in range(0, len(keys), PREPARED):
            some = keys[first : first + PREPARED]
            stored = [level[: len(some)] for level in self._stored_maps]
            self._gallery.read_maps(some, [list(level) for level in stored], self.levels)
            there = [of_size[first : first + PREPARED] for of_size in out]
            if self._native is not None:
                for image in range(len(some)):
                    self._native.write([level[image] for level in stored], [of_size[image] for of_size in there])
                continue
            levels = self._prepare([torch.from_numpy(level).float() for level in stored])
            for of_size, level in zip(there, levels, strict=True):
                for values, prepared in zip(of_size, level.half().numpy(), strict=True):
                    values[:] = prepared

    @cached_property
    def _stored_maps(self) -> list[np.ndarray]:
        """Memory for a few images' maps as they are stored: float16 [PREPARED, H*W, C] of each level."""
        shapes = [self._gallery.settings.level_shapes[level] for level in self.levels]
        return [np.empty((PREPARED, height * width, channels), "<f2") for channels, height, width in shapes]

    @cached_property
    def _native(self) -> Preparation | None:
        """Prepares maps as `_prepare` does; None where it was not compiled for this processor."""
        if native_hindrance() is not None:
            return None
        moments: Sequence[Moments | None] = self._moments or (None,) * len(self.levels)
        levels = [
            Scaled(
                self._stored[number],
                self._averaged[number],
                self._gallery.settings.level_shapes[level][0],
                self._scaling,
                self._factors[number],
                *(() if of_level is None else (of_level.length, of_level.mean.numpy(), of_level.deviation.numpy())),
            )
            for number, (level, of_level) in enumerate(zip(self.levels, moments, strict=True))
        ]
        return Preparation(levels, self._joined)

    def _prepare(self, levels: list[Tensor]) -> list[Tensor]:
        """Average levels [B, H*W, C] to the grid, scale every cell, and join levels of one size, by their weights."""
        if self._as_stored:
            return levels
        levels = [average(*level) for level in zip(levels, self._stored, self._averaged, strict=True)]
        if self._scaling != "none":
            moments: Sequence[Moments | None] = self._moments or (None,) * len(levels)
            levels = [self._scaled(level, of_level) for level, of_level in zip(levels, moments, strict=True)]
        levels = [level * factor for level, factor in zip(levels, self._factors, strict=True)]
        return [torch.cat([levels[level] for level in joined], -1) for joined in self._joined]

    def _scaled(self, level: Tensor, moments: Moments | None) -> Tensor:
        """Scale the vectors of a level [B, H*W, C]."""
        if moments is None:
            return F.normalize(level, dim=-1)
        if self._scaling == "root":
            return level / (level.norm(dim=-1, keepdim=True) * moments.length).sqrt().clamp_min(SMALLEST)
        mean, deviation = (values.to(level.device) for values in (moments.mean, moments.deviation))
        return F.normalize((level - mean) / deviation, dim=-1)

    def _sampled_moments(self, of_levels: Sequence[int]) -> list[Moments]:
        """Return the moments of each level, of as many channels, over a sample of the gallery."""
        keys = [image.key for image in self._gallery.sample(SAMPLE)]
        sums = [torch.zeros(2, channels, dtype=torch.float64) for channels in of_levels]
        lengths = [0.0] * len(sums)
        for key in keys:
            for number, level in enumerate(self._gallery.maps([key], self.levels)):
                (values,) = average(torch.from_numpy(level).double(), self._stored[number], self._averaged[number])
                sums[number] += torch.stack([values.mean(0), values.square().mean(0)])
                lengths[number] += float(values.norm(dim=-1).mean())
        return [_moments(total / len(keys), length / len(keys)) for total, length in zip(sums, lengths, strict=True)]


def _moments(means: Tensor, length: float) -> Moments:
    """Return moments of the mean values and mean squares [2, C] of channels, and the mean length of vectors."""
    mean, square = means
    deviation = (square - mean.square()).clamp_min(0).sqrt().clamp_min(SMALLEST)
    return Moments(mean.float(), deviation.float(), max(length, SMALLEST))


def compared_sizes(gallery: Gallery, search: SearchSettings) -> list[Size]:
    """Return (H, W) of each level that is compared, after averaging; the first is the grid of comparison."""
    sizes = gallery.settings.sizes
    return [averaged(sizes[level], search.grid) for level in compared_levels(gallery.settings, search)]


def level_weights(gallery: Gallery, search: SearchSettings) -> list[float]:
    """Return the weight of each stored level's squared distances.

    Raises:
        InputError: the number of weights is not the number of levels.
    """
    levels = len(gallery.settings.levels)
    if search.level_weights == "equal" or (search.level_weights == "inverse-variance" and search.scaling != "none"):
        return [1.0] * levels
    if search.level_weights == "inverse-variance":
        return [1 / variance for variance in gallery.level_variances()]
    if len(search.level_weights) != levels:
        raise InputError(f"{gallery.path} has {levels} levels: give as many level weights, not {search.level_weights}")
    return [float(weight) for weight in search.level_weights]
