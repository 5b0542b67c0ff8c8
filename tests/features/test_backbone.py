"""Backbones: levels are the outputs of modules; weights are read from files of all usual kinds, without code."""

import pickle
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from spade_index.errors import BackboneError
from spade_index.features.backbone import Backbone, load_backbone
from spade_index.features.pretrained import weights_digest
from spade_index.presets import PAPER_STRIDES
from spade_index.settings import Preprocessing

LITE0 = "efficientnet-lite0"


def sized(edge: int):
    return lambda default: replace(default, input_size=(edge, edge))


def load_small(name: str, weights: Path | None = None, edge: int = 64, **options) -> Backbone:
    return load_backbone(
        name, weights=weights, preprocessing=sized(edge), **{"device": "cpu", "precision": "float32"} | options
    )


def batch(count: int, edge: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, edge, edge, 3), np.uint8)


def refusal(*arguments, **options) -> str:
    with pytest.raises(BackboneError) as raised:
        load_small(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    torch.manual_seed(0)
    return models.get_model("resnet18", weights=None).eval()


@pytest.fixture(scope="module")
def weights(resnet18, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(resnet18.state_dict(), path)
    return path


def test_the_default_backbone_has_the_papers_levels_and_a_coarser_one(tmp_path):
    path = tmp_path / "wrn.pth"
    torch.save(models.get_model("wide_resnet50_2", weights=None).state_dict(), path)
    settings = load_backbone(weights=path, device="cpu", precision="float32").settings
    papers = load_backbone(weights=path, device="cpu", precision="float32", strides=PAPER_STRIDES).settings
    path.unlink()
    assert settings.backbone == papers.backbone == "wide_resnet50_2"
    assert settings.levels == (*papers.levels, "layer4") == ("layer1", "layer2", "layer3", "layer4")
    assert settings.level_shapes == ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
    assert (papers.map_bytes, settings.pooled_dim) == (2 * 1_404_928, 2048)
    assert settings.preprocessing == Preprocessing()


def test_the_backbone_that_needs_no_download():
    settings = load_backbone(LITE0, device="cpu", precision="float32").settings
    assert settings.level_shapes == ((24, 56, 56), (40, 28, 28), (112, 14, 14), (320, 7, 7))  # not 1,280
    assert settings.pooled_dim == 1280
    # Its inputs are (x - 127) / 128 on 0..255.
    assert np.allclose(np.array(settings.preprocessing.mean) * 255, 127)
    assert np.allclose(np.array(settings.preprocessing.std) * 255, 128)


def test_features_are_the_modules_outputs_in_raster_order(resnet18, weights):
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(resnet18, name).register_forward_hook(
            lambda module, inputs, output, name=name: seen.update({name: output})
        )
        for name in ("layer1", "layer2", "layer3", "layer4")
    ]
    images = batch(3, 96)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.inference_mode():
        resnet18(normalised)
    for hook in hooks:
        hook.remove()
    features = load_small("resnet18", weights, 96)(images)
    for level, name in zip(features.pyramid, ("layer1", "layer2", "layer3", "layer4"), strict=True):
        expected = seen[name].permute(0, 2, 3, 1).reshape(3, -1, seen[name].shape[1])
        torch.testing.assert_close(level, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(features.pooled, seen["layer4"].mean((2, 3)), rtol=1e-3, atol=1e-4)


def test_an_input_need_not_be_square(weights):
    shape = load_backbone(
        "resnet18", weights=weights, preprocessing=lambda default: replace(default, input_size=(64, 96)), device="cpu"
    ).settings.level_shapes
    assert shape == ((64, 16, 24), (128, 8, 12), (256, 4, 6), (512, 2, 3))


def test_named_levels_are_taken_finest_first(weights):
    backbone = load_small("resnet18", weights, levels=("layer3", "layer2.0.conv1"))
    assert backbone.settings.levels == ("layer2.0.conv1", "layer3")
    assert backbone.settings.level_shapes == ((128, 8, 8), (256, 4, 4))
    assert [tuple(level.shape) for level in backbone(batch(2, 64)).pyramid] == [(2, 64, 128), (2, 16, 256)]


def test_levels_are_averaged_to_the_stored_grid(weights):
    images = batch(2, 64)
    fine, coarse = load_small("resnet18", weights), load_small("resnet18", weights, stored_grid=8)
    assert fine.settings.level_shapes == ((64, 16, 16), (128, 8, 8), (256, 4, 4), (512, 2, 2))
    assert coarse.settings.level_shapes == ((64, 8, 8), (128, 8, 8), (256, 4, 4), (512, 2, 2))
    whole, averaged = fine(images).pyramid, coarse(images).pyramid
    expected = whole[0].view(2, 8, 2, 8, 2, 64).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(averaged[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(averaged[1:], whole[1:])
    assert [level.dtype for features in coarse.stream([images], 1) for level in features.pyramid] == 4 * [torch.float16]


@pytest.mark.parametrize("name", [LITE0, "resnet18"])
def test_an_images_features_do_not_depend_on_its_batch(name, weights):
    backbone = load_small(name, weights if name == "resnet18" else None)
    images = batch(8, 64)
    together = backbone(images)
    for place in range(8):
        alone = backbone(images[place : place + 1])
        # The convolution library may add in another order for another batch size.
        torch.testing.assert_close(alone.pooled[0], together.pooled[place], rtol=1e-4, atol=1e-4)
        for one, many in zip(alone.pyramid, together.pyramid, strict=True):
            torch.testing.assert_close(one[0], many[place], rtol=1e-4, atol=1e-4)


def test_the_same_batch_gives_the_same_bits(weights):
    images = batch(5, 64)
    first, again = (load_small("resnet18", weights)(images) for _ in range(2))
    assert torch.equal(first.pooled, again.pooled)
    assert all(torch.equal(one, other) for one, other in zip(first.pyramid, again.pyramid, strict=True))


def test_an_earlier_batchs_features_stay(weights):
    backbone = load_small("resnet18", weights)
    first = backbone(batch(2, 64, seed=1))
    kept = [level.clone() for level in first.pyramid]
    backbone(batch(2, 64, seed=2))
    assert all(torch.equal(level, copy) for level, copy in zip(first.pyramid, kept, strict=True))


def test_bfloat16_is_close_to_float32():
    images = batch(4, 64)
    exact = load_small(LITE0)(images)
    rounded = load_small(LITE0, precision="bfloat16")(images)
    for one, other in zip([exact.pooled, *exact.pyramid], [rounded.pooled, *rounded.pyramid], strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).norm() / one.norm()) < 0.1
    assert load_small(LITE0, precision="bfloat16").settings.precision == "bfloat16"


def test_weights_are_the_same_however_they_are_stored(resnet18, weights, tmp_path):
    state = resnet18.state_dict()
    save_file(state, tmp_path / "plain.safetensors")
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "wrapped.pth")
    torch.save({"model": {f"module.{name}": tensor for name, tensor in state.items()}}, tmp_path / "parallel.pt")
    expected = load_small("resnet18", weights).settings
    for name in ("plain.safetensors", "wrapped.pth", "parallel.pt"):
        assert load_small("resnet18", tmp_path / name).settings == expected


def test_the_digest_tells_weights_apart(resnet18):
    digest = weights_digest(resnet18)
    assert weights_digest(resnet18) == digest
    with torch.no_grad():
        resnet18.conv1.weight[0, 0, 0, 0] += 1e-6
        changed = weights_digest(resnet18)
        resnet18.conv1.weight[0, 0, 0, 0] -= 1e-6
    assert changed != digest


def test_another_number_of_classes_fits(tmp_path, weights):
    state = models.get_model("resnet18", weights=None, num_classes=7).state_dict()
    torch.save(state, tmp_path / "seven.pth")
    settings = load_small("resnet18", tmp_path / "seven.pth").settings
    assert settings.pooled_dim == 512
    assert load_small("resnet18", tmp_path / "seven.pth").settings == settings  # the head's values are not random


class Attack:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_weights_file_with_code_in_it_is_refused_and_not_run(tmp_path):
    torch.save({"conv1.weight": Attack(tmp_path / "harm")}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Attack(tmp_path / "harm"), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        assert f"{name}: not a file of plain weights" in refusal("resnet18", tmp_path / name)
    assert not (tmp_path / "harm").exists()


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(models.get_model("resnet34", weights=None).state_dict(), tmp_path / "resnet34.pth")
    message = refusal("resnet18", tmp_path / "resnet34.pth")
    assert "do not fit resnet18" in message
    assert "layer" in message


@pytest.mark.parametrize("state", [{}, {0: torch.zeros(1)}, [torch.zeros(1)], {"conv1.weight": 3}])
def test_a_file_that_holds_no_weights_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "other.pth")
    refusal("resnet18", tmp_path / "other.pth")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_damaged_and_missing_weights_are_named(tmp_path, weights, suffix):
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(weights.read_bytes()[:1000])
    assert str(damaged) in refusal("resnet18", damaged)
    missing = tmp_path / f"missing{suffix}"
    assert refusal("resnet18", missing) == f"{missing}: no such weights file"


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("wide_resnet50", "wide_resnet50_2"), ("efficientnet-lite", LITE0), ("resnet81", "resnet18"), ("xyz", "resnet")],
)
def test_an_unknown_backbone_suggests_known_ones(name, suggestion):
    assert suggestion in refusal(name)


