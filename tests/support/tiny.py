"""A DiffFuseNet of a few thousand parameters for the tests of pipelines."""

import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from fusion_hub import DiffFuseNetModel, DiffFuseNetPipeline

TINY = {
    "feature_channels": 8,
    "denoiser_channels": (8, 8, 8),
    "num_mid_blocks": 0,
    "num_coupling": 1,
    "attention_window": 4,
    "inference_timestep": 20,
}


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
