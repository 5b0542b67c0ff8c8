"""How the pixels of two images are compared: which levels, scaled how, on which grid.

Feature maps are prepared before the pixel search sees them (`kernels.preparation`), the query's and the gallery's
alike, so every kernel searches them as they are. A level that is left out is not read. With scaling `none`, a level
weighs the inverse of its variance.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from spade_index.errors import InputError
from spade_index.features.grids import averaged
from spade_index.gallery.compared import compared_levels
from spade_index.gallery.reader import Gallery
from spade_index.gallery.store.codecs import Affine, MapCodec
from spade_index.gallery.store.quantizer import Quantized
from spade_index.gallery.store.storage import OtherCodes, require_stored
from spade_index.kernels.codes import Coding, LevelCode, Scalars, TableRows, Values
from spade_index.kernels.native.library import hindrance as native_hindrance
from spade_index.kernels.native.parts import Decoder, takes
from spade_index.kernels.preparation import SMALLEST, Preparation, Scaled
from spade_index.kernels.pyramid import Size, average
from spade_index.settings import SearchSettings

SAMPLE = 64  # images that the channels' means and deviations are computed on
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
        self._gallery, self._codec = gallery, gallery.storage.codec
        sizes = [settings.sizes[level] for level in self.levels]
        grids = compared_sizes(gallery, search)
        channels = [settings.level_shapes[level][0] for level in self.levels]
        of_gallery = level_weights(gallery, search)
        weights = [of_gallery[level] for level in self.levels]
        # Levels of one size are joined. Their values make up for the weights.
        as_stored = grids == sizes and search.scaling == "none"
        starts = [n for n in range(len(grids)) if as_stored or n == 0 or grids[n] != grids[n - 1]]
        joined = [range(*ends) for ends in pairwise([*starts, len(grids)])]
        self.weights = [max(weights[level] for level in of) for of in joined]
        shares = zip(joined, self.weights, strict=True)
        factors = [math.sqrt(weights[n] / most) if most else 1.0 for of, most in shares for n in of]
        how = [
            Scaled(size, grid, count, search.scaling, factor)
            for size, grid, count, factor in zip(sizes, grids, channels, factors, strict=True)
        ]
        if search.scaling in SAMPLED:
            how = [replace(one, **of._asdict()) for one, of in zip(how, self._sampled_moments(how), strict=True)]
        self._preparation = Preparation(tuple(how), tuple(joined))
        self.sizes, self.channels = self._preparation.sizes, self._preparation.channels

    @property
    def size(self) -> Size:
        """(H, W) of the finest level, after averaging: the grid of comparison."""
        return self.sizes[0]

    def prepare(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Return what is compared, [B, H*W, C] per size, of a pyramid of all stored levels."""
        return self._preparation.of([pyramid[level] for level in self.levels])

    def read(self, keys: Sequence[int], out: list[list[np.ndarray]]) -> None:
        """Read and prepare the maps of the images with these keys, into float16 [H*W, C] arrays, out[level][image].

        Raises GalleryDamaged if they cannot be read, or have values that are not finite.
        """
        if self._preparation.changes_nothing:
            self._gallery.read_maps(keys, out, self.levels)
            return
        for first in range(0, len(keys), PREPARED):
            some = keys[first : first + PREPARED]
            there = [of_size[first : first + PREPARED] for of_size in out]
            if self._is_compiled:
                self._decode(some, there)
            else:
                self._prepare(some, there)

    def _decode(self, keys: Sequence[int], out: list[list[np.ndarray]]) -> None:
        """Read a few maps, and prepare them by compiled functions: codes, or values where they are stored as such."""
        decoder, stored = self._decoder, [level[: len(keys)] for level in self._codes]
        try:
            self.read_codes(keys, [list(level) for level in stored])
        except OtherCodes:
            decoder, stored = self._value_decoder, self._gallery.maps(keys, self.levels)
        for image in range(len(keys)):
            decoder.write([level[image] for level in stored], [of_size[image] for of_size in out])

    def _prepare(self, keys: Sequence[int], out: list[list[np.ndarray]]) -> None:
        """Do the same in torch."""
        stored = self._gallery.maps(keys, self.levels)
        levels = self._preparation.of([torch.from_numpy(level).float() for level in stored])
        for of_size, level in zip(out, levels, strict=True):
            for values, prepared in zip(of_size, level.half().numpy(), strict=True):
                values[:] = prepared

    def read_codes(self, keys: Sequence[int], out: list[list[np.ndarray]]) -> None:
        """Read the maps of the images with these keys as `coding` has them, into uint8 [bytes] arrays.

        Raises OtherCodes if some are stored by another codec, and GalleryDamaged.
        """
        self._gallery.read_codes(keys, out, self.levels, self._codec)

    @cached_property
    def coding(self) -> Coding:
        """How the gallery stores maps, and how they are prepared."""
        codes = [level_code(self._codec, level) for level in self.levels]
        return Coding(tuple(codes), self._preparation)

    @cached_property
    def _codes(self) -> list[np.ndarray]:
        """Memory for a few images' maps as they are stored: uint8 [PREPARED, bytes] of each level."""
        return [np.empty((PREPARED, size), np.uint8) for size in self.coding.sizes]

    @cached_property
    def _is_compiled(self) -> bool:
        return native_hindrance() is None and takes(self.coding)

    @cached_property
    def _decoder(self) -> Decoder:
        return Decoder(self.coding)

    @cached_property
    def _value_decoder(self) -> Decoder:
        return Decoder(Coding((Values(),) * len(self.levels), self._preparation))

    def _sampled_moments(self, levels: Sequence[Scaled]) -> list[Moments]:
        """Return the moments of each level over a sample of the gallery."""
        keys = [image.key for image in self._gallery.sample(SAMPLE)]
        sums = [torch.zeros(2, level.channels, dtype=torch.float64) for level in levels]
        lengths = [0.0] * len(sums)
        for key in keys:
            for number, level in enumerate(self._gallery.maps([key], self.levels)):
                how = levels[number]
                (values,) = average(torch.from_numpy(level).double(), how.size, how.grid)
                sums[number] += torch.stack([values.mean(0), values.square().mean(0)])
                lengths[number] += float(values.norm(dim=-1).mean())
        return [_moments(total / len(keys), length / len(keys)) for total, length in zip(sums, lengths, strict=True)]


def _moments(means: Tensor, length: float) -> Moments:
    """Return moments of the mean values and mean squares [2, C] of channels, and the mean length of vectors."""
    mean, square = means
    deviation = (square - mean.square()).clamp_min(0).sqrt().clamp_min(SMALLEST)
    return Moments(mean.float(), deviation.float(), max(length, SMALLEST))


def level_code(codec: MapCodec, level: int) -> LevelCode:
    """Return how a codec stores a level, as the kernels know it."""
    if isinstance(codec, Affine):
        return Scalars(codec.bits)
    if isinstance(codec, Quantized):
        tables = codec.of_level(level).tables_at_hand()
        return TableRows(tables.unit, *(torch.from_numpy(of.copy()) for of in (tables.whole, tables.parts)))
    return Values()


def compared_sizes(gallery: Gallery, search: SearchSettings) -> list[Size]:
    """Return (H, W) of each level that is compared, after averaging; the first is the grid of comparison."""
    sizes = gallery.settings.sizes
    return averaged([sizes[level] for level in compared_levels(gallery.settings, search)], search.grid)


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
