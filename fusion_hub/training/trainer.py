"""The training loop of `fusion-hub train`: Accelerate, AdamW, averaged weights, checkpoints, validation.

Read `Trainer.train` first. The loop knows a model by its `TrainingTask`, its options by `TrainingConfig`, its samples
by anything with `sample(number, crop_size)`, and validates with a `Validation`. Networks are diffusers' (the fusion
models) or transformers' (downstream tasks).

Every random number is a function of the seed and the number of the sample or step. Step s always uses the samples
`samples_before(s)` and on, which Accelerate splits among the processes. So a stopped and resumed run equals an
uninterrupted one to the bit, and another number of processes or workers changes nothing but rounding.
"""

import contextlib
import hashlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from fusion_hub.data.pairs import Pair, source_file
from fusion_hub.files import check_writable, disk_trouble, sweep_leftovers
from fusion_hub.training import checkpoint as checkpoints
from fusion_hub.training.config import TrainingConfig, resolved, save_config
from fusion_hub.training.runtime import RunLog, StopSignals, start_accelerator
from fusion_hub.training.samples import CropSampler, batches, mixed_seed
from fusion_hub.training.task import TrainingTask

STOP_CHECK_EVERY = 10  # steps after which several processes check whether one of them received a signal


class NonFiniteError(FloatingPointError):
    """A loss or gradient became infinite or NaN; nothing that follows from it was saved."""


class OutputError(OSError):
    """The run's folder cannot be written; the message says why and what to do."""


