"""What a full disk, a kill or a wrong size may not cost: the last checkpoint, a validation, an hour until stage two."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fusion_hub.training import ConfigError, OutputError, TrainingConfig, find_checkpoints
from fusion_hub.training import checkpoint as checkpoints
from fusion_hub.training.config import Source
from fusion_hub.training.difffusenet import DiffFuseNetConfig, DiffFuseNetTask
from fusion_hub.training.red import REDConfig, REDTask
from tests.support.training_toy import ToyConfig, toy_config, toy_trainer
from tests.training.test_training import assert_same_run, records


@pytest.mark.parametrize("step", [4, 8])
def test_a_kill_between_checkpoint_and_validation_costs_nothing(tmp_path: Path, step: int) -> None:
    straight, killed = (toy_config(tmp_path / name, validate_every=4) for name in ("straight", "killed"))
    assert toy_trainer(straight, pairs=2).train() is not None
    assert toy_trainer(killed, pairs=2).train() is not None
    # As after a kill: the checkpoint of the step is there, what came after it is not.
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


def test_a_stop_at_a_step_with_a_validation_makes_it_up(tmp_path: Path) -> None:
    straight, stopped = (toy_config(tmp_path / name, validate_every=5) for name in ("straight", "stopped"))
    assert toy_trainer(straight, pairs=2).train() is not None
    assert toy_trainer(stopped, ToyConfig(signal_at=4), pairs=2).train() is None
    assert toy_trainer(stopped, pairs=2).train() is not None
    assert_same_run(tmp_path / "stopped", tmp_path / "straight")


@pytest.mark.parametrize("where", ["weights", "state", "rename"])
def test_a_full_disk_is_one_sentence_and_keeps_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    config = toy_config(tmp_path / "run", checkpoint_every=2)
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        calls = iter(range(1000))

        def second(original: Any) -> Any:
            """Fails from its second call on."""

            def call(*arguments: Any, **options: Any) -> Any:
                if next(calls) >= (5 if where == "weights" else 1):
                    raise full
                return original(*arguments, **options)

            return call

        target = {"weights": "_save_tensors", "state": "save_config"}.get(where)
        if target is None:
            patch.setattr(checkpoints.os, "replace", second(checkpoints.os.replace))
        else:
            patch.setattr(checkpoints, target, second(getattr(checkpoints, target)))
        with pytest.raises(OutputError, match=r"run cannot be written, the disk is full: free some space") as caught:
            toy_trainer(config).train()
    assert "\n" not in str(caught.value)
    assert len(find_checkpoints(tmp_path / "run")) >= (0 if where == "rename" else 1)
    assert not list((tmp_path / "run").glob("*.partial")) or where == "rename"
    straight = toy_config(tmp_path / "straight", checkpoint_every=2)
    toy_trainer(straight).train()
    toy_trainer(config).train()
    assert_same_run(tmp_path / "run", tmp_path / "straight")


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="file is a file: choose another folder"):
        toy_trainer(toy_config(tmp_path / "file" / "run"))


@pytest.mark.parametrize(("task", "config"), [(DiffFuseNetTask, DiffFuseNetConfig), (REDTask, REDConfig)])
@pytest.mark.parametrize("sizes", [{"crop_size": 40}, {"crop_size": 64, "late_fraction": 0.5, "late_crop_size": 24}])
def test_crops_too_small_for_a_later_stage_are_refused_at_the_start(task: Any, config: Any, sizes: dict) -> None:
    training = TrainingConfig(sources=[Source("generated:2")], **sizes)
    size = min(value for name, value in sizes.items() if name.endswith("crop_size"))
    with pytest.raises(ConfigError, match=rf"crop_size is {size}, but the fidelity loss needs crops of at least 41"):
        task(training, config(fidelity=1.0)).open_samples(training)
    assert task(training, config(fidelity=0.0)).open_samples(training) is not None


def test_ranges_of_sources_are_read_checked_and_stored(tmp_path: Path) -> None:
    source = Source.parse("{path: 'generated:2', infrared_range: [2600, 2800], visible_range: dtype}")
    resolved = source.resolve()
    assert (resolved.infrared_range, resolved.visible_range) == ((2600.0, 2800.0), "dtype")
    training = TrainingConfig(sources=[source], crop_size=64)
    assert DiffFuseNetTask(training, DiffFuseNetConfig()).infrared_range(training) == (2600.0, 2800.0)
    with pytest.raises(ConfigError, match="infrared_range hot: give auto, dtype, minmax, percentile"):
        Source.parse({"path": "a", "infrared_range": "hot"})
