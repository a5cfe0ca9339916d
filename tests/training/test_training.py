"""The training loop on a toy model: it stops, resumes, splits and reports, and its configuration."""

import errno
import itertools
import json
import re
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

from fusion_hub.image.luminance import quantize
from fusion_hub.metrics import evaluate_pair
from fusion_hub.training import (
    CheckpointError,
    ConfigError,
    NonFiniteError,
    OutputError,
    Source,
    Trainer,
    TrainingConfig,
    find_checkpoints,
    mixed_seed,
    parse_config,
    sample_noise,
)
from fusion_hub.training import checkpoint as checkpoints
from fusion_hub.training.config import resolved
from fusion_hub.training.trainer import learning_rate_at
from fusion_hub.training.validation import FusionValidation, ValidationPair, open_validation_pairs, picture_grid
from tests.support.training_runs import assert_same_gradients, assert_same_run, records, tensors
from tests.support.training_toy import (
    STAGE_ONE_STEPS,
    ToyConfig,
    ToyCrops,
    ToyModel,
    ToyTask,
    run_in_processes,
    toy_config,
    toy_trainer,
)

WEIGHTS = "diffusion_pytorch_model.safetensors"


# --- stop and resume -------------------------------------------------------------------------------------------------


# All that could leak from step to step: dropout, noise, two stages, accumulation, a change of batch and crop.
LEAKS = {"gradient_accumulation_steps": 2, "late_fraction": 0.25, "late_batch_size": 8, "late_crop_size": 12}
DROPOUT = ToyConfig(dropout=0.2)


def test_eight_steps_equal_four_and_a_kill_and_four(tmp_path: Path) -> None:
    straight, killed = (toy_config(tmp_path / name, num_processes=2, **LEAKS) for name in ("straight", "killed"))
    assert run_in_processes(straight, DROPOUT) == [0, 0]
    codes = run_in_processes(killed, replace(DROPOUT, kill_at=5))
    assert -signal.SIGKILL in codes and 0 not in codes
    assert [folder.name for folder in find_checkpoints(tmp_path / "killed")] == ["step_000004"]
    assert not (tmp_path / "killed" / "pipeline").exists()
    assert run_in_processes(killed, DROPOUT) == [0, 0]
    assert_same_run(tmp_path / "killed", tmp_path / "straight")
    assert [line["step"] for line in records(tmp_path / "killed")] == list(range(1, 9))


@pytest.mark.parametrize("every", [3, 5])  # the stop is at a step without or with a validation
def test_a_signal_saves_a_checkpoint_and_the_run_resumes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], every: int
) -> None:
    straight, stopped = (toy_config(tmp_path / name, validate_every=every, **LEAKS) for name in ("straight", "stopped"))
    before = signal.getsignal(signal.SIGTERM)
    assert toy_trainer(straight, DROPOUT, pairs=2).train() == tmp_path / "straight" / "pipeline"
    assert toy_trainer(stopped, replace(DROPOUT, signal_at=4), pairs=2).train() is None
    assert signal.getsignal(signal.SIGTERM) is before
    assert [folder.name for folder in find_checkpoints(tmp_path / "stopped")] == ["step_000004", "step_000005"]
    assert "saved after step 5: run the same command again to resume" in capfd.readouterr().out
    for _ in range(2):  # a finished run has nothing left to do, and writes the same again
        assert toy_trainer(stopped, DROPOUT, pairs=2).train() is not None
        assert_same_run(tmp_path / "stopped", tmp_path / "straight")


def test_several_processes_agree_on_the_step_at_which_they_stop(tmp_path: Path) -> None:
    config = toy_config(tmp_path, num_processes=2, max_steps=12, checkpoint_every=100)
    assert run_in_processes(config, ToyConfig(signal_at=4)) == [0, 0]
    assert [folder.name for folder in find_checkpoints(tmp_path)] == ["step_000010"]


