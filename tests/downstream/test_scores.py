"""Scores against their definitions, pycocotools and cases by hand; intervals against what they promise."""

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
from scipy import stats

from fusion_hub.downstream.protocols import Detections, Segmentation
from fusion_hub.downstream.scores import (
    DetectionResult,
    Found,
    SegmentationResult,
    bootstrap,
    bootstrap_difference,
    class_iou,
    confusion_matrix,
    evaluate_detector,
    evaluate_segmenter,
)
from fusion_hub.evaluation.statistics import difference_over_seeds, over_seeds

CLASSES = ("person", "car", "bicycle")
SIZE = (300, 400)

# --- segmentation ----------------------------------------------------------------------------------------------------


def segmentation(matrices: np.ndarray) -> SegmentationResult:
    names, pictures = ("unlabelled", "car", "person", "bike", "curve"), [str(i) for i in range(len(matrices))]
    return SegmentationResult(names[: matrices.shape[-1]], tuple(pictures), matrices)


def iou_by_sets(label: np.ndarray, guess: np.ndarray, index: int) -> float:
    """Intersection over union of two sets of pixels."""
    pixels = [pixel for pixel in np.ndindex(label.shape) if label[pixel] != 255]
    truth = {pixel for pixel in pixels if label[pixel] == index}
    found = {pixel for pixel in pixels if guess[pixel] == index}
    return len(truth & found) / len(truth | found)


def test_iou_is_intersection_over_union_of_the_whole_set() -> None:
    rng = np.random.default_rng(0)
    label = rng.integers(5, size=(3, 13, 17)).astype(np.uint8)
    guess = np.where(rng.random(label.shape) < 0.6, label, rng.integers(5, size=label.shape))
    label[rng.random(label.shape) < 0.1] = 255
    matrices = np.stack([confusion_matrix(*pair, 5) for pair in zip(label, guess, strict=True)])
    assert np.array_equal(matrices.sum(0), confusion_matrix(label, guess, 5))
    assert matrices.sum() == (label != 255).sum()
    expected = [iou_by_sets(label, guess, index) for index in range(5)]
    numbers = segmentation(matrices).numbers()
    assert [numbers.pop(f"IoU/{name}") for name in segmentation(matrices).classes] == pytest.approx(expected)
    assert numbers.pop("mIoU") == pytest.approx(np.mean(expected))
    assert numbers.pop("mIoU_foreground") == pytest.approx(np.mean(expected[1:]))
    assert numbers == {"pixel_accuracy": pytest.approx((label == guess)[label != 255].mean())}
    # The mean over pictures is another number.
    assert class_iou(matrices).mean() != pytest.approx(np.mean(expected), rel=1e-6)


def test_a_class_that_never_occurs_is_undefined_and_one_that_is_only_predicted_is_zero() -> None:
    confusion = confusion_matrix(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]), 4)
    assert confusion[1].tolist() == [0, 1, 1, 0], "rows are labels and columns predictions"
    numbers = segmentation(confusion[None]).numbers()
    assert [numbers[f"IoU/{name}"] for name in ("unlabelled", "car", "person")] == [1, 0.5, 0]
    assert "IoU/bike" not in numbers and math.isnan(class_iou(confusion)[3])
    assert (numbers["mIoU"], numbers["mIoU_foreground"]) == pytest.approx((0.5, 0.25))
    assert segmentation(np.zeros((2, 4, 4), np.int64)).numbers() == {}


@pytest.mark.parametrize(
    ("label", "guess", "message"),
    [
        ([0, 1], [0], r"\(2,\) and the predictions \(1,\)"),
        ([0, 9], [0, 0], "labels range from 0 to 9"),
        ([0, 0], [-1, 0], "predictions range from -1 to 0"),
    ],
)
def test_wrong_maps_are_errors(label: list[int], guess: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(label), np.array(guess), 3)


class Threshold:
    """Bright pixels are cars."""

    names: Mapping[int, str] = {0: "unlabelled", 1: "car", 2: "person"}
    palette: Mapping[int, tuple[int, int, int]] = {0: (0, 0, 0), 1: (1, 1, 1), 2: (2, 2, 2)}

    def segment(self, image: np.ndarray) -> Segmentation:
        return Segmentation((image[..., 0] > 127).astype(np.int64), self.names, self.palette)


