"""The training of RED: its losses and switches, its steps, and that it stops and resumes exactly."""

import dataclasses
import json
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image

from fusion_hub import FusionPipeline, REDPipeline, pretrained
from fusion_hub.pipelines import checkpoints
from fusion_hub.training import (
    ConfigError,
    Source,
    TrainingConfig,
    load_config,
    losses,
    mixed_seed,
    parse_config,
)
from fusion_hub.training.difffusenet import DiffFuseNetConfig, DiffFuseNetTask
from fusion_hub.training.red import REDConfig, REDTask, REDTraining, model_fields
from tests.support.training_runs import (
    TRAIN,
    assert_resumes,
    assert_same_gradients,
    batch_of,
    records,
    run_script,
    train,
)
from tests.support.training_toy import launch, toy_config

CROP = 48
GROUP_NORM = {"norm": "group", "norm_num_groups": 4, "attention_window": [0, 0]}
ALL_LOSSES = {"structure": 1.0, "fidelity": 1.0, "difference_correlation": 1.0, "out_of_range": 5.0}


def run_config(output: Path, **values: Any) -> TrainingConfig:
    defaults = {"max_steps": 4, "batch_size": 2, "crop_size": CROP, "learning_rate": 2e-3, "checkpoint_every": 2}
    return toy_config(output, **(defaults | {"validate_every": None} | values))


def tiny_config(**values: Any) -> REDConfig:
    return REDConfig(**({"variant": "tiny", "memory": "none"} | values))


def training_module(**values: Any) -> REDTraining:
    torch.manual_seed(0)
    task = REDTask(run_config(Path("unused")), tiny_config(**values))
    return task.build_training_module(task.build_model())


# --- losses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {},
        ALL_LOSSES,
        {"mae_target": "mean", "gradient_target": "unsigned"},
        {"ssim_weight": "variance", "gradient_gain": 1.2},
        {"source_injection": False, "reversible_fusion": False, "reversible_blocks": False, "learnable_lambda": False},
        {"resample": "convolution", "time_embedding": False, **GROUP_NORM},
        {"memory": "reversible", "num_steps": 3, "random_steps": True},
        {"num_steps": 3, "early_estimates": 0.5},
    ],
    ids=lambda values: ", ".join(values) or "paper",
)
def test_steps_on_two_crops_lower_the_loss(drawn_pairs: Path, values: dict[str, Any]) -> None:
    module, batch = training_module(**values), batch_of(drawn_pairs, 2, CROP)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3)
    seen = []
    for step in range(6):
        loss, terms = module(batch, 0)
        assert loss.item() == pytest.approx(sum(value.item() for value in terms.values()), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters()), step
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.97 * seen[0]
    extra = (ALL_LOSSES.keys() | {"early_estimates"}) & values.keys()
    assert terms.keys() == {"ssim", "mae", "gradient"} | extra, "those with a weight"
    assert not any(value.requires_grad for value in terms.values())


def test_early_estimates_cost_what_the_losses_say_of_them(drawn_pairs: Path) -> None:
    batch, module = batch_of(drawn_pairs, 2, CROP), training_module(num_steps=3, early_estimates=0.5)
    module.model.unet.conv_out.reset_parameters()
    images = batch["visible"], batch["infrared"]
    loss, terms = module(batch, 0)
    output = module.model(*images, return_intermediates=True)
    sums = [sum(value.item() for value in module._terms(image, *images).values()) for image in output.estimates[:-1]]
    assert len(sums) == 2
    assert terms["early_estimates"].item() == pytest.approx(0.5 * sum(sums) / 2, rel=1e-5)
    loss.backward()
    one_step = training_module(num_steps=1, early_estimates=0.5)
    assert "early_estimates" not in one_step(batch, 0)[1]


