"""What could not be measured is named and counted everywhere: terminal, summary, report, tables, leaderboard."""

import csv
import errno
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from fusion_hub import cli, leaderboard
from fusion_hub.cli.evaluate import MOST_FAILURES, failure_lines, parse_metrics, tables
from fusion_hub.data import PairedDataset
from fusion_hub.evaluation import (
    EvaluationSet,
    Failure,
    Interval,
    Row,
    baseline_method,
    evaluate,
    folder_method,
    luminance,
    records,
    source_luminance,
)
from fusion_hub.image.io import DeepImage, save_image

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for band in ("vis", "ir"):
        (tmp_path / "set" / band).mkdir(parents=True)
        for name in NAMES:
            small = Image.fromarray(random.integers(0, 256, (8, 12), dtype=np.uint8))
            small.resize((60, 48), Image.Resampling.BICUBIC).save(tmp_path / "set" / band / f"{name}.png")
    return tmp_path / "set"


def run(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "300"})


REASONS = {
    "missing": "no infrared partner",
    "doubled": "several files of one name",
    "truncated": "cut off",
    "header": "not an image that can be read",
    "unequal": "30x24",
}


def spoil(folder: Path, how: str) -> None:
    """Spoil pair b."""
    file = folder / "vis" / "b.png"
    if how == "missing":
        (folder / "ir" / "b.png").unlink()
    elif how == "doubled":
        Image.open(file).save(folder / "vis" / "b.jpg")
    elif how == "unequal":
        Image.new("L", (30, 24)).save(file)
    else:
        content = file.read_bytes()
        file.write_bytes(content[:-400] if how == "truncated" else b"no picture at all" + content[17:])


@pytest.mark.parametrize("how", REASONS)
def test_a_spoiled_pair_is_counted_and_named_everywhere(folder: Path, tmp_path: Path, how: str) -> None:
    spoil(folder, how)
    reason, out = REASONS[how], tmp_path / "out"
    pictures = ["--save-images"] * (how == "truncated")  # the contact sheet leaves the pair out
    result = run("evaluate", "-m", "laplacian", "--data", folder, "-o", out, "--metrics", "EN,SF", *pictures)
    text = " ".join(result.output.split())
    unpaired = how in ("missing", "doubled")  # named once, by the check before the run, and no failure: as in fuse
    assert result.exit_code == (0 if unpaired else 1) and "Traceback" not in result.output
    assert text.count("3 of 4 pairs") == 1 and "set, 3 of 4 pairs" in text
    failed = [line for line in result.output.splitlines() if line.startswith("failed:")]
    assert len(failed) == (not unpaired) and all("b" in line and reason in line for line in failed)
    assert not unpaired or text.count("b.png") == 1

    summary = json.loads((out / "summary.json").read_text())
    assert summary["sizes"] == {"set": 4} and {(row["n"], row["expected"]) for row in summary["rows"]} == {(3, 4)}
    assert any(failure["pair"].startswith("b") and reason in failure["reason"] for failure in summary["failures"])
    report = (out / "report.md").read_text()
    assert "## set, 3 of 4 pairs" in report and re.search(r"\| 3 of 4 +\|", report) and "## Not measured" in report
    assert reason in report
    assert "means over 3 of 4 pairs" in (out / "table.tex").read_text()
    with (out / "per_image" / "set--laplacian.csv").open(newline="") as stream:
        measured = {row["name"]: row["EN"] for row in csv.DictReader(stream)}
    assert {name for name, value in measured.items() if value} == {"a", "c", "d"}
    assert measured.get("b", "") == ""

    board = leaderboard.build([out], tmp_path / "board", rank_metrics=("EN", "SF"))
    assert board.boards[0].count == "3 of 4"
    assert "(3 of 4 images)" in (tmp_path / "board" / "leaderboard.md").read_text()
    page = (tmp_path / "board" / "index.html").read_text()
    assert "means over 3 of 4 images" in page and "measured on 3 of 4 pairs" in page
    assert list(out.glob(".*")) == []


