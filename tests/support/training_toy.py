"""A model of a few numbers, for tests of the training loop that run it in processes of their own."""

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from fusion_hub.training import FusionTask, Trainer, TrainingConfig, ValidationPair, sample_noise
from fusion_hub.training.validation import FusionValidation

STAGE_ONE_STEPS = 3


@dataclass(frozen=True)
class ToyConfig:
    """Steps at which something happens to the toy."""

    dropout: float = 0.0
    kill_at: int | None = None
    signal_at: int | None = None
    nan_at: int | None = None


class ToyModel(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, channels: int = 4, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(2, channels, 3, padding=1), nn.GELU(), nn.Dropout(dropout))
        self.fused = nn.Conv2d(channels, 1, 3, padding=1)
        self.stage_one = nn.Conv2d(channels, 2, 1)
        self.gain = nn.Parameter(torch.ones(()))
        self.register_buffer("offset", torch.zeros(1))

    def forward(self, visible: Tensor, infrared: Tensor) -> Tensor:
        return self.gain * self.fused(self.body(torch.cat([visible, infrared], 1))) + self.offset


class ToyTraining(nn.Module):
    """Reconstruction by a separate head, then fusion, so that each stage leaves parameters without gradients."""

    def __init__(self, model: ToyModel, config: ToyConfig, seed: int) -> None:
        super().__init__()
        self.model, self.config, self.seed = model, config, seed
        self.scale = nn.Parameter(torch.ones(2, 1, 1))  # trained, but no part of the model

    def forward(self, batch: dict[str, Tensor], step: int) -> tuple[Tensor, dict[str, Tensor]]:
        if step == self.config.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if step == self.config.signal_at:
            os.kill(os.getpid(), signal.SIGTERM)
        pair = torch.cat([batch["visible"], batch["infrared"]], 1)
        if step < STAGE_ONE_STEPS:
            noise = sample_noise(self.seed, batch["sample"], pair.shape[1:])
            rebuilt = self.scale * self.model.stage_one(self.model.body(pair + 0.1 * noise))
            return (rebuilt - pair).square().mean(), {}
        fused = self.model(batch["visible"], batch["infrared"])
        loss = (fused - pair.amax(1, keepdim=True)).square().mean()
        if step == self.config.nan_at:
            loss = loss * torch.nan
        return loss, {"mean": fused.mean()}


class ToyTask(FusionTask):
    find_unused_parameters = True

    def __init__(self, config: ToyConfig, seed: int, pairs: Sequence[ValidationPair] = ()) -> None:
        self.config, self.seed, self.pairs = config, seed, pairs

    def open_validation(self, config: TrainingConfig) -> FusionValidation | None:
        return FusionValidation(self.fuse, self.pairs, config.validation_metrics) if self.pairs else None

    def build_model(self) -> ToyModel:
        return ToyModel(dropout=self.config.dropout)

    def build_training_module(self, model: ModelMixin) -> nn.Module:
        assert isinstance(model, ToyModel)
        return ToyTraining(model, self.config, self.seed)

    def fuse(self, model: ModelMixin, visible: Tensor, infrared: Tensor) -> Tensor:
        return model(visible, infrared)

    def save_pipeline(self, model: ModelMixin, folder: Path) -> None:
        model.save_pretrained(folder / "model")


class ToyCrops:
    """Random pictures; a number always gives the same one."""

    def sample(self, number: int, crop_size: int) -> dict[str, Tensor]:
        pair = torch.rand(2, 1, crop_size, crop_size, generator=torch.Generator().manual_seed(number))
        return {"visible": pair[0], "infrared": pair[1], "sample": torch.tensor(number)}


def toy_config(output: Path, **values: Any) -> TrainingConfig:
    defaults: dict[str, Any] = {"output_dir": str(output), "tracker": "none", "validation_metrics": ["EN", "SF"]}
    defaults |= {"max_steps": 8, "checkpoint_every": 4, "log_every": 1, "batch_size": 4, "crop_size": 8}
    return TrainingConfig(**(defaults | {"learning_rate": 1e-2, "warmup_steps": 2, "ema_decay": 0.9} | values))


def toy_trainer(config: TrainingConfig, toy: ToyConfig | None = None, pairs: int = 0) -> Trainer:
    """The toy's config is not saved, so that a resumed run can do without the failure."""
    toy = toy or ToyConfig()
    crops = ToyCrops()
    chosen = [crops.sample(10_000 + number, 40 + 8 * number) for number in range(pairs)]
    validation = [ValidationPair("toy", str(i), c["visible"][None], c["infrared"][None]) for i, c in enumerate(chosen)]
    return Trainer(ToyTask(toy, config.seed, validation), config, crops=crops)


def run_in_processes(config: TrainingConfig, toy: ToyConfig | None = None) -> list[int | None]:
    """Train the toy in `config.num_processes` new processes; their exit codes."""
    return launch(_train_toy, config.num_processes, config, toy)


def launch(work: Callable[..., None], count: int, *arguments: Any) -> list[int | None]:
    """Call `work(*arguments)`, a function of a module, in `count` new processes as torchrun does; their exit codes."""
    context = multiprocessing.get_context("forkserver")
    # One clean process imports, all others are forked from it.
    rooms = ("pipelines", "training.difffusenet", "downstream.train_detector", "downstream.train_segformer")
    others = ("accelerate", "diffusers.training_utils", "pytest", "transformers.models.segformer.modeling_segformer")
    context.set_forkserver_preload([*(f"fusion_hub.{room}" for room in rooms), *others])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_run_rank, args=(r, count, port, work, arguments)) for r in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=300)
        if process.is_alive():  # the other one was killed and this one waits for it
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _run_rank(rank: int, count: int, port: int, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    if count > 1:
        rendezvous = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count}
        os.environ.update({name: str(v) for name, v in (rendezvous | {"RANK": rank, "LOCAL_RANK": rank}).items()})
        # The destructor of a gloo group may wait forever for a thread that waits for Python's lock.
        torch.distributed.destroy_process_group = lambda *_: None
    work(*arguments)
    os._exit(0)


def _train_toy(config: TrainingConfig, toy: ToyConfig | None) -> None:
    toy_trainer(config, toy).train()
