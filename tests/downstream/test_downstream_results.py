"""The downstream table: its numbers by hand and against the bootstrap, what it refuses, what it writes."""

import csv
import io
import itertools
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusion_hub.downstream.results import (
    BEST_RULE,
    BEST_SOURCE,
    Cost,
    Kind,
    Part,
    Results,
    Run,
    Task,
    assemble,
    find_runs,
    read_published,
)
from fusion_hub.downstream.results_report import (
    conclusions,
    differences_csv,
    markdown,
    numbers_csv,
    percent,
    row_of,
    write,
)
from fusion_hub.downstream.scores import DetectionResult, SegmentationResult, bootstrap, bootstrap_difference
from fusion_hub.evaluation.statistics import difference_over_seeds

CLASSES = ("unlabelled", "car", "person")
PICTURES = tuple(f"{number:05d}{'DN'[number % 2]}" for number in range(12))
KINDS: Mapping[str, Kind] = {"visible": "source", "infrared": "source", "average": "rule"}


def confusions(skill: float, seed: int, classes: int = 3) -> np.ndarray:
    """A matrix for each of `PICTURES`: about `skill` of the pixels of each class are right."""
    rng = np.random.default_rng(seed)
    right = np.clip(rng.normal(skill, 0.05, (len(PICTURES), classes)), 0.05, 0.95)
    wrong = (1 - right)[..., None] / (classes - 1) * (1 - np.eye(classes))
    return np.round(1000 * (wrong + right[..., None] * np.eye(classes))).astype(np.int64)


def run(name: str, seed: int | None, matrices: np.ndarray, **changed: Any) -> Run:
    values: dict[str, Any] = {
        "task": "segmentation",
        "kind": KINDS.get(name, "method"),
        "result": SegmentationResult(CLASSES[: matrices.shape[-1]], PICTURES[: len(matrices)], matrices),
        "settings": {"max_steps": 100, "classes": list(CLASSES), "initial_weights": None},
        "cost": Cost(100, 60.0 * (1 + (seed or 0)), "cpu, 1 process"),
        "origin": f"runs/{name}-seed{seed}",
    }
    return Run(input=name, seed=seed, **(values | changed))


def detections(skill: float, seed: int) -> DetectionResult:
    """One car and one person in each picture; each is found with the probability `skill`, and something else is."""
    rng = np.random.default_rng(seed)
    truth = (np.array([[0, 0, 20, 20], [40, 40, 70, 70]], np.float32), np.array([0, 1]))
    found = []
    for _ in PICTURES:
        hits = rng.random(2) < skill
        boxes = np.concatenate([truth[0][hits] + rng.normal(0, 2, (hits.sum(), 4)), [[0, 50, 10, 60]]])
        scores = np.concatenate([rng.uniform(0.3, 0.9, hits.sum()), [0.2]])
        order = np.argsort(-scores)
        class_ids = np.concatenate([truth[1][hits], [0]])
        found.append((boxes.astype(np.float32)[order], class_ids[order], scores.astype(np.float32)[order]))
    return DetectionResult(("car", "person"), PICTURES, (truth,) * len(PICTURES), tuple(found))


def zero_shot(name: str, skill: float, seed: int, **changed: Any) -> Run:
    values = {"task": "zero-shot", "result": detections(skill, seed), "detector": "tiny.onnx sha256:0123456789"}
    return run(name, None, confusions(0.5, 0), **(values | {"settings": {}, "cost": None} | changed))


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    """Three inputs with two seeds each, and two of them in front of a detector."""
    skills = {"visible": 0.6, "infrared": 0.5, "fused": 0.8}
    trained = [
        run(name, seed, confusions(skill + 0.02 * seed, 10 * number + seed))
        for number, (name, skill) in enumerate(skills.items())
        for seed in (0, 1)
    ]
    return [*trained, zero_shot("visible", 0.3, 1), zero_shot("fused", 0.9, 2)]


@pytest.fixture(scope="module")
def results(runs: list[Run]) -> Results:
    return assemble(runs, by_day_and_night=True, published=read_published(), notes=["Something to know."])


def part_of(results: Results, task: Task = "segmentation", group: str = "all") -> Part:
    (found,) = [part for part in results.parts if part.task == task and part.group == group]
    return found


