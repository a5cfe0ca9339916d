"""The benchmark of the metrics: what it times, its tables, and its examples on generated pairs."""

import json
from pathlib import Path

import metrics as benchmark
import numpy as np
import pytest
import torch
from PIL import Image

from fusion_hub.data import PairedDataset, generated_pairs
from fusion_hub.metrics import METRICS, evaluate_pair


@pytest.fixture(scope="module")
def pairs() -> PairedDataset:
    return PairedDataset.open(generated_pairs(2, height=64, width=72))


def test_random_images_are_pictures_and_not_noise() -> None:
    images = benchmark.random_images(176, 200)
    assert {image.shape for image in images.values()} == {(1, 1, 176, 200)}
    assert len(benchmark.GROUPS["all twelve of CDDFuse"]) == 12
    assert set(METRICS) - set(benchmark.GROUPS["every metric but FMI"]) == {"FMI_gray", "FMI_dct"}
    values = evaluate_pair(**images, names=("EN", "CC", "VIF"))
    assert 5 < values["EN"] < 8 and values["CC"] > 0.5 and 0.3 < values["VIF"] < 2


def test_the_script_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "metrics.json"
    flags = ["--threads", "1", "--repeats", "1", "--sizes", "168x172", "200x176", "--json", str(file)]
    assert benchmark.main(flags) == 0
    content = json.loads(file.read_text())
    assert content["provenance"]["threads"] == 1 and content["provenance"]["torch"] == torch.__version__
    rows = content["rows"]
    assert [(row["width"], row["height"]) for row in rows] == [(168, 172)] * 3 + [(200, 176)] * 3
    for row in rows:
        assert row["per_megapixel"] == pytest.approx(row["timing"]["minimum"] / (row["width"] * row["height"] / 1e6))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 6 and len({len(line) for line in lines}) == 1
    assert "168x172" in lines[2] and "all twelve of CDDFuse" in lines[2]


def test_each_metric_is_timed_on_the_second_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "METRICS", {"EN": METRICS["EN"], "VIF": METRICS["VIF"]})
    rows = list(benchmark.measure_all([(176, 176), (176, 184)], repeats=1, each=True))
    assert [(row["group"], row["width"]) for row in rows[-2:]] == [("EN", 184), ("VIF", 184)]


def test_examples_are_what_their_names_say(pairs: PairedDataset) -> None:
    pair = pairs[0]
    visible, infrared = benchmark.source_luminance(pair)
    images = dict(benchmark.fooling_images(pair, visible, infrared))
    assert {(image.shape, image.dtype) for image in images.values()} == {(visible.shape, np.dtype("uint8"))}
    assert np.array_equal(images["maximum"], np.maximum(visible, infrared))
    assert np.array_equal(images["average"], (visible.astype(int) + infrared + 1) // 2)
    assert images["average, min-max stretched"].min() == 0 and images["average, min-max stretched"].max() == 255
    assert np.array_equal(images["maximum, moved 1 pixel"][1:, 1:], images["maximum"][:-1, :-1])
    assert np.array_equal(images["maximum, moved 1 pixel"][0, 1:], images["maximum"][0, :-1])
    halves = images["average"].astype(int) - images["average, halves to even"]
    assert set(np.unique(halves)) == {0, 1} and not (images["average, halves to even"][halves == 1] % 2).any()
    difference = images["average, noise of sigma 10"].astype(int) - images["average"]
    assert 7 < difference.std() < 11 and abs(difference.mean()) < 2


def test_examples_are_means_over_the_pairs(pairs: PairedDataset) -> None:
    found = benchmark.measure_examples(pairs, ["EN", "MSE"])
    expected = [
        evaluate_pair(*(benchmark.source_luminance(pair)[k] for k in (0, 0, 1)), ["MSE"])["MSE"] for pair in pairs
    ]
    assert found["visible image copied"]["MSE"] == pytest.approx(sum(expected) / 2)
    assert found["constant 128"]["EN"] == 0
    assert min(values["MSE"] for values in found.values()) == found["average"]["MSE"]


def test_the_example_table_marks_the_best() -> None:
    examples = {"one": {"EN": 7.0, "MSE": 1234.4, "VIF": 0.5}, "two": {"EN": 6.0, "MSE": 99.6, "VIF": 0.25}}
    lines = benchmark.example_table(examples, ["EN", "MSE", "VIF"]).splitlines()
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["fused image", "EN ↑", "MSE ↓", "VIF ↑"]
    assert cells[2] == ["one", "**7.00**", "1234", "**0.500**"] and cells[3] == ["two", "6.00", "**100**", "0.250"]


def test_the_script_prints_examples(pairs: PairedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for band, picture in zip(("vis", "ir"), benchmark.source_luminance(pairs[0]), strict=True):
        (tmp_path / band).mkdir()
        Image.fromarray(picture).save(tmp_path / band / "street.png")
    file = tmp_path / "examples.json"
    flags = ["--examples", "--data", str(tmp_path), "--metrics", "EN", "Qabf", "--json", str(file), "--threads", "1"]
    assert benchmark.main(flags) == 0
    content = json.loads(file.read_text())["examples"]
    assert content["pairs"] == 1 and len(content["rows"]) == 13
    assert "| fused image" in capsys.readouterr().out


def test_another_evaluator_is_timed_beside_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file with the names and arguments of CDDFuse's program, whose EN is twice too large."""
    file = tmp_path / "Evaluator.py"
    file.write_text(
        "from fusion_hub.metrics import evaluate_pair\n"
        "ssim = max\n"
        "def method(name, ours):\n"
        "    def value(fused, visible=None, infrared=None):\n"
        "        assert fused.dtype == float and fused.ndim == 2\n"
        "        sources = (fused, fused) if visible is None else (visible, infrared)\n"
        "        return evaluate_pair(fused, *sources, names=[ours])[ours] * (2 if name == 'EN' else 1)\n"
        "    return staticmethod(value)\n"
        "same = 'EN SD SF AG MI MSE CC SCD Qabf'.split()\n"
        "others = {'PSNR': 'PSNR_max', 'VIFF': 'VIF', 'SSIM': 'SSIM_cddfuse'}\n"
        "names = {**dict(zip(same, same)), **others}\n"
        "Evaluator = type('Evaluator', (), {name: method(name, ours) for name, ours in names.items()})\n"
    )
    flags = ["--threads", "1", "--repeats", "1", "--sizes", "168x172", "--evaluator", str(file)]
    assert benchmark.main([*flags, "--json", str(tmp_path / "metrics.json")]) == 0
    rows = {row["metric"]: row for row in json.loads((tmp_path / "metrics.json").read_text())["rows"]}
    assert len(rows) == 13 and rows["EN"]["difference"] == rows["all twelve"]["difference"] == 0.5
    assert all(row["difference"] < 1e-12 for name, row in rows.items() if name not in ("EN", "all twelve"))
    assert "| all twelve" in capsys.readouterr().out
    file.write_text("import no_such_package\n")
    assert benchmark.main(flags) == 1
    assert "cannot be loaded: No module named 'no_such_package'" in capsys.readouterr().err