@pytest.mark.parametrize("step", [4, 8])
def test_a_kill_between_checkpoint_and_validation_costs_nothing(tmp_path: Path, step: int) -> None:
    straight, killed = (toy_config(tmp_path / name, validate_every=4) for name in ("straight", "killed"))
    assert toy_trainer(straight, pairs=2).train() is not None
    assert toy_trainer(killed, pairs=2).train() is not None
    # As after a kill: only what came before the checkpoint of the step, and the checkpoint, are there.
    file = tmp_path / "killed" / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [line for line in lines if line["step"] < step or (line["step"] == step and line["kind"] == "train")]
    file.write_text("".join(json.dumps(line) + "\n" for line in kept))
    for folder in find_checkpoints(tmp_path / "killed"):
        if int(folder.name.removeprefix("step_")) > step:
            shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "killed" / "pipeline")
    assert toy_trainer(killed, pairs=2).train() is not None
    assert [line["step"] for line in records(tmp_path / "killed", "validation")] == [4, 8]
    assert_same_run(tmp_path / "killed", tmp_path / "straight")


@pytest.mark.parametrize(("where", "first"), [("_save_tensors", 5), ("save_config", 1), ("os.replace", 1)])
def test_a_full_disk_is_one_sentence_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, first: int
) -> None:
    config = toy_config(tmp_path / "run", checkpoint_every=2)
    module, _, name = ("checkpoints." + where).rpartition(".")
    owner = checkpoints.os if module.endswith("os") else checkpoints
    original, calls = getattr(owner, name), itertools.count()

    def fail(*arguments: Any, **options: Any) -> Any:
        if next(calls) >= first:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fail)
        with pytest.raises(OutputError, match=r"run cannot be written, the disk is full: free some space") as caught:
            toy_trainer(config).train()
    assert "\n" not in str(caught.value)
    assert [folder.name for folder in find_checkpoints(tmp_path / "run")] == ["step_000002"]
    assert not list((tmp_path / "run").glob("*.partial"))
    toy_trainer(toy_config(tmp_path / "straight", checkpoint_every=2)).train()
    toy_trainer(config).train()
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_what_auto_resume_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="file is a file: choose another folder"):
        toy_trainer(toy_config(tmp_path / "file" / "run"))
    toy_trainer(toy_config(tmp_path, max_steps=4, checkpoint_every=2)).train()
    with pytest.raises(ConfigError, match=r"learning_rate was 0\.01 and is now 0\.02.*--resume latest"):
        toy_trainer(toy_config(tmp_path, max_steps=4, learning_rate=2e-2))
    with pytest.raises(ConfigError, match="in the way of a run that starts from scratch"):
        toy_trainer(toy_config(tmp_path, resume="none"))
    with pytest.raises(ConfigError, match=r"step_000004 is in the way"):
        toy_trainer(toy_config(tmp_path, max_steps=4, resume=str(tmp_path / "step_000002")))
    with pytest.raises(ConfigError, match="has no checkpoint"):
        toy_trainer(toy_config(tmp_path / "new", resume="latest"))
    for kept in find_checkpoints(shutil.copytree(tmp_path, tmp_path.with_name("results"))):
        shutil.rmtree(kept)
    with pytest.raises(
        ConfigError, match=r"results of another training: learning_rate was 0\.01 and is now 0\.02\. Choose"
    ):
        toy_trainer(toy_config(tmp_path.with_name("results"), max_steps=4, learning_rate=2e-2))
    with pytest.raises(CheckpointError, match=r"is no checkpoint: state\.json is missing"):
        toy_trainer(toy_config(tmp_path / "new", resume=str(tmp_path)))
    # Runs of earlier versions resume: a field that they did not have had its default.
    old = tmp_path / "step_000004" / "config.yaml"
    old.write_text(re.sub("degrade_probability.*", lambda line: "#" * len(line[0]), old.read_text()))  # size is checked
    with pytest.raises(ConfigError, match=r"values: degrade_probability was 0\.0 and is now 0\.5\. Choose"):
        toy_trainer(toy_config(tmp_path, max_steps=4, degrade_probability=0.5))
    # Fields that do not affect the result may change; with latest, all may.
    assert toy_trainer(toy_config(tmp_path, max_steps=4, log_every=3, num_workers=1)).step == 4
    with pytest.warns(UserWarning, match="max_steps was 4 and is now 6"):
        trainer = toy_trainer(toy_config(tmp_path, max_steps=6, resume="latest"))
    assert trainer.train() is not None
    assert find_checkpoints(tmp_path)[-1].name == "step_000006"


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_damaged_checkpoints_are_skipped(tmp_path: Path) -> None:
    config = toy_config(tmp_path, checkpoint_every=2, keep_checkpoints=None)
    toy_trainer(config).train()
    weights = tmp_path / "step_000008" / "model" / WEIGHTS
    expected = weights.read_bytes()
    weights.write_bytes(expected[:-10])
    (tmp_path / "step_000006" / "state.json").unlink()
    (tmp_path / "step_000009.partial").mkdir()
    with pytest.warns(UserWarning) as caught:
        assert [folder.name for folder in find_checkpoints(tmp_path)] == ["step_000002", "step_000004"]
    assert {f"{len(expected) - 10} of {len(expected)} bytes" in str(w.message) for w in caught} == {True, False}
    with pytest.warns(UserWarning, match="damaged"):
        assert toy_trainer(config).train() is not None
    assert weights.read_bytes() == expected
    assert not list(tmp_path.glob("*.partial"))

    weights.write_bytes(bytes(len(expected)))  # the right size, but no safetensors
    with pytest.raises(CheckpointError, match="cannot be read"):
        toy_trainer(config)


