"""`fusion-hub train`: what it refuses, and how soon; its help; bundled configurations; several processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion_hub.downstream import train_detector, train_segformer
from fusion_hub.downstream.options import DetectorConfig, SegFormerConfig
from fusion_hub.models import DIFFFUSENET_VARIANTS, RED_VARIANTS
from fusion_hub.training import ConfigError, TrainingConfig, find_config, parse_config, red
from fusion_hub.training.config import CONFIGS
from fusion_hub.training.options import DIFFFUSENET_SIZES, RED_SIZES, DiffFuseNetConfig, REDConfig

OPTIONS = {
    "difffusenet": DiffFuseNetConfig,
    "red": REDConfig,
    "segformer": SegFormerConfig,
    "detector": DetectorConfig,
}
# Runs the command and reports on the last line whether torch was loaded.
WATCHED = """
import sys
from fusion_hub.cli import main
try:
    main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
"""


def run(folder: Path, *arguments: str, code: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *(["-c", code] if code else ["-m", "fusion_hub"]), "train", *arguments]
    environment = {**os.environ, "FUSION_HUB_DATA": str(folder / "absent"), "COLUMNS": "100"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("red --config red_tini", "--config red_tini is neither a file nor a bundled configuration: choose among red_"),
        ("red --config difffusenet_msrs", "choose among red_"),
        ("red --max_step 3", "unknown flag 'max_step': did you mean max_steps"),
        ("difffusenet --max_steps", "--max_steps needs a value"),
        ("difffusenet", "training data is missing"),
        ("segformer --data ./here", "no data set named './here': give an existing folder, or the id of a Hub dataset"),
        ("difffusenet --data typo", "no data set named 'typo': give an existing folder, or the id of a Hub dataset"),
        (
            "difffusenet --data generated --infrared_range 3,2",
            "infrared-range 3,2: give auto, dtype, minmax",
        ),
        ("detector --no_preload 3", "--no_preload takes no value"),
    ],
)
def test_refusals_are_one_sentence_before_torch_is_loaded(tmp_path: Path, arguments: str, message: str) -> None:
    found = run(tmp_path, *arguments.split(), code=WATCHED)
    sentence, torch_loaded = found.stderr.splitlines()
    assert sentence.startswith("fusion-hub: error: ") and message in sentence
    assert (found.returncode, torch_loaded, found.stdout) == (2, "False", "")
    assert not re.search(r"\b(None|NoneType|argument|list\[)", sentence)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_names_its_extra(tmp_path: Path) -> None:
    absent = "import importlib.util as u; u.find_spec = lambda name: None\n"
    found = run(tmp_path, "detector", code=absent + WATCHED)
    assert found.stderr.splitlines() == [
        "fusion-hub: error: transformers is not installed: pip install 'fusion-hub[train]'",
        "False",
    ]
    assert found.returncode == 2
    without_logs = run(tmp_path, "red", code=absent + WATCHED)  # goes on, to the next error
    assert "no logs for TensorBoard: it is not installed (pip install 'fusion-hub[train]')" in without_logs.stderr
    assert "training data is missing" in without_logs.stderr


@pytest.mark.parametrize("name", OPTIONS)
def test_help_has_groups_values_of_the_file_and_no_python_words(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = find_config(f"{name}_msrs" if name != "red" else "red_small_msrs")
    with pytest.raises(SystemExit):
        parse_config((TrainingConfig, OPTIONS[name]), ["--help"], file, prog=f"fusion-hub train {name}", prefix=name)
    text = capsys.readouterr().out
    assert text.startswith(f"usage: fusion-hub train {name} ") and "\nrun:\n" in text and "\ndata:\n" in text
    assert "--preload, --no_preload " in text and f"runs/{file.stem.split('_')[0]}" in text
    assert not re.search(r"\b(None|True|False|NoneType|dataclass|factory|\w+\[\w+\])", text)
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_bundled_configuration_fits_its_training(file: Path) -> None:
    name = file.stem.split("_")[0]
    by_name = parse_config((TrainingConfig, OPTIONS[name]), ["--config", file.stem], prefix=name)
    assert by_name == parse_config((TrainingConfig, OPTIONS[name]), ["--config", str(file)])
    assert by_name[0].output_dir.startswith("runs/")


def test_no_two_bundled_configurations_share_a_run_folder() -> None:
    kinds = {file: OPTIONS[file.stem.split("_")[0]] for file in CONFIGS.glob("*.yaml")}
    folders = [parse_config((TrainingConfig, kind), [], file)[0].output_dir for file, kind in kinds.items()]
    assert len(set(folders)) == len(folders)


def test_another_set_has_another_run_folder(tmp_path: Path) -> None:
    def folder(*flags: str) -> str:
        return parse_config((TrainingConfig, REDConfig), flags, find_config("red_small_msrs"))[0].output_dir

    assert folder() == "runs/red_small_msrs"
    assert folder("--data", "generated") == "runs/red_small_msrs-generated"
    assert folder("--data", str(tmp_path / "my pairs")) == "runs/red_small_msrs-my-pairs"
    assert folder("--data", "generated", "--output_dir", "here") == "here"


def test_switches_are_spelled_in_every_old_and_new_way() -> None:
    def parse(*flags: str) -> tuple[bool, bool | None]:
        training, red = parse_config((TrainingConfig, REDConfig), flags)
        return training.preload, red.reversible_fusion

    assert parse() == (False, None)
    assert parse("--preload", "--reversible_fusion") == (True, True)
    assert parse("--preload=true", "--reversible-fusion", "no") == (True, False)
    assert parse("--no_preload", "--no-reversible-fusion") == (False, False)
    with pytest.raises(ConfigError, match="preload must be true or false, got 'maybe'"):
        parse("--preload", "maybe")


def test_the_choices_are_those_of_the_networks() -> None:
    def choices(config: type, name: str) -> set[str]:
        return set(config.__dataclass_fields__[name].metadata["choices"])  # type: ignore[attr-defined]

    assert (set(DIFFFUSENET_SIZES), set(RED_SIZES)) == (set(DIFFFUSENET_VARIANTS), set(RED_VARIANTS))
    assert choices(SegFormerConfig, "variant") == set(train_segformer.VARIANTS)
    assert choices(DetectorConfig, "variant") == set(train_detector.VARIANTS)
    assert choices(REDConfig, "mae_target") == set(red.MAE_LOSSES)
    assert choices(REDConfig, "gradient_target") == set(red.GRADIENT_LOSSES)


def test_several_processes_start_by_themselves_and_fail_quietly(tmp_path: Path) -> None:
    flags = ("--config", "red_tiny_ci", "--num_processes", "2", "--tracker", "none", "--no_preload")
    found = run(tmp_path, "red", *flags, "--crop_size", "30")  # known only where the network is built
    assert found.stderr == "fusion-hub: error: crop_size = 30 is not a multiple of 4, which this model needs\n"
    assert (found.returncode, found.stdout) == (2, "")


def test_a_range_is_that_of_every_set() -> None:
    """Flags for counts and temperatures, which may be below zero; those of a set alone stay in its mapping."""
    words = ["--data", "counts", "--infrared-range", "-40,120", "--max_steps", "3"]
    (config,) = parse_config((TrainingConfig,), words)
    assert [source.infrared_range for source in (*config.sources, *config.validation_sources)] == ["-40,120"] * 2
    assert config.sources[0].resolve().infrared_range == (-40.0, 120.0) and config.max_steps == 3
    (config,) = parse_config((TrainingConfig,), ["--sources", "{path: a, infrared_range: dtype}", "b"])
    assert [source.infrared_range for source in config.sources] == ["dtype", None]


def test_the_network_must_be_named(tmp_path: Path) -> None:
    found = run(tmp_path, "--data", "my")
    assert found.returncode == 2 and "fusion-hub train difffusenet --data my" in found.stderr


def test_what_a_training_uses_is_said_before_it_starts(tmp_path: Path) -> None:
    """Files without a partner, counts without a range, validation on training pairs; a resumed run with new values."""
    random = np.random.default_rng(0)
    for band, kind in (("vis", np.uint8), ("ir", np.uint16)):
        (tmp_path / "my" / band).mkdir(parents=True)
        for name in "ab":
            pixels = random.integers(0, 255, (64, 64), dtype=kind)
            Image.fromarray(pixels).save(tmp_path / "my" / band / f"{name}.png")
    Image.new("L", (64, 64)).save(tmp_path / "my" / "vis" / "lonely.png")
    options = "--variant tiny --batch_size 1 --crop_size 64 --late_fraction 0 --warmup_steps 0 --validation_pairs 1"
    words = ["difffusenet", "--data", "my", "--output_dir", "run", "--tracker", "none", *options.split(), "--max_steps"]
    first = run(tmp_path, *words, "1")
    assert first.returncode == 0, first.stderr
    assert "my: files that are in no pair (1): lonely.png (no infrared partner)" in first.stderr
    assert "each is stretched by itself: give --infrared_range LOW,HIGH" in first.stderr
    assert first.stderr.count("the validation uses training pairs") == 1
    again = run(tmp_path, *words, "2", "--resume", "latest", "--validation_pairs", "0")
    changed = "fusion-hub: warning: run/step_000001 was trained with other values: max_steps was 1 and is now 2"
    assert changed in again.stderr.splitlines()
    assert again.returncode == 0 and "UserWarning" not in again.stderr and "site-packages" not in again.stderr
    assert "the validation uses" not in again.stderr
