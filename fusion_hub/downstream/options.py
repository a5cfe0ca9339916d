"""The options of the trainings of SegFormer and detectors.

Without torch and transformers, so that a wrong flag is an error at once.
"""

from dataclasses import dataclass

from fusion_hub.downstream.protocols import MSRS_CLASSES
from fusion_hub.training.config import ConfigError, Source, check_options, option

WEIGHTINGS = ("none", "median_frequency", "effective_number")
ARCHITECTURES = ("rt_detr_v2", "d_fine")  # of `transformers`
CONVNET = "convnet"


@dataclass(frozen=True)
class ImageConfig:
    """Input images, start and augmentation of a network that follows fusion."""

    input: list[str] = option(
        "visible, infrared, a rule (average, maximum, laplacian, guided_filter), a bundled fusion model, a pipeline "
        "folder, a Hub id, or a folder with one image for each pair; with several, each crop uses one",
        ["visible"],
        group="images and start",
    )
    input_dtype: str = option(
        "precision of the fusion model: float32 or bfloat16", "float32", choices=("float32", "bfloat16")
    )
    cache_dir: str = option("folder for fused images and their provenance", "runs/inputs")
    initial_weights: str | None = option(
        "folder or Hub id of a network to start from; its classes may differ; empty: random weights", None
    )

    largest_scale: float = option(
        "scenes are enlarged by a random factor up to this", 1.0, 1, 100, group="augmentation"
    )
    gamma_jitter: float = option("images are raised to a power from exp(-this) to exp(this)", 0.0, 0, 3)
    rare_class_crops: float = option("probability of a crop centered on a random foreground class", 0.0, 0, 1)

    def __post_init__(self) -> None:
        check_options(self)
        if not self.input or len(set(self.input)) < len(self.input):
            raise ConfigError(f"input must be one or more different names, got {self.input}")


@dataclass(frozen=True)
class SegFormerConfig(ImageConfig):
    """Options of a SegFormer run."""

    image_size: list[int] | None = option(
        "height and width to which all images are resized; empty: unchanged", None, group="network and loss"
    )
    classes: list[str] = option("names of the classes, by label value", list(MSRS_CLASSES))
    variant: str = option("size: b0 or tiny", "b0", choices=("b0", "tiny"))
    drop_path: float = option("probability of skipping a residual branch", 0.1, 0, 1)
    classifier_dropout: float = option("dropout before the last layer", 0.1, 0, 1)
    cross_entropy: float = option("weight of the cross entropy", 1.0, 0)
    class_weights: str = option(
        f"class weights of the cross entropy: {', '.join(WEIGHTINGS)}", "median_frequency", choices=WEIGHTINGS
    )
    class_weight_power: float = option("power to which class weights are raised: 0 makes them equal", 1.0, 0, 1)
    lovasz: float = option("weight of the Lovász-Softmax loss, a differentiable surrogate of 1 - mIoU", 0.0, 0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size is not None and (len(self.image_size) != 2 or min(self.image_size) < 32):
            raise ConfigError(f"image_size must be height and width, at least 32 each, got {self.image_size}")
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes must be two or more different names, got {self.classes}")
        if not self.cross_entropy and not self.lovasz:
            raise ConfigError("cross_entropy and lovasz are both 0: there is no loss, set one of them")


@dataclass(frozen=True)
class DetectorConfig(ImageConfig):
    """Options of a detector's run."""

    image_size: list[int] = option(
        "height and width of the network's input, multiples of 32", [256, 320], group="network and boxes"
    )
    classes: list[str] = option("classes to detect; other boxes are left out", ["person", "bicycle", "car"])
    annotations: list[str] | None = option("box files to use, by stem (vis ir); empty: the union of all", None)
    test_sources: list[Source] = option("paired sets for the final evaluation; empty: the validation sources", [])
    architecture: str = option(
        f"of a new network: {', '.join((*ARCHITECTURES, CONVNET))}", "rt_detr_v2", choices=(*ARCHITECTURES, CONVNET)
    )
    variant: str = option("size of a new network: small or tiny", "small", choices=("small", "tiny"))
    queries: int = option("largest number of objects found in an image", 80, 1)
    denoising_queries: int = option("about this many noisy boxes are restored in training; 0: none", 60, 0)
    repeats: int = option("number of predictions matched to each box in the first part of the steps", 1, 1)
    repeats_fraction: float = option("length of that part, 0 to 1; afterwards one is matched to each box", 0.0, 0, 1)
    mosaic: float = option("convnet: probability of a sample made of four views", 0.0, 0, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "test_sources", [Source.parse(source) for source in self.test_sources])
        if len(self.image_size) != 2 or any(side < 32 or side % 32 for side in self.image_size):
            raise ConfigError(f"image_size must be height and width, multiples of 32, got {self.image_size}")
        if self.architecture == CONVNET and self.initial_weights is not None:
            raise ConfigError("a convnet starts from random weights: leave initial_weights empty")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ConfigError(f"classes must be one or more different names, got {self.classes}")
