"""Metrics against published and independent values, identities, and the messages for bad input."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.measure import shannon_entropy
from skimage.metrics import normalized_mutual_information, structural_similarity

from fusion_hub.metrics import CDDFUSE_METRICS, METRICS, evaluate_batch, evaluate_pair

TRIPLES = (
    "mrict_11_avg",
    "mrict_22_lap",
    "mrict_28_noise",
    "road_04688_lap",
    "road_07732_max",
    "tno_08_max",
    "tno_10_avg",
    "tno_19_noise",
)
PUBLISHED = ("tno05_u2fusion", "tno08_seafusion", "tno11_piafusion", "tno37_ifcnn")

# Our name -> (name in the reference files, group of implementations that share our convention, factor on our value).
CONVENTIONS = {
    "EN": ("EN", "bits_256", 1),
    "SD": ("SD", "population", 1),
    "SF": ("SF", "mean_over_differences", 1),
    "AG": ("AG", "divided_by_MN", 1),
    "EI": ("EI", "sobel_replicate", 1),
    "EI_quarter": ("EI", "sobel_replicate", 4),
    "MI": ("MI", "nats", 1),
    "MI_bits": ("MI", "bits", 1),
    "NMI": ("NMI", "hossny_stretched", 1),
    "SCD": ("SCD", "double", 1),
    "CC": ("CC", "double", 1),
    "VIF": ("VIF", "vifp_sum", 1),
    "VIFF": ("VIFF", "han2013", 1),
    "Qabf": ("Qabf", "range255", 1),
    "Labf": ("Labf", "petrovic", 1),
    "Nabf": ("Nabf", "kumar_range255", 1),
    "SSIM": ("SSIM", "gauss11_L255", 1),
    "SSIM_cddfuse": ("SSIM", "uniform7_L2", 1),
    "MS_SSIM": ("MS_SSIM", "piq", 1),
    "MSE": ("MSE255", "range255", 1),
    "PSNR": ("PSNR", "standard", 1),
    "CE": ("CE", "vifb", 1),
    "FMI_gray": ("FMI_gray", "fast_fmi_3x3", 1),
    "FMI_dct": ("FMI_dct", "fast_fmi_3x3", 1),
    "Qcv": ("Qcv", "chen_varshney", 1),
    "Qcb": ("Qcb", "chen_blum", 1),
}


def read(folder: Path, triple: str) -> dict[str, np.ndarray]:
    names = {"fused": "fused", "visible": "vis", "infrared": "ir"}
    return {name: np.asarray(Image.open(folder / sub / f"{triple}.png")) for name, sub in names.items()}


@cache
def computed(folder: Path, triple: str) -> dict[str, float]:
    return evaluate_pair(**read(folder, triple))


def random_pair(height: int = 48, width: int = 56, batch: int = 1, seed: int = 0) -> dict[str, torch.Tensor]:
    """Smooth random sources with noise, and their rounded mean, as `(B, 1, H, W)` uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(2, batch, 1, 6, 7, generator=generator).flatten(0, 1) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noisy = smooth + 12 * torch.randn(smooth.shape, generator=generator)
    visible, infrared = noisy.round().clamp(0, 255).split(batch)
    fused = ((visible + infrared) / 2).round()
    return {"fused": fused.byte(), "visible": visible.byte(), "infrared": infrared.byte()}


# --- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("triple", TRIPLES)
@pytest.mark.parametrize("name", CONVENTIONS)
def test_reference_values(data_root: Path, triple: str, name: str) -> None:
    """Every implementation of our convention, at the tolerance that the reference files give."""
    folder = data_root / "metrics"
    key, group, factor = CONVENTIONS[name]
    convention = json.loads((folder / "conventions.json").read_text())[key]
    implementations = convention["conventions"][group]["implementations"]
    values = json.loads((folder / "reference.json").read_text())[triple].get(key, {})
    expected = {i: values[i] for i in implementations if i in values}
    if not expected:
        pytest.skip(f"no reference for {name} on {triple}")
    for implementation, value in expected.items():
        assert computed(folder, triple)[name] * factor == pytest.approx(value, rel=convention["rtol"]), implementation


@pytest.mark.parametrize("triple", PUBLISHED)
def test_published_values(data_root: Path, triple: str) -> None:
    """Published numbers of a MATLAB suite, translated to our conventions where a factor or an offset does it."""
    folder = data_root / "metrics" / "published"
    images = read(folder, triple)
    height, width = images["fused"].shape
    ours = evaluate_pair(**images, names=("EN", "SF", "AG", "CC", "SCD", "MSE", "PSNR", "MI_bits"))
    ours["SF"] /= 255
    ours["AG"] *= height * width / ((height - 1) * (width - 1))
    ours["MSE"] /= 255**2
    ours["PSNR"] += 20 * math.log10(255)
    published = {
        k: v["matlab_published"] for k, v in json.loads((folder / "reference.json").read_text())[triple].items()
    }
    for name in ("EN", "SF", "AG", "CC", "SCD", "MSE", "PSNR"):
        assert ours[name] == pytest.approx(published[name], rel=1e-9), name
    # That suite merges levels 254 and 255 in the joint histogram, which can only raise MI, and by little.
    assert 0 <= published["MI"] - ours["MI_bits"] + 1e-9 < 0.1


