"""`fusion-hub downstream`: from real runs and a real detector file to a table; what it prints, writes and refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from fusion_hub import cli
from tests.downstream.test_downstream_results import confusions, save_run
from tests.support.tiny_onnx import write_yolo

CLASSES = ["unlabelled", "car", "person"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["downstream", *map(str, arguments)], env={"COLUMNS": "180"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("downstream") / "runs"
    for number, (name, seed) in enumerate((name, seed) for name in ("visible", "average") for seed in (0, 1)):
        save_run(root, name, seed, confusions(0.5 + 0.2 * (name == "average"), number))
    return root


def test_a_table_is_printed_and_nothing_is_left(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(folder, "--split-by", "day-night")
    assert result.exit_code == 0, result.output
    for words in ("mIoU", "person", "of the night", "higher: average +", "not comparable", "DiffFuseNet (its authors)"):
        assert words.lower() in result.output.lower(), words
    assert "DiffFuseNet" not in run(folder, "--no-published").output
    assert not list(tmp_path.iterdir())


def test_files_are_written_whole(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = run(folder, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    names = ["summary.json", "report.md", "numbers.csv", "differences.csv", "figure.png", "figure.svg"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == sorted(names)
    assert all(name in result.output for name in names)


def test_wrong_use_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    save_run(tmp_path / "other", "infrared", 0, confusions(0.5, 9)[:11], range(11))
    for arguments, code, message in (
        ([], 2, "nothing to compare: give runs, or --detector and --data"),
        ([folder, "--output", tmp_path / "file"], 2, "is a file: give a folder"),
        ([folder, "--detector", "a.onnx"], 2, "--detector and --data belong together"),
        ([tmp_path / "nowhere"], 1, "does not exist"),
        ([folder, tmp_path / "other", "--output", tmp_path / "out"], 1, "cannot be in one table"),
        (["--detector", tmp_path / "no.onnx", "--data", folder, "-i", "no-such-model"], 1, "no-such-model"),
    ):
        result = run(*arguments)
        assert result.exit_code == code and message in result.stderr, result.output
        assert "Traceback" not in result.output and result.stderr.count("\n") <= 2
    assert not (tmp_path / "out").exists()


def test_a_detector_is_tried_on_each_input(tmp_path: Path) -> None:
    """The file finds red and blue cells, called person and car; by night only the infrared picture has the person."""
    data = tmp_path / "set" / "test"
    random = np.random.default_rng(0)
    annotations, images = [], []
    for number, name in enumerate(("00001D", "00002N")):
        visible = random.integers(0, 20, (64, 96, 3), dtype=np.uint8)
        infrared = random.integers(0, 20, (64, 96, 3), dtype=np.uint8)
        infrared[32:64, 32:64] = 255
        if name.endswith("D"):
            visible[32:64, 32:64] = 255
        for band, pixels in (("vis", visible), ("ir", infrared)):
            (data / band).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(data / band / f"{name}.png")
        images.append({"id": number, "file_name": name, "width": 96, "height": 64})
        box = {"bbox": [32, 32, 32, 32], "area": 1024, "iscrowd": 0}
        annotations += [
            {"id": 2 * number + i, "image_id": number, "category_id": category, **box}
            for i, category in enumerate((0, 2))
        ]
    (data / "boxes").mkdir()
    categories = [{"id": i, "name": name} for i, name in enumerate(("person", "bicycle", "car"))]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (data / "boxes" / "all.json").write_text(json.dumps(content))
    names = {"names": "{0: 'person', 1: 'car'}"}
    detector = write_yolo(tmp_path / "tiny.onnx", "yolov8", metadata=names)
    arguments = ["--detector", detector, "--data", data, "--cache", tmp_path / "cache"]
    missing = run(*arguments)
    assert missing.exit_code == 1 and "bicycle" in missing.stderr
    result = run(*arguments, "--class", "person", "--class", "car", "--split-by", "day-night", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    parts = {part["group"]: part for part in json.loads((tmp_path / "out" / "summary.json").read_text())["parts"]}
    assert list(parts) == ["all", "day", "night"]
    rows = {row["input"]: row for row in parts["night"]["rows"]}
    assert list(rows) == ["visible", "infrared", "average", "maximum"]
    assert rows["visible"]["numbers"]["recall@0.3"]["value"] == 0 < rows["maximum"]["numbers"]["recall@0.3"]["value"]
    assert parts["all"]["detector"].startswith("tiny.onnx sha256:")
    # What was found is kept, and is a result like any other.
    again = run(tmp_path / "out" / "zero_shot", "--split-by", "day-night", "-o", tmp_path / "again")
    assert again.exit_code == 0, again.output
    for name in ("summary.json", "numbers.csv"):
        assert (tmp_path / "out" / name).read_text() == (tmp_path / "again" / name).read_text()


def test_runs_of_the_training_script_are_read(tmp_path: Path) -> None:
    from fusion_hub.data import generate_scene
    from fusion_hub.downstream.train_segformer import SegFormerTask
    from fusion_hub.training import Source, Trainer
    from tests.support.downstream_runs import run_config, segformer_config

    scene = generate_scene(0, 64, 96, "night_street")
    for band, picture in (("vis", scene.visible), ("ir", scene.infrared), ("label", scene.classes)):
        (tmp_path / "drawn" / band).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "drawn" / band / "0N.png")
    for name in ("visible", "average"):
        settings = {"max_steps": 1, "batch_size": 1, "crop_size": 32, "ema_decay": 0.0}
        sets = {"validation_sources": [Source(str(tmp_path / "drawn"))], "validation_pairs": 1}
        config = run_config(tmp_path / "runs" / name, tmp_path / "drawn", **settings, **sets)
        model = segformer_config(tmp_path / "cache", input=[name])
        Trainer(SegFormerTask(config, model), config, model).train()
    result = run(tmp_path / "runs", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    (part,) = json.loads((tmp_path / "out" / "summary.json").read_text())["parts"]
    assert [(row["input"], row["kind"]) for row in part["rows"]] == [("visible", "source"), ("average", "rule")]
    for row in part["rows"]:
        evaluation = json.loads((tmp_path / "runs" / row["input"] / "pipeline" / "evaluation.json").read_text())
        assert row["numbers"]["mIoU"]["value"] == pytest.approx(evaluation["numbers"]["mIoU"])
        assert row["cost"]["steps"] == 1 and row["cost"]["hardware"] == "cpu, 1 process"
    assert part["settings"]["variant"] == "tiny" and str(tmp_path) not in json.dumps(part)
