"""Metrics against published and independent values, identities, and the messages for bad input."""

import doctest
import json
import math
import re
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.measure import shannon_entropy
from skimage.metrics import normalized_mutual_information, structural_similarity

from fusion_hub.metrics import (
    CDDFUSE_EVALUATOR,
    CDDFUSE_METRICS,
    LEGACY_METRICS,
    METRICS,
    TABLES,
    correlation,
    evaluate,
    evaluate_batch,
    evaluate_pair,
    fidelity,
    find_metric,
    gradient,
    information,
    legacy,
    registry,
)
from tests.support.metric_pairs import random_pair

TRIPLES = (
    *("mrict_11_avg", "mrict_22_lap", "mrict_28_noise", "road_04688_lap", "road_07732_max", "tno_08_max"),
    *("tno_10_avg", "tno_19_noise"),
)
PUBLISHED = ("tno05_u2fusion", "tno08_seafusion", "tno11_piafusion", "tno37_ifcnn")

# fmt: off
# Our name -> (name in the reference files, group of implementations that share our convention).
CHECKED_ELSEWHERE: set[str] = set()
"""Metrics that the reference files lack: each has a test here that compares it with another implementation."""

CONVENTIONS = {
    "EN": ("EN", "bits_256"), "SD": ("SD", "population"), "SF": ("SF", "mean_over_differences"),
    "AG": ("AG", "divided_by_MN"), "EI": ("EI", "sobel_replicate"), "EI_quarter": ("EI", "sobel_replicate"),
    "MI": ("MI", "nats"), "MI_bits": ("MI", "bits"), "NMI": ("NMI", "hossny_stretched"), "SCD": ("SCD", "double"),
    "CC": ("CC", "double"), "VIF": ("VIF", "vifp_sum"), "VIFF": ("VIFF", "han2013"), "Qabf": ("Qabf", "range255"),
    "Labf": ("Labf", "petrovic"), "Nabf": ("Nabf", "kumar_range255"), "SSIM": ("SSIM", "gauss11_L255"),
    "SSIM_cddfuse": ("SSIM", "uniform7_L2"), "MS_SSIM": ("MS_SSIM", "piq"), "MSE": ("MSE255", "range255"),
    "PSNR": ("PSNR", "standard"), "CE": ("CE", "vifb"), "FMI_gray": ("FMI_gray", "fast_fmi_3x3"),
    "FMI_dct": ("FMI_dct", "fast_fmi_3x3"), "Qcv": ("Qcv", "chen_varshney"), "Qcb": ("Qcb", "chen_blum"),
    # What other suites compute under the same names.
    "SD_uint8": ("SD", "uint8_saturating"), "SF01": ("SF", "range01"), "AG_inner": ("AG", "divided_by_M-1_N-1"),
    "MI_merged": ("MI", "bits_joint_254_255_merged"), "VIF_uint8": ("VIF", "uint8_saturating"),
    "MSE01": ("MSE01", "range01"), "PSNR_plus48": ("PSNR", "plus48"), "PSNR_max": ("PSNR", "peak_max_F"),
    "SSIM_matlab": ("SSIM", "half_sum_L1"), "MEF_SSIM": ("MEF_SSIM", "ma2015"),
    "MEF_MS_SSIM": ("MEF_MS_SSIM", "ma2015"), "Qg": ("Qg", "zheng_liu"), "Qabf_P": ("Qabf_P", "petrovic"),
    "Nabf_P": ("Nabf_P", "petrovic"), "Nabf_as_called": ("Nabf", "as_called"), "Qabf01": ("Qabf", "range01"),
    "Nabf01": ("Nabf", "range01"),
}
# Column of the published file -> our name for the convention of that suite.
PUBLISHED_NAMES = {
    "EN": "EN", "MI": "MI_merged", "SD": "SD_uint8", "SF": "SF01", "AG": "AG_inner", "CC": "CC", "SCD": "SCD",
    "MSE": "MSE01", "PSNR": "PSNR_plus48", "VIF": "VIF_uint8", "Qabf": "Qabf01",
}
# fmt: on
FACTORS = {"EI_quarter": 4}  # on our value
# On 0..1 rounding decides comparisons for equality: programs disagree with each other by so much (relative).
ILL_CONDITIONED = {"Qabf01": 2e-3, "Nabf01": 3e-2}