def test_targets_are_the_losses_they_name(drawn_pairs: Path) -> None:
    batch, images = batch_of(drawn_pairs, 2, CROP), ()
    module = training_module()
    with torch.no_grad():
        images = (module.model(batch["visible"], batch["infrared"]), batch["visible"], batch["infrared"])
        _, paper = module(batch, 0)
        other = training_module(
            mae_target="mean", gradient_target="unsigned", gradient_gain=1.3, ssim_weight="variance", structure=2.0
        )
        _, others = other(batch, 0)
    assert torch.allclose(paper["ssim"], 0.5 * losses.ssim_loss(*images))
    assert torch.allclose(paper["mae"], losses.intensity_loss(*images))
    assert torch.allclose(paper["gradient"], losses.signed_gradient_loss(*images))
    weighted, structure = losses.ssim_losses(*images)
    assert torch.allclose(others["ssim"], 0.5 * weighted)
    assert torch.allclose(others["structure"], 2 * structure)
    assert torch.allclose(others["mae"], losses.mean_intensity_loss(*images))
    assert torch.allclose(others["gradient"], losses.unsigned_gradient_loss(*images, 1.3))


def test_degraded_inputs_are_trained_towards_the_clean_pair(drawn_pairs: Path) -> None:
    clean = batch_of(drawn_pairs, 2, CROP)
    noisy = {name: (clean[name] + 0.1 * torch.randn_like(clean[name])).clamp(0, 1) for name in ("visible", "infrared")}
    targets = {"clean_visible": clean["visible"], "clean_infrared": clean["infrared"]}
    for values in ({}, {"num_steps": 2, "early_estimates": 0.5}):
        module = training_module(**values)
        module.model.unet.conv_out.reset_parameters()
        _, terms = module(clean | noisy | targets, 0)
        with torch.no_grad():
            fused = module.model(noisy["visible"], noisy["infrared"])
            expected, others = module._terms(fused, *targets.values()), module._terms(fused, *noisy.values())
        for name, value in expected.items():
            assert terms[name].item() == pytest.approx(value.item(), rel=1e-5) != others[name].item()


# --- steps -----------------------------------------------------------------------------------------------------------


def test_random_steps_follow_from_seed_and_step(drawn_pairs: Path) -> None:
    module = training_module(num_steps=3, random_steps=True)
    drawn = [module._steps(step) for step in range(300)]
    assert drawn == [module._steps(step) for step in range(300)]
    assert all(80 < drawn.count(count) < 120 for count in (1, 2, 3))
    assert {training_module(num_steps=3)._steps(step) for step in range(20)} == {3}

    batch, step = batch_of(drawn_pairs, 1, CROP), drawn.index(1)
    seen = []
    module.model.register_forward_pre_hook(lambda _, __, named: seen.append(named), with_kwargs=True)
    module(batch, step)
    module(batch, drawn.index(3))
    assert [named["num_inference_steps"] for named in seen] == [1, 3]


# --- stop, resume, split ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["none", "reversible"])
def test_four_steps_equal_two_and_a_failure_and_two(tmp_path: Path, drawn_pairs: Path, memory: str) -> None:
    config = run_config(tmp_path, sources=[Source(str(drawn_pairs))])
    assert_resumes(REDTask, config, tiny_config(memory=memory, random_steps=True, **ALL_LOSSES), fail_at=3)


def test_two_processes_give_the_gradients_of_one_batch(tmp_path: Path, drawn_pairs: Path) -> None:
    # In the first step one of three diffusion steps is run or two: DDP has to cope with unused coefficients.
    sources = [Source(str(drawn_pairs))]
    config = run_config(tmp_path, sources=sources, num_processes=2, max_steps=1, max_grad_norm=torch.inf)
    model_config = tiny_config(memory="reversible", num_steps=3, random_steps=True)
    module = training_module(num_steps=3, random_steps=True)
    for module.seed in range(99):
        if module._steps(0) < 3:
            break
    config = dataclasses.replace(config, seed=module.seed)
    assert launch(train, 2, REDTask, config, model_config) == [0, 0]

    torch.manual_seed(mixed_seed(config.seed))
    task = REDTask(config, model_config)
    module = task.build_training_module(task.build_model())
    loss, _ = module(batch_of(drawn_pairs, 2, CROP, config.seed), 0)
    assert_same_gradients(tmp_path, module, loss, 1e-3, 1e-5)


# --- the task and its script -----------------------------------------------------------------------------------------


