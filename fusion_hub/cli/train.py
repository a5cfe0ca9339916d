"""`fusion-hub train`: the four trainings, in one process or several.

Flags, the data and missing packages are checked before torch is loaded.
"""

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from fusion_hub import data, downstream, training
from fusion_hub.cli.common import FAILED, WRONG_USE, CommandError, exit_codes, print_message, show_warnings_in_words
from fusion_hub.cli.input_notes import warn_of_stretch
from fusion_hub.repositories import is_hub_id

EXAMPLES = """
\b
Examples:
  fusion-hub train difffusenet --data generated --max_steps 20 --output_dir runs/try
  fusion-hub train difffusenet --data my_pairs --max_steps 2000 --output_dir runs/mine
  fusion-hub train red --config red_small_msrs --num_processes 2
  fusion-hub train segformer --input difffusenet-msrs --output_dir runs/segformer/difffusenet-msrs
  torchrun --nproc_per_node 2 -m fusion_hub train detector

A set is a folder with vis/ and ir/ (or another layout that `fusion-hub fuse` reads), a Hub dataset id, or `generated`.
Ctrl-C saves a checkpoint; run the same command again to resume. `fusion-hub train NAME --help` lists every option.
"""


@dataclass(frozen=True)
class Training:
    """What one name trains; the classes are looked up when they are needed, as tasks load torch."""

    about: str
    default: str  # a bundled configuration
    config: Callable[[], Any]
    task: Callable[[], Any]
    packages: tuple[str, ...] = ()


TRAININGS = {
    "difffusenet": Training(
        "DiffFuseNet, a fusion network. A small one learns in minutes on a CPU.",
        "difffusenet_msrs",
        lambda: training.DiffFuseNetConfig,
        lambda: training.DiffFuseNetTask,
    ),
    "red": Training(
        "RED, a fusion network that works in steps.",
        "red_small_msrs",
        lambda: training.REDConfig,
        lambda: training.REDTask,
    ),
    "segformer": Training(
        "SegFormer, segmentation of visible, infrared or fused images.",
        "segformer_msrs",
        lambda: downstream.SegFormerConfig,
        lambda: downstream.SegFormerTask,
        ("transformers",),
    ),
    "detector": Training(
        "Detectors of people and cars: a small convolutional one, RT-DETRv2 or D-FINE.",
        "detector_msrs",
        lambda: downstream.DetectorConfig,
        lambda: downstream.DetectorTask,
        ("transformers",),
    ),
}

app = typer.Typer(
    help="Train a network, with a bundled configuration or your own, on your pairs.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _add(name: str) -> None:
    def command(context: typer.Context) -> None:
        with exit_codes("nothing was written"):
            raise typer.Exit(train(name, context.args))

    about = TRAININGS[name].about
    passed_on = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
    app.command(name, help=about, context_settings=passed_on)(command)


for _name in TRAININGS:
    _add(_name)


def train(name: str, flags: Sequence[str]) -> int:
    """Train with the flags of `fusion-hub train NAME`; returns the exit code, 0 also where a signal stopped it.

    Raises:
        CommandError: code 1 for a full disk or values that are not finite, 2 for wrong flags, data or packages.
    """
    kind, launched = TRAININGS[name], "LOCAL_RANK" in os.environ
    if launched and not any(flag.startswith(("--num_processes", "--num-processes")) for flag in flags):
        flags = [*flags, "--num_processes", os.environ.get("WORLD_SIZE", "1")]
    default = training.find_config(kind.default)
    try:
        config, own = training.parse_config(
            (training.TrainingConfig, kind.config()), flags, default, prog=f"fusion-hub train {name}", prefix=name
        )
        for package in kind.packages:
            if not _installed(package):
                raise CommandError(f"{package} is not installed: pip install 'fusion-hub[train]'", WRONG_USE)
        if config.tracker == "tensorboard" and not _installed("tensorboard"):
            print_message("no logs for TensorBoard: it is not installed (pip install 'fusion-hub[train]')")
            config = dataclasses.replace(config, tracker="none")
        opened = _open_data(config)
    except ValueError as error:
        raise CommandError(str(error), WRONG_USE) from error
    if config.num_processes > 1 and not launched:
        return _start(config.num_processes, [name, *flags])
    _note_data(config, opened)
    try:
        pipeline = training.Trainer(kind.task()(config, own), config, own).train()
    except (ValueError, training.CheckpointError) as error:
        raise CommandError(str(error), WRONG_USE) from error
    except (FloatingPointError, training.OutputError) as error:
        raise CommandError(str(error), FAILED) from error
    if pipeline is not None and not kind.packages and int(os.environ.get("RANK", "0")) == 0:
        ranges = {source.infrared_range for source in config.sources}
        fixed = f" --infrared-range {ranges.pop()}" if len(ranges) == 1 and None not in ranges else ""
        held_out = [source.path for source in config.validation_sources if Path(source.path).is_dir()]
        unseen = [path for path in held_out if path not in {source.path for source in config.sources}]
        on = f"--data {(unseen or ['SET'])[0]}{fixed}"
        typer.echo(f"Next: fusion-hub evaluate --model {pipeline} {on} --output {pipeline.parent / 'results'}")
        if not unseen:
            typer.echo("SET stands for pairs that were not trained on: numbers on those that were say little.")
    return 0


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _open_data(config: "training.TrainingConfig") -> "dict[training.Source, data.PairedDataset]":
    """Open the sets that are no repositories of the Hub; those take longer, and their task opens them."""
    opened = {}
    for source in dict.fromkeys((*config.sources, *config.validation_sources)):
        with training.missing_data_explained(source):
            path = training.expand_variables(source.path)
            if Path(path).exists() or not is_hub_id(path):
                opened[source] = data.PairedDataset.open(path, source.split)
    return opened


def _note_data(config: "training.TrainingConfig", opened: "dict[training.Source, data.PairedDataset]") -> None:
    """Say what else would not be noticed: files in no pair, raw counts without a range, no pairs for validation."""
    for source, dataset in opened.items():
        notes = list(dataset.notes)
        if left_out := [f"{file} ({why})" for file, why in dataset.left_out()]:
            notes.append(f"files that are in no pair ({len(left_out)}): {data.some(left_out, separator='; ')}")
        for note in notes:
            print_message(f"warning: {source.label}: {note}")
        if source.infrared_range is None:
            warn_of_stretch(dataset, "--infrared_range", source.label)
    trained = {(source.path, source.split) for source in config.sources}
    if config.validation_pairs and any((one.path, one.split) in trained for one in config.validation_sources):
        print_message(
            "warning: the validation uses training pairs, so its numbers do not tell how good the network is on other "
            "pairs: give --validation_sources SET"
        )


def _start(count: int, arguments: Sequence[str]) -> int:
    """Run `fusion-hub train ARGUMENTS` in several processes of this machine, quietly; returns the exit code."""
    import logging

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)  # our own message says what went wrong
    launcher = ["--standalone", "--nproc_per_node", str(count), "-m", "fusion_hub", "train", *arguments]
    try:
        run.run(run.parse_args(launcher))
    except ChildFailedError as error:
        return int(error.get_first_failure()[1].exitcode)
    except SignalException:  # the processes have saved a checkpoint
        pass
    return 0


def script(name: str) -> None:
    """The command of a `train/*.py`."""
    sys.argv[1:1] = [name]
    show_warnings_in_words()
    app(prog_name="fusion-hub train")
