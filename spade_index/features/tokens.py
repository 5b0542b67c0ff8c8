"""Read feature maps of timm's transformers, whose modules put out tokens, or maps with channels last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spade_index.errors import BackboneError

from .levels import Shapes, failure, nearest_to_strides

SPREAD = (1 / 2, 3 / 4, 1)  # of the depth: the default levels of a model whose maps have one size


@dataclass(frozen=True)
class Intermediates:
    """What timm's `forward_intermediates` returns for one image."""

    final: Any  # final features, with prefix tokens; a few models have a list of them
    maps: list[Tensor]  # [1, C, H, W], one for each entry of the model's `feature_info`, without prefix tokens
    layout: str  # of the final features, as the model declares it: NCHW, NHWC or NLC

    @property
    def are_from_a_cnn(self) -> bool:
        """Whether the model's modules put out maps with channels first."""
        return isinstance(self.final, Tensor) and self.final.ndim == 4 and self.layout == "NCHW"


def has_intermediates(model: nn.Module) -> bool:
    """Return whether a model is one of timm's that name their feature maps."""
    return callable(getattr(model, "forward_intermediates", None)) and hasattr(model, "feature_info")


def set_input_size(model: Any, input_size: tuple[int, int]) -> None:
    """Interpolate the position embeddings of a model of timm once, rather than in each forward pass.

    Raises BackboneError if the model cannot be set to this size.
    """
    current = getattr(getattr(model, "patch_embed", None), "img_size", None)
    if not hasattr(model, "set_input_size") or current is None or tuple(current) == input_size:
        return
    try:
        model.set_input_size(img_size=input_size)
    except Exception as error:
        raise failure(model, input_size, error) from error


def entries(model: Any) -> list[dict[str, Any]]:
    """Return what timm tells about each feature map of a model: `module`, its name, for one."""
    info = model.feature_info
    return list(info) if isinstance(info, list) else info.get_dicts()


def probe(name: str, model: nn.Module, input_size: tuple[int, int], device: torch.device) -> Intermediates:
    """Run a model, of which `has_intermediates` is true, on a grey image. Raises BackboneError if it fails."""
    try:
        with torch.inference_mode():
            final, maps = _run(model, torch.zeros(1, 3, *input_size, device=device))
    except Exception as error:
        _require_whole_patches(name, model, input_size)
        raise failure(model, input_size, error) from error
    return Intermediates(final, maps, getattr(model, "output_fmt", "NCHW"))


class TokenReader:
    """The feature maps that timm names, of blocks or stages; prefix tokens (class, registers) are no part of them.

    The pooled descriptor is the final class token, or the mean of the final patch tokens where there is none.
    """

    def __init__(self, name: str, model: nn.Module, input_size: tuple[int, int], probed: Intermediates) -> None:
        """Take a model and what `probe` returned for it. Raises BackboneError if it cannot be read."""
        _require_whole_patches(name, model, input_size)
        names = [entry["module"] for entry in entries(model)]
        if len(names) != len(probed.maps) or len({*names}) != len(names):
            raise BackboneError(f"{name} does not tell its feature maps apart by names: use another model")
        self.input_multiple = math.lcm(*_patch(model))
        self._model = model
        self._layout = probed.layout
        self._height = input_size[0]
        self.shapes: Shapes = {
            level: (map.shape[1], map.shape[2], map.shape[3]) for level, map in zip(names, probed.maps, strict=True)
        }
        self.pooled_dim = self._pooled(probed.final, probed.maps[-1]).shape[1]
        self._levels: list[int] = []  # positions in feature_info

    def default_levels(self, strides: Sequence[int]) -> tuple[str, ...]:
        """Return the blocks at half and three quarters of the depth and the last; of a pyramid, one at each stride."""
        names = list(self.shapes)
        if len({shape[1:] for shape in self.shapes.values()}) > 1:
            return nearest_to_strides(names, self.shapes, self._height, strides)
        return tuple(dict.fromkeys(names[math.ceil(share * len(names)) - 1] for share in SPREAD))

    def choose(self, levels: Sequence[str]) -> None:
        """Read the feature maps of these names from now on."""
        names = list(self.shapes)
        self._levels = [names.index(level) for level in levels]

    def __call__(self, batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled descriptors and the levels of a batch [B, 3, H, W]: float32 [B, D] and [B, H*W, C]."""
        last = len(self.shapes) - 1
        wanted = sorted({*self._levels, last})
        final, maps = _run(self._model, batch, wanted)
        read = dict(zip(wanted, maps, strict=True))
        levels = [read[at].float().permute(0, 2, 3, 1).flatten(1, 2).contiguous() for at in self._levels]
        return self._pooled(final, read[last]), levels

    def _pooled(self, final: Any, last: Tensor) -> Tensor:
        """Return descriptors [B, D] from the final features and the last feature map [B, C, H, W]."""
        if not isinstance(final, Tensor):  # features of several branches
            return last.float().mean((2, 3))
        final = final.float()
        if final.ndim == 4:
            return final.mean((1, 2) if self._layout == "NHWC" else (2, 3))
        if getattr(self._model, "cls_token", None) is not None:
            return final[:, 0].contiguous()
        patches = last.shape[2] * last.shape[3]
        return final[:, -patches:].mean(1)  # [B, D], of [B, prefix + H*W, D]


def _run(model: Any, batch: Tensor, indices: list[int] | None = None) -> tuple[Any, list[Tensor]]:
    """Return the final features, and the maps [B, C, H, W] at these positions in feature_info, or at all."""
    final, maps = model.forward_intermediates(batch, indices=indices, output_fmt="NCHW")
    return final, maps


def _patch(model: Any) -> tuple[int, int]:
    """Return height and width of the pixels of one token; 1 where a model does not cut an image into patches."""
    embed: Any = getattr(model, "patch_embed", None)
    if hasattr(embed, "feat_ratio"):
        size = embed.feat_ratio(as_scalar=False)
    else:
        strides = {entry.get("reduction") for entry in entries(model)}
        size = getattr(embed, "patch_size", None) or (strides.pop() if len(strides) == 1 else 1)
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _require_whole_patches(name: str, model: nn.Module, input_size: tuple[int, int]) -> None:
    """Raise BackboneError if an input is no whole number of patches: a part of the image would be left out."""
    patch = _patch(model)
    if all(edge % length == 0 for edge, length in zip(input_size, patch, strict=True)):
        return
    smaller = [max(1, edge // length) * length for edge, length in zip(input_size, patch, strict=True)]
    larger = [-(-edge // length) * length for edge, length in zip(input_size, patch, strict=True)]
    nearest = " or ".join(dict.fromkeys(_written(size) for size in (smaller, larger)))
    raise BackboneError(
        f"{name} takes input sizes that are multiples of its patch, {_written(patch)} pixels, "
        f"not {_written(input_size)}: the nearest are {nearest}"
    )


def _written(size: Sequence[int]) -> str:
    return f"{size[0]}x{size[1]}"