def test_the_ci_configuration_trains_a_pipeline_that_can_be_bundled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TRAIN / "configs" / "red_tiny_ci.yaml"
    assert run_script("red.py", "--config", str(config), "--output_dir", str(tmp_path)) == 0
    lines = records(tmp_path)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert records(tmp_path, "validation")[0]["VIF"] > 0
    pipeline = REDPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipeline.config.tile_size == 128
    (fused,) = pipeline(Image.new("RGB", (70, 50), "grey"), Image.new("L", (70, 50), 90)).images
    assert fused.size == (70, 50)
    assert json.loads((tmp_path / "pipeline" / "training.json").read_text())["steps"] == 8
    assert load_config(tmp_path / "pipeline" / "config.yaml")["variant"] == "tiny"

    info = dataclasses.replace(pretrained.PRETRAINED["red-small-msrs"], name="red-tiny")
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path / "bundled")
    monkeypatch.setitem(pretrained.PRETRAINED, "red-tiny", info)
    monkeypatch.setattr(sys, "argv", ["bundle.py", str(tmp_path / "pipeline"), "red-tiny"])
    runpy.run_path(str(TRAIN / "bundle.py"), run_name="__main__")
    bundled = REDPipeline.from_pretrained("red-tiny")
    pictures = torch.rand(2, 1, 40, 48, generator=torch.Generator().manual_seed(0))
    first, second = (p(*pictures, infrared_range="dtype", output_type="pt").images for p in (bundled, pipeline))
    assert (first - second).abs().max() < 2e-3  # half precision
    assert info.parameters == pipeline.model.num_parameters()
    assert not Path(load_config(info.folder / "config.yaml")["output_dir"]).is_absolute()


