"""A DiffFuseNet of a few thousand parameters for the tests of pipelines."""

from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image

from fusion_hub import DiffFuseNetModel, DiffFuseNetPipeline, REDModel, REDPipeline
from fusion_hub.models.red import RED_VARIANTS

TINY = {
    "feature_channels": 8,
    "denoiser_channels": (8, 8, 8),
    "num_mid_blocks": 0,
    "num_coupling": 1,
    "attention_window": 4,
    "inference_timestep": 20,
}

ABLATIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "without D2FE": {"use_d2fe": False},
    "without EDFD": {"use_edfd": False},
    "Haar alone": {"frequency": "haar"},
    "no bands": {"frequency": "none"},
    "bands added": {"cross_frequency": "add"},
}
"""The networks of the paper's ablation study, as settings of `DiffFuseNetModel`."""


def tiny_pipeline(**settings: object) -> DiffFuseNetPipeline:
    """Random weights, none left at the zeros that training starts from, so that every layer shows in the output."""
    torch.manual_seed(0)
    model = DiffFuseNetModel(**{**TINY, **settings}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False
    )
    pipeline = DiffFuseNetPipeline(model, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def red_pipeline(tile_size: int = 128, default_denoising_steps: int | None = None, **settings: object) -> REDPipeline:
    """Random weights, none left at the zeros that training starts from, so that every layer shows in the output."""
    torch.manual_seed(0)
    model = REDModel(**{**RED_VARIANTS["tiny"], "num_steps": 3, **settings}).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 0 and not parameter.any():
                parameter.normal_(std=0.05)
    pipeline = REDPipeline(model, tile_size=tile_size, default_denoising_steps=default_denoising_steps)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def picture_pair(height: int = 48, width: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Color and gray: smooth uint8 noise away from black and white, so that no color is clipped."""
    random = np.random.default_rng(seed)
    coarse = random.integers(80, 176, (height // 8 + 1, width // 8 + 1, 4), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse, "RGBA").resize((width, height)))
    return smooth[..., :3], smooth[..., 3]
