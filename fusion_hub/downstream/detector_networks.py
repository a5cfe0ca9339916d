"""Detectors of `transformers` to train: RT-DETRv2 (Lv et al. 2024, arXiv 2407.17140) and D-FINE (Peng et al. 2024,
arXiv 2410.13842), small ones from random weights or any from a checkpoint.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fusion_hub.downstream.augmentation import Normalisation
from fusion_hub.training.checkpoint import Network
from fusion_hub.training.config import ConfigError

ARCHITECTURES = ("rt_detr_v2", "d_fine")

# `channels` are those of the four stages of the backbone, of which the last three are read; `width` that of encoder and
# decoder. The published networks start at channels (64, 128, 256, 512) and width 256.
VARIANTS: dict[str, dict[str, Any]] = {
    "small": {"channels": (16, 32, 64, 128), "width": 64, "decoder_layers": 2},
    "tiny": {"channels": (8, 16, 16, 16), "width": 16, "decoder_layers": 2},
}
READ_STAGES = ["stage2", "stage3", "stage4"]
PRIOR = 0.01  # probability of each class at the start: nearly all places show nothing


def new_network(architecture: str, variant: str, classes: Sequence[str], queries: int, denoising: int) -> Network:
    """A detector with random weights, drawn from torch's generator.

    Args:
        architecture: one of `ARCHITECTURES`.
        variant: one of `VARIANTS`.
        classes: their names.
        queries: objects that it can find in a picture.
        denoising: queries of boxes with noise, for training only.
    """
    import transformers

    channels, width = VARIANTS[variant]["channels"], VARIANTS[variant]["width"]
    settings: dict[str, Any] = {
        **class_settings(classes),
        "encoder_in_channels": list(channels[1:]),
        "encoder_hidden_dim": width,
        "encoder_ffn_dim": 2 * width,
        "encoder_attention_heads": 4,
        "hidden_expansion": 0.5,
        "d_model": width,
        "decoder_in_channels": [width] * 3,
        "decoder_ffn_dim": 2 * width,
        "decoder_attention_heads": 4,
        "decoder_layers": VARIANTS[variant]["decoder_layers"],
        "decoder_n_points": 2,
        "num_queries": queries,
        "num_denoising": denoising,
        "initializer_bias_prior_prob": PRIOR,
        # Statistics of a backbone that was never trained are nothing to keep.
        "freeze_backbone_batch_norms": False,
    }
    model: Any
    if architecture == "rt_detr_v2":
        resnet: dict[str, Any] = {
            "embedding_size": channels[0],
            "hidden_sizes": list(channels),
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
            "out_features": READ_STAGES,
        }
        settings["backbone_config"] = transformers.RTDetrResNetConfig(**resnet)
        model = transformers.RTDetrV2ForObjectDetection(transformers.RTDetrV2Config(**settings))
    else:
        stem = max(8, channels[0] // 2)
        inner = [max(8, count // 2) for count in channels]
        hgnet: dict[str, Any] = {
            "stem_channels": [3, stem, stem],
            "stage_in_channels": [stem, *channels[:-1]],
            "stage_mid_channels": inner,
            "stage_out_channels": list(channels),
            "stage_num_blocks": [1, 1, 1, 1],
            "stage_numb_of_layers": [2, 2, 2, 2],
            "hidden_sizes": list(channels),
            "out_features": READ_STAGES,
        }
        settings |= {"backbone_config": transformers.HGNetV2Config(**hgnet), "depth_mult": 0.34}
        model = transformers.DFineForObjectDetection(transformers.DFineConfig(**settings))
    initialise(model)
    return model


def load_network(name: str, classes: Sequence[str], queries: int, denoising: int) -> tuple[Network, Normalisation]:
    """A copy of a checkpoint, with new class layers where its classes are others, and how its pictures are normalised.

    Raises:
        ConfigError: it cannot be loaded, or is of another architecture.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForObjectDetection

    try:
        architecture = AutoConfig.from_pretrained(name).model_type
        if architecture not in ARCHITECTURES:
            raise ValueError(f"it is a {architecture}, not one of {', '.join(ARCHITECTURES)}")
        model = AutoModelForObjectDetection.from_pretrained(
            name,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            num_queries=queries,
            num_denoising=denoising,
            **class_settings(classes),
        )
        processor = AutoImageProcessor.from_pretrained(name, backend="pil")
    except (OSError, ValueError) as error:
        raise ConfigError(f"initial_weights = {name} cannot be loaded: {error}") from error
    if not processor.do_normalize:
        return model, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return model, (tuple(processor.image_mean), tuple(processor.image_std))


def class_settings(classes: Sequence[str]) -> dict[str, Any]:
    """What a configuration of `transformers` says of the classes."""
    names = dict(enumerate(classes))
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def initialise(model: Any) -> None:
    """First weights with which a network learns from nothing.

    `transformers`, whose first weights are mostly replaced by loaded ones, draws the weights of RT-DETR's batch norms
    around 0 and those of all linear layers with a deviation of 0.01: next to nothing passes. Here they start as those
    of the authors: He's for convolutions, Xavier's for linear layers. What starts as zero stays zero: offsets of the
    deformable attention, the last layers of box heads.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear) and layer.weight.any() and "class_embed" not in name:
            nn.init.xavier_uniform_(layer.weight)
    for name, layer in model.named_modules():  # first boxes are the anchors themselves
        if name.endswith(("enc_bbox_head", "pre_bbox_head")):
            nn.init.zeros_(layer.layers[-1].weight)
            nn.init.zeros_(layer.layers[-1].bias)


def image_processor(size: tuple[int, int], normalisation: Normalisation) -> Any:
    """How pictures become what the network sees: resized to `size` (H, W) without regard to proportions, normalised."""
    from transformers import RTDetrImageProcessorPil

    mean, std = normalisation
    return RTDetrImageProcessorPil(
        size={"height": size[0], "width": size[1]}, do_normalize=True, image_mean=list(mean), image_std=list(std)
    )


def save_network(model: Any, processor: Any, folder: Path) -> None:
    """A folder for `TransformersDetector.from_pretrained` and for `transformers`."""
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
