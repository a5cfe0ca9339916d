"""Parts of networks switched off: each does what it states, and everything is as before afterwards."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch import Tensor, nn
from typer.testing import CliRunner

from fusion_hub import FusionPipeline, pretrained
from fusion_hub.cli import app
from fusion_hub.cli.model_check import open_pairs
from fusion_hub.data import PairedDataset, sample_pairs
from fusion_hub.evaluation import contributions, measure_parts, parts_of, without
from fusion_hub.metrics import evaluate_pair
from fusion_hub.models.pruned_unet import SelfAttention2D
from tests.support.tiny import ABLATIONS, picture_pair, red_pipeline, tiny_pipeline

Pipeline = Any


@pytest.fixture(scope="module")
def bundled() -> Pipeline:
    pipeline = FusionPipeline.from_pretrained("difffusenet-msrs")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crops of two drawn pairs."""
    folder = tmp_path_factory.mktemp("drawn")
    for pair in sample_pairs()[:2]:
        for file, band in ((pair.visible, "vis"), (pair.infrared, "ir")):
            (folder / band).mkdir(exist_ok=True)
            with Image.open(file) as image:
                image.crop((240, 180, 336, 276)).save(folder / band / f"{pair.name}.png")
    return folder


def run_network(pipeline: Pipeline, seed: int = 0) -> Any:
    visible, infrared = picture_pair(64, 96, seed)
    return pipeline(visible, infrared, return_intermediates=True).intermediates


def tensors(output: Any) -> dict[str, Tensor]:
    """All tensors of an output, those of a pair stacked."""
    flat = {name: torch.cat(value) if isinstance(value, tuple) else value for name, value in output.items()}
    return {name: value for name, value in flat.items() if isinstance(value, Tensor)}


def state_of(model: nn.Module) -> tuple[Any, ...]:
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    return hooks, set(vars(model)), {name: value.clone() for name, value in model.state_dict().items()}


def assert_restored(pipeline: Pipeline, before: tuple[Any, ...]) -> None:
    hooks, names, weights = state_of(pipeline.model)
    assert hooks == before[0] and names == before[1]
    assert all(torch.equal(value, before[2][name]) for name, value in weights.items())


def all_zero(value: Tensor) -> bool:
    return not value.any()


def passes_the_coupling(model: Any, off: dict[str, Tensor]) -> bool:
    spatial, channel = model.band_attention.gates(off["low"], off["high"])
    return torch.equal(spatial, off["spatial_gate"]) and torch.equal(channel, off["channel_gate"])


OFF: dict[str, Callable[[Any, dict[str, Tensor], dict[str, Tensor]], bool]] = {
    "D2FE": lambda _, on, off: torch.equal(off["enhanced"], on["shallow"]) and all_zero(off["residual"]),
    "residual": lambda _, on, off: torch.equal(off["enhanced"], on["enhanced"]) and all_zero(off["residual"]),
    "shared": lambda _, on, off: torch.equal(off["specific"], on["specific"]) and all_zero(off["shared"]),
    "specific": lambda _, on, off: torch.equal(off["shared"], on["shared"]) and all_zero(off["specific"]),
    "coupling": lambda model, on, off: torch.equal(off["low"], on["low"]) and passes_the_coupling(model, off),
    "spatial gate": lambda _, on, off: (
        bool((off["spatial_gate"] == 1).all()) and torch.equal(off["channel_gate"], on["channel_gate"])
    ),
    "channel gate": lambda _, on, off: (
        torch.allclose(off["channel_gate"], torch.ones(())) and torch.equal(off["spatial_gate"], on["spatial_gate"])
    ),
    "correction": lambda _, on, off: torch.equal(off["share"], on["share"]) and all_zero(off["correction"]),
}


@pytest.mark.parametrize("name", OFF)
def test_a_part_of_difffusenet_is_off_as_stated_and_on_again_to_the_bit(bundled: Pipeline, name: str) -> None:
    before, on, picture = state_of(bundled.model), tensors(run_network(bundled)), bundled(*picture_pair()).images[0]
    with without(bundled.model, name):
        off = tensors(run_network(bundled))
        ordinary = bundled(*picture_pair()).images[0]
    assert OFF[name](bundled.model, on, off) and not torch.equal(off["fused"], on["fused"])
    assert np.any(np.asarray(ordinary) != picture), "the folded form is not used where a part is off"
    assert_restored(bundled, before)
    again = tensors(run_network(bundled))
    assert all(torch.equal(value, again[key]) for key, value in on.items())
    assert np.array_equal(bundled(*picture_pair()).images[0], picture)


def test_all_parts_are_tested(bundled: Pipeline) -> None:
    names = [part.name for part in parts_of(bundled.model)]
    assert ("detail head" in names) == (bundled.model.config.detail_channels > 0)
    assert [name for name in names if name != "detail head"] == list(OFF)