def test_only_old_checkpoints_are_removed(tmp_path: Path) -> None:
    for name in ("step_000001_mine", "step_1", "step_best", "notes"):
        (tmp_path / name).mkdir()
    toy_trainer(toy_config(tmp_path, checkpoint_every=1, keep_checkpoints=2)).train()
    names = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert names == {"step_000001_mine", "step_1", "step_best", "notes", "step_000007", "step_000008", "pipeline"}


def test_a_checkpoint_of_another_model_is_an_error(tmp_path: Path) -> None:
    toy_trainer(toy_config(tmp_path)).train()

    class Wider(ToyTask):
        def build_model(self) -> ToyModel:
            return ToyModel(channels=5)

    with pytest.raises(CheckpointError, match=r"another model: .* body\.0\.bias, \(4,\) in the file, \(5,\) in the"):
        Trainer(Wider(ToyConfig(), 0), toy_config(tmp_path), crops=ToyCrops())


def test_nothing_is_pickled_and_the_folders_load_as_models(tmp_path: Path) -> None:
    toy_trainer(toy_config(tmp_path, tracker="tensorboard"), pairs=1).train()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files if "tfevents" not in path.name} == {
        ".safetensors", ".json", ".yaml", ".jsonl", ".png"
    }  # fmt: skip
    checkpoint = find_checkpoints(tmp_path)[-1]
    names = {path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*.safetensors")}
    assert names == {f"ema/{WEIGHTS}", "extra.safetensors", f"model/{WEIGHTS}", "optimizer.safetensors"}
    average = ToyModel.from_pretrained(tmp_path / "pipeline" / "model").state_dict()
    for name, value in ToyModel.from_pretrained(checkpoint / "ema").state_dict().items():
        assert torch.equal(value, average[name])
    assert not torch.equal(ToyModel.from_pretrained(checkpoint / "model").fused.weight, average["fused.weight"])
    report = json.loads((tmp_path / "pipeline" / "training.json").read_text())
    assert (report["steps"], report["samples"], report["seed"]) == (8, 32, 0)
    assert yaml.safe_load((tmp_path / "pipeline" / "config.yaml").read_text())["learning_rate"] == 1e-2


# --- the mathematics -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("processes", "parts"), [(1, 1), (1, 2), (2, 2)])
def test_processes_and_accumulation_give_the_gradients_of_one_batch(tmp_path: Path, processes: int, parts: int) -> None:
    values = {"num_processes": processes, "gradient_accumulation_steps": parts, "max_steps": 1, "batch_size": 8}
    config = toy_config(tmp_path, max_grad_norm=torch.inf, **values)
    if processes == 1:
        toy_trainer(config).train()
    else:
        assert run_in_processes(config) == [0, 0]
    torch.manual_seed(mixed_seed(config.seed))
    task = ToyTask(ToyConfig(), config.seed)
    module = task.build_training_module(task.build_model())
    samples = [ToyCrops().sample(number, 8) for number in range(8)]
    loss, _ = module({name: torch.stack([s[name] for s in samples]) for name in samples[0]}, 0)
    assert_same_gradients(tmp_path, module, loss, 1e-5, 1e-6)


def test_averaged_weights_and_learning_rate_follow_their_formulas(tmp_path: Path) -> None:
    config = toy_config(tmp_path, checkpoint_every=1, keep_checkpoints=None, ema_decay=0.3)
    toy_trainer(config).train()
    average: Tensor | None = None
    for step in range(1, 9):
        saved = tensors(tmp_path, step)
        weight = saved[f"model/{WEIGHTS}:fused.weight"]
        decay = 0.0 if step == 1 else min(0.3, step / (9 + step))
        average = weight if average is None else decay * average + (1 - decay) * weight
        torch.testing.assert_close(saved[f"ema/{WEIGHTS}:fused.weight"], average)
    rates = [line["learning_rate"] for line in records(tmp_path)]
    assert rates[:3] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert rates[-1] == pytest.approx(2e-4)
    assert all(a > b for a, b in itertools.pairwise(rates[2:]))
    assert learning_rate_at(TrainingConfig(max_steps=1, warmup_steps=0), 0) == 1e-3


def test_noise_belongs_to_the_sample() -> None:
    together = sample_noise(3, torch.tensor([5, 9]), (2, 4))
    assert torch.equal(together[1:], sample_noise(3, torch.tensor([9]), (2, 4)))
    others = [(4, 9, 0), (3, 10, 0), (3, 9, 1)]
    for seed, number, stream in others:
        assert not torch.equal(together[1:], sample_noise(seed, torch.tensor([number]), (2, 4), stream=stream))
    assert abs(float(sample_noise(0, torch.arange(64), (256,)).std()) - 1) < 0.02


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    config = toy_config(tmp_path, log_every=100)
    with pytest.raises(NonFiniteError, match=r"loss is nan at step 5 \(samples 20 to 23\)"):
        toy_trainer(config, ToyConfig(nan_at=5)).train()
    assert [folder.name for folder in find_checkpoints(tmp_path)] == ["step_000004"]
    assert not (tmp_path / "pipeline").exists()


def test_other_ways_to_compute_train_too(tmp_path: Path) -> None:
    toy_trainer(toy_config(tmp_path / "plain")).train()
    toy_trainer(toy_config(tmp_path / "workers", num_workers=1)).train()
    assert_same_run(tmp_path / "workers", tmp_path / "plain")
    toy_trainer(toy_config(tmp_path / "last", channels_last=True, checkpoint_every=5)).train()
    plain, last = records(tmp_path / "plain")[-1], records(tmp_path / "last")[-1]
    assert last["loss"] == pytest.approx(plain["loss"], rel=1e-4)


def test_bf16_keeps_weights_in_float32(tmp_path: Path) -> None:
    toy_trainer(toy_config(tmp_path, precision="bf16")).train()
    assert {value.dtype for value in tensors(tmp_path, 8).values()} == {torch.float32}
    losses = [line["loss"] for line in records(tmp_path)]
    assert losses[STAGE_ONE_STEPS] > losses[-1]


# --- validation ------------------------------------------------------------------------------------------------------


def test_validation_measures_the_averaged_weights(tmp_path: Path) -> None:
    toy_trainer(toy_config(tmp_path, tracker="tensorboard", validate_every=4), pairs=2).train()
    lines = records(tmp_path, "validation")
    assert [line["step"] for line in lines] == [4, 8]
    model = ToyModel.from_pretrained(tmp_path / "step_000004" / "ema").eval()
    expected = []
    for number in range(2):
        sample = ToyCrops().sample(10_000 + number, 40 + 8 * number)
        with torch.no_grad():
            fused = model(sample["visible"][None], sample["infrared"][None])
        pictures = [quantize(x[0].numpy()) for x in (fused[0], sample["visible"], sample["infrared"])]
        expected.append(evaluate_pair(*pictures, names=["EN"])["EN"])
    assert lines[0]["EN"] == pytest.approx(np.mean(expected))
    with Image.open(tmp_path / "validation" / "step_000008.png") as grid:
        assert grid.size == (3 * 48 + 2 * 4, 40 + 4 + 48)
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_the_grid_shows_pictures_of_all_sizes() -> None:
    grid = np.asarray(picture_grid([[np.full((10, 20), 7, np.uint8)] * 3, [np.full((1000, 500), 9, np.uint8)] * 3]))
    assert grid.shape == (10 + 4 + 480, 3 * 240 + 2 * 4)
    assert (grid[:10, :20] == 7).all() and (grid[14:, :240] == 9).all() and grid[5, 100] == 255


def test_validation_leaves_out_what_a_small_or_constant_pair_does_not_define() -> None:
    picture = torch.rand(1, 1, 20, 30, generator=torch.Generator().manual_seed(0))
    flat = torch.zeros(1, 1, 48, 48)
    pairs = [ValidationPair("a", "small", picture, picture), ValidationPair("a", "flat", flat, flat)]
    measured = FusionValidation(lambda model, visible, infrared: visible, pairs, ["EN", "VIF"])
    means, grid = measured.measure(None, torch.device("cpu"))
    assert means.keys() == {"EN"} and 3 < means["EN"] < 4 and grid.size[1] == 20 + 4 + 48


def test_validation_pairs_come_from_real_sets(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_HUB_DATA", str(data_root))
    pairs = open_validation_pairs([Source("${FUSION_HUB_DATA}/data/tno", "test")], 3)
    assert len({pair.name for pair in pairs}) == 3
    for pair in pairs:
        assert pair.dataset == "data/tno/test" and pair.visible.shape == pair.infrared.shape
        assert pair.visible.min() >= 0 and pair.visible.max() <= 1


def test_a_config_trains_on_real_sets(data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSION_HUB_DATA", str(data_root))
    sources = [Source("${FUSION_HUB_DATA}/data/tno", "train", weight=2.0), Source("generated:4")]
    config = toy_config(tmp_path, sources=sources, max_steps=2, crop_size=32, smallest_scale=0.5)
    config = replace(config, degrade_probability=0.5)
    samples = ToyTask(ToyConfig(), 0).open_samples(config)
    assert {"clean_visible", "clean_infrared"} < set(samples.sample(0, 32))
    folder = Trainer(ToyTask(ToyConfig(), 0), config).train()
    assert folder is not None
    assert json.loads((folder / "training.json").read_text())["datasets"] == [
        {"path": "${FUSION_HUB_DATA}/data/tno", "split": "train", "pairs": 12},
        {"path": "generated:4", "split": None, "pairs": 4},
    ]


# --- configuration ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mine:
    depth: int = 2
    temperature: float = 1.0


def parse(tmp_path: Path, text: str, *flags: str) -> tuple[TrainingConfig, Mine]:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return parse_config((TrainingConfig, Mine), ["--config", str(path), *flags])


def test_the_file_gives_values_and_flags_win(tmp_path: Path) -> None:
    text = """
learning_rate: 1e-4   # YAML itself takes this for text
temperature: -2e-3
channels_last: true
keep_checkpoints:
late_crop_size: 32
sources: [{path: "${FUSION_HUB_DATA}/data/tno", split: train, weight: 2e0}, plain/folder]
validation_metrics: [EN]
"""
    config, mine = parse(tmp_path, text, "--depth", "5", "--late-crop-size=48", "--validation_sources", "{path: a b}")
    assert (config.learning_rate, mine.temperature, mine.depth) == (1e-4, -2e-3, 5)
    assert (config.channels_last, config.keep_checkpoints, config.late_crop_size) == (True, None, 48)
    assert config.sources == [Source("${FUSION_HUB_DATA}/data/tno", "train", 2.0), Source("plain/folder")]
    assert config.validation_sources == [Source("a b")]
    assert parse(tmp_path, text, "--late-crop-size", "")[0].late_crop_size is None  # as the empty value in the file
    # What is saved is read back as the same.
    saved = tmp_path / "saved.yaml"
    saved.write_text(yaml.safe_dump(resolved(config, mine)))
    assert parse_config((TrainingConfig, Mine), ["--config", str(saved)]) == (config, mine)
    assert parse_config((TrainingConfig, Mine), []) == (TrainingConfig(), Mine())


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("learning_rat: 1", [], r"unknown key in .*config.yaml 'learning_rat': did you mean learning_rate"),
        ("seed: 1", ["--max-step", "5"], r"unknown flag 'max_step': did you mean max_steps"),
        ("seed: 1", ["5"], "'5' belongs to no flag"),
        ("max_steps: many", [], "max_steps must be an integer, got 'many'"),
        ("max_steps:", [], "max_steps is empty"),
        ("sources: [{path: a, wieght: 2}]", [], "unknown key of a source 'wieght': did you mean weight"),
        ("sources: [{path: a, weight: -2}]", [], "weight must be a number above 0, got -2"),
        ("sources: [{split: a}]", [], "a source is a path or a mapping"),
        ("a: [", [], "not valid YAML"),
        ("- a", [], "must hold `key: value` lines, but does not"),
        ("precision: fp16", [], "precision must be fp32 or bf16, got fp16: on a CPU it silently does nothing"),
        ("learning_rate: .nan", [], "learning_rate must be 0 or more, got nan"),
        ("batch_size: 6", ["--num_processes", "4"], r"batch_size = 6 cannot be split evenly .* 4 x 1 parts"),
        ("ema_decay: 1.5", [], r"ema_decay must be between 0 and 1, got 1\.5"),
    ],
)
def test_config_errors_say_what_is_wrong(tmp_path: Path, text: str, flags: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(tmp_path, text, *flags)


def test_config_errors_outside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        ConfigError, match=r"absent\.yaml is neither a file nor a bundled configuration: choose among .*red_small_msrs"
    ):
        parse_config((TrainingConfig,), ["--config", str(tmp_path / "absent.yaml")])
    with pytest.raises(ConfigError, match="environment variable NOT_THERE is not set"):
        Source("${NOT_THERE}/data").resolve()
    monkeypatch.delenv("FUSION_HUB_DATA", raising=False)
    assert Source("${FUSION_HUB_DATA}/data").resolve().source == "../shared/data"
    with pytest.raises(ConfigError, match="num_processes is 2, but the launcher started 1"):
        toy_trainer(toy_config(tmp_path, num_processes=2))
    with pytest.raises(ConfigError, match="sources is empty"):
        Trainer(ToyTask(ToyConfig(), 0), toy_config(tmp_path))


def test_ranges_of_sources_are_checked_and_stored(tmp_path: Path) -> None:
    source = Source.parse("{path: 'generated:2', infrared_range: [2600, 2800], visible_range: dtype}")
    resolved = source.resolve()
    assert (resolved.infrared_range, resolved.visible_range) == ((2600.0, 2800.0), "dtype")
    assert ToyTask(ToyConfig(), 0).infrared_range(TrainingConfig(sources=[source])) == (2600.0, 2800.0)
    with pytest.raises(ConfigError, match="infrared_range hot: give auto, dtype, minmax, percentile"):
        Source.parse({"path": "a", "infrared_range": "hot"})
