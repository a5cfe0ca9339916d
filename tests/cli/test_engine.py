"""`fusion-hub fuse --engine`: which library runs, what is refused, and what a run imports."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from PIL import ExifTags, Image
from typer.testing import CliRunner

from fusion_hub import cli
from fusion_hub.cli import engine
from fusion_hub.pipelines.file_checks import digest
from tests.support.tiny import picture_pair, tiny_pipeline
from tests.support.tiny_onnx import write_fusion_network

HEAVY = ("torch", "diffusers", "transformers", "scipy.fft", "pandas", "matplotlib", "tifffile.tifffile", "rich", "tqdm")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a file for ONNX Runtime."""
    folder, pipe = tmp_path_factory.mktemp("model") / "tiny", tiny_pipeline()
    pipe.save_pretrained(folder)
    weights = digest(folder / "model" / "diffusion_pytorch_model.safetensors")
    write_fusion_network(folder / "model.onnx", pipe, weights_sha256=weights)
    return folder


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        for band, picture in zip(("vis", "ir"), picture_pair(33, 40), strict=True):
            (tmp_path / "pairs" / band).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / "pairs" / band / f"{name}.png")
    return tmp_path / "pairs"


def fuse(*words: object) -> Result:
    return CliRunner().invoke(cli.app, ["fuse", *map(str, words)], catch_exceptions=False)


def made_by(file: Path) -> str:
    return Image.open(file).getexif()[ExifTags.Base.Software]


def test_auto_takes_onnx_for_few_pictures(
    model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pairs / "vis" / "a.png", pairs / "ir" / "a.png"
    assert fuse(*pair, "-m", model, "-o", tmp_path / "few.png").output == f"{tmp_path / 'few.png'}: 1 fused\n"
    assert "ONNX Runtime" in made_by(tmp_path / "few.png")
    assert fuse(*pair, "-m", model, "-o", tmp_path / "torch.png", "--engine", "torch").exit_code == 0
    assert "ONNX" not in made_by(tmp_path / "torch.png")
    monkeypatch.setattr(engine, "FEW_PIXELS", 33 * 40)
    assert fuse(*pair, "-m", model, "-o", tmp_path / "one.png").exit_code == 0
    assert fuse(pairs, "-m", model, "-o", tmp_path / "many").exit_code == 0
    assert "ONNX" in made_by(tmp_path / "one.png") and "ONNX" not in made_by(tmp_path / "many" / "a.png")


def test_a_folder_keeps_its_engine(model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    assert fuse(pairs, "-m", model, "-o", out).exit_code == 0
    assert json.loads((out / ".fusion-hub" / "run.json").read_text())["engine"] == "onnx"
    refused = fuse(pairs, "-m", model, "-o", out, "--engine", "torch")
    assert refused.exit_code == 2 and "pictures made with --engine onnx; it is now torch" in refused.output
    monkeypatch.setattr(engine, "FEW_PIXELS", 0)
    (out / "b.png").unlink()
    assert "1 fused, 1 already there" in fuse(pairs, "-m", model, "-o", out).output
    assert "ONNX" in made_by(out / "b.png")
    monkeypatch.undo()
    record = out / ".fusion-hub" / "run.json"  # as version 0.1 wrote it
    record.write_text(json.dumps({k: v for k, v in json.loads(record.read_text()).items() if k != "engine"}))
    assert "2 already there" in fuse(pairs, "-m", model, "-o", out).output
    refused = fuse(pairs, "-m", model, "-o", out, "--engine", "onnx")
    assert refused.exit_code == 2 and "pictures made with --engine torch; it is now onnx" in refused.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dtype bfloat16", "computes in float32, so leave out --dtype bfloat16"),
        ("--noise-strength 0.5", "draws no noise, so leave out --noise-strength"),
        ("--num-inference-steps 3", "so leave out --num-inference-steps"),
        ("--device mps", "runs on the CPU, so leave out --device mps"),
    ],
)
def test_what_onnx_cannot_do_is_refused(model: Path, pairs: Path, tmp_path: Path, words: str, message: str) -> None:
    refused = fuse(pairs, "-m", model, "-o", tmp_path / "out", "--engine", "onnx", *words.split())
    assert refused.exit_code == 2 and "--engine onnx cannot be used here: it" in refused.output
    assert message in refused.output and not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_file(model: Path, pairs: Path, tmp_path: Path) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "plain")
    refused = fuse(pairs, "-m", tmp_path / "plain", "-o", tmp_path / "out", "--engine", "onnx")
    assert refused.exit_code == 2 and "the checkpoint has no model.onnx" in refused.output


def test_nothing_heavy_is_imported(model: Path, pairs: Path, tmp_path: Path) -> None:
    commands = {
        "--help": "Usage",
        f"fuse {pairs} nowhere -o {tmp_path / 'out'}": "there is no file or folder",
        f"fuse {pairs} -m {model} -o {tmp_path / 'out'} --engine onnx": "2 fused",
        f"fuse {pairs} -m {model} -o {tmp_path / 'out'}": "0 fused, 2 already there",
        "models": "difffusenet-msrs",
    }
    script = f"""
import sys
from typer.testing import CliRunner
from fusion_hub.cli import app
for command in {list(commands)!r}:
    result = CliRunner().invoke(app, command.split(), catch_exceptions=False)
    print(repr(result.output), sorted(set({HEAVY!r}) & sys.modules.keys()))
"""
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.splitlines()
    for line, message in zip(lines, commands.values(), strict=True):
        assert message in line and line.endswith("['rich']" if message == "difffusenet-msrs" else "[]"), line


def test_without_any_engine(model: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "find_spec", lambda name: None)
    refused = fuse(pairs, "-m", model, "-o", tmp_path / "out")
    assert refused.exit_code == 2 and "PyTorch is not installed, and --engine onnx cannot be used" in refused.output
