"""Maps in codes for the tests of the kernels, encoded by the gallery's own codecs."""

import numpy as np
import torch

from spade_index.gallery.store.codecs import codec_named
from spade_index.gallery.store.quantizer import Quantized
from spade_index.gallery.store.quantizer_tables import ROWS, Parts, Tables
from spade_index.kernels.codes import CodedMaps, Coding
from spade_index.kernels.fused.maps import FusedMaps
from spade_index.kernels.preparation import Preparation, Scaled
from spade_index.method.comparison import level_code

CODECS = ("float16", "int8", "int4", "pq")


def codec_of(kind, channels, size=5, seed=0):
    """Return a codec for levels of these channels; tables of `pq` hold random rows."""
    if kind != "pq":
        return codec_named(kind)
    random = np.random.default_rng(seed)
    tables = []
    for of in channels:
        parts = Parts.of(of, size)
        shapes = (parts.whole, ROWS, of), (parts.number, ROWS, parts.width)
        tables.append(Tables(2.0**-9, *(random.integers(-2000, 2000, shape, np.int16) for shape in shapes)))
    return Quantized.by(tables)


def coding_of(kind, sizes, channels, joined=None, seed=0, **how):
    """Return codes of a kind for levels of these sizes, and the codec; prepared as `how` says, of each level."""
    codec = codec_of(kind, channels, seed=seed)
    levels = []
    for number, (size, of) in enumerate(zip(sizes, channels, strict=True)):
        own = {name: values[number] for name, values in how.items()}
        levels.append(Scaled(size, own.pop("grid", size), of, **own))
    joined = joined or [range(number, number + 1) for number in range(len(levels))]
    codes = [level_code(codec, number) for number in range(len(levels))]
    return Coding(tuple(codes), Preparation(tuple(levels), tuple(joined))), codec


def coded_maps(coding, codec, levels):
    """Return maps float16 [slots, H*W, C] of each level in codes."""
    maps = coding.empty(len(levels[0]), torch.device("cpu"))
    for number, (level, stored, size) in enumerate(zip(levels, maps.stored, coding.sizes, strict=True)):
        for slot, values in enumerate(level):
            codes = codec.of_level(number).encode(values.numpy())
            stored[slot, :size] = torch.from_numpy(codes.reshape(-1).view(np.uint8))
    return maps


def decoded_levels(codec, levels):
    """Return what the gallery's codec makes of maps float16 [slots, H*W, C] of each level."""
    result = []
    for number, level in enumerate(levels):
        of_level = codec.of_level(number)
        out = np.empty(level.shape, np.float16)
        for slot, values in enumerate(level):
            of_level.decode(of_level.encode(values.numpy()), out[slot])
        result.append(torch.from_numpy(out))
    return result


def empty_fused(maps: CodedMaps, slots: int) -> FusedMaps:
    """Return room for as many of these maps in the fused kernels' layout."""
    prepared = maps.coding.preparation
    return FusedMaps.empty(slots, prepared.sizes, prepared.channels, torch.float16, torch.device("cpu"))


def as_values(maps: CodedMaps) -> list[torch.Tensor]:
    """Return all maps, as torch decodes and prepares them."""
    return maps.decoded(torch.arange(maps.slots))
