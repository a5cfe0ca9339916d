"""What the tests of training share: a folder of pairs, the scripts, and what a run leaves in its folder."""

import json
import runpy
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fusion_hub.data import CropSource, PairCrops, generate_scene
from fusion_hub.training import Trainer, TrainingConfig, find_checkpoints

TRAIN = Path(__file__).parents[2] / "train"


@pytest.fixture(autouse=True)
def accelerate_on_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def drawn_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two small scenes: quicker than full-size ones."""
    folder = tmp_path_factory.mktemp("pairs")
    for name, kind in (("day", "day_road"), ("night", "night_street")):
        scene = generate_scene(0, 96, 128, kind)  # type: ignore[arg-type]
        for band, picture in (("vis", scene.visible), ("ir", scene.infrared)):
            (folder / band).mkdir(exist_ok=True)
            Image.fromarray(picture).save(folder / band / f"{name}.png")
    return folder


def batch_of(folder: Path, count: int, crop_size: int, seed: int = 0) -> dict[str, Tensor]:
    """The first samples that a run with this folder and seed trains on."""
    crops = PairCrops([CropSource(str(folder))], crop_size, seed, count)
    samples = [crops.sample(number, crop_size) for number in range(count)]
    return {name: torch.stack([torch.as_tensor(sample[name]) for sample in samples]) for name in samples[0]}


def tensors(output: Path, step: int) -> dict[str, Tensor]:
    """All tensors of a checkpoint, by file and name: `model/diffusion_pytorch_model.safetensors:fused.weight`."""
    folder = output / f"step_{step:06d}"
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.relative_to(folder)}:{name}": value for file in files for name, value in load_file(file).items()}


def records(output: Path, kind: str = "train") -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` of one kind."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def assert_same_run(output: Path, other: Path, step: int = 8) -> None:
    """Equal to the bit: weights, averages and moments at `step`, and everything logged."""
    expected, got = tensors(other, step), tensors(output, step)
    assert expected and expected.keys() == got.keys()
    for name in expected:
        assert torch.equal(expected[name], got[name]), name
    for kind in ("train", "validation"):
        assert records(output, kind) == records(other, kind)


def assert_same_gradients(output: Path, module: torch.nn.Module, loss: Tensor, rtol: float, atol: float) -> set[str]:
    """That the first step of a run (no clipping, beta1 = 0.9) had the loss and the gradients of this computation.

    Returns the names of the parameters without gradients."""
    saved, without = tensors(output, 1), set()
    loss.backward()
    for name, parameter in module.named_parameters():
        gradient = saved.get(f"optimizer.safetensors:{name}:exp_avg")
        if parameter.grad is None:
            without.add(name)
            assert gradient is None, name
        else:
            assert gradient is not None, name
            torch.testing.assert_close(gradient / 0.1, parameter.grad, rtol=rtol, atol=atol)
    assert records(output)[0]["loss"] == pytest.approx(loss.item(), rel=rtol)
    return without


def train(task_type: Any, config: TrainingConfig, model_config: Any, fail_at: int | None = None) -> None:
    """Train; with `fail_at` an error ends the run at this step."""
    trainer = Trainer(task_type(config, model_config), config, model_config)

    def fail(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if arguments[1] == fail_at:
            raise ConnectionError("stopped by the test")

    trainer.state.module.register_forward_pre_hook(fail)
    trainer.train()


def assert_resumes(task_type: Any, config: TrainingConfig, model_config: Any, fail_at: int) -> None:
    """That a run which fails at a step and is resumed equals an uninterrupted one to the bit."""
    straight, failed = (Path(config.output_dir) / name for name in ("straight", "failed"))
    train(task_type, replace(config, output_dir=str(straight)), model_config)
    config = replace(config, output_dir=str(failed))
    with pytest.raises(ConnectionError):
        train(task_type, config, model_config, fail_at)
    before = fail_at - fail_at % config.checkpoint_every
    assert [folder.name for folder in find_checkpoints(failed)] == [f"step_{before:06d}"]
    train(task_type, config, model_config)
    assert_same_run(failed, straight, config.max_steps)


def run_script(name: str, *arguments: str) -> Any:
    """The exit code of a training script."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(TRAIN / name), *arguments])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(TRAIN / name), run_name="__main__")
    return caught.value.code
