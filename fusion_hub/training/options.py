"""The options of the trainings of DiffFuseNet and RED.

Without torch, so that a wrong flag is an error at once.
"""

from dataclasses import dataclass

from fusion_hub.training.config import ConfigError, check_options, option

DIFFFUSENET_SIZES = ("tiny", "small", "base", "large")
"""Keys of `DIFFFUSENET_VARIANTS`."""

RED_SIZES = ("paper", "small", "tiny")
"""Keys of `RED_VARIANTS`."""


def check_detector(config: "DiffFuseNetConfig | REDConfig") -> None:
    """Raise a ConfigError for a loss of detection without a detector."""
    if config.detection and not config.detector:
        raise ConfigError(f"detection is {config.detection}, but detector is empty: give the file of YOLOX in ONNX")


@dataclass(frozen=True)
class DiffFuseNetConfig:
    """Size, ablations, stages and loss weights of a DiffFuseNet run; see `fusion_hub.training.losses`."""

    variant: str = option(f"size: {', '.join(DIFFFUSENET_SIZES)}", "base", choices=DIFFFUSENET_SIZES, group="network")
    patch_size: int | None = option("side of the patch behind one feature cell, pixels; empty: 2", None, 1, 16)
    feature_channels: int | None = option("width of the features, even; empty: the variant's", None, 2)
    attention_window: int | None = option("windows of the channel gate, cells of a band; empty: 16", None, 1, 256)
    detail_channels: int = option(
        "width of the head at half size that refines share and correction, for patch_size above 2; 0: none", 0, 0
    )
    num_coupling: int | None = option("coupling steps; empty: the variant's", None, 0)
    prediction_type: str = option("what the denoiser predicts: v_prediction or epsilon", "v_prediction")
    inference_timestep: int = option("t at which the fusion path evaluates the denoiser, if noise_gain is 0", 40)
    noise_gain: float = option(
        "noise in the features over noise in the image; above 0, each image's own noise sets its timestep",
        10.0,
        0,
        1000,
    )
    residual: str = option(
        "own: D2FE removes from each image what it removed from its features; shared: one residual for both (eq. 6)",
        "own",
        choices=("own", "shared"),
    )
    residual_scale: float = option("bound of the residual", 0.5, 0, 1)
    gate: str = option(
        "normalized: the spatial gate reads the low band over its local scale; plain: as it is",
        "normalized",
        choices=("normalized", "plain"),
    )
    use_d2fe: bool = option("ablation; false: no diffusion, shallow features and images pass unchanged", True)
    use_edfd: bool = option("ablation; false: the mean is shared, each image's own features are specific", True)
    frequency: str = option("haar_inn; ablations: haar (no coupling), none (no bands)", "haar_inn")
    cross_frequency: str = option("attention; ablation: add", "attention")
    initial_weights: str | None = option(
        "bundled name, folder or Hub id of a pipeline to start from; its model config is kept", None
    )

    two_stage: bool = option("ablation; false: the loss of stage two from the start", True, group="stages")
    stage_one_fraction: float = option("part of all steps, 0 to 1, that stage one takes", 0.1, 0, 1)
    freeze_d2fe: bool = option("keep encoder and denoiser as stage one left them", False)

    intensity: float = option("distance to intensity_target", 10.0, group="weights of the losses of stage two")
    intensity_target: str = option(
        "maximum of both sources; or salient, the visible raised to the infrared where that is salient",
        "maximum",
        choices=("maximum", "salient"),
    )
    gradient: float = option("distance to the stronger gradient, with its sign", 12.0)
    gradient_gain: float = option("factor on the target gradient; above 1: crisper than the sources", 1.1)
    noise_floor: float = option("gradients below this many times a source's noise energy are no target", 0.0)
    edges: float = option("edges of both sources that are lost in strength or direction (1 - Qabf)", 0.0)
    ssim: float = option("SSIM with both sources, weighted by their local variance", 0.5)
    structure: float = option("SSIM with both sources that also counts flat regions", 2.0)
    fidelity: float = option("visual information fidelity with both sources", 2.5)
    difference_correlation: float = option("correlation of differences", 4.0)
    decoupling: float = option("decoupling of the specific features, in both stages", 0.1)
    diffusion: float = option("loss of the denoiser; 1 in stage one", 0.1)
    restoration: float = option("distance of the images with their residuals to the clean images, in both stages", 10.0)
    noise_decoding: float = option(
        "distance of the images to the clean images, if the denoiser were perfect; needs noise_gain and residual = own",
        0.0,
    )
    feature_noise: float = option(
        "largest noise added to a quarter of the features of stage two, beside their unit variance; needs noise_gain",
        0.1,
    )
    consistency: float = option("consistency of the denoised features, within the loss of the denoiser", 0.1)
    feature_collapse: float = option(
        "features that are constant or do not show the noise of their image, in both stages; needs noise_gain", 0.0
    )
    detection: float = option("objects less detectable than in the better source; needs detector and boxes", 0.0)
    detector: str | None = option("YOLOX in ONNX, frozen, for detection", None)
    gate_balance: float = option("distance of the mean of each gate from 1", 1.0)
    out_of_range: float = option("leaving 0 to ceiling", 5.0)
    ceiling: float = option("largest value, where no source is brighter", 1.0, 0, 1)

    def __post_init__(self) -> None:
        check_options(self)
        check_detector(self)


