"""Small models with random weights, and their features computed by the models themselves."""

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from spade_index.errors import BackboneError
from spade_index.features.backbone import Backbone, Features
from spade_index.settings import Preprocessing


def tiny_swin(**changes: object) -> nn.Module:
    """Return a model of four narrow stages, whose modules put out maps with channels last."""
    torch.manual_seed(0)
    narrow = {"embed_dim": 24, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)}
    return timm.create_model("swin_tiny_patch4_window7_224", **{**narrow, **changes}).eval()


def loaded(model: nn.Module, size: tuple[int, int], **options: object) -> Backbone:
    return Backbone("model", model, Preprocessing(input_size=size), device="cpu", **options)


def batch(count: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def normalised(images: np.ndarray) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)


def outputs(model: nn.Module, images: np.ndarray, names: list[str]) -> tuple[Tensor, list[Tensor]]:
    """Return the final features, and the outputs of modules as they are, computed by the model itself."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output})
        )
        for name in names
    ]
    with torch.inference_mode():
        final = model.forward_features(normalised(images))
    for hook in hooks:
        hook.remove()
    return final, [seen[name] for name in names]


def assert_close(features: Features, pooled: Tensor, pyramid: list[Tensor]) -> None:
    torch.testing.assert_close(features.pooled, pooled, rtol=1e-3, atol=1e-4)
    for level, expected in zip(features.pyramid, pyramid, strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-3, atol=1e-4)


def refusal(name: str, model: nn.Module, size: tuple[int, int], **options: object) -> str:
    with pytest.raises(BackboneError) as raised:
        Backbone(name, model, Preprocessing(input_size=size), device="cpu", **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)