def compared(skills: Mapping[str, Sequence[float]]) -> Part:
    """Runs with these skills, by input and seed, on pictures that are as hard for all."""
    made = [run(name, seed, confusions(s, 5)) for name, own in skills.items() for seed, s in enumerate(own)]
    return part_of(assemble(made))


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_a_small_set_by_hand() -> None:
    # Pixels by label and prediction; two pictures, so the IoUs are of the sums.
    visible = np.array([[[6, 2], [1, 1]], [[4, 0], [3, 3]]])  # sums 10 2 / 4 4: IoU 10/16 and 4/10
    again = np.array([[[7, 1], [1, 1]], [[4, 0], [2, 4]]])  # 11 1 / 3 5: 11/15 and 5/9
    fused = np.array([[[8, 0], [1, 1]], [[4, 0], [0, 6]]])  # 12 0 / 1 7: 12/13 and 7/8
    part = part_of(assemble([run("visible", 0, visible), run("visible", 1, again), run("fused", 0, fused)]))
    assert part.pictures == 2 and part.metrics == ["mIoU", "mIoU_foreground", "IoU/unlabelled", "IoU/car"]
    first, second = part.rows
    assert (first.input, first.seeds, first.cost) == ("visible", (0, 1), Cost(100, 90.0, "cpu, 1 process"))
    assert (second.input, second.seeds, second.cost) == ("fused", (0,), Cost(100, 60.0, "cpu, 1 process"))
    one, other, third = (10 / 16 + 4 / 10) / 2, (11 / 15 + 5 / 9) / 2, (12 / 13 + 7 / 8) / 2
    assert first.by_seed["mIoU"] == pytest.approx((one, other))
    assert first.numbers["mIoU"].mean == pytest.approx((one + other) / 2)
    assert first.numbers["mIoU_foreground"].mean == pytest.approx((4 / 10 + 5 / 9) / 2)
    assert second.numbers["IoU/unlabelled"].mean == pytest.approx(12 / 13)
    difference = part.differences[0]
    assert (difference.input, difference.reference, difference.metric) == ("fused", "visible", "mIoU")
    assert difference.over_both.mean == pytest.approx(third - (one + other) / 2)


def test_intervals_are_those_of_the_bootstrap_over_pictures_and_runs(runs: list[Run], results: Results) -> None:
    for task, metrics in (("segmentation", ("mIoU", "IoU/car")), ("zero-shot", ("mAP50", "mAP", "recall@0.3/car"))):
        part, of_task = part_of(results, task), [one for one in runs if one.task == task]  # type: ignore[arg-type]
        own = {row.input: [one.result for one in of_task if one.input == row.input] for row in part.rows}
        for row, metric in itertools.product(part.rows, metrics):
            assert astuple(row.numbers[metric]) == pytest.approx(astuple(bootstrap(own[row.input], metric)))
        for one in part.differences:
            expected = bootstrap_difference(own[one.reference], own[one.input], one.metric)
            assert astuple(one.over_both) == pytest.approx(astuple(expected))
            by_seed = {row.input: row.by_seed[one.metric] for row in part.rows}
            others = [values for name, values in by_seed.items() if name not in (one.input, one.reference)]
            seeds = difference_over_seeds(by_seed[one.reference], by_seed[one.input], others)
            assert (one.over_seeds is None) == (task == "zero-shot")
            assert one.over_seeds is None or astuple(one.over_seeds) == pytest.approx(astuple(seeds))
    one = part_of(results, "zero-shot").differences[0]
    assert one.verdict == "higher" and not one.these_networks_only
    assert all(row.seeds == () and row.cost is None for row in part_of(results, "zero-shot").rows)


def test_every_input_is_compared_with_the_single_pictures_and_networks_with_the_best_rule() -> None:
    skills = {"visible": (0.5,), "infrared": (0.6,), "average": (0.55,), "fused": (0.7,)}
    part = compared(skills)
    assert [row.input for row in part.rows] == list(skills)
    pairs = [(one.input, one.reference, one.role) for one in part.differences if one.metric == "mIoU"]
    against_visible = [(name, "visible", "") for name in ("infrared", "average", "fused")]
    against_best = [(name, "infrared", BEST_SOURCE) for name in ("visible", "average", "fused")]
    assert pairs == [*against_visible, *against_best, ("fused", "average", BEST_RULE)]
    alone = compared({"fused": (0.5,), "other": (0.5,)})
    assert alone.differences == ()
    assert "no row of visible, infrared or a rule" in markdown(Results((alone,)))