@dataclass(frozen=True)
class REDConfig:
    """Size, ablations, start and loss weights of a RED run; the losses are those of `fusion_hub.training.losses`.

    The defaults of the losses are the paper's three terms; weights and targets are not in its text.
    """

    variant: str = option(
        f"size: {', '.join(RED_SIZES)}; it sets the fields below that are empty",
        "small",
        choices=RED_SIZES,
        group="network (empty fields follow from variant)",
    )
    num_steps: int | None = option("T, the diffusion steps", None)
    block_out_channels: list[int] | None = option("widths of the two levels", None)
    num_attention_heads: list[int] | None = option(
        "attention heads of each level; about 32 channels for each are fast", None
    )
    layers_per_block: int | None = option("residual blocks of a level of the encoder", None)
    attention_window: list[int] | None = option("side of the attention windows of each level, latents; 0: full", None)
    time_embedding: bool | None = option("pass the step to the UNet", None)
    norm: str | None = option("group (over the whole picture) or local (for each pixel)", None)
    norm_num_groups: int | None = option("groups of the normalization", None)
    patch_size: int | None = option("side of the patch behind one latent, pixels", None)
    source_injection: bool | None = option("pass both sources to every step; the paper does not", None)
    reversible_fusion: bool | None = option("ablation; false: steps are not wired to the state before the last", None)
    reversible_blocks: bool | None = option("ablation; false: blocks of the UNet are not wired", None)
    learnable_lambda: bool | None = option("ablation; false: the result is the last state alone", None)
    resample: str | None = option("pixel_shuffle; ablation: convolution", None)
    memory: str | None = option("for the backward pass: reversible (the paper), checkpoint or none (fastest)", None)
    store_states: bool | None = option("keep the states between steps, which are small, instead of inverting", None)

    sd15: str | None = option(
        "folder or Hub id of a Stable Diffusion 1.5 (or of its UNet) to start from", None, group="initial weights"
    )
    initial_weights: str | None = option(
        "bundled name, folder or Hub id of a RED pipeline to start from; its model config is kept, except memory", None
    )

    random_steps: bool = option(
        "random 1 to T steps for each batch, so that fewer than T also fuse well", False, group="steps"
    )
    default_denoising_steps: int | None = option(
        "steps that the finished pipeline runs unless it is given others; none: T", None, group="steps"
    )
    early_estimates: float = option(
        "weight of all losses on the clean estimates of the steps before the last, so that the chain may stop early; "
        "needs memory = none",
        0.0,
    )

    ssim: float = option("SSIM with both sources", 0.5, group="weights of the losses")
    ssim_weight: str = option(
        "of each source: equal (the paper), or variance, its share of the local variance",
        "equal",
        choices=("equal", "variance"),
    )
    mae: float = option("distance to mae_target", 1.0)
    mae_target: str = option(
        "maximum of both sources; mean, of the distances to both; or salient, the visible raised to the infrared where "
        "that is salient",
        "maximum",
        choices=("maximum", "mean", "salient"),
    )
    gradient: float = option("distance to the stronger gradient", 1.0)
    gradient_target: str = option(
        "signed, or unsigned: an edge of reversed polarity then costs nothing", "signed", choices=("signed", "unsigned")
    )
    gradient_gain: float = option("factor on the target gradient; above 1: crisper than the sources", 1.0)
    noise_floor: float = option("gradients below this many times a source's noise energy are no target", 0.0)
    structure: float = option("SSIM with both sources that also counts flat regions", 0.0)
    fidelity: float = option("visual information fidelity with both sources", 0.0)
    difference_correlation: float = option("correlation of differences", 0.0)
    detection: float = option("objects less detectable than in the better source; needs detector and boxes", 0.0)
    detector: str | None = option("YOLOX in ONNX, frozen, for detection", None)
    out_of_range: float = option("leaving 0 to ceiling", 0.0)
    ceiling: float = option("largest value, where no source is brighter", 1.0, 0, 1)

    def __post_init__(self) -> None:
        check_options(self)
        check_detector(self)
        if self.early_estimates and self.memory != "none":
            raise ConfigError(f"early_estimates needs memory = none, as all states are kept, got {self.memory}")
        if self.noise_floor and self.gradient_target != "signed":
            raise ConfigError(f"noise_floor needs gradient_target = signed, got {self.gradient_target}")
        if self.sd15 and self.initial_weights:
            raise ConfigError(f"give sd15 = {self.sd15} or initial_weights = {self.initial_weights}, not both")
