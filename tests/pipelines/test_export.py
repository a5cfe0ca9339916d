"""Exported files compute what PyTorch computes, at sizes and batches that the tracer did not see."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from fusion_hub import DiffFuseNetModel, FusionPipeline, REDPipeline, cli
from fusion_hub.onnx import FusionSession
from fusion_hub.pipelines import export
from fusion_hub.pipelines.export import ExportError
from tests.support.tiny import picture_pair, red_pipeline, tiny_pipeline

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript", reason="the extra `export` is not installed")

DOCS = Path(__file__).resolve().parents[2] / "docs" / "export.md"
NETWORKS = {
    "fixed": lambda: tiny_pipeline(),
    "adaptive": lambda: tiny_pipeline(noise_gain=8.0, residual="own", residual_scale=0.4, gate="normalized"),
    "red": lambda: red_pipeline(num_steps=3, default_denoising_steps=2),
}


@pytest.fixture(scope="module", params=NETWORKS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of a tiny checkpoint with its `model.onnx`, and what the check returned."""
    folder = tmp_path_factory.mktemp(request.param) / "tiny"
    NETWORKS[request.param]().save_pretrained(folder)
    file, differences = export.export(folder, "onnx", license="mit")
    assert file == folder / "model.onnx"
    return folder, differences


def test_the_same_function_at_other_sizes(exported: tuple[Path, Any]) -> None:
    folder, differences = exported
    assert len(differences) == 6 and max(found.levels for found in differences) < 0.01
    pipeline = FusionPipeline.from_pretrained(folder)
    model = pipeline.model
    steps = {"num_inference_steps": pipeline.default_steps} if isinstance(pipeline, REDPipeline) else {}
    run, step, generator = export.run_onnx(folder / "model.onnx"), model.multiple, torch.Generator().manual_seed(3)
    for batch, rows, columns in ((2, 1, 1), (5, 7, 3)):
        shape = (batch, 1, rows * step, columns * step)
        inputs = {name: torch.rand(shape, generator=generator) for name in ("visible", "infrared")}
        given: dict[str, Any] = {**steps}
        if export.is_adaptive(model):
            inputs["noise_level"] = torch.linspace(0, 0.1, 2 * batch).view(batch, 2)
            given["noise_level"] = torch.cat([inputs["noise_level"][:, 0], inputs["noise_level"][:, 1]])
        with torch.no_grad():
            expected = model(inputs["visible"], inputs["infrared"], **given)
        assert expected.std() > 0.05
        fused = run({name: tensor.numpy() for name, tensor in inputs.items()})
        np.testing.assert_allclose(fused, expected.numpy(), rtol=0, atol=1e-4)


def test_the_metadata_describes_the_graph(exported: tuple[Path, Any]) -> None:
    folder, _ = exported
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["fusion_hub"])
    pipeline = FusionPipeline.from_pretrained(folder)
    model = pipeline.model
    assert {name: about[name] for name in ("multiple", "tile_multiple", "receptive_margin")} == {
        name: getattr(model, name) for name in ("multiple", "tile_multiple", "receptive_margin")
    }
    assert about["network"] == ("difffusenet" if isinstance(model, DiffFuseNetModel) else "red")
    assert about["adaptive"] == ("noise_level" in [put.name for put in session.get_inputs()])
    assert (about["format"], about["model"], about["source"], about["license"]) == (1, "tiny", "tiny", "mit")
    assert about["num_inference_steps"] == pipeline.count_steps(None) == (2 if about["network"] == "red" else 1)
    assert about["weights_sha256"] == export.hash_weights(folder)
    assert str(folder.parent) not in (folder / "model.onnx").read_bytes().decode("latin-1")
    assert set(about) <= set(re.findall(r"`(\w+)`", DOCS.read_text(encoding="utf-8"))), "docs/export.md lacks a key"


def test_openvino(exported: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino", reason="the extra `export` is not installed")
    folder, _ = exported
    # Tracing again would take most of a minute.
    proto = pytest.importorskip("onnx").load(folder / "model.onnx")
    monkeypatch.setattr(export, "to_onnx", lambda *_: proto)
    file, differences = export.export(folder, "openvino", tmp_path / "net.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    assert len(differences) == 6 and max(found.levels for found in differences) < 0.01
    assert "weights_sha256" in file.read_text(encoding="utf-8")


def test_the_script_in_the_docs(exported: tuple[Path, Any], tmp_path: Path) -> None:
    """Run where our package and torch cannot be imported."""
    folder, _ = exported
    (script,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len([line for line in script.splitlines() if line]) <= 12
    for name, plane in zip(("visible", "infrared"), picture_pair(45, 70), strict=True):
        Image.fromarray(plane).convert("L").save(tmp_path / f"{name}.png")
    blocked = "import sys; sys.modules.update(dict.fromkeys(['torch', 'fusion_hub', 'diffusers']))\n"
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    subprocess.run([sys.executable, "-c", blocked + script], cwd=tmp_path, env=environment, check=True)
    pipeline = FusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    options = {"denoise": 0.0} if export.is_adaptive(pipeline.model) else {}
    expected = pipeline(tmp_path / "visible.png", tmp_path / "infrared.png", **options).images[0]
    difference = np.asarray(Image.open(tmp_path / "fused.png"), int) - np.asarray(expected, int)
    assert np.abs(difference).max() <= 1


def test_a_session_gives_the_pictures_of_the_pipeline(exported: tuple[Path, Any]) -> None:
    folder, _ = exported
    session, pipeline = FusionSession(folder), FusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    visible, infrared = picture_pair(45, 70)
    adaptive = export.is_adaptive(pipeline.model)
    for options in ({}, {"denoise": 0.7}) if adaptive else ({},):
        ours, theirs = (np.asarray(run(visible, infrared, **options).images[0], int) for run in (session, pipeline))
        assert ours.std() > 5 and np.abs(ours - theirs).max() <= 1


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["export", *map(str, arguments)], catch_exceptions=False)


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    monkeypatch.setattr(export, "to_onnx", lambda *_: pytest.importorskip("onnx").ModelProto())
    monkeypatch.setattr(export, "run_onnx", lambda _: lambda inputs: inputs["visible"])
    result = run(tmp_path / "tiny", "--output", tmp_path / "out" / "net.onnx")
    assert result.exit_code == 1 and "differs from PyTorch by" in result.stderr and "not kept" in result.stderr
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "nonsense"),
        (["difffusenet-msrs", "--to", "torchscript"], "TorchScript is deprecated in PyTorch: export to onnx or"),
        (["difffusenet-msrs", "--to", "executorch"], "ExecuTorch files cannot be run and checked here: export to"),
        (["difffusenet-msrs", "--to", "png"], "'png' is not a known format: export to onnx or openvino"),
        (["difffusenet-msrs", "--output", "net.png"], "net.png is no name for onnx: give a file that ends in .onnx"),
    ],
)
def test_errors_are_one_sentence(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1 and message in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ExportError, match=re.escape("needs onnxscript, not installed here: pip install 'fusion-hub[")):
        export.check_format("onnx")