@pytest.mark.parametrize("name", ["red.py", "difffusenet.py"])
def test_a_bare_script_takes_its_default_configuration(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUSION_HUB_DATA", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    assert run_script(name) == 2
    message = capsys.readouterr().err
    assert message.startswith("fusion-hub: error: training data is missing") and message.count("\n") == 1
    assert str(tmp_path / "empty" / "data" / "msrs") in message
    assert "FUSION_HUB_DATA" in message and "--data generated" in message
    assert list(tmp_path.iterdir()) == [], "a failed start left something behind"


def test_a_script_reports_a_missing_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("red.py", "--resume", str(tmp_path), "--output_dir", str(tmp_path / "run")) == 2
    # Before it, a warning about the validation of the default configuration.
    assert (
        capsys.readouterr().err.splitlines()[-1]
        == f"fusion-hub: error: resume = {tmp_path} is no checkpoint: state.json is missing"
    )


@pytest.mark.parametrize("name", ["red_small_msrs", "red_sd15", "red_tiny_ci", "difffusenet_msrs"])
def test_configurations_parse_and_data_replaces_their_sources(name: str) -> None:
    task_config = REDConfig if name.startswith("red") else DiffFuseNetConfig
    file = TRAIN / "configs" / f"{name}.yaml"
    training, _ = parse_config((TrainingConfig, task_config), [], default_config=file)
    assert training.sources != [Source("generated")] and training.validation_sources
    assert training.output_dir == f"runs/{name}"
    training, _ = parse_config((TrainingConfig, task_config), ["--data", "generated"], default_config=file)
    assert training.sources == training.validation_sources == [Source("generated")]
    training, _ = parse_config((TrainingConfig, task_config), ["--config", str(file)], TRAIN / "absent.yaml")
    assert training.output_dir == f"runs/{name}", "a given file replaces the default one"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"variant": "huge"}, "variant must be one of paper, small, tiny, got huge"),
        ({"mae_target": "median"}, "mae_target must be one of maximum, mean, salient, got median"),
        ({"ssim_weight": "none"}, "ssim_weight must be one of equal, variance, got none"),
        ({"resample": "bilinear"}, "resample must be one of pixel_shuffle, convolution, got 'bilinear'"),
        ({"memory": "swap"}, "memory"),
        ({"memory": "checkpoint", "early_estimates": 0.5}, "early_estimates needs memory = none.*, got checkpoint"),
        ({"gradient_target": "unsigned", "noise_floor": 1.0}, "noise_floor needs gradient_target = signed, got unsig"),
        ({"sd15": "a", "initial_weights": "b"}, "give sd15 = a or initial_weights = b, not both"),
        ({"sd15": "/no/such/folder"}, "/no/such/folder"),
        ({"initial_weights": "/no/such/folder"}, "no pipeline named '/no/such/folder'"),
        ({"frequency": "fft"}, "frequency must be one of haar_inn, haar, none, got 'fft'"),
        ({"stage_one_fraction": 1.5}, r"stage_one_fraction must be between 0 and 1, got 1\.5"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    of_red = not values.keys() <= {"frequency", "stage_one_fraction"}
    task_type, config_type = (REDTask, REDConfig) if of_red else (DiffFuseNetTask, DiffFuseNetConfig)
    with pytest.raises(ConfigError, match=message):
        task_type(run_config(tmp_path), config_type(**({"variant": "tiny"} | values))).build_model()


def test_crops_that_do_not_fit_are_named(tmp_path: Path) -> None:
    for name, size in (("crop_size", 63), ("late_crop_size", 65)):
        with pytest.raises(ConfigError, match=f"crop_size = {size} is not a multiple of"):
            REDTask(run_config(tmp_path, **{name: size}), tiny_config()).build_model()


@pytest.mark.parametrize(("task", "config"), [(DiffFuseNetTask, DiffFuseNetConfig), (REDTask, REDConfig)])
@pytest.mark.parametrize("sizes", [{"crop_size": 40}, {"crop_size": 64, "late_fraction": 0.5, "late_crop_size": 24}])
def test_crops_too_small_for_a_later_stage_are_refused_at_the_start(
    drawn_pairs: Path, task: Any, config: Any, sizes: dict[str, Any]
) -> None:
    training = TrainingConfig(sources=[Source(str(drawn_pairs))], **sizes)
    size = min(value for name, value in sizes.items() if name.endswith("crop_size"))
    with pytest.raises(ConfigError, match=rf"crop_size is {size}, but the fidelity loss needs crops of at least 41"):
        task(training, config(fidelity=1.0)).open_samples(training)
    assert task(training, config(fidelity=0.0)).open_samples(training) is not None


def test_training_starts_from_stable_diffusion(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "cross_attention_dim": 8, "attention_head_dim": 2, "norm_num_groups": 4}
    source = UNet2DConditionModel(block_out_channels=(8, 16, 32, 32), **sizes)
    source.save_pretrained(tmp_path / "sd15" / "unet")
    config = tiny_config(variant="paper", sd15=str(tmp_path / "sd15"), num_steps=3, memory="checkpoint")
    model = REDTask(run_config(tmp_path), config).build_model()
    assert tuple(model.config.block_out_channels) == (8, 16) and model.config.num_steps == 3
    assert model.config.memory == "checkpoint"
    assert torch.equal(model.unet.conv_in.weight, source.conv_in.weight)


@pytest.mark.parametrize(
    ("task_type", "config_type", "values"),
    [
        (REDTask, REDConfig, {"num_steps": 3, "memory": "none"}),
        (DiffFuseNetTask, DiffFuseNetConfig, {"frequency": "haar"}),
    ],
)
def test_training_starts_from_a_pipeline(tmp_path: Path, task_type: Any, config_type: Any, values: Any) -> None:
    config = run_config(tmp_path, late_crop_size=192)
    first = task_type(config, config_type(variant="tiny", **values))
    model = first.build_model()
    first.save_pipeline(model, tmp_path / "pipeline")
    assert FusionPipeline.from_pretrained(tmp_path / "pipeline").config.get("tile_size", 192) == 192
    again = task_type(config, config_type(variant="tiny", initial_weights=str(tmp_path / "pipeline"))).build_model()
    assert type(again) is type(model) and all(again.config[name] == value for name, value in values.items())
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert all(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize(
    "config",
    [tiny_config(), tiny_config(**GROUP_NORM), DiffFuseNetConfig(variant="tiny")],
    ids=["local", "global", "difffusenet"],
)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("bf16", 0.05)])
def test_validation_fuses_as_the_pipeline_does(tmp_path: Path, config: Any, precision: str, tolerance: float) -> None:
    training = run_config(tmp_path, precision=precision)
    task = (REDTask if isinstance(config, REDConfig) else DiffFuseNetTask)(training, config)
    model = task.build_model()
    task.save_pipeline(model, tmp_path / "pipeline")
    pipeline = FusionPipeline.from_pretrained(tmp_path / "pipeline")
    visible, infrared = torch.rand(1, 1, 41, 150), torch.rand(1, 1, 41, 150)
    with torch.no_grad():
        fused = task.fuse(model, visible, infrared)
    assert fused.shape == visible.shape
    expected = pipeline(visible[0], infrared[0], infrared_range="dtype", output_type="pt").images
    torch.testing.assert_close(fused.clamp(0, 1), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_with_validation_ends_with_a_pipeline(tmp_path: Path, drawn_pairs: Path, precision: str) -> None:
    config = run_config(
        tmp_path, max_steps=2, validate_every=1, precision=precision, sources=[Source(str(drawn_pairs))],
        validation_sources=[Source(str(drawn_pairs))], validation_pairs=1,
    )  # fmt: skip
    train(REDTask, config, tiny_config())
    assert [record["step"] for record in records(tmp_path, "validation")] == [1, 2]
    assert FusionPipeline.from_pretrained(tmp_path / "pipeline")


@pytest.mark.parametrize("config_type", [TrainingConfig, REDConfig, DiffFuseNetConfig])
def test_every_option_has_a_help_text(config_type: type) -> None:
    assert all(field.metadata["help"] for field in dataclasses.fields(config_type))


def test_flags_become_fields_of_the_model() -> None:
    flags = ["--reversible_blocks", "false", "--fidelity", "0.5", "--block_out_channels", "32", "64"]
    (parsed,) = parse_config((REDConfig,), flags)
    assert parsed == REDConfig(reversible_blocks=False, fidelity=0.5, block_out_channels=[32, 64])
    fields = model_fields(parsed)
    assert fields["reversible_blocks"] is False and fields["block_out_channels"] == (32, 64)
    assert "num_steps" not in fields, "the model's own default"


def test_a_picture_that_cannot_be_decoded_costs_no_step(
    tmp_path: Path, drawn_pairs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs"
    shutil.copytree(drawn_pairs, pairs)
    config = run_config(tmp_path / "run", checkpoint_every=None, max_steps=40, sources=[Source(str(pairs))])
    damaged = sorted(pairs.rglob("*ir*/*.png"))[0]
    for file in [
        file for file in pairs.rglob("*.*") if file.stem != damaged.stem
    ]:  # many whole pairs and a damaged one
        for number in range(30):
            shutil.copy(file, file.with_stem(f"{file.stem}{number}"))
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[: len(whole) // 2])  # its header says nothing of it
    with pytest.raises(
        ValueError, match=rf"pair '{damaged.stem}' cannot be read(.|\n)*saved after step \d+: mend that"
    ):
        train(REDTask, config, tiny_config())
    (saved,) = (tmp_path / "run").glob("step_*")
    assert 0 < int(saved.name.removeprefix("step_")) < 40
    damaged.write_bytes(whole)
    train(REDTask, config, tiny_config())
    report = json.loads((tmp_path / "run" / "pipeline" / "training.json").read_text())
    assert report["data_changes"] == [int(saved.name.removeprefix("step_"))]  # the file has another size now
    assert "not those that this run began with" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "advice"), [("VIFf", "did you mean VIF"), ("EN,VIF", "by spaces, not by commas")])
def test_an_unknown_metric_is_named_before_the_training(
    tmp_path: Path, drawn_pairs: Path, name: str, advice: str
) -> None:
    source = [Source(str(drawn_pairs))]
    config = run_config(tmp_path, sources=source, validation_sources=source, validation_metrics=["EN", name])
    with pytest.raises(ConfigError, match=f"validation_metrics has the unknown name '{name}'; .*{advice}"):
        train(REDTask, config, tiny_config())
    assert not list(tmp_path.glob("step_*"))