def test_a_segmenter_is_measured_on_a_set(tmp_path: Path) -> None:
    pictures = np.random.default_rng(4).integers(256, size=(3, 6, 8, 3)).astype(np.uint8)
    labels = (pictures[..., 0] > 100).astype(np.uint8)
    result = evaluate_segmenter(Threshold(), zip(("001D", "002N", "003N"), pictures, labels, strict=True))
    assert result.classes == ("unlabelled", "car", "person") and result.pictures == ("001D", "002N", "003N")
    numbers = result.numbers()
    assert numbers["IoU/car"] == pytest.approx(iou_by_sets(labels, (pictures[..., 0] > 127).astype(int), 1))
    assert "IoU/person" not in numbers, "undefined, and NaN is no JSON"
    night = result.take(lambda name: name.endswith("N"))
    assert night.pictures == ("002N", "003N") and np.array_equal(night.confusions, result.confusions[1:])
    result.save(tmp_path / "evaluation.json", input="visible")
    again = SegmentationResult.load(tmp_path / "evaluation.json")
    assert again.pictures == result.pictures and np.array_equal(again.confusions, result.confusions)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    assert evaluate_segmenter(Threshold(), []).numbers() == {}
    with pytest.raises(ValueError, match="001D: the labels range from 7 to 7"):
        evaluate_segmenter(Threshold(), [("001D", pictures[0], np.full((6, 8), 7))])


# --- detection -------------------------------------------------------------------------------------------------------