def test_conclusions_are_no_stronger_than_both_intervals() -> None:
    for visible, fused, verdict in (((0.6, 0.61), (0.8, 0.81), "higher"), ((0.8, 0.81), (0.6, 0.61), "lower")):
        assert compared({"visible": visible, "fused": fused}).differences[0].verdict == verdict
    assert compared({"visible": (0.6, 0.61), "fused": (0.6, 0.61)}).differences[0].verdict == "open"
    # The pictures are sure of it; two runs that differ as much as the inputs are not.
    part = compared({"visible": (0.5, 0.7), "fused": (0.72, 0.92)})
    assert part.differences[0].over_both.excludes_zero and part.differences[0].verdict == "open"
    assert "open: fused +" in conclusions(part)[0] and "seeds -" in conclusions(part)[0]
    # One run each: nothing is known of other runs.
    single = compared({"visible": (0.5,), "fused": (0.72,)})
    assert single.differences[0].these_networks_only and single.differences[0].verdict == "higher"
    assert "One run of each input: it holds for these networks" in conclusions(single)[0]


def test_day_and_night_are_the_parts_of_the_set(runs: list[Run], results: Results) -> None:
    day, night = (part_of(results, group=group) for group in ("day", "night"))
    assert (day.pictures, night.pictures) == (6, 6)
    own = [one.result.take(lambda name: name.endswith("N")) for one in runs if one.input == "fused" and one.cost]
    found = row_of(night, "fused")
    assert found and found.numbers["mIoU"].mean == pytest.approx(np.mean([result.numbers()["mIoU"] for result in own]))
    renamed = SegmentationResult(CLASSES, ("street_1",), confusions(0.5, 0)[:1])
    with pytest.raises(ValueError, match="the picture 'street_1' ends neither in D nor in N"):
        assemble([run("visible", 0, confusions(0.5, 0), result=renamed)], by_day_and_night=True)


def test_what_is_undefined_is_not_available_and_not_zero() -> None:
    without = confusions(0.6, 1)
    without[:, 2] = 0
    without[:, :, 2] = 0  # no person, and none predicted
    also = confusions(0.7, 2)
    also[:, 2] = 0  # no person, but some predicted: 0, and not undefined
    table = assemble([run("visible", 0, without), run("fused", 0, also), run("fused", 1, without)])
    part = part_of(table)
    visible, fused = part.rows
    assert "IoU/person" not in visible.numbers and math.isfinite(visible.numbers["mIoU"].mean)
    assert "IoU/person" not in fused.numbers and fused.by_seed["IoU/person"] == (0.0, None)
    (line,) = [one for one in markdown(table).splitlines() if one.startswith("| visible ") and "n/a" in one]
    assert line.endswith("| n/a      |") and line.count("|") == 5, "unlabelled, car, person"
    lines = list(csv.DictReader(io.StringIO(numbers_csv(table))))
    (line,) = [one for one in lines if one["input"] == "visible" and one["metric"] == "mIoU"]
    assert float(line["value"]) == visible.numbers["mIoU"].mean and line["interval_over"] == "pictures"
    nothing = [(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))] * len(PICTURES)
    empty = DetectionResult(("car", "person"), PICTURES, tuple(nothing), detections(0.5, 1).found)
    part = part_of(assemble([zero_shot("visible", 0.5, 1, result=empty)]), "zero-shot")
    assert "mAP50" not in part.rows[0].numbers and part.differences == ()
    assert percent(None) == "n/a" and percent(0.0) == "0.0" and percent(-1e-9, signed=True) == "0.0"


# --- what may stand in one table -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"settings": {"max_steps": 50}}, "fused-seed0 and runs/visible-seed0 differ in max_steps (50 and 100), so"),
        ({"settings": {"classes": ["a"]}}, "differ in classes (a and unlabelled, car, person)"),
        ({"settings": {"initial_weights": "b0"}}, "differ in initial_weights (b0 and nothing)"),
        ({"settings": {"sources": ["m3fd"]}}, "differ in sources (m3fd and nothing)"),
        ({"input": "visible", "origin": "twin"}, "runs/visible-seed0 and twin are both of visible, seed 0"),
        ({"input": "visible", "seed": 1, "pictures_by": "other"}, "both called visible, but their pictures were made"),
        ({"pictures": 11}, "differ in the pictures of the evaluation (11 and 12, not in both: 00011N)"),
    ],
)
def test_runs_of_different_kinds_are_refused(changed: dict[str, Any], message: str) -> None:
    first = run("visible", 0, confusions(0.5, 0))
    if "settings" in changed:
        changed["settings"] = {**first.settings, **changed["settings"]}
    matrices = confusions(0.6, 1)[: changed.pop("pictures", len(PICTURES))]
    other = run(changed.pop("input", "fused"), changed.pop("seed", 0), matrices, **changed)
    for order in ([first, other], [other, first]):
        with pytest.raises(ValueError, match=re.escape(message)):
            assemble(order)


