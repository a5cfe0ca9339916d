"""The scripts of examples/ and every code cell of the notebook run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fusion_hub.data import generated_pairs

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three small pairs as `vis/` and `ir/`."""
    root = tmp_path_factory.mktemp("pairs") / "street"
    for pair in generated_pairs(3, height=96, width=128):
        for band, name in (("visible", "vis"), ("infrared", "ir")):
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pair[band]()).save(root / name / f"{pair['name']}.png")
    return root


def run(work: Path, script: str | Path, *arguments: str | Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command = [sys.executable, str(script), *map(str, arguments)]
    result = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_fuse_pair(tmp_path: Path, folder: Path) -> None:
    visible, infrared = (next((folder / band).iterdir()) for band in ("vis", "ir"))
    run(tmp_path, EXAMPLES / "fuse_pair.py", visible, folder / "ir" / visible.name, "--output", tmp_path / "out.png")
    assert Image.open(tmp_path / "out.png").size == Image.open(infrared).size


def test_fuse_folder(tmp_path: Path, folder: Path) -> None:
    run(tmp_path, EXAMPLES / "fuse_folder.py", folder, tmp_path / "fused")
    assert {file.name for file in (tmp_path / "fused").iterdir()} == {file.name for file in (folder / "vis").iterdir()}


def test_train_on_your_pairs(tmp_path: Path, folder: Path) -> None:
    printed = run(tmp_path, EXAMPLES / "train_on_your_pairs.py", folder, "--steps", "2", "--crop", "48")
    assert "parameters" in printed
    assert (tmp_path / "runs" / "mine" / "pipeline" / "model_index.json").is_file()


def test_evaluate_your_method(tmp_path: Path, folder: Path) -> None:
    printed = run(tmp_path, EXAMPLES / "evaluate_your_method.py", folder, tmp_path / "report", "--pairs", "2")
    assert "mine" in printed and "average" in printed
    assert (tmp_path / "report" / "summary.json").is_file()


def test_notebook(tmp_path: Path) -> None:
    cells = json.loads((EXAMPLES / "quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(not cell.get("outputs") for cell in cells), "clear the outputs before committing"
    (tmp_path / "notebook.py").write_text("\n\n".join([*code, "fused.save('fused.png')"]), encoding="utf-8")
    run(tmp_path, tmp_path / "notebook.py")
    assert Image.open(tmp_path / "fused.png").size == (640, 480)
