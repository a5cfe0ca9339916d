"""Detectors and a SegFormer of the `transformers` library with random weights and few of them, saved as folders."""

from pathlib import Path

import torch
from transformers import (
    DFineConfig,
    DFineForObjectDetection,
    HGNetV2Config,
    RTDetrImageProcessor,
    RTDetrResNetConfig,
    RTDetrV2Config,
    RTDetrV2ForObjectDetection,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessor,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessor,
)

SIDE = 64
_NAMES = {0: "person", 1: "car", 2: "bicycle"}
_DETR = {
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [16, 16, 16],
    "feat_strides": [8, 16, 32],
    "encoder_layers": 1,
    "encoder_ffn_dim": 16,
    "encoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 12,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_n_points": 2,
    "num_denoising": 0,
    "id2label": _NAMES,
}


def save_detector(kind: str, folder: Path) -> Path:
    """`rt_detr_v2`, `d_fine` or `yolos`."""
    torch.manual_seed(0)
    size = {"height": SIDE, "width": SIDE}
    if kind == "yolos":
        yolos = YolosConfig(
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            image_size=[SIDE, SIDE],
            patch_size=16,
            num_detection_tokens=8,
            id2label=_NAMES,
        )
        model = YolosForObjectDetection(yolos)
        for parameter in model.parameters():  # the usual start would give each query the same answer
            parameter.data.normal_(std=0.3)
        model.save_pretrained(folder)
        YolosImageProcessor(size={"shortest_edge": SIDE, "longest_edge": 2 * SIDE}).save_pretrained(folder)
        return folder
    if kind == "rt_detr_v2":
        resnet = RTDetrResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
        RTDetrV2ForObjectDetection(RTDetrV2Config(backbone_config=resnet, **_DETR)).save_pretrained(folder)
    else:
        hgnet = HGNetV2Config(
            stem_channels=[3, 8, 8], hidden_sizes=[16, 16, 16, 16], stage_in_channels=[8, 16, 16, 16],
            stage_mid_channels=[8, 8, 8, 8], stage_out_channels=[16, 16, 16, 16],
            stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
        DFineForObjectDetection(DFineConfig(backbone_config=hgnet, **_DETR)).save_pretrained(folder)
    RTDetrImageProcessor(size=size).save_pretrained(folder)
    return folder


def save_segformer(folder: Path, names: tuple[str, ...], do_resize: bool = True) -> Path:
    """A SegFormer with two of four stages' usual depth and its processor."""
    torch.manual_seed(0)
    config = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[8, 8, 16, 16],
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(names)),
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessor(do_resize=do_resize, size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder
