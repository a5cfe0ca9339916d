"""Detectors of `transformers` for training: RT-DETRv2 (Lv et al. 2024, arXiv 2407.17140) and D-FINE (Peng et al. 2024,
arXiv 2410.13842), small ones with random weights or any from a checkpoint.
"""

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import nn

from fusion_hub.downstream.image_training import Normalization, config_errors
from fusion_hub.training.checkpoint import Network

ARCHITECTURES = ("rt_detr_v2", "d_fine")

# `channels`: of the four stages of the backbone, of which the last three are used; `width`: of encoder and decoder. The
# smallest published networks have channels (64, 128, 256, 512) and width 256.
VARIANTS: dict[str, dict[str, Any]] = {
    "small": {"channels": (16, 32, 64, 128), "width": 64, "decoder_layers": 2},
    "tiny": {"channels": (8, 16, 16, 16), "width": 16, "decoder_layers": 2},
}
READ_STAGES = ["stage2", "stage3", "stage4"]
PRIOR = 0.01  # initial probability of each class, because most queries find nothing


def new_network(architecture: str, variant: str, classes: Sequence[str], queries: int, denoising: int) -> Network:
    """A detector with random weights from torch's generator.

    Args:
        architecture: one of `ARCHITECTURES`.
        variant: one of `VARIANTS`.
        classes: their names.
        queries: largest number of objects found in an image.
        denoising: number of noisy boxes that are restored in training.
    """
    channels, width = VARIANTS[variant]["channels"], VARIANTS[variant]["width"]
    settings: dict[str, Any] = {
        **_class_settings(classes),
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
        "freeze_backbone_batch_norms": False,  # they are not trained yet
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
    initialize(model)
    return model


def load_network(name: str, classes: Sequence[str], queries: int, denoising: int) -> tuple[Network, Normalization]:
    """A copy of a checkpoint, with new class layers if its classes differ, and the normalization of its images.

    Raises:
        ConfigError: it cannot be loaded, or has another architecture.
    """
    with config_errors(f"initial_weights = {name} cannot be loaded: "):
        architecture = transformers.AutoConfig.from_pretrained(name).model_type
        if architecture not in ARCHITECTURES:
            raise ValueError(f"it is a {architecture}, not one of {', '.join(ARCHITECTURES)}")
        model = transformers.AutoModelForObjectDetection.from_pretrained(
            name,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
            num_queries=queries,
            num_denoising=denoising,
            **_class_settings(classes),
        )
        processor = transformers.AutoImageProcessor.from_pretrained(name, backend="pil")
    if not processor.do_normalize:
        return model, ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return model, (tuple(processor.image_mean), tuple(processor.image_std))


def _class_settings(classes: Sequence[str]) -> dict[str, Any]:
    names = dict(enumerate(classes))
    return {"id2label": names, "label2id": {name: index for index, name in names.items()}}


def initialize(model: Any) -> None:
    """Initial weights for training from scratch.

    `transformers` draws the weights of RT-DETR's batch norms around 0 and those of all linear layers with a deviation
    of 0.01, so almost no signal is left. These are the weights of the authors: He's for convolutions, Xavier's for
    linear layers. Zeros stay zero: offsets of the deformable attention, last layers of box heads.
    """
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Linear) and layer.weight.any() and "class_embed" not in name:
            nn.init.xavier_uniform_(layer.weight)
    for name, layer in model.named_modules():  # initial boxes are the anchors
        if name.endswith(("enc_bbox_head", "pre_bbox_head")):
            nn.init.zeros_(layer.layers[-1].weight)
            nn.init.zeros_(layer.layers[-1].bias)


def image_processor(size: tuple[int, int], normalization: Normalization) -> Any:
    """Resizes images to `size` (H, W), without keeping proportions, and normalizes them."""
    mean, std = normalization
    return transformers.RTDetrImageProcessorPil(
        size={"height": size[0], "width": size[1]}, do_normalize=True, image_mean=list(mean), image_std=list(std)
    )
