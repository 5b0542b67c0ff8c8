"""Feature maps are read with their channels where they are, and what is no map is refused."""

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

from helpers.timm_models import assert_close, batch, loaded, normalised, outputs, refusal, tiny_swin


@pytest.mark.parametrize("size", [(96, 96), (64, 96)])
def test_maps_with_channels_last_are_read_as_such(size):
    model = tiny_swin(img_size=size)
    images = batch(2, size)
    final, stages = outputs(model, images, ["layers.0", "layers.1", "layers.2", "layers.3"])
    backbone = loaded(tiny_swin(img_size=size), size)
    assert backbone.settings.levels == ("layers.0", "layers.1", "layers.2", "layers.3")
    assert backbone.settings.level_shapes[0] == (24, size[0] // 4, size[1] // 4)
    assert_close(backbone(images), final.mean((1, 2)), [stage.flatten(1, 2) for stage in stages])


def test_a_stage_with_as_many_channels_as_rows_is_no_riddle():
    model = tiny_swin(img_size=96)
    assert loaded(model, (96, 96), levels=("layers.0",)).settings.level_shapes == ((24, 24, 24),)
    images = batch(1, (96, 96))
    _, (stage,) = outputs(model, images, ["layers.0"])
    torch.testing.assert_close(
        loaded(model, (96, 96), levels=("layers.0",))(images).pyramid[0], stage.flatten(1, 2), rtol=1e-3, atol=1e-4
    )


def test_a_model_that_does_not_say_that_its_channels_are_last_is_measured():
    torch.manual_seed(0)
    model = models.swin_transformer.SwinTransformer([4, 4], 32, [1, 1, 1], [1, 2, 4], [7, 7]).eval()
    images = batch(2, (128, 128))
    seen = []
    handle = model.features[1].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        model(normalised(images))
    handle.remove()
    assert seen[0].shape == (2, 32, 32, 32)
    backbone = loaded(model, (128, 128))
    assert backbone.settings.level_shapes == ((32, 32, 32), (64, 16, 16), (128, 8, 8))
    torch.testing.assert_close(backbone(images).pyramid[0], seen[0].flatten(1, 2), rtol=1e-3, atol=1e-4)


def test_a_cnns_modules_with_channels_last_are_measured():
    torch.manual_seed(0)
    model = timm.create_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32)).eval()
    images = batch(2, (64, 64))
    _, (stage, inner) = outputs(model, images, ["stages.1", "stages.1.blocks.0.norm"])
    names = ("stages.1", "stages.1.blocks.0.norm")
    last = inner if inner.shape[-1] == 16 else inner.permute(0, 2, 3, 1)
    backbone = loaded(model, (64, 64), levels=names)
    assert backbone.settings.level_shapes == ((16, 8, 8),) * 2
    assert_close(
        backbone(images),
        model.forward_features(normalised(images)).detach().mean((2, 3)),
        [stage.permute(0, 2, 3, 1).flatten(1, 2), last.flatten(1, 2)],
    )


@pytest.mark.parametrize("level", ["patch_embed", "layers.0.blocks.0.attn.softmax", "layers.0.blocks.0", "head"])
def test_of_a_hierarchy_only_stages_can_be_named(level):
    message = refusal("timm:s", tiny_swin(img_size=96), (96, 96), levels=(level,))
    assert message.endswith("try one of layers.0, layers.1, layers.2, layers.3")


class Attention(nn.Module):
    """A CNN with attention between its cells: the module `weights` puts out [B, 1, N, N]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.weights = nn.Identity()
        self.pool = nn.AdaptiveAvgPool2d(3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        cells = maps.flatten(2)
        attention = self.weights((cells.transpose(1, 2) @ cells).softmax(-1)[:, None])
        return self.pool((cells @ attention[:, 0]).view_as(maps))


@pytest.mark.parametrize("level", ["weights", "pool"])
def test_outputs_that_do_not_grow_with_the_input_like_maps_are_refused(level):
    message = refusal("cnn", Attention(), (32, 32), levels=(level,))
    assert message == f"cnn has no feature map {level!r}: try one of stem"