def test_against_scikit_image() -> None:
    pair = {name: image[0, 0].numpy() for name, image in random_pair().items()}
    ours = evaluate_pair(**pair, names=("EN", "SSIM_visible", "SSIM_infrared"))
    assert ours["EN"] == pytest.approx(shannon_entropy(pair["fused"], base=2), rel=1e-12)
    for source in ("visible", "infrared"):
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
        _, whole = structural_similarity(pair[source].astype(float), pair["fused"].astype(float), full=True, **options)
        assert ours[f"SSIM_{source}"] == pytest.approx(whole[5:-5, 5:-5].mean(), rel=1e-9)


def test_mutual_information_of_independent_and_of_equal_images() -> None:
    """A horizontal and a vertical ramp share nothing; an image shares its whole entropy with itself."""
    ramp = torch.arange(64.0).repeat(64, 1)
    values = evaluate_pair(ramp, ramp, ramp.T, names=("MI_bits", "NMI", "MI"))
    assert values["MI_bits"] == pytest.approx(6, abs=1e-12)
    assert values["MI"] == pytest.approx(6 * math.log(2), abs=1e-12)
    assert values["NMI"] == pytest.approx(1, abs=1e-12)
    assert normalized_mutual_information(ramp.numpy(), ramp.T.numpy(), bins=64) == pytest.approx(1)


def test_gradients_of_a_ramp() -> None:
    ramp = torch.arange(0, 240, 3.0).repeat(50, 1)  # slope 3 along the rows, none along the columns
    values = evaluate_pair(ramp, ramp, ramp, names=("SF", "AG", "EI", "EI_quarter"))
    assert values["SF"] == pytest.approx(3)
    assert values["AG"] == pytest.approx(3 / math.sqrt(2))
    assert values["EI"] == pytest.approx((78 * 24 + 2 * 12) / 80)  # 8 x slope inside, half of it at the two borders
    assert values["EI_quarter"] == values["EI"] / 4


# --- identities ------------------------------------------------------------------------------------------------------


def test_fused_equal_to_both_sources() -> None:
    image = random_pair(176, 168)["visible"]
    values = evaluate_pair(image, image, image)
    expected = {"CC": 1, "MSE": 0, "PSNR": math.inf, "SSIM": 2, "SSIM_cddfuse": 2, "MS_SSIM": 2, "CE": 0, "Qcv": 0}
    expected |= {"VIF": 2, "NMI": 2, "FMI_gray": 1, "FMI_dct": 1, "SCD": 0, "Nabf": 0, "Qcb": 1}
    expected |= {"SSIM_visible": 1, "SSIM_infrared": 1}
    for name, value in expected.items():
        assert values[name] == pytest.approx(value, abs=1e-6), name
    assert values["MI_bits"] == pytest.approx(2 * values["EN"])
    assert values["Qabf"] == pytest.approx(0.9994 * 0.9879 / (1 + math.exp(-22 * 0.2)), rel=1e-3)


def test_copy_of_one_source_shows_in_the_per_source_values() -> None:
    pair = random_pair()
    values = evaluate_pair(pair["visible"], pair["visible"], pair["infrared"])
    for name in ("VIF", "SSIM", "Qabf"):
        assert values[f"{name}_visible"] > 0.97
        assert values[f"{name}_infrared"] < 0.6, name
    assert values["VIF"] == values["VIF_visible"] + values["VIF_infrared"]


def test_sums_and_ranges() -> None:
    values = evaluate_pair(**random_pair(168, 176, seed=3))
    assert list(values) == list(METRICS)
    for name, value in values.items():
        low, high = METRICS[name].range
        assert low - 1e-9 <= value <= high + 1e-9, name
        assert METRICS[name].name == name
    assert values["Nabf"] + values["Labf"] < 1
    assert values["MI_bits"] * math.log(2) == pytest.approx(values["MI"])


def test_symmetric_in_the_sources() -> None:
    pair = random_pair(seed=4)
    swapped = {"fused": pair["fused"], "visible": pair["infrared"], "infrared": pair["visible"]}
    one, other = evaluate_pair(**pair), evaluate_pair(**swapped)
    for name in METRICS:
        source = {"visible": "infrared", "infrared": "visible"}.get(name.rpartition("_")[2])
        partner = f"{name.rpartition('_')[0]}_{source}" if source else name
        tolerance = 1e-4 if name == "VIFF" else 1e-9  # its ties go to the visible image
        assert one[name] == pytest.approx(other[partner], rel=tolerance, nan_ok=True), name


def test_metric_gets_worse_with_noise() -> None:
    pair = random_pair(seed=5)
    noise = 25 * torch.randn(pair["fused"].shape, generator=torch.Generator().manual_seed(1))
    noisy = (pair["fused"] + noise).round().clamp(0, 255)
    clean, worse = evaluate_pair(**pair), evaluate_pair(noisy, pair["visible"], pair["infrared"])
    for name in ("VIF", "SSIM", "Qabf", "MSE", "PSNR", "CC", "FMI_gray", "Nabf"):
        sign = 1 if METRICS[name].direction == "up" else -1
        assert sign * clean[name] > sign * worse[name], name


