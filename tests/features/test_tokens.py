"""Transformers of timm, small and with random weights: levels are blocks, without prefix tokens, at any input size."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spade_index.errors import BackboneError
from spade_index.features.backbone import Backbone, load_backbone
from spade_index.gallery import Gallery
from spade_index.images import find_images, load
from spade_index.method.detector import Detector

from helpers.timm_models import assert_close, batch, loaded, outputs, refusal, tiny_swin
from helpers.tiny import build, write_images

TINY = {"embed_dim": 48, "depth": 4, "num_heads": 3}
RELATIVE = "vit_srelpos_small_patch16_224"  # its positions are relative
MODELS: dict[str, dict[str, object]] = {
    "vit_small_patch16_224": {"img_size": 96},  # a class token
    "vit_small_patch14_dinov2": {"img_size": 98},
    "vit_small_patch14_reg4_dinov2": {"img_size": 98},  # a class token and four registers
    "vit_small_patch16_dinov3": {"img_size": 96},  # of the family Eva: rotary positions, four registers
    "vit_base_patch16_siglip_224": {"img_size": 96},  # no class token: timm pools by attention
    "vit_medium_patch16_reg4_gap_256": {"img_size": 96},  # registers and no class token
    RELATIVE: {"img_size": 96},  # no prefix tokens at all
}


def tiny(name: str, **changes: object) -> nn.Module:
    """Return a model of four narrow blocks with random weights, the same each time."""
    torch.manual_seed(0)
    return timm.create_model(name, **{**TINY, **MODELS[name], **changes}).eval()


@pytest.mark.parametrize("name", MODELS)
def test_levels_are_the_patch_tokens_of_blocks(name):
    model = tiny(name)
    size = model.patch_embed.img_size
    images = batch(3, size)
    backbone = loaded(tiny(name), size)
    final, blocks = outputs(model, images, ["blocks.1", "blocks.2", "blocks.3"])
    prefix = model.num_prefix_tokens
    assert final.shape[1] - prefix == (size[0] // backbone.input_multiple) * (size[1] // backbone.input_multiple)
    pooled = final[:, prefix:].mean(1) if model.cls_token is None else final[:, 0]
    assert backbone.settings.levels == ("blocks.1", "blocks.2", "blocks.3")
    assert_close(backbone(images), pooled, [block[:, prefix:] for block in blocks])


def test_the_models_have_the_prefix_tokens_that_they_are_here_for():
    prefixes = {name: (tiny(name).num_prefix_tokens, tiny(name).cls_token is not None) for name in MODELS}
    assert prefixes == {
        "vit_small_patch16_224": (1, True),
        "vit_small_patch14_dinov2": (1, True),
        "vit_small_patch14_reg4_dinov2": (5, True),
        "vit_small_patch16_dinov3": (5, True),
        "vit_base_patch16_siglip_224": (0, False),
        "vit_medium_patch16_reg4_gap_256": (4, False),
        RELATIVE: (0, False),
    }


@pytest.mark.parametrize("name", [name for name in MODELS if name != RELATIVE])
def test_other_input_sizes_work_and_need_not_be_square(name):
    patch = tiny(name).patch_embed.patch_size[0]
    size = (4 * patch, 9 * patch)
    dynamic = tiny(name, dynamic_img_size=True)  # interpolates the positions in each pass
    dynamic.load_state_dict(tiny(name).state_dict())
    images = batch(2, size)
    final, blocks = outputs(dynamic, images, ["blocks.0"])
    prefix = dynamic.num_prefix_tokens
    backbone = loaded(tiny(name), size, levels=("blocks.0",))
    assert backbone.settings.level_shapes == ((48, 4, 9),)
    pooled = final[:, prefix:].mean(1) if dynamic.cls_token is None else final[:, 0]
    assert_close(backbone(images), pooled, [blocks[0][:, prefix:]])


@pytest.mark.parametrize(
    ("depth", "levels"),
    [
        (1, ("blocks.0",)),
        (2, ("blocks.0", "blocks.1")),
        (6, ("blocks.2", "blocks.4", "blocks.5")),
        (12, ("blocks.5", "blocks.8", "blocks.11")),
    ],
)
def test_default_levels_are_at_half_and_three_quarters_of_the_depth_and_the_last(depth, levels):
    assert loaded(tiny("vit_small_patch16_224", depth=depth), (96, 96)).settings.levels == levels


def test_levels_of_one_size_keep_the_order_in_which_they_are_named():
    backbone = loaded(tiny("vit_small_patch16_224"), (96, 96), levels=("blocks.3", "blocks.0"))
    assert backbone.settings.levels == ("blocks.3", "blocks.0")
    images = batch(1, (96, 96))
    swapped = loaded(tiny("vit_small_patch16_224"), (96, 96), levels=("blocks.0", "blocks.3"))(images).pyramid
    assert all(torch.equal(*pair) for pair in zip(backbone(images).pyramid, reversed(swapped), strict=True))


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((400, 400), "not 400x400: the nearest are 392x392 or 406x406"),
        ((392, 400), "not 392x400: the nearest are 392x392 or 392x406"),
        ((16, 28), "not 16x28: the nearest are 14x28 or 28x28"),
    ],
)
def test_an_input_that_is_no_whole_number_of_patches_is_refused(size, nearest):
    for name in ("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"):
        message = refusal("timm:v", tiny(name), size)
        assert message == f"timm:v takes input sizes that are multiples of its patch, 14x14 pixels, {nearest}"


def test_the_multiple_of_input_sizes_is_told(backbone):
    assert loaded(tiny("vit_small_patch14_dinov2"), (98, 98)).input_multiple == 14
    assert loaded(tiny_swin(img_size=96), (96, 96)).input_multiple == 4
    assert backbone.input_multiple == 1


@pytest.mark.parametrize("level", ["patch_embed", "patch_embed.proj", "blocks.1.attn", "norm", "blocks.4", "blocks"])
def test_a_module_that_is_no_map_is_refused(level):
    message = refusal("timm:v", tiny("vit_small_patch16_224"), (96, 96), levels=("blocks.1", level))
    assert message == (
        f"timm:v has no feature map {level!r}: try one of " + ", ".join(f"blocks.{at}" for at in range(4))
    )


def test_many_blocks_are_listed_as_a_range():
    model = tiny("vit_small_patch16_224", depth=12)
    assert refusal("timm:v", model, (96, 96), levels=("norm",)).endswith("try one of blocks.0 to blocks.11")


def test_torchvisions_vision_transformers_are_refused():
    with pytest.raises(BackboneError, match="use timm:vit_base_patch16_224"):
        load_backbone("vit_b_16", device="cpu")


def test_an_input_size_that_a_model_cannot_take_is_refused_with_its_own():
    model = timm.create_model("cait_xxs24_224", embed_dim=48, depth=1, num_heads=3)
    message = refusal("timm:c", model, (192, 192))
    assert message.endswith("its own size is 224x224")


def test_images_computed_together_and_alone_have_the_same_features():
    backbone = loaded(tiny("vit_small_patch16_dinov3"), (96, 96))
    images = batch(5, (96, 96))
    together = backbone(images)
    for place in range(5):
        alone = backbone(images[place : place + 1])
        torch.testing.assert_close(alone.pooled[0], together.pooled[place], rtol=1e-4, atol=1e-4)
        for one, many in zip(alone.pyramid, together.pyramid, strict=True):
            torch.testing.assert_close(one[0], many[place], rtol=1e-4, atol=1e-4)


def test_features_are_finite_in_float16_and_close_in_bfloat16():
    images = batch(2, (98, 98))
    exact = loaded(tiny("vit_small_patch14_reg4_dinov2"), (98, 98))(images)
    assert all(torch.isfinite(level.half()).all() for level in exact.pyramid)
    rounded = loaded(tiny("vit_small_patch14_reg4_dinov2"), (98, 98), precision="bfloat16")(images)
    for one, other in zip([exact.pooled, *exact.pyramid], [rounded.pooled, *rounded.pyramid], strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).norm() / one.norm()) < 0.1


def test_features_that_float16_cannot_hold_are_refused():
    model = tiny("vit_small_patch16_224")
    with torch.no_grad():
        model.blocks[1].mlp.fc2.bias += 1e5
    with pytest.raises(BackboneError, match="not finite, or over 65504"):
        loaded(model, (96, 96))(batch(1, (96, 96)))


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory) -> Path:
    """Random weights of the whole model, without a head, as a file."""
    path = tmp_path_factory.mktemp("weights") / "dinov2.safetensors"
    save_file(timm.create_model("vit_small_patch14_dinov2").state_dict(), path)
    return path


def load_dinov2(weights: Path, edge: int) -> Backbone:
    sized = lambda default: replace(default, input_size=(edge, edge))  # noqa: E731
    return load_backbone("timm:vit_small_patch14_dinov2", weights=weights, preprocessing=sized, device="cpu")


def test_weights_are_read_from_a_file_and_their_digest_is_the_same_at_all_sizes(dinov2):
    small, large = load_dinov2(dinov2, 56), load_dinov2(dinov2, 98)
    assert small.settings.level_shapes == ((384, 4, 4),) * 3
    assert large.settings.level_shapes == ((384, 7, 7),) * 3
    assert small.settings.weights == large.settings.weights
    assert small.settings.preprocessing.interpolation == "bicubic"
    assert type(small.settings).from_json(small.settings.to_json()) == small.settings


def test_weights_in_the_names_of_their_publisher_are_the_same_weights(dinov2, tmp_path):
    torch.save({**load_file(dinov2), "mask_token": torch.zeros(1, 384)}, tmp_path / "published.pth")
    assert load_dinov2(tmp_path / "published.pth", 56).settings == load_dinov2(dinov2, 56).settings
    torch.save({f"other.{name}": value for name, value in load_file(dinov2).items()}, tmp_path / "other.pth")
    with pytest.raises(BackboneError, match="do not fit timm:vit_small_patch14_dinov2"):
        load_dinov2(tmp_path / "other.pth", 56)


def test_weights_without_the_final_norm_are_refused(dinov2, tmp_path):
    save_file(
        {name: value for name, value in load_file(dinov2).items() if name != "norm.weight"},
        tmp_path / "no_norm.safetensors",
    )
    with pytest.raises(BackboneError, match=r"1 are missing, norm\.weight"):
        load_dinov2(tmp_path / "no_norm.safetensors", 56)


def test_a_gallery_of_tokens_finds_the_image_itself(tmp_path):
    backbone = loaded(tiny("vit_small_patch14_reg4_dinov2"), (98, 98))
    images = write_images(tmp_path / "images", 5)
    build(tmp_path / "gallery", images, backbone)
    with Gallery(tmp_path / "gallery") as gallery:
        assert gallery.settings == backbone.settings
        query = [load(list(find_images(images))[2], backbone.settings.preprocessing)]
        detection = Detector(gallery, backbone).detect(query)[0]
    assert detection.neighbours[0].id == "002.png"
    assert detection.scores["map"] < 1e-3