@pytest.mark.parametrize("name", ["evaluate_missing", "evaluate_truncated", "evaluate_header"])
def test_the_sets_that_were_measured_in_part(data_root: Path, tmp_path: Path, name: str) -> None:
    archive = data_root / "cases" / "faults" / f"{name}.zip"
    if not archive.is_file():
        pytest.skip(f"{archive.name} is not there")
    shutil.unpack_archive(archive, tmp_path)
    (vis,) = tmp_path.rglob("vis")
    result = run("evaluate", "-m", "maximum", "--data", vis.parent, "--metrics", "EN", "-o", tmp_path / "out")
    expected, measured = (6, 4) if name == "evaluate_missing" else (6, 5)
    assert result.exit_code == (0 if name == "evaluate_missing" else 1)
    assert f"{measured} of {expected} pairs" in " ".join(result.output.split()) and "00012N" in result.output


def test_a_part_that_was_asked_for_is_whole(folder: Path, tmp_path: Path) -> None:
    spoil(folder, "missing")
    result = run("evaluate", "-m", "maximum", "--data", folder, "--limit", 2, "--metrics", "EN", "-o", tmp_path / "out")
    assert result.exit_code == 0 and "set, 2 pairs" in result.output


def test_fused_images_of_another_size_are_refused_before_anything_is_measured(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    for name in NAMES:
        Image.new("L", (30, 24)).save(tmp_path / "theirs" / f"{name}.png")
    words = ("evaluate", "-m", f"CDDFuse={tmp_path / 'theirs'}", "--data", folder, "-o", tmp_path / "out")
    result = run(*words)
    message = "CDDFuse: its images of set are 30x24 pixels and the pairs 60x48: save them at the size of the pairs"
    assert result.exit_code == 1 and message in result.output and not (tmp_path / "out").exists()


def test_a_set_of_unequal_pairs_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    for name in NAMES:
        Image.new("L", (30, 24)).save(folder / "vis" / f"{name}.png")
    result = run("evaluate", "-m", "maximum", "--data", folder, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "Traceback" not in result.output and result.exception.__class__ is SystemExit
    assert "warning: set: 0 of 4 pairs were measured" in result.output
    assert result.output.splitlines()[-1] == "fusion-hub: error: no pair could be measured: the lines above say why"
    assert result.output.count("failed: ") == 4 and "matplotlib" not in result.output and "figure" not in result.output
    assert "## set, 0 of 4 pairs" in (tmp_path / "out" / "report.md").read_text()
    board = run("leaderboard", tmp_path / "out", "-o", tmp_path / "board")
    assert board.exit_code == 1 and "it has no rows" in board.output and board.output.count("\n") == 1


def test_images_too_small_for_the_guards_are_measured_without_them(tmp_path: Path) -> None:
    for band in ("vis", "ir"):
        (tmp_path / "set" / band).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (9, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "set" / band / f"{number}.png")
    result = run(
        "evaluate", "-m", "laplacian", "--data", tmp_path / "set", "--metrics", "EN,SF", "-o", tmp_path / "out"
    )
    assert result.exit_code == 0 and "set, 2 pairs" in result.output
    assert "VIF needs images of at least" in run("evaluate", "-m", "maximum", "--data", tmp_path / "set").output
    assert run("leaderboard", tmp_path / "out", "-o", tmp_path / "board", "--rank-metrics", "EN,SF").exit_code == 0


@pytest.mark.parametrize("text", ["", "visible_file_name,infrared_file_name\n"])
def test_a_table_without_rows_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "metadata.csv").write_text(text)
    result = run("evaluate", "-m", "maximum", "--data", tmp_path)
    assert result.exit_code == 1 and result.output.count("\n") == 1
    assert "metadata.csv has no rows: list the pairs in it" in result.output


def test_failures_of_all_methods_are_one_line_and_many_are_cut() -> None:
    failures = [Failure(method, "set", str(pair), "bad") for pair in range(30) for method in ("a", "b")]
    lines = failure_lines([Failure("a", "set", "x", "other"), *failures])
    assert lines[:2] == ["failed: a, set, x: other", "failed: set, 0: bad"]
    assert len(lines) == MOST_FAILURES + 1 and lines[-1].startswith("and 11 more")


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("methods", [1, 6])
@pytest.mark.parametrize("metrics", ["cddfuse", "tang", "all"])
def test_the_terminal_table_has_every_interval_and_fits(width: int, methods: int, metrics: str) -> None:
    columns = parse_metrics(metrics)
    rng = np.random.default_rng(0)
    names = ["runs/a_rather_long_name_of_a_run/pipeline_one", "runs/a_rather_long_name_of_a_run/pipeline_two", *"abcd"]
    rows = []
    for name in names[:methods]:
        means = dict(zip(columns, rng.uniform(5, 900, len(columns)), strict=True))
        found = {metric: Interval(mean, mean - 2, mean + 2, 9) for metric, mean in means.items()}
        numbers = {"values": {}, "stretched": {}, "distances": {}, "full_range": 0.0}
        rows.append(Row(name, "model", "set", 9, found, [], **numbers))  # type: ignore[arg-type]
    console = Console(width=width, file=io.StringIO())
    made = tables("set, 9 pairs", rows, columns, width)
    for table in made:
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= width
    assert text.count("[") == len(columns) * methods and text.count("mean and 95% interval") == 1
    assert set(columns) <= set(text.split())
    assert "…" in text and ("one" in text) and (("two" in text) == (methods > 1))


def test_damaged_records_are_measured_again(folder: Path, tmp_path: Path) -> None:
    damage = [b"\xff\xfe\x00binary", b'{"name": "a"}', b"[1, 2]", b'{"name": "a", "values": 3}', b"[" * 9999]
    words = ("evaluate", "-m", "maximum", "--data", folder, "--metrics", "EN", "-o", tmp_path / "out")
    assert run(*words).exit_code == 0
    before = json.loads((tmp_path / "out" / "summary.json").read_text())["rows"]
    for file in (tmp_path / "out" / "records").rglob("*.jsonl"):
        lines = file.read_bytes().splitlines()
        file.write_bytes(b"\n".join([*damage, *lines[1:]]) + b"\n")
    with pytest.warns(UserWarning, match=r"\.jsonl has 5 damaged records: these pairs are measured again"):
        assert run(*words).exit_code == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rows"] == before


def test_a_full_disk_is_a_sentence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records.Records, "append", full)
    result = run("evaluate", "-m", "maximum", "--data", folder, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "the disk is full" in result.output and "Traceback" not in result.output
    (tmp_path / "file").write_text("no folder")
    result = run("evaluate", "-m", "maximum", "--data", folder, "-o", tmp_path / "file" / "out")
    assert result.exit_code == 1 and "Traceback" not in result.output


def test_eight_bit_sources_are_measured_as_they_always_were(data_root: Path) -> None:
    """Against the rounding of the conventions, from Pillow's own pixels."""
    for name in ("msrs", "roadscene", "tno"):
        for pair in list(PairedDataset.open(data_root / "data" / name, split="test"))[:3]:
            for source, ours in zip((pair.visible_source, pair.infrared_source), source_luminance(pair), strict=True):
                with Image.open(source) as image:
                    rgb = np.asarray(image.convert("RGB")).astype(np.float64)
                expected = np.floor(rgb @ np.array([0.299, 0.587, 0.114]) + 0.5)
                np.testing.assert_array_equal(ours, expected)


def test_deep_results_can_be_measured(tmp_path: Path) -> None:
    """16-bit colors and floats, as `fusion-hub fuse` writes them."""
    random = np.random.default_rng(0)
    (tmp_path / "fused").mkdir()
    deep = random.integers(0, 65536, (48, 60, 3), dtype=np.uint16)
    unit = random.random((48, 60)).astype(np.float32)
    save_image(DeepImage(deep), tmp_path / "fused" / "a.png")
    save_image(Image.fromarray(unit), tmp_path / "fused" / "b.tif")
    gray = [random.integers(0, 256, (48, 60), dtype=np.uint8) for _ in range(2)]
    pairs = PairedDataset.open([{"visible": gray[0], "infrared": gray[1], "name": name} for name in "ab"])
    dataset = EvaluationSet.of("drawn", pairs)
    method = folder_method("ours", tmp_path / "fused", {"drawn": ["a", "b"]})
    first, second = (luminance(method.fuse(pair, "drawn")) for pair in pairs)
    expected = np.floor(deep @ np.array([0.299, 0.587, 0.114]) / 257 + 0.5)
    assert np.abs(first - expected).max() <= 1 and np.abs(first - expected).mean() < 1e-3
    np.testing.assert_array_equal(second, np.floor(unit.astype(np.float64) * 255 + 0.5))
    result = evaluate([method, baseline_method("maximum")], [dataset], ("EN",), tmp_path / "out")
    assert not result.failures