def test_detectors_have_columns_of_their_own() -> None:
    table = assemble([zero_shot("visible", 0.3, 1), zero_shot("visible", 0.3, 1, detector="other.onnx")])
    assert [part.detector for part in table.parts] == ["other.onnx", "tiny.onnx sha256:0123456789"]
    assert "Zero-shot detection by tiny.onnx (01234567), 12 pictures" in markdown(table)


# --- reading ---------------------------------------------------------------------------------------------------------


def save_run(folder: Path, name: str, seed: int, found: Any, order: Sequence[int] = range(12), **training: Any) -> Path:
    """A run folder as `train/segformer.py` or `train/detector.py` leaves it, as far as the table reads it."""
    pipeline = folder / f"{name}-seed{seed}" / "pipeline"
    pipeline.mkdir(parents=True)
    result, provenance = found, pipeline / "inputs.json"
    if isinstance(found, np.ndarray):
        names, provenance = tuple(PICTURES[index] for index in order), pipeline / "segmentation.json"
        result = SegmentationResult(CLASSES, names, found[list(order)])
    file = "detection.json" if result is found else "evaluation.json"
    result.save(pipeline / file, input=name, sources=[{"path": "msrs", "split": "val"}], seed=seed)
    config = {"output_dir": str(pipeline.parent), "seed": seed, "input": [name], "max_steps": 9, "log_every": seed + 1}
    (pipeline / "config.yaml").write_text(json.dumps(config | {"sources": [{"path": "/data/here/msrs"}]}))
    training = {"steps": 9, "seconds": 30.0, "processes": 2, "device": "cpu", "datasets": [{"pairs": 4}]} | training
    (pipeline / "training.json").write_text(json.dumps(training))
    details = {"rule": name} if KINDS.get(name) == "rule" else {}
    about = [{"name": name, "kind": "", "fingerprint": f"of {name}", "details": details}]
    provenance.write_text(json.dumps({"inputs": about}))
    return pipeline.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, (name, seed) in enumerate(itertools.product(("average", "visible"), (1, 0))):
        save_run(tmp_path / "runs", name, seed, confusions(0.6, number))
    return tmp_path / "runs"


def test_neither_the_order_of_folders_nor_that_of_pictures_changes_anything(folder: Path, tmp_path: Path) -> None:
    expected = assemble(find_runs([folder])[0]).to_json()
    paths = [path / part for path in sorted(folder.iterdir()) for part in (".", "pipeline")]
    random.Random(0).shuffle(paths)
    found = find_runs(paths)[0]
    assert len(found) == 4, "each file once"
    assert assemble(found[::-1]).to_json() == expected
    for number, (name, seed) in enumerate(itertools.product(("average", "visible"), (1, 0))):
        order = np.random.default_rng(number).permutation(12).tolist()
        save_run(tmp_path / "mixed", name, seed, confusions(0.6, number), order)
    assert assemble(find_runs([tmp_path / "mixed"])[0]).to_json() == expected


def test_what_a_run_folder_says(folder: Path) -> None:
    one = find_runs([folder / "average-seed1"])[0][0]
    assert (one.task, one.input, one.kind, one.seed) == ("segmentation", "average", "rule", 1)
    assert one.cost == Cost(9, 30.0, "cpu, 2 processes") and one.pictures_by == "of average"
    assert one.origin == "runs/average-seed1" and one.settings["max_steps"] == 9
    assert not {"seed", "input", "output_dir", "log_every"} & set(one.settings)
    about = {"input": "visible", "sources": ["msrs"], "detector": "a.onnx", "annotations": "union"}
    detections(0.5, 1).save(folder / "zero.json", **about)
    zero = find_runs([folder / "zero.json"])[0][0]
    assert (zero.task, zero.seed, zero.kind, zero.detector, zero.cost) == ("zero-shot", None, "source", "a.onnx", None)
    assert len(find_runs([folder])[0]) == 5


