"""What every metric must do whatever the images: limits, symmetry, dtypes, batches, constant and tiny images."""

import math
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fusion_hub.metrics import CDDFUSE_EVALUATOR, LEGACY_METRICS, METRICS, evaluate_batch, evaluate_pair, find_metric
from tests.support.metric_pairs import random_pair

EVERY = (*METRICS, *LEGACY_METRICS)
QUICK = tuple(name for name in EVERY if not name.startswith("FMI"))
# Named after an order of the sources that their definition has: ties of VIFF, zeros of Qg, arguments of the last.
ORDERED = {"VIFF": 1e-4, "Qg": 1e-4, "Nabf_as_called": math.inf}
# On 0..1 a last bit of rounding decides comparisons for equality.
ILL_CONDITIONED = ("Qabf01", "Nabf01")
SIDE = 161  # large enough for every metric
LEVELS = (0, 90, 255)


@cache
def pair() -> dict[str, Tensor]:
    return random_pair(SIDE, SIDE + 8)


def scores(fused: Tensor, visible: Tensor, infrared: Tensor, names: tuple[str, ...] = EVERY) -> dict[str, float]:
    return evaluate_pair(fused, visible, infrared, names=names)


def partner(name: str) -> str:
    """`VIF_visible` for `VIF_infrared` and the reverse; other names as they are."""
    swapped = {"visible": "infrared", "infrared": "visible"}
    stem, _, source = name.rpartition("_")
    return f"{stem}_{swapped[source]}" if source in swapped else name


def better(name: str, one: float, other: float) -> bool:
    return one > other if find_metric(name).direction == "up" else one < other


def test_fused_equal_to_both_sources_is_the_best_there_is() -> None:
    image = pair()["visible"]
    values = scores(image, image, image)
    expected = {"CC": 1, "MSE": 0, "PSNR": math.inf, "SSIM": 2, "SSIM_cddfuse": 2, "MS_SSIM": 2, "CE": 0, "Qcv": 0}
    expected |= {"VIF": 2, "NMI": 2, "FMI_gray": 1, "FMI_dct": 1, "SCD": 0, "Nabf": 0, "Qcb": 1}
    expected |= {"SSIM_visible": 1, "SSIM_infrared": 1, "SSIM_matlab": 1, "MEF_SSIM": 1, "MSE01": 0, "VIF_uint8": 2}
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-6), name
    assert values["MI_bits"] == pytest.approx(2 * values["EN"])
    assert values["Qabf"] == pytest.approx(0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2)), rel=1e-3)


@pytest.mark.parametrize("source", ["visible", "infrared"])
def test_a_copy_of_one_source_shows_in_the_values_of_each(source: str) -> None:
    """The per-source values tell it; the difference to the other source is that source, so SCD is one-sided."""
    other = {"visible": "infrared", "infrared": "visible"}[source]
    values = scores(pair()[source], pair()["visible"], pair()["infrared"], QUICK)
    for name in ("VIF", "SSIM", "SSIM_cddfuse", "MS_SSIM", "Qabf", "CC", "NMI", "MI"):
        assert values[f"{name}_{source}"] > 0.95, name
        assert values[f"{name}_{other}"] < 0.7 * values[f"{name}_{source}"], name
    assert values[f"MSE_{source}"] == 0 < values[f"MSE_{other}"]
    assert values[f"MI_bits_{source}"] == pytest.approx(values["EN"])
    assert values[f"SCD_{other}"] == 0  # nothing is left of the fused image without its original


def test_swapped_sources_change_nothing_but_the_names() -> None:
    images = random_pair(SIDE, SIDE + 8, seed=4)
    one = scores(**images)
    other = scores(images["fused"], images["infrared"], images["visible"])
    for name in EVERY:
        tolerance = ORDERED.get(name, 1e-9)
        if math.isfinite(tolerance):
            assert one[name] == pytest.approx(other[partner(name)], rel=tolerance), name


def test_one_pixel_of_misregistration_costs() -> None:
    images = pair()
    local = ("VIF", "VIFF", "Qabf", "SSIM", "SSIM_cddfuse", "MS_SSIM", "CC", "MSE", "PSNR", "MI", "NMI", "Labf")
    local += ("FMI_gray", "Qcv", "Qcb", "Qg", "Qabf_P", "MEF_SSIM")
    everywhere = ("EN", "SD", "CE")  # histograms do not depend on position
    straight = scores(**images, names=(*local, *everywhere))
    moved = scores(images["fused"].roll(1, -1), images["visible"], images["infrared"], (*local, *everywhere))
    for name in local:
        assert better(name, straight[name], moved[name]), name
    for name in everywhere:
        assert moved[name] == pytest.approx(straight[name], rel=1e-12), name


def test_a_stretch_raises_the_metrics_of_contrast() -> None:
    images = pair()
    fused = images["fused"].double()
    dull = (fused / 2 + 60).round()
    stretched = ((dull - dull.min()) / (dull.max() - dull.min()) * 255).round()
    contrast = ("SD", "SF", "AG", "EI", "VIF", "VIFF", "Qabf")
    names = (*contrast, "EN", "MI")
    before, after = (scores(image, images["visible"], images["infrared"], names) for image in (dull, stretched))
    for name in contrast:
        assert after[name] > before[name], name
    assert after["EN"] == pytest.approx(before["EN"]) and after["MI"] == pytest.approx(before["MI"])  # a renaming