def read(folder: Path, triple: str) -> dict[str, np.ndarray]:
    names = {"fused": "fused", "visible": "vis", "infrared": "ir"}
    return {name: np.asarray(Image.open(folder / sub / f"{triple}.png")) for name, sub in names.items()}


@cache
def computed(folder: Path, triple: str) -> dict[str, float]:
    return evaluate_pair(**read(folder, triple), names=CONVENTIONS)


@pytest.mark.parametrize("triple", TRIPLES)
def test_reference_values(data_root: Path, triple: str) -> None:
    """Every implementation of our convention, at the tolerance that the reference files give."""
    folder = data_root / "metrics"
    conventions = json.loads((folder / "conventions.json").read_text())
    reference = json.loads((folder / "reference.json").read_text())[triple]
    for name, (key, group) in CONVENTIONS.items():
        values, tolerance = reference.get(key, {}), ILL_CONDITIONED.get(name, conventions[key]["rtol"])
        for implementation in conventions[key]["conventions"][group]["implementations"]:
            if implementation in values:  # slow MATLAB functions were run on the small triples only
                expected = pytest.approx(values[implementation], rel=tolerance)
                assert computed(folder, triple)[name] * FACTORS.get(name, 1) == expected, (name, implementation)


def test_no_reference_value_is_left_out(data_root: Path) -> None:
    """Each recommended group of the reference files has a metric of ours, and each of those has a value to meet."""
    folder = data_root / "metrics"
    conventions = json.loads((folder / "conventions.json").read_text())
    reference = json.loads((folder / "reference.json").read_text())
    assert set(reference) == set(TRIPLES)
    covered = set(CONVENTIONS.values())
    recommended = {(key, entry["recommended"]) for key, entry in conventions.items() if entry["recommended"]}
    assert recommended <= covered
    for key, group in covered:
        implementations = conventions[key]["conventions"][group]["implementations"]
        for implementation in implementations:
            assert any(implementation in values.get(key, {}) for values in reference.values()), (key, implementation)
    per_source = {name for name in METRICS if name.endswith(("_visible", "_infrared"))}
    assert set(CONVENTIONS) | CHECKED_ELSEWHERE == (set(METRICS) - per_source) | set(LEGACY_METRICS)


def test_every_metric_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    per_source = {name for name in METRICS if name.endswith(("_visible", "_infrared"))}
    assert not [name for name in set(METRICS) - per_source if not re.search(rf"\b{re.escape(name)}\b", text)]


@pytest.mark.parametrize("triple", PUBLISHED)
def test_published_values(data_root: Path, triple: str) -> None:
    """Numbers that the authors of a MATLAB suite published themselves, all columns."""
    folder = data_root / "metrics" / "published"
    published = json.loads((folder / "reference.json").read_text())[triple]
    assert set(published) == set(PUBLISHED_NAMES)
    ours = evaluate_pair(**read(folder, triple), names=PUBLISHED_NAMES.values())
    for column, name in PUBLISHED_NAMES.items():
        tolerance = ILL_CONDITIONED.get(name, 1e-10)
        assert ours[name] == pytest.approx(published[column]["matlab_published"], rel=tolerance), column
    # Merging two levels in the joint histogram alone can only raise MI, and by little.
    assert 0 <= ours["MI_merged"] - evaluate_pair(**read(folder, triple), names=["MI_bits"])["MI_bits"] + 1e-9 < 0.1


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


