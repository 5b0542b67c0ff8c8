"""Compute pooled descriptors and feature pyramids of image batches with a pretrained CNN."""

import difflib
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spade_index.errors import BackboneError
from spade_index.kernels.threads import pipelined
from spade_index.settings import DEFAULT_BACKBONE, ExtractionSettings, Precision, Preprocessing

from .pretrained import load_model, weights_digest

STRIDES = (4, 8, 16)  # of the default levels
LARGEST = 65504.0  # the largest finite float16

Shapes = dict[str, tuple[int, int, int]]  # channels, height and width of feature maps, by module name


@dataclass(frozen=True)
class Features:
    """The features of a batch of B images."""

    pooled: Tensor  # float32 [B, D], the last feature map averaged over its pixels
    pyramid: list[Tensor]  # [B, H*W, C] for each level, raster order, the finest first; float32, of `stream` float16


class Backbone:
    """A CNN; the outputs of some of its modules are the levels of a feature pyramid."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        preprocessing: Preprocessing,
        *,
        levels: tuple[str, ...] | None = None,
        device: str = "auto",
        precision: Precision = "float32",
    ) -> None:
        """Take `model` and its `levels`, names of modules; by default the last stages at strides 4, 8 and 16.

        Bfloat16 is up to twice as fast on processors with AMX, but it costs the map score on magnetic tiles 0.004 of
        ROC AUC and pixels 0.001 (benchmarks/results/magnetic_tiles_bfloat16.json), so it is not the
        default. Raises BackboneError if a level is unknown or no feature map, or the device cannot be used.
        """
        self.device = choose_device(device)
        self.precision = precision
        digest = weights_digest(model)
        self._model = model.eval().requires_grad_(False).to(self.device)
        self._model.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(preprocessing.mean, device=self.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(preprocessing.std, device=self.device).view(1, 3, 1, 1) * 255

        shapes = self._probe(preprocessing.input_size)
        self._levels = _finest_first(name, levels or _default_levels(model, shapes, preprocessing.input_size), shapes)
        self._last = list(shapes)[-1]
        self._captured = threading.local()  # .levels: dict[str, Tensor]
        modules = dict(model.named_modules())
        for level in {*self._levels, self._last}:
            modules[level].register_forward_hook(self._capture(level))
        self.settings = ExtractionSettings(
            backbone=name,
            weights=digest,
            levels=tuple(self._levels),
            level_shapes=tuple(shapes[level] for level in self._levels),
            pooled_dim=shapes[self._last][0],
            preprocessing=preprocessing,
            precision=self.precision,
        )

    def __call__(self, pixels: np.ndarray) -> Features:
        """Return the features of a batch uint8 [B, H, W, 3] of the preprocessing's input size, on `device`.

        Raises BackboneError if a feature cannot be stored as float16.
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
        with torch.inference_mode():
            self._forward(torch.tensor(pixels))
            captured = self._captured.levels
            pyramid = [
                captured[level].float().permute(0, 2, 3, 1).flatten(1, 2).contiguous()  # [B, H*W, C]
                for level in self._levels
            ]
            pooled = captured[self._last].float().mean((2, 3))  # [B, D]
            captured.clear()
            if not all(level.abs().amax() <= LARGEST for level in [pooled, *pyramid]):  # also refuses NaN
                raise BackboneError(
                    f"{self.settings.backbone} computes features that are not finite, or over {LARGEST:.0f}, the "
                    "largest float16: check its weights and the preprocessing"
                )
        return Features(pooled, pyramid)

    def _forward(self, pixels: Tensor) -> None:
        batch = pixels.to(self.device).permute(0, 3, 1, 2).float()  # [B, 3, H, W], channels last in memory
        batch = batch.sub_(self._mean).div_(self._std)
        half = self.precision == "bfloat16"
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half):
            self._model(batch)

    def _capture(self, level: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            vars(self._captured).setdefault("levels", {})[level] = output

        return hook

    def _probe(self, input_size: tuple[int, int]) -> Shapes:
        """Return channels, height and width of every module's feature map, in the order of their last computation."""
        shapes: Shapes = {}

        def record(name: str) -> Callable[[nn.Module, Any, Any], None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
                    shapes.pop(name, None)
                    shapes[name] = (output.shape[1], output.shape[2], output.shape[3])

            return hook

        hooks = [m.register_forward_hook(record(n)) for n, m in self._model.named_modules() if n]
        try:
            with torch.inference_mode():
                self._forward(torch.zeros(1, *input_size, 3, dtype=torch.uint8))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise BackboneError(f"the backbone fails on {input_size} pixels ({reason})") from error
        finally:
            for handle in hooks:
                handle.remove()
        if not shapes:
            raise BackboneError("the backbone has no feature maps: use a CNN")
        return shapes


def _finest_first(name: str, levels: Sequence[str], shapes: Shapes) -> list[str]:
    """Return levels in the order of their maps' sizes. Raises BackboneError if one is no feature map."""
    for level in levels:
        if level not in shapes:
            near = difflib.get_close_matches(level, shapes, n=3) or list(shapes)[:3]
            raise BackboneError(f"{name} has no feature map {level!r}: try one of {', '.join(near)}")
    return sorted(levels, key=lambda level: -shapes[level][1] * shapes[level][2])


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return the parts of a batch as one tensor."""
    # Not by torch, whose threads would spin for more work while images are decoded.
    return parts[0] if len(parts) == 1 else torch.from_numpy(np.concatenate([part.numpy() for part in parts]))


def load_backbone(
    name: str = DEFAULT_BACKBONE,
    *,
    weights: str | Path | None = None,
    levels: tuple[str, ...] | None = None,
    preprocessing: Callable[[Preprocessing], Preprocessing] = lambda default: default,
    device: str = "auto",
    precision: Precision = "float32",
) -> Backbone:
    """Load a pretrained backbone by name: `efficientnet-lite0`, `timm:NAME`, or a torchvision CNN.

    `weights` is a file (safetensors, or a .pth of tensors only) that replaces the published ones; `preprocessing`
    changes the backbone's own. Raises BackboneError.
    """
    model, default = load_model(name, weights)
    return Backbone(name, model, preprocessing(default), levels=levels, device=device, precision=precision)


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of this name; `auto` is the GPU if there is one. Raises BackboneError if it cannot be used."""
    name = ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch was built without CUDA
        reason = str(error).splitlines()[0]
        raise BackboneError(f"device {name!r} cannot be used ({reason}): try --device cpu") from error


def _default_levels(model: nn.Module, shapes: Shapes, input_size: tuple[int, int]) -> tuple[str, ...]:
    """Return the last stage at each of STRIDES.

    A stage is a top-level module, or a direct child of one whose maps have more than two sizes.
    """
    stages = []
    for name, child in model.named_children():
        parts = [f"{name}.{part}" for part, _ in child.named_children() if f"{name}.{part}" in shapes]
        spans_many = len({shapes[part][1:] for part in parts}) > 2
        stages += parts if spans_many else [name] * (name in shapes)
    levels = []
    for stride in STRIDES:
        wanted = input_size[0] / stride
        nearest = min((shapes[stage][1] for stage in stages), key=lambda height: abs(height - wanted), default=0)
        levels += [[stage for stage in stages if shapes[stage][1] == nearest][-1]] if nearest else []
    levels = list(dict.fromkeys(levels))
    if not levels:
        raise BackboneError("no default levels for this backbone: name them with --levels")
    return tuple(levels)