def test_the_detail_head_adds_to_share_and_correction() -> None:
    pipeline = tiny_pipeline(detail_channels=4, residual="own", noise_gain=4.0)
    model, on = pipeline.model, tensors(run_network(pipeline))
    with without(model, "detail head"):
        off = tensors(run_network(pipeline))
    for name in ("share", "correction"):
        assert not torch.equal(on[name], off[name])
    assert all(torch.equal(value, off[name]) for name, value in on.items() if name in ("low", "residual", "enhanced"))
    with without(model, "correction"):
        blank = tensors(run_network(pipeline))
    assert all_zero(blank["correction"]) and not torch.equal(blank["share"], off["share"])


def test_without_d2fe_is_a_noise_level_of_zero() -> None:
    model = tiny_pipeline(noise_gain=4.0, residual="own").model
    visible, infrared = torch.rand(2, 1, 1, 48, 64)
    expected = model(visible, infrared, noise_level=torch.zeros(2))
    with without(model, "D2FE"):
        assert torch.equal(model(visible, infrared), expected)
    assert not torch.equal(model(visible, infrared), expected)


@pytest.mark.parametrize("ablation", ABLATIONS)
def test_ablations_have_the_parts_that_they_keep(ablation: str) -> None:
    pipeline = tiny_pipeline(**ABLATIONS[ablation])
    missing = {
        "without D2FE": {"D2FE", "residual"},
        "without EDFD": {"shared", "specific"},
        "Haar alone": {"coupling"},
        "no bands": {"coupling", "spatial gate", "channel gate"},
        "bands added": {"spatial gate", "channel gate"},
    }.get(ablation, set())
    names = {part.name for part in parts_of(pipeline.model)}
    assert names == set(OFF) - missing
    for name in names:
        with without(pipeline.model, name):
            run_network(pipeline)


def test_red_without_sources_and_wiring_does_not_see_the_infrared() -> None:
    pipeline = red_pipeline()
    visible, first = picture_pair()
    second, before = picture_pair(seed=1)[1], state_of(pipeline.model)
    fused = [pipeline(visible, infrared).images[0] for infrared in (first, second)]
    with without(pipeline.model, "sources"), without(pipeline.model, "wiring"):
        blind = [pipeline(visible, infrared).images[0] for infrared in (first, second)]
        assert all(value == 0 for value in pipeline.model.coefficients()["v"])
    assert np.array_equal(*blind) and not np.array_equal(*fused)
    assert_restored(pipeline, before)
    assert np.array_equal(pipeline(visible, first).images[0], fused[0])


def test_red_without_attention_and_lambda() -> None:
    pipeline = red_pipeline()
    with torch.no_grad():
        pipeline.model.lambda_offset.fill_(0.2)
    before = run_network(pipeline).fused
    with without(pipeline.model, "lambda"):
        output = run_network(pipeline)
        assert torch.equal(output.fused, output.states[-1]) and not torch.equal(output.fused, before)
    with without(pipeline.model, "attention"):
        off = run_network(pipeline).fused
        for module in pipeline.model.modules():
            if isinstance(module, SelfAttention2D):
                nn.init.normal_(module.proj_out.weight)
        assert torch.equal(run_network(pipeline).fused, off) and not torch.equal(off, before)


def test_no_such_part(bundled: Pipeline) -> None:
    before = state_of(bundled.model)
    with (
        pytest.raises(ValueError, match=r"no part 'encoder': choose among D2FE, residual, .*correction$"),
        without(bundled.model, "encoder"),
    ):
        pass
    with pytest.raises(ZeroDivisionError), without(bundled.model, "D2FE"):
        1 / 0  # noqa: B018
    assert_restored(bundled, before)
    assert parts_of(nn.Identity()) == []


def test_what_is_measured(bundled: Pipeline, drawn: Path) -> None:
    """Of one pair: the numbers of a part from its pictures."""
    pairs = PairedDataset.open(drawn)[:1]
    found = measure_parts(bundled, pairs)
    rows = {(row.name, row.inputs): row.values for row in found.rows}
    sources = contributions.source_luminance(pairs[0])
    infrared = sources[1]
    noisy = contributions.add_noise(infrared, np.random.default_rng([0, 0]))

    def fuse(image: np.ndarray) -> np.ndarray:
        return np.asarray(bundled(sources[0], image).images[0])

    clean, on = fuse(infrared), fuse(noisy)
    with without(bundled.model, "channel gate"):
        clean_off, off = fuse(infrared), fuse(noisy)
    values, quiet = rows["channel gate", "noisy"], rows["channel gate", "clean"]
    # Folded constants round otherwise: a level here and there.
    assert values["change"].mean == pytest.approx(np.abs(off.astype(float) - on).mean(), abs=0.01)
    assert quiet["change"].mean == pytest.approx(np.abs(clean_off.astype(float) - clean).mean(), abs=0.01)
    expected = peak_signal_noise_ratio(clean, off) - peak_signal_noise_ratio(clean, on)
    assert values["PSNR"].mean == pytest.approx(expected, abs=0.01)
    assert quiet["PSNR"].mean == pytest.approx(peak_signal_noise_ratio(clean, clean_off), abs=0.01)
    for metric in contributions.METRICS:
        expected = evaluate_pair(off, *sources, [metric])[metric] - evaluate_pair(on, *sources, [metric])[metric]
        assert values[metric].mean == pytest.approx(expected, abs=2e-3)
        assert values[metric].n == 1


