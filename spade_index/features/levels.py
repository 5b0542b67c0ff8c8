"""Names of feature maps: which there are, which are the default levels, and in which order they form a pyramid."""

import difflib
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

from spade_index.errors import BackboneError

STRIDES = (4, 8, 16, 32)  # of the default levels
PROJECTED = 3  # times as many channels as the map before it, of the same size: a projection for the classifier

Shapes = dict[str, tuple[int, int, int]]  # channels, height and width of feature maps, by name


class Reader(Protocol):
    """Runs a model and reads a pooled descriptor and feature maps from it."""

    shapes: Shapes  # of all feature maps that can be levels, on images of the input size, in order of computation
    pooled_dim: int
    input_multiple: int  # both edges of the input must be multiples of it

    def default_levels(self, strides: Sequence[int]) -> tuple[str, ...]:
        """Return the names of the levels where none are chosen. Raises BackboneError if there are none.

        Args:
            strides: of the levels, in pixels of the input, where maps have several sizes.
        """

    def choose(self, levels: Sequence[str]) -> None:
        """Read the feature maps of these names from now on."""

    def __call__(self, batch: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled descriptors and the levels of a batch [B, 3, H, W]: float32 [B, D] and [B, H*W, C]."""


def finest_first(backbone: str, levels: Sequence[str], shapes: Shapes) -> list[str]:
    """Return levels in the order of their maps' sizes, those of one size in the order given.

    Raises BackboneError if one is no feature map.
    """
    for level in levels:
        if level not in shapes:
            raise BackboneError(f"{backbone} has no feature map {level!r}: try one of {_known(level, list(shapes))}")
    return sorted(levels, key=lambda level: -shapes[level][1] * shapes[level][2])


def nearest_to_strides(names: Sequence[str], shapes: Shapes, height: int, strides: Sequence[int]) -> tuple[str, ...]:
    """Return, for each stride, the last of `names` whose map's height is nearest to `height` / stride.

    The projection before a classifier is left out: its many channels were trained for what their mean says.
    """
    names, levels = _without_projection(names, shapes), []
    for stride in strides:
        wanted = height / stride
        nearest = min((shapes[name][1] for name in names), key=lambda rows: abs(rows - wanted), default=0)
        levels += [[name for name in names if shapes[name][1] == nearest][-1]] if nearest else []
    return tuple(dict.fromkeys(levels))


def _without_projection(names: Sequence[str], shapes: Shapes) -> Sequence[str]:
    """Return names without the last ones of one shape, if the map before them has the size and far fewer channels."""
    before = [name for name in names if shapes[name] != shapes[names[-1]]]
    if not before or shapes[before[-1]][1:] != shapes[names[-1]][1:]:
        return names
    return before if shapes[names[-1]][0] >= PROJECTED * shapes[before[-1]][0] else names


def failure(model: nn.Module, input_size: tuple[int, int], error: Exception) -> BackboneError:
    """Return the error of a model that raised `error`, of any kind, on images of `input_size`."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    own = getattr(model, "pretrained_cfg", {}).get("input_size", ())[1:]
    hint = f": its own size is {own[0]}x{own[1]}" if own and tuple(own) != input_size else ""
    return BackboneError(f"the backbone fails on {input_size} pixels ({reason}){hint}")


def _known(level: str, names: list[str]) -> str:
    """Return all names if they are few, else those like `level`, else the outermost."""
    stem = names[0].rpartition(".")[0]
    if len(names) <= 6:
        return ", ".join(names)
    if names == [f"{stem}.{number}" for number in range(len(names))]:
        return f"{names[0]} to {names[-1]}"
    outermost = sorted(names, key=lambda name: name.count("."))[:6]
    return ", ".join(difflib.get_close_matches(level, names, n=3) or outermost)