def random_result(seed: int, pictures: int = 12, skill: float = 0.7) -> DetectionResult:
    """Objects, most of them found at about their position, and some detections of nothing; no two scores are equal."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(pictures):
        n = int(rng.integers(0, 6))
        corner, extent = rng.uniform(0, 200, (n, 2)), rng.uniform(20, 90, (n, 2))
        boxes, ids = np.concatenate([corner, corner + extent], 1).astype(np.float32), rng.integers(0, 3, n)
        seen = rng.random(n) < skill
        wrong = rng.uniform(0, 200, (3, 2))
        nudged = boxes[seen] + rng.normal(0, 4, (seen.sum(), 4))
        guesses = np.concatenate([nudged, np.concatenate([wrong, wrong + 40], 1)])
        guess_ids = np.concatenate([ids[seen], rng.integers(0, 3, 3)])
        detections = Detections.of(guesses, rng.random(len(guesses)), guess_ids, dict(enumerate(CLASSES)), SIZE)
        truth.append((boxes, ids.astype(np.int64)))
        found.append((detections.boxes, detections.class_ids, detections.scores))
    return DetectionResult(CLASSES, tuple(f"{i:03d}{'DN'[i % 2]}" for i in range(pictures)), tuple(truth), tuple(found))


def thinned(result: DetectionResult, share: float) -> DetectionResult:
    """With that share of its detections."""
    rng = np.random.default_rng(0)
    found = (tuple(part[keep] for part in f) for f in result.found for keep in [rng.random(len(f[2])) < share])
    return dataclasses.replace(result, found=tuple(found))  # type: ignore[arg-type]


def as_found(*rows: tuple[list[float], int, float]) -> Found:
    boxes = np.array([box for box, _, _ in rows], dtype=np.float32).reshape(-1, 4)
    return boxes, np.array([i for _, i, _ in rows], dtype=np.int64), np.array([s for *_, s in rows], dtype=np.float32)


def numbers_of(truth: list[tuple[list[float], int]], *found: tuple[list[float], int, float]) -> dict[str, float]:
    """Scores on one picture."""
    boxes, ids = np.array([box for box, _ in truth], dtype=np.float32), np.array([i for _, i in truth])
    return DetectionResult(CLASSES, ("a",), ((boxes, ids),), (as_found(*found),)).numbers()


def by_pycocotools(result: DetectionResult) -> dict[str, float]:
    """The usual way: two JSON-like sets, `loadRes`, `summarize`."""
    sides: list[list[dict[str, Any]]] = [[], []]
    for side, rows in zip((result.truth, result.found), sides, strict=True):
        for number, (boxes, ids, *scores) in enumerate(side):
            for index, (left, top, right, bottom) in enumerate(boxes.tolist()):
                box = [left, top, right - left, bottom - top]
                row = {"image_id": number, "category_id": int(ids[index]), "bbox": box, "area": box[2] * box[3]}
                rows.append(row | ({"score": float(scores[0][index])} if scores else {}))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(len(result.pictures))],
            "categories": [{"id": i, "name": name} for i, name in enumerate(result.classes)],
            "annotations": [row | {"id": i, "iscrowd": 0} for i, row in enumerate(sides[0], start=1)],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(sides[1]), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    values = {"mAP": evaluation.stats[0], "mAP50": evaluation.stats[1]}
    for index, name in enumerate(result.classes):
        values[f"AP/{name}"] = evaluation.eval["precision"][:, :, index, 0, 2].mean()
        values[f"AP50/{name}"] = evaluation.eval["precision"][0, :, index, 0, 2].mean()
        values[f"recall/{name}"] = evaluation.eval["recall"][0, index, 0, 2]
    return {name: float(value) for name, value in values.items()}


def test_the_numbers_are_those_of_pycocotools() -> None:
    result = random_result(0)
    numbers = result.numbers()
    for name, value in by_pycocotools(result).items():
        assert numbers[name] == pytest.approx(value, abs=1e-12), name
    assert numbers["recall"] == pytest.approx(np.mean([numbers[f"recall/{name}"] for name in CLASSES]))
    assert 0.1 < numbers["mAP"] < numbers["mAP50"] < 1


def test_resampled_pictures_have_the_numbers_of_a_set_with_these_pictures() -> None:
    result = random_result(4)
    for counts in np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=6):
        for name, value in by_pycocotools(result.at(np.repeat(np.arange(12), counts).tolist())).items():
            (own,) = result.scores([name], counts[None])[name]
            assert own == pytest.approx(value, abs=1e-12) or (math.isnan(own) and value == -1), name


BOX, OTHER, FAR = [10.0, 10, 50, 90], [100.0, 10, 150, 60], [200.0, 200, 250, 250]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([], 0),
        ([BOX, OTHER], 1),
        # Half of the objects: recalls 0.00 ... 0.50 have precision 1, the other 50 of the 101 none.
        ([BOX], 51 / 101),
        # A wrong one between: precision 1 up to recall 0.5, 2/3 after.
        ([BOX, FAR, OTHER], (51 + 50 * 2 / 3) / 101),
        # A wrong one first: precision 1/2, then 2/3, and the better later one counts before too.
        ([FAR, BOX, OTHER], 2 / 3),
        # Wrong ones after all objects cost nothing, and a second detection of one object is wrong.
        ([BOX, OTHER, FAR, BOX], 1),
        ([BOX, BOX, OTHER], (51 + 50 * 2 / 3) / 101),
    ],
)
def test_average_precision_by_hand(found: list[list[float]], expected: float) -> None:
    numbers = numbers_of([(BOX, 0), (OTHER, 0)], *((box, 0, 0.9 - 0.1 * i) for i, box in enumerate(found)))
    assert numbers["AP50/person"] == pytest.approx(expected)


def test_the_overlap_decides_at_which_thresholds_a_detection_counts() -> None:
    # IoU 0.72: correct at 0.50, 0.55, 0.60, 0.65, 0.70
    numbers = numbers_of([([0.0, 0, 100, 100], 0)], ([0.0, 0, 100, 72], 0, 0.9))
    assert numbers["AP50/person"] == pytest.approx(1) and numbers["AP/person"] == pytest.approx(0.5)


def test_a_perfect_detector_and_a_blind_one() -> None:
    result = random_result(1)
    perfect = tuple((boxes, ids, np.full(len(ids), 0.9, np.float32)) for boxes, ids in result.truth)
    numbers = dataclasses.replace(result, found=perfect).numbers()
    assert list(numbers) == result.statistics and all(value == pytest.approx(1) for value in numbers.values())
    blind = dataclasses.replace(result, found=tuple(as_found() for _ in result.pictures)).numbers()
    assert blind["mAP"] == blind["recall"] == blind["recall@0.3"] == 0
    assert "precision@0.3" not in blind  # of no detection


def test_recall_and_precision_in_use_count_detections_of_three_tenths_and_more() -> None:
    found = ((BOX, 0, 0.9), (FAR, 0, 0.5), (FAR, 0, 0.25), (OTHER, 0, 0.2))
    numbers = numbers_of([(BOX, 0), (OTHER, 0)], *found)
    assert (numbers["recall/person"], numbers["recall@0.3/person"], numbers["precision@0.3"]) == (1, 0.5, 0.5)


def test_a_class_without_objects_has_no_number_and_is_not_in_the_mean() -> None:
    numbers = numbers_of([(BOX, 0)], (BOX, 0, 0.9), (FAR, 1, 0.9))
    assert numbers["mAP"] == pytest.approx(1)
    assert not {"AP/car", "recall/car", "AP/bicycle"} & numbers.keys() and numbers["precision@0.3/car"] == 0


def test_pictures_in_another_order_and_a_part_of_them() -> None:
    result = random_result(2)
    order = np.random.default_rng(0).permutation(12).tolist()
    assert result.at(order).numbers() == pytest.approx(result.numbers())
    night = result.take(lambda name: name.endswith("N"))
    assert night.pictures == result.pictures[1::2] and night.numbers() == result.at(range(1, 12, 2)).numbers()
    assert result.take(lambda name: False).numbers() == {}


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
        found = np.array(boxes).reshape(-1, 4), np.array(scores), np.array(ids)
        return Detections.of(*found, self.names, (pixels.shape[0], pixels.shape[1])).above(threshold)


def painted(*squares: tuple[int, int, int]) -> np.ndarray:
    pixels = np.zeros((60, 80), np.uint8)
    for left, top, value in squares:
        pixels[top : top + 10, left : left + 10] = value
    return pixels


def test_classes_are_found_by_name_and_others_do_not_count(tmp_path: Path) -> None:
    detector = Painted({0: "dog", 1: "Pedestrian", 2: "car"})
    # a pedestrian, a car, a dog, a pedestrian
    picture = painted((5, 5, 250), (30, 5, 251), (5, 30, 252), (30, 30, 100))
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
        for one, other in zip(mine, theirs, strict=True):
            assert np.array_equal(one, other) and one.dtype == other.dtype
    written = json.loads((tmp_path / "x.json").read_text())
    assert written["input"] == "visible" and written["numbers"] == numbers and written["sources"] == ["a/b"]
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


def test_at_most_a_hundred_detections_of_a_picture_count() -> None:
    picture = np.arange(1, 151, dtype=np.uint8).reshape(10, 15)
    result = evaluate_detector(Painted({0: "car"}), [("a", picture, np.zeros((0, 4)), np.zeros(0))], ("car",))
    assert len(result.found[0][2]) == 100 and result.found[0][2].min() == np.float32(51 / 255)


def test_wrong_classes_and_boxes_are_errors() -> None:
    detector = Painted({0: "dog", 1: "person"})
    with pytest.raises(ValueError, match=r"no class for 'car': leave it out, or map .*\(dog, person\)"):
        evaluate_detector(detector, [], ("person", "car"))
    outside = [("x", painted(), np.array([[0, 0, 90, 10]]), np.array([0]))]
    with pytest.raises(ValueError, match="x: a box lies outside the image of 80 x 60"):
        evaluate_detector(detector, outside, ("person",))


# --- intervals -------------------------------------------------------------------------------------------------------


def accuracy_result(rng: np.random.Generator, pictures: int, mean: float = 0.7) -> SegmentationResult:
    """Pictures of 100 pixels; how many are correct varies from picture to picture."""
    right = rng.binomial(100, rng.beta(7 * mean / 0.7, 7 * (1 - mean) / 0.7, size=pictures))
    matrices = np.zeros((pictures, 2, 2), np.int64)
    matrices[:, 0, 0], matrices[:, 0, 1] = right, 100 - right
    return segmentation(matrices)


def test_the_bootstrap_agrees_with_the_theory_of_means_and_covers() -> None:
    rng = np.random.default_rng(1)
    result = accuracy_result(rng, 200)
    interval = bootstrap(result, "pixel_accuracy", resamples=4000)
    shares = result.confusions[:, 0, 0] / 100
    error = shares.std() / math.sqrt(len(shares))
    assert interval.mean == pytest.approx(shares.mean())
    assert interval.low == pytest.approx(shares.mean() - 1.96 * error, abs=0.2 * error)
    assert interval.high == pytest.approx(shares.mean() + 1.96 * error, abs=0.2 * error)
    assert bootstrap([result], "pixel_accuracy", resamples=4000) == interval, "seeded"
    assert bootstrap(result, "pixel_accuracy", resamples=4000, seed=1) != interval
    inside = [bootstrap(accuracy_result(rng, 60), "pixel_accuracy", resamples=300) for _ in range(150)]
    assert 0.87 < np.mean([one.low <= 0.7 <= one.high for one in inside]) <= 1


def test_intervals_of_detection_are_around_the_value_and_cover_it() -> None:
    result = random_result(5, pictures=40)
    for statistic in ("mAP", "mAP50", "recall", "AP50/car", "recall@0.3/person"):
        interval = bootstrap(result, statistic, resamples=300)
        assert interval.mean == pytest.approx(result.numbers()[statistic])
        assert interval.low < interval.mean < interval.high
    whole = random_result(6, pictures=400)
    value = whole.numbers()["recall@0.3"]
    inside = 0
    for trial in range(20):
        part = np.random.default_rng(trial).choice(400, 40, replace=False).tolist()
        interval = bootstrap(whole.at(part), "recall@0.3", seed=trial, resamples=200)
        inside += interval.low <= value <= interval.high
    assert inside >= 16  # of 20; 19 are expected


def test_paired_differences_are_narrower_than_the_intervals_of_both() -> None:
    rng = np.random.default_rng(2)
    first = accuracy_result(rng, 40, 0.6)
    gain = rng.binomial(first.confusions[:, 0, 1], 0.2)  # the second run gets a fifth of the errors right
    second = segmentation(first.confusions + np.array([[[1, -1], [0, 0]]]) * gain[:, None, None])
    found = random_result(7, pictures=60)
    for one, other, name in ((first, second, "pixel_accuracy"), (thinned(found, 0.9), found, "recall")):
        difference = bootstrap_difference(one, other, name)
        assert difference.mean == pytest.approx(other.numbers()[name] - one.numbers()[name])
        assert 0 < difference.low < difference.mean < difference.high
        alone = bootstrap(one, name)
        assert difference.high - difference.low < 0.7 * (alone.high - alone.low)
        same = bootstrap_difference(one, one)
        assert (same.mean, same.low, same.high) == (0, 0, 0)
    for others in (random_result(8, pictures=60), first):
        with pytest.raises(ValueError, match="compare runs on the same dataset"):
            bootstrap_difference(found, others)


def test_runs_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    one, other, found = accuracy_result(rng, 50), accuracy_result(rng, 50, 0.5), random_result(9, pictures=40)
    for first, second, name in ((one, other, "pixel_accuracy"), (found, thinned(found, 0.3), "recall")):
        alone, same, both = (bootstrap(runs, name) for runs in (first, [first, first], [first, second]))
        assert (same.low, same.high) == pytest.approx((alone.low, alone.high))
        assert both.mean == pytest.approx((first.numbers()[name] + second.numbers()[name]) / 2)
        assert both.high - both.low > 1.5 * (alone.high - alone.low)


def test_a_difference_of_several_runs_resamples_their_runs_too() -> None:
    rng = np.random.default_rng(4)
    first, second = (accuracy_result(rng, 50, skill) for skill in (0.7, 0.8))
    alone = bootstrap_difference(first, second, "pixel_accuracy")
    twice = bootstrap_difference([first, first], [second] * 3, "pixel_accuracy")
    assert dataclasses.astuple(twice) == pytest.approx(dataclasses.astuple(alone))
    wide = bootstrap_difference(first, [second, accuracy_result(rng, 50, 0.5)], "pixel_accuracy")
    assert wide.high - wide.low > 2 * (alone.high - alone.low)


@pytest.mark.parametrize(("name", "runs"), [("AP50/lorry", 1), ("mIoU", 1), ("mAP", 0)])
def test_unknown_scores_and_no_results_are_errors(name: str, runs: int) -> None:
    with pytest.raises(ValueError, match="is not a score: use one of mAP, mAP50" if runs else "there is no result"):
        bootstrap([random_result(0)] * runs, name)


def test_student_intervals_are_those_of_scipy() -> None:
    for values in ([0.4, 0.5], [0.31, 0.35, 0.33], list(np.random.default_rng(0).random(12))):
        interval = over_seeds(values)
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (interval.mean, interval.low, interval.high) == pytest.approx((np.mean(values), low, high), rel=1e-4)
    assert over_seeds([0.4]).mean == 0.4 and math.isnan(over_seeds([0.4]).low)
    assert over_seeds([0.4]).percent == "40.0" and over_seeds([0.4, 0.4]).percent == "40.0 [40.0, 40.0]"


def test_the_difference_over_seeds_is_that_of_an_equal_variance_t_test() -> None:
    first, second, third = (0.31, 0.35), (0.41, 0.42, 0.46), (0.2, 0.28)
    found = difference_over_seeds(first, second)
    expected = stats.ttest_ind(second, first).confidence_interval()
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, expected.low, expected.high), abs=1e-6)
    # With a third input the scatter is known from four degrees of freedom in place of three.
    deviation = math.sqrt(sum((len(g) - 1) * np.var(g, ddof=1) for g in (first, second, third)) / 4)
    half = stats.t.ppf(0.975, 4) * deviation * math.sqrt(1 / 2 + 1 / 3)
    pooled = difference_over_seeds(first, second, [third, (0.5,), ()])
    assert (pooled.low, pooled.high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-6)
    alone = difference_over_seeds((0.3,), (0.4,))
    assert alone.mean == pytest.approx(0.1) and math.isnan(alone.low) and math.isnan(alone.high)