def test_noise_and_its_removal() -> None:
    flat = np.full((128, 128), 120, dtype=np.uint8)
    noisy = contributions.add_noise(flat, np.random.default_rng(0))
    assert (noisy.astype(float) - flat).std() == pytest.approx(contributions.SIGMA, rel=0.03)
    assert np.array_equal(contributions.add_noise(flat, np.random.default_rng(0)), noisy)
    pytest.importorskip("cv2")
    assert contributions.non_local_means(noisy).std() < 0.3 * noisy.std()
    assert contributions.non_local_means(flat) is flat


def test_the_deviation_of_a_gate_is_that_over_the_picture() -> None:
    constant = torch.tensor([0.2, 1.8])[None, :, None, None].expand(1, 2, 8, 8)
    half = torch.cat([torch.zeros(1, 1, 4, 8), torch.ones(1, 1, 4, 8)], dim=2)
    assert contributions.deviation_over_picture(constant) == 0
    assert contributions.deviation_over_picture(half) == 0.5


def test_a_network_without_parts_and_no_pairs(bundled: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="there are no pairs"):
        measure_parts(bundled, [])
    monkeypatch.setattr(bundled, "model", nn.Identity())
    with pytest.raises(ValueError, match="Identity has no parts"):
        measure_parts(bundled, [])


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["models", *map(str, words)])


def test_the_command(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("--check", "difffusenet-msrs", "--data", drawn)
    lines = result.stdout.splitlines()
    assert "2 pairs, clean" in result.stdout and all(len(line) <= 80 for line in lines) and "…" not in result.stdout
    assert all(sum(line.startswith(name) for line in lines) == 3 for name in OFF), "two tables and what off means"

    result = run("--check", "difffusenet-msrs", "--data", drawn, "--limit", 1, "--json")
    found = json.loads(result.stdout)
    constant = [entry["part"] for entry in found["variations"] if entry["constant"]]
    assert found["pairs"] == ["day"] and {row["inputs"] for row in found["rows"]} == {"clean", "noisy"}
    assert result.exit_code == bool(constant), result.output
    assert all(name in result.stderr for name in constant) and ("constant over" in result.stderr) == bool(constant)


def test_wrong_use(tmp_path: Path) -> None:
    assert run("--limit", 3).exit_code == 2
    for words, message in (
        (("--check", "nothing"), "nothing"),
        (("--check", "difffusenet-msrs", "--data", tmp_path / "absent"), "absent"),
    ):
        result = run(*words)
        assert result.exit_code == 1 and message in result.stderr and len(result.stderr.splitlines()) == 1


def test_the_drawn_pairs_are_of_what_the_model_was_trained_on() -> None:
    for name, expected in (("red-small-msrs", "street"), ("difffusenet-medical", "scans")):
        pairs = open_pairs(pretrained.PRETRAINED[name].folder, None, None, None)
        assert len(pairs) == {"street": 5, "scans": 3}[expected]


@pytest.mark.parametrize("name", [i.name for i in pretrained.list_models() if i.model_class == "DiffFuseNetModel"])
def test_no_part_of_a_bundled_difffusenet_is_constant_over_a_real_picture(data_root: Path, name: str) -> None:
    """On a picture with noise in the infrared: D2FE has nothing to remove from a clean one."""
    dataset, split = ("mri_pet", "train") if "medical" in name else ("msrs", "train")
    with open(data_root / "data" / "index.csv", encoding="utf-8") as file:
        row = next(row for row in csv.DictReader(file) if (row["dataset"], row["split"]) == (dataset, split))
    pipeline = FusionPipeline.from_pretrained(name)
    visible, infrared = (np.asarray(Image.open(data_root / "data" / row[band]).convert("L")) for band in ("vis", "ir"))
    infrared = contributions.add_noise(infrared, np.random.default_rng(0))
    deviations = contributions.deviations(pipeline(visible, infrared, return_intermediates=True).intermediates)
    constant = {part: value for part, value in deviations.items() if value < contributions.FLOORS[part]}
    assert set(deviations) == set(contributions.FLOORS) and not constant