def test_a_detector_that_was_trained_here_is_a_run(tmp_path: Path) -> None:
    save_run(tmp_path, "fused", 3, detections(0.5, 1), processes=1, device="cuda")
    (one,) = find_runs([tmp_path])[0]
    assert (one.task, one.input, one.kind, one.seed, one.pictures_by) == ("detection", "fused", "method", 3, "of fused")
    assert one.cost == Cost(9, 30.0, "cuda, 1 process")
    part = part_of(assemble([one]), "detection")
    assert part.rows[0].by_seed["mAP50"] == pytest.approx((detections(0.5, 1).numbers()["mAP50"],))


def test_unfinished_runs_are_named_and_what_holds_nothing_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "late-seed0").mkdir()
    (folder / "late-seed0" / "config.yaml").write_text("seed: 0\n")
    (folder / "start" / "pipeline").mkdir(parents=True)
    (folder / "start" / "pipeline" / "evaluation-visible.json").write_text("{}")
    found, left_out = find_runs([folder])
    assert len(found) == 4
    assert left_out == ["runs/late-seed0 is not finished", "runs/start was trained on several inputs at once"]
    (tmp_path / "empty").mkdir()
    for path, error, message in (
        (folder / "late-seed0", ValueError, r"no results \(runs/late-seed0 is not finished\)"),
        (folder / "start", ValueError, "was trained on several inputs at once"),
        (folder / "average-seed1" / "pipeline" / "segmentation.json", ValueError, "'detector' is missing"),
        (tmp_path / "empty", ValueError, r"no run of `fusion-hub train segformer`"),
        (tmp_path / "nowhere", FileNotFoundError, "nowhere does not exist"),
    ):
        with pytest.raises(error, match=message):
            find_runs([path])


# --- writing ---------------------------------------------------------------------------------------------------------


def test_files(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    files = write(results, tmp_path / "out")
    assert sorted((tmp_path / "out").iterdir()) == sorted(files)
    report, drawn, summary = ((tmp_path / "out" / f).read_text() for f in ("report.md", "figure.svg", "summary.json"))
    assert report == markdown(results) and report.startswith("# Does fusion help detection and segmentation?")
    for words in ("## Segmentation, 6 pictures of the night", "not comparable", "Something to know", "**", "and seeds"):
        assert words in report
    assert re.search(r"\| 0, 1 +\| 100 +\| 1\.5 +\| cpu, 1 process +\|", report)
    assert drawn.count('<g id="axes_') == len(results.parts) * 3
    content = json.loads(summary)
    assert content["format"] == "fusion-hub-downstream/1" and content["notes"] == ["Something to know."]
    for part, found in zip(results.parts, content["parts"], strict=True):
        for row, own in zip(part.rows, found["rows"], strict=True):
            ends = {name: (one["value"], one["low"], one["high"]) for name, one in own["numbers"].items()}
            assert ends == {name: (one.mean, one.low, one.high) for name, one in row.numbers.items()}
        assert [one["verdict"] for one in found["differences"]] == [one.verdict for one in part.differences]
    lines = list(csv.DictReader(io.StringIO(differences_csv(results))))
    assert [line["verdict"] for line in lines] == [one.verdict for part in results.parts for one in part.differences]


def test_no_place_of_this_machine_is_written(folder: Path) -> None:
    table = assemble(find_runs([folder])[0])
    text = table.to_json() + markdown(table) + numbers_csv(table)
    assert str(folder) not in text and "/data/here" not in text and "here/msrs" in text


def test_papers_are_quoted_and_take_no_part(results: Results) -> None:
    values = {row.method: row.values for row in results.published}
    assert values == {"DiffFuseNet (its authors)": {"mIoU": 0.73}, "RED (its authors)": {}}
    assert all(row.source and row.note.startswith(("Not comparable", "No number")) for row in results.published)
    assert not {row.input for part in results.parts for row in part.rows} & values.keys()
    assert "comparable" not in markdown(Results(results.parts))


def test_a_common_start_is_named() -> None:
    settings = {"initial_weights": "start/pipeline"}
    table = assemble([run(name, 0, confusions(0.5, 0), settings=settings) for name in ("visible", "fused")])
    assert "All runs start from the same weights, start/pipeline: seeds cover only the" in markdown(table)


def test_a_published_value_must_be_a_fraction(tmp_path: Path) -> None:
    row = {"method": "X", "source": "Y", "values": {"mIoU": 73.0}, "note": ""}
    (tmp_path / "rows.json").write_text(json.dumps({"format": "fusion-hub-published-downstream/1", "rows": [row]}))
    with pytest.raises(ValueError, match=r"X has 73\.0 as mIoU: give a fraction of 1"):
        read_published(tmp_path / "rows.json")