def test_noise_raises_what_looks_at_the_fused_image_alone_and_lowers_the_rest() -> None:
    images = random_pair(SIDE, SIDE + 8, seed=5)
    noise = 25 * torch.randn(images["fused"].shape, generator=torch.Generator().manual_seed(1))
    noisy = (images["fused"] + noise).round().clamp(0, 255)
    clean, worse = scores(**images), scores(noisy, images["visible"], images["infrared"])
    for name in ("EN", "SD", "SF", "AG", "EI"):
        assert worse[name] > clean[name], name
    for name in ("VIF", "SSIM", "Qabf", "MSE", "PSNR", "CC", "FMI_gray", "Nabf", "MI", "Qcv"):
        assert better(name, clean[name], worse[name]), name


def undefined(flat: set[str], level: int) -> set[str]:
    """Names whose value is 0/0 where the images in `flat` have the one gray value `level` everywhere."""
    sources = flat & {"visible", "infrared"}
    names = {f"VIF_{source}" for source in sources}  # no information there to be kept
    if sources:
        names |= {"VIF", "VIF_uint8"}
    if level == 0:  # any other level has an edge towards the zeros around the image
        names |= {f"Qabf_{source}" for source in sources}
        if len(sources) == 2:
            names |= {"Qabf", "Qabf01", "Qcv"}
    return names


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("flat", ["fused", "visible", "infrared", "fused visible", "visible infrared", "all"])
def test_constant_images_give_a_defined_value_or_nan_as_documented(flat: str, level: int) -> None:
    images = random_pair(SIDE, SIDE, seed=7)
    constant = set(images) if flat == "all" else set(flat.split())
    images |= {name: torch.full_like(images[name], level) for name in constant}
    values = scores(**images, names=QUICK)
    assert {name for name, value in values.items() if math.isnan(value)} == undefined(constant, level)
    for name, value in values.items():
        low, high = find_metric(name).range
        assert math.isnan(value) or low - 1e-9 <= value <= high + 1e-9, name
    if "fused" in constant:
        assert {values[name] for name in ("EN", "SD", "SF", "AG", "EI", "MI", "CC")} == {0}
    if flat == "all":
        assert values["SSIM"] == pytest.approx(2) and values["PSNR"] == math.inf and values["MSE"] == 0


def test_feature_information_of_constant_images() -> None:
    flat = torch.full((24, 24), 90)
    ramp = torch.arange(24).repeat(24, 1)
    assert evaluate_pair(flat, flat, flat, names=["FMI_gray"]) == {"FMI_gray": 1}
    assert 0 <= evaluate_pair(flat, ramp, ramp.T, names=["FMI_gray"])["FMI_gray"] < 0.1


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (7, 8), (41, 60)])
def test_tiny_images_give_a_value_or_an_error_that_names_the_size(size: tuple[int, int]) -> None:
    images = {name: image + 1 - image // 255 for name, image in random_pair(*size).items()}  # nothing is black
    everything = evaluate_pair(**images)
    for name in EVERY:
        if min(size) < find_metric(name).min_side:
            assert math.isnan(everything.get(name, math.nan)), name
            with pytest.raises(ValueError, match=rf"at least .* got .*{size[0]}x{size[1]}"):
                evaluate_pair(**images, names=[name])
        elif size != (1, 1) or not name.startswith(("Qabf", "Qcv")):  # a lone pixel has no Sobel response
            assert not math.isnan(evaluate_pair(**images, names=[name])[name]), name


CONVERSIONS: dict[str, Callable[[np.ndarray], object]] = {
    "float16": lambda a: torch.from_numpy(a).half(),
    "bfloat16": lambda a: torch.from_numpy(a).bfloat16(),
    "float32": lambda a: a.astype("float32"),
    "int64": lambda a: a.astype("int64"),
    "uint16": lambda a: a.astype("uint16"),
    "uint16 tensor": lambda a: torch.from_numpy(a.astype("uint16")),
    "tensor": torch.from_numpy,
    "PIL": Image.fromarray,
    "strided": lambda a: np.ascontiguousarray(a[::-1])[::-1],
}


@pytest.mark.parametrize("kind", CONVERSIONS)
def test_every_kind_of_input_gives_the_same(kind: str) -> None:
    images = random_pair()
    converted = {name: CONVERSIONS[kind](image[0, 0].numpy()) for name, image in images.items()}
    names = [*CDDFUSE_EVALUATOR, "Qcb", "SSIM", "SD_uint8", "MI_merged"]
    assert evaluate_pair(**converted, names=names) == evaluate_pair(**images, names=names)


def test_16_bit_images_are_an_error_that_says_how_to_convert() -> None:
    images = random_pair()
    deep = {name: (image[0, 0].numpy().astype("uint16") * 257) for name, image in images.items()}
    for given in (deep, {name: torch.from_numpy(image) for name, image in deep.items()}):
        with pytest.raises(ValueError, match=r"fused has values .*8-bit.*\(image / 257\)\.round\(\) for a 16-bit"):
            evaluate_pair(**given, names=["EN"])
    shallow = {name: (image / 257).round() for name, image in deep.items()}
    assert evaluate_pair(**shallow, names=CDDFUSE_EVALUATOR) == evaluate_pair(**images, names=CDDFUSE_EVALUATOR)


def test_batch_equals_single() -> None:
    images = random_pair(SIDE, SIDE + 8, batch=2, seed=6)
    together = evaluate_batch(**images, names=EVERY)
    for k in range(2):
        alone = scores(**{name: image[k : k + 1] for name, image in images.items()})
        for name, value in alone.items():
            assert together[name].shape == (2,) and together[name].dtype == torch.float64
            assert together[name][k].item() == pytest.approx(value, rel=1e-9), name


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    there = scores(**{name: image.cuda() for name, image in pair().items()})
    for name, value in scores(**pair()).items():
        tolerance = 1e-2 if name in ILL_CONDITIONED else 1e-6
        assert there[name] == pytest.approx(value, rel=tolerance), name
