"""Compute pooled descriptors and feature pyramids of image batches with a pretrained CNN or transformer."""

from collections.abc import Callable, Generator, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from spade_index.errors import BackboneError
from spade_index.kernels.pyramid import average
from spade_index.kernels.threads import pipelined
from spade_index.settings import DEFAULT_BACKBONE, ExtractionSettings, Precision, Preprocessing

from .allocator import keep_freed_memory, require_memory
from .fewer_levels import limited
from .grids import averaged
from .levels import STRIDES, Reader, finest_first
from .maps import MapReader
from .pretrained import load_model, weights_digest
from .tokens import TokenReader, entries, has_intermediates, probe, set_input_size

LARGEST = 65504.0  # the largest finite float16


@dataclass(frozen=True)
class Features:
    """The features of a batch of B images."""

    pooled: Tensor  # float32 [B, D], the last feature map averaged over its pixels, or the class token
    pyramid: list[Tensor]  # [B, H*W, C] for each level, raster order, the finest first; float32, of `stream` float16


class Backbone:
    """A CNN or transformer; some of its feature maps are the levels of a pyramid."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        levels: tuple[str, ...] | None = None,
        strides: Sequence[int] = STRIDES,
        device: str = "auto",
        precision: Precision = "float32",
        stored_grid: int | None = None,
    ) -> None:
        """Take `model` over, and its `levels`, names of modules.

        Levels with more than `stored_grid` cells along their longer edge are averaged to that.

        By default, levels are the last stages at `strides`. A transformer whose maps all have one size has
        the blocks at half and three quarters of its depth and the last one. The position embeddings of a model of timm
        are interpolated to the input size.

        Bfloat16 is up to twice as fast on processors with AMX, but it costs the map score on magnetic tiles 0.004 of
        ROC AUC and pixels 0.001 (benchmarks/results/magnetic_tiles_bfloat16.json), so it is not the default.

        On a CPU, the process keeps more of its freed memory from then on (allocator.py). Raises BackboneError if a
        level is unknown or no feature map, or the device cannot be used.
        """
        self.device = choose_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.precision = precision
        digest = weights_digest(model)
        set_input_size(model, preprocessing.input_size)
        self._model = model.eval().requires_grad_(False).to(self.device)
        self._model.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(preprocessing.mean, device=self.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(preprocessing.std, device=self.device).view(1, 3, 1, 1) * 255

        reader = _reader(name, self._model, preprocessing.input_size, self.device)
        chosen = finest_first(name, levels or reader.default_levels(strides), reader.shapes)
        reader.choose(chosen)
        self._reader = reader
        self._sizes = [reader.shapes[level][1:] for level in chosen]
        self._kept = list(range(len(chosen)))  # of these levels
        stored = zip(chosen, averaged(self._sizes, stored_grid), strict=True)
        shapes = [(reader.shapes[level][0], *size) for level, size in stored]
        self.settings = ExtractionSettings(
            backbone=name,
            weights=digest,
            levels=tuple(chosen),
            level_shapes=tuple(shapes),
            pooled_dim=reader.pooled_dim,
            preprocessing=preprocessing,
            precision=self.precision,
            stored_grid=stored_grid,
        )

    @property
    def input_multiple(self) -> int:
        """Both edges of the input size must be multiples of this: a transformer's patch, or 1."""
        return self._reader.input_multiple

    def limited_to(self, levels: Sequence[str]) -> "Backbone":
        """Return a backbone of some of the levels, as a gallery of an earlier version has; itself if it lacks one."""
        settings = limited(self.settings, levels)
        if settings is self.settings:
            return self
        other = copy(self)
        other.settings = settings
        other._kept = [self.settings.levels.index(level) for level in settings.levels]
        return other

    def __call__(self, pixels: np.ndarray) -> Features:
        """Return the features of a batch uint8 [B, H, W, 3] of the preprocessing's input size, on `device`.

        Raises BackboneError if a feature cannot be stored as float16, and OSError if there is no memory for a batch.
        """
        parts = np.array_split(pixels, self.lanes(len(pixels)))
        # On a CPU, threads that each take a part of the batch synchronize once, not in each of hundreds of operations.
        features = list(pipelined(self._features, parts, len(parts)))
        levels = zip(*[part.pyramid for part in features], strict=True)
        return Features(_joined([part.pooled for part in features]), [_joined(level) for level in levels])

    def stream(self, batches: Iterable[np.ndarray], lanes: int) -> Generator[Features]:
        """Yield the features of every batch, in order, rounded as a gallery stores them, in `lanes` parallel threads.

        Lanes never synchronize, so this is the fastest way through many images; a batch is one lane's share of the
        images that may be in memory. The caller's thread iterates over `batches`, up to one more than `lanes` ahead.
        An error is raised after the features of the batches before it.
        """
        return pipelined(self._stored_features, batches, lanes)

    def _stored_features(self, pixels: np.ndarray) -> Features:
        features = self._features(pixels)
        # They are in the cache here, and torch, which rounds ten times as fast as numpy, wakes no other threads.
        return Features(features.pooled, [level.half() for level in features.pyramid])

    def lanes(self, images: int) -> int:
        """Return the best number of lanes for this many images: one per core on a CPU, one on a GPU."""
        return max(1, min(images, torch.get_num_threads())) if self.device.type == "cpu" else 1

    def _features(self, pixels: np.ndarray) -> Features:
        if self.device.type == "cpu":
            require_memory()
        with torch.inference_mode():
            pooled, pyramid = self._forward(torch.tensor(pixels))
            if not all(level.abs().amax() <= LARGEST for level in [pooled, *pyramid]):  # also refuses NaN
                raise BackboneError(
                    f"{self.settings.backbone} computes features that are not finite, or over {LARGEST:.0f}, the "
                    "largest float16: check its weights and the preprocessing"
                )
        return Features(pooled, pyramid)

    def _forward(self, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        batch = pixels.to(self.device).permute(0, 3, 1, 2).float()  # [B, 3, H, W], channels last in memory
        batch = batch.sub_(self._mean).div_(self._std)
        half = self.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            pooled, pyramid = self._reader(batch)
        levels = zip(self._kept, self.settings.sizes, strict=True)
        return pooled, [average(pyramid[level], self._sizes[level], size) for level, size in levels]


def _reader(name: str, model: nn.Module, input_size: tuple[int, int], device: torch.device) -> Reader:
    """Return what reads a model: hooks for a CNN, else timm's own access to feature maps. Raises BackboneError."""
    if not has_intermediates(model):
        return MapReader(model, input_size, device)
    probed = probe(name, model, input_size, device)
    if probed.are_from_a_cnn:
        maps = MapReader(model, input_size, device)
        if maps.measured and not maps.are_channels_last([entry["module"] for entry in entries(model)]):
            return maps
    return TokenReader(name, model, input_size, probed)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts of a batch as one tensor."""
    # Not by torch, whose threads would spin for more work while images are decoded.
    return parts[0] if len(parts) == 1 else torch.from_numpy(np.concatenate([part.numpy() for part in parts]))


def load_backbone(
    name: str = DEFAULT_BACKBONE,
    *,
    weights: str | Path | None = None,
    levels: tuple[str, ...] | None = None,
    strides: Sequence[int] = STRIDES,
    preprocessing: Callable[[Preprocessing], Preprocessing] = lambda default: default,
    device: str = "auto",
    precision: Precision = "float32",
    stored_grid: int | None = None,
) -> Backbone:
    """Load a pretrained backbone by name: `efficientnet-lite0`, `timm:NAME`, or a torchvision CNN.

    `weights` is a file (safetensors, or a .pth of tensors only) that replaces the published ones; `preprocessing`
    changes the backbone's own; see `Backbone` for the others. Raises BackboneError, InputError for what is no path.
    """
    model, default = load_model(name, weights)
    return Backbone(
        name,
        model,
        preprocessing(default),
        levels=levels,
        strides=strides,
        device=device,
        precision=precision,
        stored_grid=stored_grid,
    )


def load_recorded(settings: ExtractionSettings, weights: str | None, device: str) -> Backbone:
    """Load the backbone that a gallery with these settings was built with. Raises BackboneError."""
    return load_backbone(
        settings.backbone,
        weights=weights,
        levels=settings.levels,
        preprocessing=lambda default: settings.preprocessing,
        device=device,
        precision=settings.precision,
        stored_grid=settings.stored_grid,
    )


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of this name; `auto` is the GPU if there is one. Raises BackboneError if it cannot be used."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).splitlines()[0]
        raise BackboneError(f"device {name!r} cannot be used ({reason}): try --device cpu") from error