def test_an_unknown_level_suggests_known_ones(weights):
    message = refusal("resnet18", weights, levels=("layer1", "layer22"))
    assert "'layer22'" in message
    assert "layer2" in message.partition("try")[2]


def test_a_level_that_is_no_feature_map_is_refused(weights):
    assert "'fc'" in refusal("resnet18", weights, levels=("fc",))


@pytest.mark.parametrize("device", ["cuda:99", "gpu"])
def test_a_device_that_is_not_there_is_refused(device):
    message = refusal(LITE0, device=device)
    assert device in message
    assert "--device cpu" in message


def test_a_model_without_feature_maps_is_refused():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(BackboneError, match="no feature maps"):
        Backbone("flat", model, Preprocessing(input_size=(32, 32)), device="cpu")


def test_an_input_that_is_too_small_for_the_model_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 31))
    with pytest.raises(BackboneError, match=r"fails on \(16, 16\) pixels") as raised:
        Backbone("wide", model, Preprocessing(input_size=(16, 16)), device="cpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("error", [URLError("Name or service not known"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_downloaded_are_named_with_a_remedy(monkeypatch, error):
    def fail(self, *arguments, **options):
        raise error

    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", fail)
    message = refusal("wide_resnet50_2")
    assert "--weights FILE" in message
    assert "--backbone efficientnet-lite0" in message
    assert "wide_resnet50_2" in message


def test_timm_models_have_their_own_preprocessing(tmp_path):
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), tmp_path / "t.pth")
    backbone = load_backbone("timm:resnet10t", weights=tmp_path / "t.pth", device="cpu", precision="float32")
    assert backbone.settings.backbone == "timm:resnet10t"
    assert backbone.settings.preprocessing.input_size == (176, 176)
    assert backbone.settings.level_shapes == ((64, 44, 44), (128, 22, 22), (256, 11, 11), (512, 6, 6))
    assert "resnet10t" in refusal("timm:resnet10", tmp_path / "t.pth")
    assert "do not fit" in refusal("timm:resnet18", tmp_path / "t.pth")


def test_timm_weights_that_cannot_be_downloaded_are_named_with_a_remedy(monkeypatch):
    def fail(*arguments, **options):
        raise OSError("We couldn't connect to the hub\nto load the files")

    monkeypatch.setattr(timm, "create_model", fail)
    assert "--weights FILE" in refusal("timm:resnet18")
