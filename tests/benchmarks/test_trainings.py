"""Runs of trainings for the ablation studies, with a stand-in for `python -m fusion_hub`."""

import signal
import sys
from pathlib import Path

import pytest
import trainings

from fusion_hub.training import DiffFuseNetConfig, find_config

FINISHES, FAILS, WAITS = 101, 102, 103  # seeds by which the stand-in knows what to do; others are a signal to send
STAND_IN = f"""#!{sys.executable}
import json, os, pathlib, signal, sys, time
folder, seed = (sys.argv[sys.argv.index(flag) + 1] for flag in ("--output_dir", "--seed"))
folder, stop = pathlib.Path(folder), {{signal.SIGTERM}}
signal.pthread_sigmask(signal.SIG_BLOCK, stop)
if seed == "{FINISHES}":  # finishes
    (folder / "pipeline").mkdir()
    (folder / "pipeline/training.json").write_text(json.dumps({{"seconds": int(os.environ["OMP_NUM_THREADS"])}}))
elif seed == "{FAILS}":  # fails, once the other has started
    while not (folder.parent / "other/started").exists():
        time.sleep(0.01)
    sys.exit(7)
else:  # trains until it is stopped
    (folder / "started").touch()
    if seed != "{WAITS}":
        os.kill(os.getppid(), int(seed))
    signal.sigwait(stop)
    (folder / "saved").touch()
"""


@pytest.fixture(autouse=True)
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "stand_in"
    file.write_text(STAND_IN)
    file.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(file))
    return file


def train(output: Path, jobs: int = 2, **seeds: int) -> dict[Path, float]:
    runs = {output / name: {"seed": seed} for name, seed in seeds.items()}
    return trainings.train("difffusenet", DiffFuseNetConfig, find_config("difffusenet_ablation"), runs, jobs)


def test_finished_runs_are_not_started_again(tmp_path: Path, stand_in: Path) -> None:
    expected = {tmp_path / name: 1.0 for name in ("first", "other", "third")}  # of one thread each
    assert train(tmp_path, first=FINISHES, other=FINISHES, third=FINISHES) == expected
    stand_in.unlink()
    assert train(tmp_path, first=FINISHES, other=FINISHES, third=FINISHES) == expected


def test_a_failed_training_is_named_and_the_others_are_saved(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"first ended early, with code 7: see .*first.train\.log"):
        train(tmp_path, first=FAILS, other=WAITS)
    assert (tmp_path / "other" / "saved").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_trainings_and_starts_no_others(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="stopped: run the same command again to resume"):
        train(tmp_path, jobs=1, first=int(number), other=WAITS)
    assert (tmp_path / "first" / "saved").exists() and not (tmp_path / "other").exists()
    assert signal.getsignal(signal.SIGTERM) == before