# --- batches, devices, dtypes ----------------------------------------------------------------------------------------


def test_batch_equals_single() -> None:
    pair = random_pair(batch=3, seed=6)
    together = evaluate_batch(**pair)
    for k in range(3):
        alone = evaluate_pair(**{name: image[k : k + 1] for name, image in pair.items()})
        for name, value in alone.items():
            assert together[name].shape == (3,) and together[name].dtype == torch.float64
            assert together[name][k].item() == pytest.approx(value, rel=1e-9, nan_ok=True), name


@pytest.mark.parametrize("kind", ["float32", "float64", "int64", "tensor2d", "pil", "strided"])
def test_every_kind_of_input_gives_the_same(kind: str) -> None:
    pair = random_pair()
    arrays = {name: image[0, 0].numpy() for name, image in pair.items()}
    convert = {
        "float32": lambda a: a.astype("float32"),
        "float64": lambda a: a.astype("float64"),
        "int64": lambda a: a.astype("int64"),
        "tensor2d": torch.from_numpy,
        "pil": Image.fromarray,
        "strided": lambda a: np.ascontiguousarray(a[::-1])[::-1],
    }[kind]
    names = [*CDDFUSE_METRICS, "Qcb"]
    assert evaluate_pair(**{k: convert(a) for k, a in arrays.items()}, names=names) == evaluate_pair(
        **pair, names=names
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_cpu() -> None:
    pair = random_pair(168, 176)
    there = evaluate_pair(**{name: image.cuda() for name, image in pair.items()})
    for name, value in evaluate_pair(**pair).items():
        assert there[name] == pytest.approx(value, rel=1e-6), name


# --- limits and errors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (7, 7), (40, 60), (41, 41)])
def test_small_images_give_nan_where_undefined(size: tuple[int, int]) -> None:
    pair = random_pair(*size)
    for name, value in evaluate_pair(**pair).items():
        if min(size) < METRICS[name].min_side:
            assert math.isnan(value), name
            with pytest.raises(ValueError, match=rf"at least .* got .*{size[0]}x{size[1]}"):
                evaluate_pair(**pair, names=[name])
        elif min(size) > 2:
            assert not math.isnan(value), name


def test_flat_images() -> None:
    """No contrast anywhere: correlations are 0, ratios of nothing are nan, nothing raises."""
    flat = np.full((170, 170), 90, dtype=np.uint8)
    values = evaluate_pair(flat, flat, flat)
    assert {values[n] for n in ("EN", "SD", "SF", "AG", "EI", "MI", "NMI", "CC", "SCD", "MSE", "CE")} == {0}
    assert values["SSIM"] == pytest.approx(2)
    assert values["FMI_gray"] == 1
    assert math.isnan(values["VIF"])
    black = evaluate_pair(*[np.zeros_like(flat)] * 3)
    assert all(math.isnan(black[name]) for name in ("VIF", "Qabf", "Qcv"))


BAD = {
    "shape": (np.zeros((48, 56, 3), np.uint8), ValueError, r"visible has shape \(48, 56, 3\).*luminance"),
    "batch": (torch.zeros(2, 1, 48, 56), ValueError, r"visible has shape .*evaluate_batch"),
    "size": (np.zeros((48, 55), np.uint8), ValueError, r"visible has shape .*48, 55.* but fused has .*48, 56"),
    "nan": (np.full((48, 56), np.nan), ValueError, r"visible has nan"),
    "negative": (np.full((48, 56), -1), ValueError, r"visible has values -1\.\.-1.*0\.\.255"),
    "sixteen": (np.full((48, 56), 4000, np.uint16), ValueError, r"visible has values 4000\.\.4000"),
    "unit": (np.full((48, 56), 0.5), ValueError, r"not integers: round.*image \* 255"),
    "bool": (torch.ones(48, 56, dtype=torch.bool), ValueError, r"visible has dtype torch.bool"),
    "text": ("street.png", TypeError, r"visible is str"),
    "empty": (np.zeros((0, 56), np.uint8), ValueError, r"visible has shape .*non-empty"),
}


@pytest.mark.parametrize("kind", BAD)
def test_errors_name_argument_value_and_fix(kind: str) -> None:
    image, error, message = BAD[kind]
    with pytest.raises(error, match=message):
        evaluate_pair(**(random_pair() | {"visible": image}))


def test_unknown_name() -> None:
    with pytest.raises(ValueError, match=r"unknown metrics \['VIFp'\]: choose among EN, SD"):
        evaluate_pair(**random_pair(), names=["EN", "VIFp"])


def test_metric_call_rejects_broadcasting() -> None:
    pair = random_pair(batch=2)
    with pytest.raises(ValueError, match="visible has shape"):
        METRICS["CC"](pair["fused"], pair["visible"][:1], pair["infrared"])
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\)"):
        METRICS["CC"](*(image[0, 0] for image in pair.values()))