def test_sums_and_ranges() -> None:
    values = evaluate_pair(**random_pair(168, 176, seed=3))
    assert list(values) == list(METRICS)
    for name in ("CC", "MSE"):  # means, the other per-source values add up
        assert values[name] == pytest.approx((values[f"{name}_visible"] + values[f"{name}_infrared"]) / 2)
    summed = [name for name in METRICS if METRICS[name].parts]
    assert summed == ["MI", "MI_bits", "NMI", "SCD", "VIF", "SSIM", "SSIM_cddfuse", "MS_SSIM"]
    for name in summed:
        assert METRICS[name](**random_pair(168, 176, seed=3)).item() == pytest.approx(values[name]), name
    for name, value in values.items():
        low, high = METRICS[name].range
        assert low - 1e-9 <= value <= high + 1e-9, name
        assert METRICS[name].name == name
    assert values["Nabf"] + values["Labf"] < 1
    assert values["MI_bits"] * math.log(2) == pytest.approx(values["MI"])
    assert values["PSNR"] == pytest.approx(10 * math.log10(255**2 / values["MSE"]))


def test_tables_name_existing_metrics() -> None:
    for table, names in TABLES.items():
        assert len(set(names)) == len(names), table
        assert all(find_metric(name).name == name for name in names), table
    assert TABLES["cddfuse"] == CDDFUSE_METRICS and TABLES["cddfuse_evaluator"] == CDDFUSE_EVALUATOR
    assert len(CDDFUSE_METRICS) == 8 and len(CDDFUSE_EVALUATOR) == 12
    assert not set(METRICS) & set(LEGACY_METRICS)
    with pytest.raises(ValueError, match=r"unknown metrics \['SSIM255'\]: choose among EN.*SD_uint8"):
        evaluate_pair(**random_pair(), names=["EN", "SSIM255"])


def test_cddfuse_evaluator_gives_the_numbers_of_that_program(data_root: Path) -> None:
    """All twelve columns against the program itself, whose values are single precision."""
    reference = json.loads((data_root / "metrics" / "reference.json").read_text())
    columns = {"MSE": "MSE255", "PSNR_max": "PSNR", "SSIM_cddfuse": "SSIM"}
    for triple in ("mrict_28_noise", "tno_19_noise"):
        for name in CDDFUSE_EVALUATOR:
            found = reference[triple][columns.get(name, name)]
            expected = found.get("cddfuse_python_L2") if name == "SSIM_cddfuse" else found["cddfuse_python"]
            assert computed(data_root / "metrics", triple)[name] == pytest.approx(expected, rel=1e-6), name


def test_registry_entries_are_complete() -> None:
    for metric in (*METRICS.values(), *LEGACY_METRICS.values()):
        for text in (metric.convention, metric.paper, metric.rewards, metric.fooled_by):
            assert text and text == text.strip() and not text.endswith("."), metric.name
        low, high = metric.range
        assert low < high and metric.direction in ("up", "down") and metric.min_side >= 1
        assert all(METRICS[part].range[1] * len(metric.parts) == high for part in metric.parts)


@pytest.mark.parametrize("module", [correlation, evaluate, fidelity, gradient, information, legacy, registry])
def test_examples_of_the_docstrings(module: ModuleType) -> None:
    failed, attempted = doctest.testmod(module)
    assert not failed and attempted


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


def test_metric_call_rejects_broadcasting() -> None:
    pair = random_pair(batch=2)
    with pytest.raises(ValueError, match="visible has shape"):
        METRICS["CC"](pair["fused"], pair["visible"][:1], pair["infrared"])
    plane = torch.zeros(1, 48, 56)
    with pytest.raises(TypeError, match=r"fused is list: pass a tensor \(B, 1, H, W\)"):
        evaluate_batch([plane], [plane], [plane], names=["EN"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\(B, 1, H, W\)"):
        METRICS["CC"](*(image[0, 0] for image in pair.values()))
