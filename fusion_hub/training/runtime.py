"""What surrounds the loop: processes, signals, the log."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from fusion_hub.files import write_aside
from fusion_hub.training.config import ConfigError, TrainingConfig

if TYPE_CHECKING:
    from accelerate import Accelerator


def start_accelerator(config: TrainingConfig, find_unused_parameters: bool) -> "Accelerator":
    """The accelerator of a run; raises a ConfigError if the launcher or the tracker does not fit the configuration."""
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, is_tensorboard_available

    if config.tracker == "tensorboard" and not is_tensorboard_available():
        raise ConfigError("tracker tensorboard needs: pip install 'fusion-hub[train]'; or give --tracker none")
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # several processes on a CPU work without ACCELERATE_USE_CPU
        mixed_precision="no" if config.precision == "fp32" else config.precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        # Every process reads its own slice of each batch, and only that.
        dataloader_config=DataLoaderConfiguration(split_batches=True, dispatch_batches=False, even_batches=False),
        log_with=None if config.tracker == "none" else config.tracker,
        project_config=ProjectConfiguration(project_dir=config.output_dir, logging_dir=config.output_dir),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused_parameters)],
    )
    if accelerator.num_processes != config.num_processes:
        raise ConfigError(
            f"num_processes is {config.num_processes}, but the launcher started {accelerator.num_processes}: give "
            f"--num_processes {accelerator.num_processes}"
        )
    return accelerator


class StopSignals:
    """While entered, SIGINT and SIGTERM set `received` instead of ending the process.

    A second interrupt ends a run that is `alone`. Of several processes, each gets one from the terminal and another
    from their launcher, so there it means nothing.
    """

    def __init__(self, alone: bool) -> None:
        self.alone, self.received = alone, False
        self.before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():  # Python allows it nowhere else
            self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _: Any) -> None:
        if self.received and self.alone and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = True
        os.write(2, b"\nstopping after this step, with a checkpoint\n")  # print is not safe in a signal handler


class RunLog:
    """`metrics.jsonl`, the tracker and the terminal; only the main process writes.

    The run begins at the step `start`: records of later steps are dropped, as is a truncated last line.
    """

    def __init__(self, accelerator: "Accelerator", config: TrainingConfig, start: int) -> None:
        self.accelerator, self.path = accelerator, Path(config.output_dir) / "metrics.jsonl"
        if accelerator.is_main_process and self.path.exists():
            kept = []
            for line in self.path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    if json.loads(line)["step"] <= start:
                        kept.append(line + "\n")
            with write_aside(self.path) as aside:
                aside.write_text("".join(kept), encoding="utf-8")
        if config.tracker != "none":
            accelerator.init_trackers(config.tracker, init_kwargs={config.tracker: {"purge_step": start + 1}})

    def record(self, kind: str, step: int, values: Mapping[str, float]) -> None:
        """One line in `metrics.jsonl` and the tracker's scalars."""
        self.accelerator.log({f"{kind}/{name}": value for name, value in values.items()}, step)
        if self.accelerator.is_main_process:
            with self.path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")

    def has(self, kind: str, step: int) -> bool:
        """Whether `metrics.jsonl` has a line of this kind for this step."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        return any(line["kind"] == kind and line["step"] == step for line in map(json.loads, text.splitlines()))

    def picture(self, name: str, step: int, picture: Image.Image) -> None:
        """A gray or RGB picture: `name/step_<step>.png` in the run's folder, and the tracker's image."""
        if self.accelerator.is_main_process:
            folder = self.path.parent / name
            folder.mkdir(exist_ok=True)
            picture.save(folder / f"step_{step:06d}.png")
        pixels = np.atleast_3d(np.asarray(picture))[None]
        for tracker in self.accelerator.trackers:
            tracker.log_images({name: pixels}, step, dataformats="NHWC")

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        if self.accelerator.is_main_process:
            tqdm.write(text)
