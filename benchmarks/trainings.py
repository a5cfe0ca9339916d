"""Runs of `fusion-hub train` for the ablation studies: several at a time, resumable, none of them twice."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from fusion_hub.training import ConfigError, TrainingConfig, parse_config
from fusion_hub.training.checkpoint import choose_checkpoint
from fusion_hub.training.config import resolved


def run_folder(output: Path, name: str) -> Path:
    """The folder of a run in `output`, after the name of its row."""
    return output / "".join(letter if letter.isalnum() else "_" for letter in name)


def train(
    network: str, options: type, config: Path, runs: Mapping[Path, Mapping[str, Any]], jobs: int = 1
) -> dict[Path, float]:
    """Train what is not finished, `jobs` runs at a time with one thread each; interrupted runs are resumed.

    Args:
        network: as in `fusion-hub train NETWORK`.
        options: the dataclass of its options.
        config: the configuration of all runs.
        runs: fields that each run changes, by its folder.

    Returns:
        Seconds of each run.

    Raises:
        SystemExit: a folder holds a run with other values, a training failed, or this process was stopped.
    """
    commands = {}
    for folder, changes in runs.items():
        flags = ["--output_dir", str(folder)]
        flags += [str(word) for key, value in changes.items() for word in (f"--{key}", value)]
        try:
            choose_checkpoint(folder, "auto", resolved(*parse_config((TrainingConfig, options), flags, config)))
        except ConfigError as error:
            raise SystemExit(f"error: {error}") from error
        if not _report(folder).exists():
            commands[folder] = [sys.executable, "-m", "fusion_hub", "train", network, "--config", str(config), *flags]
    try:
        asyncio.run(_run(commands, jobs))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise SystemExit("stopped: run the same command again to resume") from None
    except ExceptionGroup as failed:
        raise SystemExit(f"error: {failed.exceptions[0]}") from None
    return {folder: json.loads(_report(folder).read_text(encoding="utf-8"))["seconds"] for folder in runs}


def _report(folder: Path) -> Path:
    """What a finished run has."""
    return folder / "pipeline" / "training.json"


async def _run(commands: Mapping[Path, Sequence[str]], jobs: int) -> None:
    places, environment = asyncio.Semaphore(jobs), os.environ | {"OMP_NUM_THREADS": "1"}
    bar = tqdm(desc="training", total=len(commands), unit="run", disable=not commands)

    async def run(folder: Path, command: Sequence[str]) -> None:
        async with places:
            bar.set_postfix_str(folder.name)
            folder.mkdir(parents=True, exist_ok=True)
            log = folder / "train.log"
            with log.open("ab") as stream:
                # A session of its own: Ctrl-C reaches the training once, through this process.
                process = await asyncio.create_subprocess_exec(
                    *command, stdout=stream, stderr=stream, env=environment, start_new_session=True
                )
                try:
                    code = await process.wait()
                except asyncio.CancelledError:
                    process.terminate()  # the training saves a checkpoint
                    await process.wait()
                    raise
            if not _report(folder).exists():  # a training that was stopped ends with code 0, too
                raise ChildProcessError(f"the training in {folder} ended early, with code {code}: see {log}")
            bar.update()

    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    with bar:
        async with asyncio.TaskGroup() as group:
            for folder, command in commands.items():
                group.create_task(run(folder, command))
