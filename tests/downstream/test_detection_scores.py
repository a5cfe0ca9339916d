"""Scores of detection against pycocotools called plainly and against cases by hand; intervals against their promise."""

import contextlib
import dataclasses
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from fusion_hub.downstream.detection_scores import (
    DetectionResult,
    Found,
    bootstrap_detection,
    bootstrap_detection_difference,
    evaluate_detector,
    measure,
    statistics,
)
from fusion_hub.downstream.protocols import Detections

CLASSES = ("person", "car", "bicycle")
SIZE = (300, 400)


def random_result(seed: int, pictures: int = 12, skill: float = 0.7) -> DetectionResult:
    """Objects, most of them found at about their place, and some detections of nothing; no two scores are equal."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(pictures):
        n = int(rng.integers(0, 6))
        corner, extent = rng.uniform(0, 200, (n, 2)), rng.uniform(20, 90, (n, 2))
        boxes, ids = np.concatenate([corner, corner + extent], 1).astype(np.float32), rng.integers(0, 3, n)
        seen = rng.random(n) < skill
        nudged = boxes[seen] + rng.normal(0, 4, (seen.sum(), 4))
        wrong = rng.uniform(0, 200, (3, 2))
        places = np.concatenate([nudged, np.concatenate([wrong, wrong + 40], 1)])
        guesses = np.concatenate([ids[seen], rng.integers(0, 3, 3)])
        names = dict(enumerate(CLASSES))
        detections = Detections.of(places, rng.random(len(places)), guesses, names, SIZE)
        truth.append((boxes, ids.astype(np.int64)))
        found.append((detections.boxes, detections.class_ids, detections.scores))
    return DetectionResult(CLASSES, tuple(f"{i:03d}{'DN'[i % 2]}" for i in range(pictures)), tuple(truth), tuple(found))


def as_found(*rows: tuple[list[float], int, float]) -> Found:
    boxes = np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4)
    return boxes, np.array([i for _, i, _ in rows], dtype=np.int64), np.array([s for *_, s in rows], dtype=np.float32)


def as_truth(*rows: tuple[list[float], int]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([box for box, _ in rows], dtype=np.float32).reshape(-1, 4), np.array([i for _, i in rows], np.int64)


def chosen(result: DetectionResult, order: list[int]) -> DetectionResult:
    """Pictures in another order, or several times."""
    names = tuple(f"{number} {result.pictures[i]}" for number, i in enumerate(order))
    return DetectionResult(
        result.classes, names, tuple(result.truth[i] for i in order), tuple(result.found[i] for i in order)
    )


# --- definitions -----------------------------------------------------------------------------------------------------


def by_pycocotools(result: DetectionResult) -> dict[str, float]:
    """The usual way: two JSON-like sets, `loadRes`, `summarize`."""
    annotations, detections = [], []
    for number, ((boxes, ids), (guesses, guess_ids, scores)) in enumerate(zip(result.truth, result.found, strict=True)):
        for (left, top, right, bottom), i in zip(boxes.tolist(), ids.tolist(), strict=True):
            box = [left, top, right - left, bottom - top]
            annotations.append({"image_id": number, "category_id": i, "bbox": box, "area": box[2] * box[3]})
        for (left, top, right, bottom), i, score in zip(
            guesses.tolist(), guess_ids.tolist(), scores.tolist(), strict=True
        ):
            box = [left, top, right - left, bottom - top]
            detections.append({"image_id": number, "category_id": i, "bbox": box, "score": score})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(len(result.pictures))],
            "categories": [{"id": i, "name": name} for i, name in enumerate(result.classes)],
            "annotations": [row | {"id": i, "iscrowd": 0} for i, row in enumerate(annotations, start=1)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = {"mAP": evaluation.stats[0], "mAP50": evaluation.stats[1]}
    for index, name in enumerate(result.classes):
        values[f"AP/{name}"] = evaluation.eval["precision"][:, :, index, 0, 2].mean()
        values[f"AP50/{name}"] = evaluation.eval["precision"][0, :, index, 0, 2].mean()
        values[f"recall/{name}"] = evaluation.eval["recall"][0, index, 0, 2]
    return {name: float(value) for name, value in values.items()}


@pytest.mark.parametrize("seed", range(2))
def test_the_numbers_are_those_of_pycocotools(seed: int) -> None:
    result = random_result(seed)
    numbers = result.numbers()
    for name, value in by_pycocotools(result).items():
        assert numbers[name] == pytest.approx(value, abs=1e-12), name
    assert numbers["recall"] == pytest.approx(np.mean([numbers[f"recall/{name}"] for name in CLASSES]))
    assert 0.1 < numbers["mAP"] < numbers["mAP50"] < 1


def test_average_precision_by_hand() -> None:
    box, other, far = [10.0, 10, 50, 90], [100.0, 10, 150, 60], [200.0, 200, 250, 250]
    truth = (as_truth((box, 0), (other, 0)),)

    def ap50(*rows: tuple[list[float], int, float]) -> float:
        return DetectionResult(("person",), ("a",), truth, (as_found(*rows),)).numbers()["AP50/person"]

    assert ap50() == 0
    assert ap50((box, 0, 0.9), (other, 0, 0.8)) == pytest.approx(1)
    # Half of the objects: recalls 0.00 ... 0.50 have precision 1, the other 50 of the 101 none.
    assert ap50((box, 0, 0.9)) == pytest.approx(51 / 101)
    # A wrong one between: precision 1 up to recall 0.5, 2/3 after.
    assert ap50((box, 0, 0.9), (far, 0, 0.8), (other, 0, 0.7)) == pytest.approx((51 + 50 * 2 / 3) / 101)
    # A wrong one first: precision 1/2, then 2/3, and the better later one counts before too.
    assert ap50((far, 0, 0.9), (box, 0, 0.8), (other, 0, 0.7)) == pytest.approx(2 / 3)
    # Wrong ones after all objects cost nothing, and a second detection of one object is wrong.
    assert ap50((box, 0, 0.9), (other, 0, 0.8), (far, 0, 0.7), (box, 0, 0.6)) == pytest.approx(1)
    assert ap50((box, 0, 0.9), (box, 0, 0.8), (other, 0, 0.7)) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_overlap_decides_at_which_thresholds_a_detection_counts() -> None:
    truth = (as_truth(([0.0, 0, 100, 100], 0)),)
    found = (as_found(([0.0, 0, 100, 72], 0, 0.9)),)  # IoU 0.72: right at 0.50, 0.55, 0.60, 0.65, 0.70
    numbers = DetectionResult(("person",), ("a",), truth, found).numbers()
    assert numbers["AP50/person"] == pytest.approx(1) and numbers["AP/person"] == pytest.approx(0.5)


def test_a_perfect_detector_and_a_blind_one() -> None:
    result = random_result(1)
    perfect = tuple((boxes, ids, np.full(len(ids), 0.9, np.float32)) for boxes, ids in result.truth)
    numbers = dataclasses.replace(result, found=perfect).numbers()
    assert set(numbers) == set(statistics(CLASSES)) and all(value == pytest.approx(1) for value in numbers.values())
    blind = dataclasses.replace(result, found=tuple(as_found() for _ in result.pictures)).numbers()
    assert blind["mAP"] == blind["recall"] == blind["recall@0.3"] == 0
    assert "precision@0.3" not in blind  # of no detection


def test_recall_and_precision_in_use_count_detections_of_three_tenths_and_more() -> None:
    box, other, far = [10.0, 10, 50, 90], [100.0, 10, 150, 60], [200.0, 200, 250, 250]
    truth = (as_truth((box, 0), (other, 0)),)
    found = (as_found((box, 0, 0.9), (far, 0, 0.5), (far, 0, 0.25), (other, 0, 0.2)),)
    numbers = DetectionResult(("person",), ("a",), truth, found).numbers()
    assert (numbers["recall/person"], numbers["recall@0.3/person"], numbers["precision@0.3"]) == (1, 0.5, 0.5)


def test_a_class_without_objects_has_no_number_and_is_not_in_the_mean() -> None:
    truth = (as_truth(([0.0, 0, 10, 10], 0)),)
    found = (as_found(([0.0, 0, 10, 10], 0, 0.9), ([50.0, 0, 60, 10], 1, 0.9)),)
    result = DetectionResult(CLASSES, ("a",), truth, found)
    numbers = result.numbers()
    assert numbers["mAP"] == pytest.approx(1)
    assert not {"AP/car", "recall/car", "AP/bicycle"} & numbers.keys() and numbers["precision@0.3/car"] == 0
    assert result.objects == {"person": 1, "car": 0, "bicycle": 0}
    assert result.take(lambda name: name != "a").numbers() == {}


def test_the_order_of_pictures_changes_nothing() -> None:
    result = random_result(2)
    order = np.random.default_rng(0).permutation(len(result.pictures)).tolist()
    assert chosen(result, order).numbers() == pytest.approx(result.numbers())


def test_a_part_of_the_pictures() -> None:
    result = random_result(3)
    night = result.take(lambda name: name.endswith("N"))
    assert night.pictures == result.pictures[1::2]
    assert night.numbers() == pytest.approx(chosen(result, list(range(1, 12, 2))).numbers())


# --- intervals -------------------------------------------------------------------------------------------------------


def test_a_draw_of_pictures_has_the_numbers_of_a_set_with_these_pictures() -> None:
    result = random_result(4)
    rng = np.random.default_rng(0)
    counts = rng.multinomial(12, np.full(12, 1 / 12), size=6)
    for draw in counts:
        drawn = by_pycocotools(chosen(result, np.repeat(np.arange(12), draw).tolist()))
        for name, value in drawn.items():
            (own,) = measure(result.matches, CLASSES, name, draw[None])
            assert own == pytest.approx(value, abs=1e-12) or (math.isnan(own) and value == -1), name


def test_the_bootstrap_is_reproducible_and_around_the_value() -> None:
    result = random_result(5, pictures=40)
    for statistic in ("mAP", "mAP50", "recall", "AP50/car", "recall@0.3/person"):
        interval = bootstrap_detection(result, statistic, resamples=300)
        assert interval == bootstrap_detection([result], statistic, resamples=300)
        assert interval.mean == pytest.approx(result.numbers()[statistic])
        assert interval.low < interval.mean < interval.high
    assert bootstrap_detection(result, resamples=300) != bootstrap_detection(result, seed=1, resamples=300)


def test_the_interval_covers_what_it_promises() -> None:
    whole = random_result(6, pictures=400)
    value = whole.numbers()["recall@0.3"]
    inside = 0
    for trial in range(20):
        part = set(np.random.default_rng(trial).choice(whole.pictures, 40, replace=False).tolist())
        interval = bootstrap_detection(whole.take(part.__contains__), "recall@0.3", seed=trial, resamples=200)
        inside += interval.low <= value <= interval.high
    assert inside >= 16  # of 20; 19 are expected


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    first = random_result(7, pictures=60)
    dropped = tuple(
        tuple(part[keep] for part in found) for found in first.found for keep in [rng.random(len(found[2])) < 0.9]
    )
    second = dataclasses.replace(first, found=dropped)
    difference = bootstrap_detection_difference(first, second, "recall")
    alone = [bootstrap_detection(result, "recall") for result in (first, second)]
    assert difference.mean == pytest.approx(second.numbers()["recall"] - first.numbers()["recall"])
    assert difference.high - difference.low < 0.7 * min(one.high - one.low for one in alone)
    assert difference.high < 0
    same = bootstrap_detection_difference(first, first)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="compare runs on the same dataset"):
        bootstrap_detection_difference(first, random_result(8, pictures=60))


def test_runs_that_differ_widen_the_interval() -> None:
    result = random_result(9, pictures=40)
    rng = np.random.default_rng(0)
    weak = tuple(tuple(part[keep] for part in f) for f in result.found for keep in [rng.random(len(f[2])) < 0.3])
    other = dataclasses.replace(result, found=weak)
    together = bootstrap_detection([result, other], "recall")
    assert together.mean == pytest.approx((result.numbers()["recall"] + other.numbers()["recall"]) / 2)
    assert together.high - together.low > 1.5 * (lambda one: one.high - one.low)(bootstrap_detection(result, "recall"))
    twice = bootstrap_detection([result, result], "recall")
    alone = bootstrap_detection(result, "recall")
    assert (twice.low, twice.high) == pytest.approx((alone.low, alone.high))


@pytest.mark.parametrize(("statistic", "results"), [("AP50/lorry", 1), ("mIoU", 1), ("mAP", 0)])
def test_unknown_statistics_and_no_results_are_errors(statistic: str, results: int) -> None:
    with pytest.raises(ValueError, match="is not a detection score" if results else "there is no result"):
        bootstrap_detection([random_result(0)] * results, statistic)


# --- a detector on a set ---------------------------------------------------------------------------------------------


class Painted:
    """Finds squares: each color is a class, its brightness the score."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = names

    def detect(self, image: Any, *, threshold: float = 0.3) -> Detections:
        pixels = np.asarray(image)
        boxes, scores, ids = [], [], []
        for value in np.unique(pixels[pixels > 0]):
            rows, columns = np.nonzero(pixels == value)
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            scores.append(value / 255)
            ids.append(int(value) % len(self.names))
        size = (pixels.shape[0], pixels.shape[1])
        found = Detections.of(np.array(boxes).reshape(-1, 4), np.array(scores), np.array(ids), self.names, size)
        return found.above(threshold)


