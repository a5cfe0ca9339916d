"""What each part of a network contributes: pairs fused with all parts and without each, clean and with added noise.

The network fuses 8-bit luminance. Metrics always compare with the clean sources: noise that is carried over would count
as information otherwise.
"""

import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np
import torch
from torch import Tensor

from fusion_hub.data.degradations import gaussian_noise
from fusion_hub.data.pairs import READ_ERRORS, Pair
from fusion_hub.evaluation.methods import source_luminance
from fusion_hub.evaluation.parts import parts_of, without
from fusion_hub.evaluation.statistics import Interval, bootstrap_mean, paired_bootstrap
from fusion_hub.image.luminance import quantize
from fusion_hub.image.picture import InputWarning
from fusion_hub.metrics import evaluate_pair
from fusion_hub.models.difffusenet import DiffFuseNetOutput
from fusion_hub.models.noise import estimate_noise

if TYPE_CHECKING:
    from fusion_hub.pipelines import FusionPipeline

cv2 = lazy_loader.load("cv2")

METRICS = ("Qabf", "VIF", "SCD", "SSIM_cddfuse")
COLUMNS = ("change", "PSNR", *METRICS)
SIGMA = 10.0  # of the added noise, in gray levels of 255
INPUTS = ("clean", "noisy")
COMPLETE, NLM = "none", "NLM instead"
"""Names of two rows: no part is off; non-local means in place of D2FE."""
NLM_STRENGTH = 1.0  # h over the standard deviation of the noise; the best of 0.6 to 1.5 on infrared training images

FLOORS = {"residual": 1 / 255, "spatial gate": 0.01, "channel gate": 0.01}
"""Standard deviation over the picture below which a part counts as constant: of the residual in the unit of the images,
one gray level; of the gates, which lie in (0, 2), a hundredth."""

Picture = np.ndarray


@dataclass(frozen=True)
class Contribution:
    """The pictures without one part, on one kind of input.

    Attributes:
        name: of the part; `COMPLETE` or `NLM`.
        inputs: "clean", or "noisy" where Gaussian noise was added to the infrared image.
        values: by column. Of `COMPLETE` means over pairs. Else differences from `COMPLETE` on the same pairs, for which
            `change` is the mean absolute one in gray levels. `PSNR` is in dB against the clean picture of the complete
            network, and a mean on clean pairs too, over those pairs that change.
    """

    name: str
    inputs: str
    values: Mapping[str, Interval]


@dataclass(frozen=True)
class Variation:
    """How much a gate or the residual varies over a picture.

    Attributes:
        name: of the part.
        deviation: by kind of input, the mean over pairs of the standard deviation over the picture; of a gate with
            several maps the root mean square over the maps, and of the residual that of the infrared image.
        floor: below it the part is constant.
    """

    name: str
    deviation: Mapping[str, float]
    floor: float

    @property
    def constant(self) -> bool:
        """Whether the part is the same all over the picture, whatever the input."""
        return max(self.deviation.values()) < self.floor


@dataclass(frozen=True)
class Contributions:
    """The result of `measure_parts`: pairs by name, rows, and the parts that should vary over a picture."""

    pairs: Sequence[str]
    rows: Sequence[Contribution]
    variations: Sequence[Variation]
    off: Mapping[str, str]
    """What the network computes without a part, by its name."""


def measure_parts(
    pipeline: "FusionPipeline", pairs: Iterable[Pair], seed: int = 0, progress: Callable[[], object] = lambda: None
) -> Contributions:
    """Fuse pairs with all parts and without each, clean and with noise of `SIGMA` gray levels in the infrared image.

    Args:
        pipeline: its network is changed while it runs, and is restored.
        pairs: at least one; each is fused whole, and is large enough for the metrics.
        seed: of the noise and of the bootstrap.
        progress: called after each pair.

    Raises:
        ValueError: no pairs, a network without parts, or a pair that cannot be read or measured.
    """
    model = pipeline.model
    parts = {part.name: part.off for part in parts_of(model)}
    if not parts:
        raise ValueError(f"{type(model).__name__} has no parts that can be switched off: give a DiffFuseNet or a RED")
    names: list[str] = []
    records: dict[tuple[str, str], list[dict[str, float]]] = defaultdict(list)
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        try:
            clean = source_luminance(pair, infrared_range=pipeline.config["infrared_range"])
            noisy = clean[0], add_noise(clean[1], np.random.default_rng([seed, number]))
            complete: dict[str, Picture] = {}
            for inputs, sources in zip(INPUTS, (clean, noisy), strict=True):
                pictures, varying = _fuse_all(pipeline, *sources, parts, denoised=inputs == "noisy")
                complete[inputs] = pictures[COMPLETE]
                for name, deviation in varying.items():
                    found[name, inputs].append(deviation)
                for name, picture in pictures.items():
                    values = evaluate_pair(picture, *clean, METRICS)
                    values["change"] = float(np.abs(picture.astype(float) - complete[inputs]).mean())
                    values["PSNR"] = peak_signal_to_noise(picture, complete["clean"])
                    records[name, inputs].append(values)
        except READ_ERRORS as error:
            raise ValueError(f"{pair.name}: {error}") from error
        names.append(pair.name)
        progress()
    if not names:
        raise ValueError("there are no pairs to fuse: give at least one")
    rows = [
        Contribution(name, inputs, _intervals(own, records[COMPLETE, inputs], name, inputs, seed))
        for (name, inputs), own in records.items()
    ]
    variations = [
        Variation(name, {inputs: float(np.mean(found[name, inputs])) for inputs in INPUTS}, floor)
        for name, floor in FLOORS.items()
        if (name, "clean") in found
    ]
    return Contributions(names, rows, variations, parts)


