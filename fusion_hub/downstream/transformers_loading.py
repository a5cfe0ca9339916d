"""Loading a `transformers` network and its image processor: safetensors only, complete, without torchvision."""

import os
from pathlib import Path
from typing import Any

import torch

from fusion_hub.downstream.weights import require

HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")


def load_network(
    auto_class: str,
    name_or_path: str | os.PathLike[str],
    device: str | torch.device,
    hub: dict[str, Any],
    model_type: str | None = None,
) -> tuple[Any, Any]:
    """A network in evaluation mode, float32, and its processor.

    Args:
        auto_class: name of a class of `transformers` with `from_pretrained`, `"AutoModelForObjectDetection"`.
        name_or_path: a folder that `save_pretrained` wrote, with `preprocessor_config.json`, or a Hub id.
        device: where the network runs.
        hub: `revision`, `token`, `cache_dir`, `local_files_only`; None is left out.
        model_type: the only architecture that is accepted, `"segformer"`; default any.

    Raises:
        ImportError: if transformers is not installed.
        OSError: if something is missing or cannot be reached, or there are pickled weights only.
        ValueError: if the weights do not fit the network, or the network is of another kind.
    """
    transformers = require("transformers", auto_class)
    name = os.fspath(name_or_path)
    hub = {key: hub[key] for key in HUB_ARGUMENTS if hub.get(key) is not None}
    if not Path(name).is_dir() and (Path(name).is_absolute() or name.count("/") != 1):
        raise FileNotFoundError(
            f"there is no folder {name!r}, and it is no Hub id: give 'owner/name', or a folder of save_pretrained"
        )
    try:
        found_type = transformers.AutoConfig.from_pretrained(name, **hub).model_type
        if model_type not in (None, found_type):
            raise ValueError(f"it is a {found_type}, not a {model_type}")
        # The PIL processors: those of torchvision resize differently, and torchvision is not ours to require.
        processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil", **hub)
        model, report = getattr(transformers, auto_class).from_pretrained(
            name, use_safetensors=True, output_loading_info=True, dtype=torch.float32, **hub
        )
    except Exception as error:  # files of others fail in any way: safetensors, JSON, checks of the configuration, HTTP
        kind = OSError if isinstance(error, OSError) else ValueError
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise kind(
            f"cannot load {name!r} with {auto_class} ({reason[:300]}): give a folder or a Hub id with config.json, "
            "preprocessor_config.json and safetensors weights"
        ) from error
    broken = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
    if broken:
        raise ValueError(
            f"the weights in {name!r} lack {len(broken)} tensors of the network, or have them in other shapes (first: "
            f"{sorted(broken)[0]}): take config.json and the weights from the same checkpoint"
        )
    return model.eval().to(device), processor


def check_finite(logits: torch.Tensor) -> None:
    """Raises ValueError if a network returned NaN or infinite values, in which nothing would be found."""
    if not torch.isfinite(logits).all():
        raise ValueError("the network returned NaN or infinite values: check its weights, or run it in float32")


def class_names(model: Any) -> dict[int, str]:
    """Name of each class, by class id."""
    return {int(class_id): str(name) for class_id, name in model.config.id2label.items()}
