"""The training of DiffFuseNet: its stages, its switches, and that it stops, resumes and splits exactly."""

import itertools
import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from fusion_hub import DiffFuseNetPipeline
from fusion_hub.training import Source, Trainer, TrainingConfig, losses, mixed_seed
from fusion_hub.training.config import ConfigError
from fusion_hub.training.difffusenet import DiffFuseNetConfig, DiffFuseNetTask, DiffFuseNetTraining
from tests.support.tiny import ABLATIONS
from tests.support.training_runs import (
    assert_resumes,
    assert_same_gradients,
    batch_of,
    records,
    run_script,
    tensors,
    train,
)
from tests.support.training_toy import launch, toy_config

CROP = 48
STEPS = 16
SWITCHES = {**ABLATIONS, "one stage": {"two_stage": False}, "detail head": {"detail_channels": 4}}


def run_config(output: Path, **values: Any) -> TrainingConfig:
    return toy_config(output, **({"crop_size": CROP, "learning_rate": 2e-3, "validate_every": None} | values))


def tiny_config(**values: Any) -> DiffFuseNetConfig:
    return DiffFuseNetConfig(**({"variant": "tiny", "stage_one_fraction": 0.25} | values))


class SameCrops:
    """The same two crops in every batch, so that losses of different steps can be compared."""

    def __init__(self, folder: Path) -> None:
        self.batch = batch_of(folder, 2, CROP)

    def sample(self, number: int, crop_size: int) -> dict[str, Tensor]:
        return {name: values[number % 2] for name, values in self.batch.items()}


# --- the switches ----------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """Results of one short training: the losses of each step, and a fused crop before and after."""

    losses: list[dict[str, float]]
    before: Tensor
    after: Tensor


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, drawn_pairs: Path) -> dict[str, Run]:
    crops = SameCrops(drawn_pairs)
    visible, infrared = (crops.batch[name][:1] for name in ("visible", "infrared"))
    result = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        for name, switches in SWITCHES.items():
            folder = tmp_path_factory.mktemp("run")
            config = run_config(folder, max_steps=STEPS, batch_size=2, checkpoint_every=100)
            model_config = tiny_config(**switches)
            task = DiffFuseNetTask(config, model_config)
            trainer = Trainer(task, config, model_config, crops=crops)
            before = task.fuse(trainer.state.model, visible, infrared).detach()
            trainer.train()
            result[name] = Run(records(folder), before, task.fuse(trainer.state.model, visible, infrared).detach())
    return result