def add_noise(levels: Picture, rng: np.random.Generator, sigma: float = SIGMA) -> Picture:
    """`(H, W)` uint8 with Gaussian noise of `sigma` gray levels, clipped and rounded as a camera's 8-bit file is."""
    return quantize(gaussian_noise(levels.astype(np.float32) / 255, rng, sigma / 255))


def non_local_means(levels: Picture) -> Picture:
    """`(H, W)` uint8 denoised by OpenCV's non-local means (Buades, Coll and Morel, 2011), by the estimated noise."""
    sigma = 255 * float(estimate_noise(torch.from_numpy(levels)[None, None] / 255))
    return cv2.fastNlMeansDenoising(levels, None, NLM_STRENGTH * sigma, 7, 21) if sigma > 0 else levels


def peak_signal_to_noise(picture: Picture, reference: Picture) -> float:
    """PSNR in dB of an 8-bit picture against a reference, peak 255; infinite for equal ones."""
    error = float(np.square(picture.astype(float) - reference).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def _fuse_all(
    pipeline: "FusionPipeline", visible: Picture, infrared: Picture, parts: Iterable[str], denoised: bool
) -> tuple[dict[str, Picture], dict[str, float]]:
    """The pictures of one pair by the name of the row, and the `deviations` with all parts."""
    complete, inner = _fuse(pipeline, visible, infrared)
    pictures = {COMPLETE: complete}
    for name in parts:
        with without(pipeline.model, name):
            pictures[name] = _fuse(pipeline, visible, infrared)[0]
    if denoised and find_spec("cv2") is not None:
        with without(pipeline.model, "D2FE") if "D2FE" in parts else nullcontext():
            pictures[NLM] = _fuse(pipeline, non_local_means(visible), non_local_means(infrared))[0]
    return pictures, deviations(inner)


def _fuse(pipeline: "FusionPipeline", visible: Picture, infrared: Picture) -> tuple[Picture, Any]:
    """The fused picture, `(H, W)` uint8, and the intermediate results."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        output = pipeline(visible, infrared, infrared_range="dtype", tile=0, return_intermediates=True)
    return np.asarray(output.images[0]), output.intermediates


def deviations(output: Any) -> dict[str, float]:
    """Standard deviation over the picture of each gate of both images, and of the residual of the infrared one."""
    if not isinstance(output, DiffFuseNetOutput):
        return {}
    gates = {"spatial gate": output.spatial_gate, "channel gate": output.channel_gate}
    maps = {name: torch.cat(pair) for name, pair in gates.items() if pair is not None}
    if output.residual is not None:
        maps["residual"] = output.residual[-1:]
    return {name: deviation_over_picture(values) for name, values in maps.items()}


def deviation_over_picture(maps: Tensor) -> float:
    """Of maps `(B, C, H, W)`: standard deviation over H and W, root mean square over B and C."""
    return float(maps.double().var(dim=(-2, -1), correction=0).mean().sqrt())


def is_difference(name: str, inputs: str, column: str) -> bool:
    """Whether a column of the row `name` holds differences from `COMPLETE`, not means."""
    return name != COMPLETE and column != "change" and (column, inputs) != ("PSNR", "clean")


def _intervals(
    own: Sequence[Mapping[str, float]], complete: Sequence[Mapping[str, float]], name: str, inputs: str, seed: int
) -> dict[str, Interval]:
    found = {}
    for column in COLUMNS:
        values = np.array([record[column] for record in own])
        if is_difference(name, inputs, column):
            values = values - np.array([record[column] for record in complete])
            defined = values[np.isfinite(values)]
            found[column] = Interval(math.nan)
            if len(defined):
                found[column] = Interval(*paired_bootstrap(defined, seed=seed)[:3], n=len(defined))
        else:
            found[column] = bootstrap_mean([value if math.isfinite(value) else None for value in values], seed)
    return found