def learning_rate_at(config: TrainingConfig, step: int) -> float:
    """Linear warm-up to `learning_rate`, then a cosine to its `final_lr_fraction` at the last step."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(1, config.max_steps - 1 - config.warmup_steps)
    cosine = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
    return config.learning_rate * (config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine)


def data_digest(sets: Iterable[Iterable[Any]]) -> str:
    """Of the names of all pairs and the sizes of their files, whichever folders they lie in."""
    digest = hashlib.blake2b(digest_size=12)
    for item in itertools.chain.from_iterable(sets):
        pair: Pair = getattr(item, "pair", item)  # of those with boxes or labels
        files = [source_file(source) for _, source in pair.bands()]
        sizes = [file.stat().st_size for file in files if file is not None]
        digest.update(f"{pair.name} {sizes}\n".encode())
    return digest.hexdigest()


class Trainer:
    """One training run, new or resumed.

    Args:
        task_config: the task's own dataclass; it is saved with `config`, and a resumed run must have an equal one.
        crops: instead of what the task opens.

    Raises:
        ConfigError: the config does not match the launcher, the folder or the checkpoint.
        CheckpointError: the checkpoint to resume from is damaged or of another model.
    """

    def __init__(
        self, task: TrainingTask, config: TrainingConfig, task_config: Any = None, *, crops: CropSampler | None = None
    ) -> None:
        from diffusers.training_utils import EMAModel

        self.task, self.config = task, config
        self.values = resolved(config, *([] if task_config is None else [task_config]))
        self.output = Path(config.output_dir)
        start = checkpoints.choose_checkpoint(self.output, config.resume, self.values)
        self.crops = task.open_samples(config) if crops is None else crops
        self.accelerator = start_accelerator(config, task.find_unused_parameters)
        self.main = self.accelerator.is_main_process
        self.validation = task.open_validation(config) if self.main else None

        torch.manual_seed(mixed_seed(config.seed))
        model = task.build_model()
        if config.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
        plain = task.build_training_module(model)
        if config.compile:
            plain.compile()
        parameters = [parameter for parameter in plain.parameters() if parameter.requires_grad]
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},  # biases, norms, scales
        ]
        optimizer = torch.optim.AdamW(groups, config.learning_rate, betas=(config.adam_beta1, config.adam_beta2))
        self.module, self.optimizer = self.accelerator.prepare(plain, optimizer)  # moves the parameters in place
        self.ema = EMAModel(model.parameters(), decay=config.ema_decay, foreach=True)
        self.state = checkpoints.TrainingState(model, plain, self.ema.shadow_params, optimizer)

        progress: dict[str, Any] = {"step": 0, "seconds": 0.0}
        if start is not None:
            progress = checkpoints.load_checkpoint(start, self.state)
        self.step = self.ema.optimization_step = progress["step"]
        self.begun = time.monotonic() - progress["seconds"]
        self.data = data_digest(getattr(self.crops, "sets", ()))
        self.data_changes: list[int] = progress.get("data_changes", [])  # steps after which the run went on with others
        changed = progress.get("data", self.data) != self.data
        self.data_changes += [self.step] if changed else []
        self.window: list[tuple[int, dict[str, Tensor]]] = []  # not logged yet: (step, scalars)
        if self.main:
            try:
                check_writable(self.output)
                self.output.mkdir(parents=True, exist_ok=True)
                save_config(self.values, self.output / "config.yaml")
            except OSError as error:
                raise OutputError(disk_trouble(error, self.output) or str(error)) from error
            for left in self.output.glob("*.partial"):  # of a process that was killed while it wrote
                shutil.rmtree(left, ignore_errors=True)
            sweep_leftovers(self.output)
        self.log = RunLog(self.accelerator, config, self.step)
        count = sum(map(len, getattr(self.crops, "sets", ())))
        if changed:
            self.log.say(
                "the training pairs are not those that this run began with: it goes on with these after step "
                f"{self.step}, and training.json says so. To repeat a run exactly, begin a new one (another output_dir)"
            )
        self.log.say(f"{self.output}: steps {self.step} to {config.max_steps}{f', on {count} pairs' * bool(count)}")

    def train(self) -> Path | None:
        """Train to `max_steps` and write `output_dir/pipeline`.

        Returns:
            The pipeline's folder; None if SIGINT or SIGTERM came, upon which a checkpoint was written.

        Raises:
            NonFiniteError: a loss or gradient is not finite.
            OutputError: the disk is full or read-only.
        """
        config, accelerator = self.config, self.accelerator
        bar = tqdm(total=config.max_steps, initial=self.step, unit="step", disable=not self.main, dynamic_ncols=True)
        parts = batches(self.crops, config, accelerator, self.step)
        try:
            if self.step and self._due(config.validate_every):
                self._validate(again=False)  # the run may have ended between this checkpoint and its validation
            with bar, StopSignals(alone=accelerator.num_processes == 1) as signals:
                for step in range(self.step, config.max_steps):
                    for group in self.optimizer.param_groups:
                        group["lr"] = learning_rate_at(config, step)

                    for part in range(config.gradient_accumulation_steps):
                        try:
                            batch = next(parts)
                        except ValueError as error:  # of a picture that cannot be decoded
                            raise ValueError(f"{error}{self._saved_before_an_error()}") from error
                        # For whatever uses torch's own generator, such as dropout.
                        torch.manual_seed(mixed_seed(config.seed, step, part, accelerator.process_index))
                        with accelerator.accumulate(self.module):
                            loss, logs = self.module(batch, step)
                            logs = {"loss": loss.detach(), **{name: value.detach() for name, value in logs.items()}}
                            accelerator.backward(loss)
                            if accelerator.sync_gradients:
                                parameters = self.module.parameters()
                                logs["grad_norm"] = accelerator.clip_grad_norm_(parameters, config.max_grad_norm)
                            self.optimizer.step()
                            self.optimizer.zero_grad()
                        self.window.append((step, logs))
                    self.ema.step(self.state.model.parameters())
                    self.step = step + 1
                    bar.update()

                    stop = self._stop_requested(signals.received)
                    save = stop or self._due(config.checkpoint_every)
                    validate = not stop and self._due(config.validate_every)
                    if save or validate or self._due(config.log_every):
                        bar.set_postfix_str(self._log())  # first, because it finds values that are not finite
                    if save:
                        self._save()
                        accelerator.wait_for_everyone()
                    if validate:
                        self._validate()
                    if stop:
                        self.log.say(f"stopped and saved after step {self.step}: run the same command again to resume")
                        return None
            return self._finish()
        except OSError as error:
            if trouble := disk_trouble(error, self.output):
                kept = "the last whole checkpoint is kept, and the same command resumes from it"
                raise OutputError(f"{trouble}; {kept}") from error
            raise
        finally:
            accelerator.end_training()

    def _save(self) -> None:
        if self.main:
            progress = {"step": self.step, **self._progress()}
            checkpoints.save_checkpoint(self.output, self.state, progress, self.values, self.config.keep_checkpoints)

    def _saved_before_an_error(self) -> str:
        """Save what was trained, and say so. Several processes keep their last checkpoint: the others go on for now."""
        if self.accelerator.num_processes > 1 or self.step == 0:
            return ""
        self._save()
        return f"\nsaved after step {self.step}: mend that, then run the same command again to resume"

    def _due(self, every: int | None) -> bool:
        return self.step == self.config.max_steps or (every is not None and self.step % every == 0)

    def _stop_requested(self, received: bool) -> bool:
        """Whether to stop now: all processes must do so after the same step."""
        if self.accelerator.num_processes == 1:
            return received
        if received:
            self.accelerator.set_trigger()
        return self.step % STOP_CHECK_EVERY == 0 and self.accelerator.check_trigger()

    def _log(self) -> str:
        """Log the means, over steps and processes, of all since the last call; a short text for the progress bar.

        Losses are read here and not at every step, which would make a GPU wait. Nothing is saved in between.
        """
        names = dict.fromkeys(name for _, logs in self.window for name in logs)
        steps = {name: [step for step, logs in self.window if name in logs] for name in names}
        stacks = {name: torch.stack([logs[name].float() for _, logs in self.window if name in logs]) for name in names}
        means = {}
        for name, stack in self.accelerator.reduce(stacks, reduction="mean").items():
            if not (finite := torch.isfinite(stack)).all():
                bad = int(finite.logical_not().nonzero()[0])
                step = steps[name][bad]
                first, end = self.config.samples_before(step), self.config.samples_before(step + 1)
                raise NonFiniteError(
                    f"{name} is {float(stack[bad])} at step {step} (samples {first} to {end - 1}); training has "
                    "stopped, nothing of this step was saved. Try a lower learning_rate, longer warmup_steps or a "
                    "smaller max_grad_norm; with precision bf16, look for parts of the loss that need float32"
                )
            means[name] = float(stack.mean())
        self.window.clear()
        self.log.record("train", self.step, {**means, "learning_rate": learning_rate_at(self.config, self.step - 1)})
        return f"loss {means['loss']:.4f}"

    def _progress(self) -> dict[str, Any]:
        seconds, samples = round(time.monotonic() - self.begun, 1), self.config.samples_before(self.step)
        progress = {"seed": self.config.seed, "samples": samples, "seconds": seconds, "data": self.data}
        return progress | ({"data_changes": self.data_changes} if self.data_changes else {})

    def _validate(self, again: bool = True) -> None:
        """Measure the averaged weights; `again=False` only if that is not recorded for this step."""
        if self.validation is not None and (again or not self.log.has("validation", self.step)):  # main process only
            # torch.compile would compile for every picture size.
            eager = torch.compiler.set_stance("force_eager") if self.config.compile else contextlib.nullcontext()
            with self._averaged_weights() as model, eager:
                metrics, grid = self.validation.measure(model, self.accelerator.device)
            self.log.record("validation", self.step, metrics)
            self.log.picture("validation", self.step, grid)
            shown = (f"{name} {metrics[name]:.3f}" for name in self.validation.headline if name in metrics)
            self.log.say(f"step {self.step}: " + ", ".join(shown))
        self.accelerator.wait_for_everyone()

    @contextlib.contextmanager
    def _averaged_weights(self) -> Iterator[checkpoints.Network]:
        parameters = list(self.state.model.parameters())
        self.ema.store(parameters)
        self.ema.copy_to(parameters)
        self.state.module.eval()
        try:
            yield self.state.model
        finally:
            self.ema.restore(parameters)
            self.state.module.train()

    def _finish(self) -> Path:
        target = self.output / "pipeline"
        if self.main:
            sets = zip(self.config.sources, getattr(self.crops, "sets", ()), strict=False)
            report = {
                "steps": self.step,
                **self._progress(),
                "processes": self.accelerator.num_processes,
                "device": self.accelerator.device.type,
                "torch": torch.__version__,
                "datasets": [{"path": one.path, "split": one.split, "pairs": len(pairs)} for one, pairs in sets],
            }
            with checkpoints.whole_folder(target) as folder:
                with self._averaged_weights() as model:
                    self.task.save_pipeline(model, folder)
                save_config(self.values, folder / "config.yaml")
                (folder / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
            self.log.say(f"finished after {self.step} steps: {target}")
        self.accelerator.wait_for_everyone()
        return target