@pytest.mark.parametrize("name", SWITCHES)
def test_steps_lower_the_loss_of_each_stage(runs: dict[str, Run], name: str) -> None:
    lines = runs[name].losses
    first = 0 if name == "one stage" else STEPS // 4
    stages = [lines[first:], *([lines[:first]] if first else [])]
    for stage in stages:
        assert stage[-1]["loss"] < stage[0]["loss"]
    # Well below, in the stage of nine steps or more, whatever the noise of the denoiser's loss.
    tail = sum(line["loss"] for line in stages[0][-3:]) / 3
    assert tail < 0.95 * stages[0][0]["loss"]

    for step, line in enumerate(lines):  # the terms are those of the stage
        terms = line.keys() - {"kind", "step", "loss", "grad_norm", "learning_rate"}
        assert ("pixels" in terms) == (name != "one stage" and step < STEPS // 4)
        assert ("intensity" in terms) != ("pixels" in terms)
        assert ("diffusion" in terms) == (name != "without D2FE")
        assert (line["decoupling"] > 0) == (name != "without EDFD")
        assert line["loss"] == pytest.approx(sum(line[term] for term in terms), rel=1e-5)


def test_every_switch_changes_the_fused_picture(runs: dict[str, Run]) -> None:
    for name, run in runs.items():
        # The mean image, which D2FE changes by what its untrained layers take for the noise of the pair.
        torch.testing.assert_close(run.before, runs["without D2FE"].before, rtol=0, atol=0.05)
        assert (run.after - run.before).abs().max() > 0.01, name
    for first, second in itertools.combinations(runs, 2):
        assert (runs[first].after - runs[second].after).abs().max() > 1e-3, (first, second)


def test_frozen_d2fe_stays_as_stage_one_left_it(tmp_path: Path, drawn_pairs: Path) -> None:
    config = run_config(tmp_path, max_steps=4, batch_size=2, checkpoint_every=2)
    model_config = tiny_config(stage_one_fraction=0.5, freeze_d2fe=True)
    Trainer(DiffFuseNetTask(config, model_config), config, model_config, crops=SameCrops(drawn_pairs)).train()
    after_one, after_two = tensors(tmp_path, 2), tensors(tmp_path, 4)
    prefix = "model/diffusion_pytorch_model.safetensors:"
    changed = {n.removeprefix(prefix).split(".")[0] for n, v in after_one.items() if not torch.equal(v, after_two[n])}
    assert {"trunk", "fusion_head", "injection"} <= changed
    for name, value in after_one.items():
        if name.startswith((prefix + "encoder", prefix + "denoiser")):
            assert torch.equal(value, after_two[name]), name
    assert ["diffusion" in line for line in records(tmp_path)] == [True, True, False, False]


# --- noise -----------------------------------------------------------------------------------------------------------


def training_module(seed: int = 0, **values: Any) -> DiffFuseNetTraining:
    torch.manual_seed(0)
    config = tiny_config(**values)
    model = DiffFuseNetTask(run_config(Path("unused"), seed=seed), config).build_model()
    return DiffFuseNetTraining(model, config, max_steps=8, seed=seed)


def test_noise_and_timesteps_belong_to_the_sample() -> None:
    module = training_module()
    shape = torch.Size((16, 4, 4))
    timesteps, noise = module._sample_noise(torch.tensor([5, 9, 7]), shape)
    assert timesteps.shape == (3,) and noise.shape == (6, *shape)
    assert ((timesteps >= 0) & (timesteps < 1000)).all()
    alone, alone_noise = module._sample_noise(torch.tensor([9]), shape)
    assert torch.equal(alone, timesteps[1:2])
    assert torch.equal(alone_noise, noise[[1, 4]])  # visible first, then infrared
    assert not torch.equal(noise[1], noise[4])
    assert not torch.equal(training_module(seed=1)._sample_noise(torch.tensor([9]), shape)[1], alone_noise)
    many, _ = module._sample_noise(torch.arange(500), torch.Size((1, 1, 1)))
    assert abs(float(many.float().mean()) - 500) < 50 and many.min() < 20 and many.max() > 980


def test_crops_that_the_network_cannot_take_are_refused(tmp_path: Path) -> None:
    for sizes in ({"crop_size": 48}, {"crop_size": 64, "late_fraction": 0.5, "late_crop_size": 80}):
        task = DiffFuseNetTask(run_config(tmp_path, **sizes), DiffFuseNetConfig(variant="tiny", patch_size=4))
        with pytest.raises(ConfigError, match=r"crop_size = (48|80) is not a multiple of 32, which this model needs"):
            task.build_model()


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_a_perfect_denoiser_has_no_diffusion_loss(prediction_type: str, drawn_pairs: Path) -> None:
    module = training_module(prediction_type=prediction_type, consistency=0.0, noise_gain=0.0, residual="shared")
    batch = batch_of(drawn_pairs, 4, CROP)
    images = torch.cat([batch["visible"], batch["infrared"]])
    features = module.model.analyze(batch["visible"], batch["infrared"])
    schedule = torch.tensor(module.model.alphas_cumprod)
    timestep, noise = module._sample_noise(batch["sample"], features.shallow.shape[1:])
    level = schedule[timestep.repeat(2)].view(-1, 1, 1, 1)

    class Perfect(nn.Module):
        def forward(self, noisy: Tensor, step: Tensor) -> Tensor:
            assert torch.equal(step, timestep.repeat(2))
            velocity = level.sqrt() * noise - (1 - level).sqrt() * features.shallow
            return noise if prediction_type == "epsilon" else velocity

    assert module._diffusion(features, images, images, batch["sample"])["diffusion"] > 0.5  # an untrained one has
    module.model.denoiser = Perfect()
    assert module._diffusion(features, images, images, batch["sample"])["diffusion"] < 1e-8


def test_degraded_images_are_compared_with_the_clean_ones(drawn_pairs: Path) -> None:
    """D2FE that gives back the clean features has no loss of its own; the images are compared with the clean pair."""
    module = training_module(consistency=0.0, feature_noise=0.0, two_stage=False)
    batch = batch_of(drawn_pairs, 2, CROP)
    clean = {f"clean_{name}": batch[name] for name in ("visible", "infrared")}
    noise = 0.05 * torch.randn(batch["infrared"].shape, generator=torch.Generator().manual_seed(0))
    noisy = {**batch, **clean, "infrared": batch["infrared"] + noise}
    target = module.model.encode(torch.cat(list(clean.values())))
    steps = module.model.steps_of(noisy["visible"], noisy["infrared"])
    assert (steps[0].timestep[2:] > 50).all()  # of the noisy images

    _, terms = module(noisy, 0)
    assert terms["diffusion"] > 1e-4
    module.model.denoise = lambda *arguments, **named: target  # type: ignore[method-assign]
    torch.nn.init.zeros_(module.model.injection.project.weight)
    _, terms = module(noisy, 0)
    assert terms["diffusion"] == 0
    expected = module.config.restoration * noise.abs().mean() / 2  # over both images
    assert terms["restoration"] == pytest.approx(expected.item(), rel=1e-4)


def test_the_loss_of_edges_compares_with_the_clean_pair(drawn_pairs: Path) -> None:
    module = training_module(two_stage=False, edges=3.0, noise_floor=0.3)
    batch = batch_of(drawn_pairs, 2, CROP)
    clean = {f"clean_{name}": batch[name] for name in ("visible", "infrared")}
    noisy = {**batch, **clean, "infrared": batch["infrared"] + 0.05 * torch.rand_like(batch["infrared"])}
    with torch.no_grad():
        terms = module(noisy, 0)[1]
        features = module.model.analyze(noisy["visible"], noisy["infrared"])
        fused = module.model.fuse(features, noisy["visible"], noisy["infrared"])[0]
    expected = 3 * losses.edge_preservation_loss(fused, *clean.values(), noise_floor=0.3)
    assert terms["edges"] == pytest.approx(expected.item(), rel=0.02)  # the run adds noise to the features
    assert "edges" not in training_module(two_stage=False)(noisy, 0)[1]


def test_noise_decoding_teaches_the_residual_whatever_the_denoiser_does(drawn_pairs: Path) -> None:
    """A denoiser that passes everything leaves the residual at 0, and its projection without a gradient."""
    module = training_module(consistency=0.0, feature_noise=0.0, two_stage=False, noise_decoding=100.0)
    batch = batch_of(drawn_pairs, 2, CROP)
    clean = {f"clean_{name}": batch[name] for name in ("visible", "infrared")}
    noise = 0.05 * torch.randn(batch["infrared"].shape, generator=torch.Generator().manual_seed(0))
    noisy = {**batch, **clean, "infrared": batch["infrared"] + noise}
    module.model.denoise = lambda shallow, *arguments, **named: shallow  # type: ignore[method-assign]
    injection, encoder = module.model.injection, module.model.encoder

    total, terms = module(noisy, 0)
    images = torch.cat([noisy["visible"], noisy["infrared"]])
    residual = injection(
        encoder(module.model._to_patches(torch.cat(list(clean.values())))), module.model.encode(images)
    )
    left = images + module.model._to_pixels(residual) - torch.cat(list(clean.values()))
    assert terms["noise_decoding"] == pytest.approx(100 * left.abs().mean().item(), rel=1e-4)
    total.backward()
    assert injection.project.weight.grad.abs().max() > 0
    assert "noise_decoding" not in training_module()(noisy, 0)[1]

    optimizer = torch.optim.Adam([*injection.parameters(), *encoder.parameters()], 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        term = module._diffusion(
            module.model.analyze(noisy["visible"], noisy["infrared"]),
            images,
            torch.cat(list(clean.values())),
            batch["sample"],
        )["noise_decoding"]
        term.backward()
        optimizer.step()
    assert term.item() < 0.8 * terms["noise_decoding"].item()


def test_forward_noise_reaches_the_fusion_path_in_stage_two(drawn_pairs: Path) -> None:
    module = training_module(feature_noise=0.3, stage_one_fraction=0.5)
    batch = batch_of(drawn_pairs, 8, CROP)
    features = [module._analyze(batch["visible"], batch["infrared"], batch["sample"], False, s) for s in (0.0, 0.3)]
    differs = (features[0].enhanced != features[1].enhanced).flatten(1).any(1)
    assert 0 < differs.sum() < len(differs)  # a quarter of the images
    torch.testing.assert_close(features[0].shallow, features[1].shallow)


# --- stop, resume, split ----------------------------------------------------------------------------------------------


def test_eight_steps_equal_four_and_a_failure_and_four(tmp_path: Path, drawn_pairs: Path) -> None:
    config = run_config(tmp_path, sources=[Source(str(drawn_pairs))], batch_size=2)
    # Three steps of stage one: both sides of the failure are in stage two.
    assert_resumes(DiffFuseNetTask, config, tiny_config(stage_one_fraction=0.4), fail_at=5)


@pytest.mark.parametrize("two_stage", [True, False])
def test_two_processes_give_the_gradients_of_one_batch(tmp_path: Path, drawn_pairs: Path, two_stage: bool) -> None:
    # One step: of stage one, or of stage two.
    sources = [Source(str(drawn_pairs))]
    values = {"num_processes": 2, "batch_size": 2, "max_steps": 1, "max_grad_norm": torch.inf}
    config = run_config(tmp_path, sources=sources, **values)
    model_config = tiny_config(two_stage=two_stage, stage_one_fraction=1.0)
    assert launch(train, 2, DiffFuseNetTask, config, model_config) == [0, 0]

    torch.manual_seed(mixed_seed(config.seed))
    task = DiffFuseNetTask(config, model_config)
    module = task.build_training_module(task.build_model())
    loss, _ = module(batch_of(drawn_pairs, 2, CROP), 0)
    without = assert_same_gradients(tmp_path, module, loss, 1e-3, 1e-5)
    parts = {name.split(".")[1] for name in without}
    assert parts == ({"fuse_low", "fuse_high", "fusion_head"} if two_stage else {"reconstruction_head"})


# --- the task and its script -----------------------------------------------------------------------------------------


def test_the_script_trains_a_pipeline(tmp_path: Path, drawn_pairs: Path) -> None:
    flags = f"--variant tiny --max_steps 2 --batch_size 2 --sources {drawn_pairs} --validation_sources {drawn_pairs}"
    flags += " --crop_size 64 --validation_pairs 1 --validation_metrics EN --tracker none --use_edfd false"
    assert run_script("difffusenet.py", *flags.split(), "--output_dir", str(tmp_path)) == 0
    pipeline = DiffFuseNetPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipeline.model.config.use_edfd is False
    assert pipeline.scheduler.alphas_cumprod.tolist() == pipeline.model.alphas_cumprod
    assert json.loads((tmp_path / "pipeline" / "training.json").read_text())["steps"] == 2
