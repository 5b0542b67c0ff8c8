"""Read feature maps from the outputs of a model's modules, by hooks: any CNN."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from spade_index.errors import BackboneError

from .levels import Shapes, failure, nearest_to_strides

WIDER = 128  # columns by which the second probe is wider, at most

Output = tuple[int, int, int]  # the dimensions of a module's output for one image


@dataclass(frozen=True)
class _Map:
    """A module's output [B, C, H, W] or [B, H, W, C]; `fixed` is [B, C, H, W] of the same size for any input."""

    layout: Literal["NCHW", "NHWC", "fixed"]
    shape: tuple[int, int, int]  # channels, height, width


class MapReader:
    """Outputs of modules are feature maps; the last one, averaged over its pixels, is the pooled descriptor.

    The meaning of an output's dimensions is measured: on a wider input, the width of a map grows, and nothing else.
    """

    input_multiple = 1

    def __init__(self, model: nn.Module, input_size: tuple[int, int], device: torch.device) -> None:
        """Probe `model`. Raises BackboneError if it fails on `input_size`, or has no feature maps."""
        self._model = model
        self._input_size = input_size
        self._maps, self.measured = _probe(model, input_size, device)
        self.shapes: Shapes = {name: map.shape for name, map in self._maps.items() if map.layout != "fixed"}
        if not self.shapes:
            raise BackboneError("the backbone has no feature maps: use a CNN, or a transformer of timm")
        self._last = list(self._maps)[-1]
        self.pooled_dim = self._maps[self._last].shape[0]
        self._levels: Sequence[str] = ()
        self._captured = threading.local()  # .outputs: dict[str, Tensor]

    def default_levels(self, strides: Sequence[int]) -> tuple[str, ...]:
        """Return the last stage at each stride.

        A stage is a top-level module, or a direct child of one whose maps have more than two sizes.
        """
        stages = []
        for name, child in self._model.named_children():
            parts = [f"{name}.{part}" for part, _ in child.named_children() if f"{name}.{part}" in self.shapes]
            spans_many = len({self.shapes[part][1:] for part in parts}) > 2
            stages += parts if spans_many else [name] * (name in self.shapes)
        levels = nearest_to_strides(stages, self.shapes, self._input_size[0], strides)
        if not levels:
            raise BackboneError("no default levels for this backbone: name them with --levels")
        return levels

    def are_channels_last(self, names: Sequence[str]) -> bool:
        """Return whether channels are last in the output of one of these modules."""
        return any(self._maps[name].layout == "NHWC" for name in names if name in self._maps)

    def choose(self, levels: Sequence[str]) -> None:
        """Keep the outputs of the modules `levels`. May be called once."""
        self._levels = levels
        modules = dict(self._model.named_modules())
        for level in {*levels, self._last}:
            modules[level].register_forward_hook(self._capture(level))

    def __call__(self, batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled descriptors and the levels of a batch [B, 3, H, W]: float32 [B, D] and [B, H*W, C]."""
        self._model(batch)
        captured = self._captured.outputs
        levels = [
            self._channels_last(level, captured[level].float()).flatten(1, 2).contiguous()  # [B, H*W, C]
            for level in self._levels
        ]
        pooled_axes = (1, 2) if self._maps[self._last].layout == "NHWC" else (2, 3)
        pooled = captured[self._last].float().mean(pooled_axes)  # [B, D]
        captured.clear()
        return pooled, levels

    def _channels_last(self, level: str, output: Tensor) -> Tensor:
        return output if self._maps[level].layout == "NHWC" else output.permute(0, 2, 3, 1)

    def _capture(self, level: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            vars(self._captured).setdefault("outputs", {})[level] = output

        return hook


def _probe(model: nn.Module, input_size: tuple[int, int], device: torch.device) -> tuple[dict[str, _Map], bool]:
    """Return the maps of a model, in the order of their last computation, and whether it takes a wider input."""
    height, width = input_size
    try:
        outputs = _outputs(model, input_size, device)
    except Exception as error:
        raise failure(model, input_size, error) from error
    try:
        wider = _outputs(model, (height, width + min(width, WIDER)), device)
    except Exception:  # it takes one size only: by convention, channels come first
        larger = {name: output for name, output in outputs.items() if output[1] * output[2] > 1}
        return {name: _by_convention(output, input_size) for name, output in larger.items()}, False
    maps = {name: _measured(output, wider.get(name), input_size) for name, output in outputs.items()}
    return {name: map for name, map in maps.items() if map is not None}, True


def _measured(output: Output, wider: Output | None, input_size: tuple[int, int]) -> _Map | None:
    """Return what a module's output is, given its output for a wider input; None: no map."""
    a, b, c = output
    if output == wider and b * c > 1:
        return _Map("fixed", output)
    if wider is not None and wider[:2] == (a, b) and wider[2] > c and _fits((b, c), input_size):
        return _Map("NCHW", output)
    if wider is not None and wider[::2] == (a, c) and wider[1] > b and _fits((a, b), input_size):
        return _Map("NHWC", (c, a, b))
    return None


def _by_convention(output: Output, input_size: tuple[int, int]) -> _Map:
    return _Map("NCHW" if _fits(output[1:], input_size) else "fixed", output)


def _fits(size: tuple[int, int], input_size: tuple[int, int]) -> bool:
    """Return whether a map's height and width are in the proportion of the input's, but for a cell or two."""
    (rows, columns), (height, width) = size, input_size
    ratio = rows * width / (columns * height)
    return 3 / 4 <= ratio <= 4 / 3 or abs(columns - rows * width / height) <= 1 + width / height


def _outputs(model: nn.Module, input_size: tuple[int, int], device: torch.device) -> dict[str, Output]:
    """Return the dimensions of all four-dimensional outputs of modules, in the order of their last computation."""
    outputs: dict[str, Output] = {}

    def record(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4 and len(output) == 1:
                outputs.pop(name, None)
                outputs[name] = (output.shape[1], output.shape[2], output.shape[3])

        return hook

    hooks = [module.register_forward_hook(record(name)) for name, module in model.named_modules() if name]
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, *input_size, device=device))
    finally:
        for handle in hooks:
            handle.remove()
    return outputs