def painted(*squares: tuple[int, int, int]) -> np.ndarray:
    pixels = np.zeros((60, 80), np.uint8)
    for left, top, value in squares:
        pixels[top : top + 10, left : left + 10] = value
    return pixels


def test_classes_are_found_by_name_and_others_do_not_count(tmp_path: Path) -> None:
    detector = Painted({0: "dog", 1: "Pedestrian", 2: "car"})
    picture = painted(
        (5, 5, 250), (30, 5, 251), (5, 30, 252), (30, 30, 100)
    )  # a pedestrian, a car, a dog, a pedestrian
    samples = [
        ("a", picture, np.array([[30, 5, 40, 15], [5, 5, 15, 15]]), np.array([0, 1])),
        ("b", painted(), np.zeros((0, 4)), np.zeros(0)),
    ]
    result = evaluate_detector(detector, samples, ("car", "person"))
    assert result.found[0][1].tolist() == [0, 1, 1] and result.found[0][2][0] == np.float32(251 / 255)
    numbers = result.numbers()
    assert numbers["AP/car"] == pytest.approx(1) and numbers["recall/person"] == 1
    assert numbers["precision@0.3/person"] == 0.5
    assert len(evaluate_detector(detector, samples, ("car", "person"), threshold=0.5).found[0][1]) == 2
    renamed = evaluate_detector(detector, samples, ("car", "person"), names={"dog": "person", "car": "car"})
    assert renamed.numbers()["recall/person"] == 0

    result.save(tmp_path / "x.json", input="visible", sources=["a/b"])
    read = DetectionResult.load(tmp_path / "x.json")
    assert (read.classes, read.pictures) == (result.classes, result.pictures)
    for mine, theirs in zip([*result.truth, *result.found], [*read.truth, *read.found], strict=True):
        assert all(
            np.array_equal(one, other) and one.dtype == other.dtype for one, other in zip(mine, theirs, strict=True)
        )
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["input"] == "visible" and written["numbers"] == numbers and written["sources"] == ["a/b"]
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_at_most_a_hundred_detections_of_a_picture_count() -> None:
    squares = [(column, row, 1 + number) for number, (row, column) in enumerate(np.ndindex(10, 15))]
    picture = np.zeros((10, 15), np.uint8)
    for column, row, value in squares:
        picture[row, column] = value
    result = evaluate_detector(Painted({0: "car"}), [("a", picture, np.zeros((0, 4)), np.zeros(0))], ("car",))
    assert len(result.found[0][2]) == 100 and result.found[0][2].min() == np.float32(51 / 255)


def test_wrong_classes_and_boxes_are_errors() -> None:
    detector = Painted({0: "dog", 1: "person"})
    with pytest.raises(
        ValueError,
        match=r"no class for 'car': leave it out, or map .*\(dog, person\)",
    ):
        evaluate_detector(detector, [], ("person", "car"))
    outside = [("x", painted(), np.array([[0, 0, 90, 10]]), np.array([0]))]
    with pytest.raises(ValueError, match="x: a box lies outside the image of 80 x 60"):
        evaluate_detector(detector, outside, ("person",))
