"""Scores of segmentation against their definitions, and their intervals against what they promise."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fusion_hub.downstream.protocols import Segmentation
from fusion_hub.downstream.segmentation_scores import (
    SegmentationResult,
    bootstrap,
    bootstrap_difference,
    class_iou,
    confusion_matrix,
    evaluate_segmenter,
    mean_iou,
    pixel_accuracy,
)
from fusion_hub.evaluation.statistics import difference_over_seeds, over_seeds

CLASSES = 5


def random_maps(seed: int, shape: tuple[int, ...] = (3, 13, 17), agree: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = rng.integers(CLASSES, size=shape).astype(np.uint8)
    guess = np.where(rng.random(shape) < agree, label, rng.integers(CLASSES, size=shape))
    label[rng.random(shape) < 0.1] = 255
    return label, guess


def iou_by_sets(label: np.ndarray, guess: np.ndarray, index: int) -> float:
    """Intersection over union of two sets of pixels, as the words say."""
    pixels = [place for place in np.ndindex(label.shape) if label[place] != 255]
    truth = {place for place in pixels if label[place] == index}
    found = {place for place in pixels if guess[place] == index}
    return len(truth & found) / len(truth | found) if truth | found else math.nan


# --- definitions -----------------------------------------------------------------------------------------------------


def test_iou_is_intersection_over_union_of_the_whole_set() -> None:
    label, guess = random_maps(0)
    total = sum(confusion_matrix(one, other, CLASSES) for one, other in zip(label, guess, strict=True))
    assert np.array_equal(total, confusion_matrix(label, guess, CLASSES))
    assert total.sum() == (label != 255).sum()
    expected = [iou_by_sets(label, guess, index) for index in range(CLASSES)]
    assert class_iou(total) == pytest.approx(expected)
    assert mean_iou(total) == pytest.approx(np.mean(expected))
    assert mean_iou(total, background=False) == pytest.approx(np.mean(expected[1:]))
    counted = label != 255
    assert pixel_accuracy(total) == pytest.approx((label == guess)[counted].mean())
    # The mean over pictures is another number.
    assert mean_iou(total) != pytest.approx(
        np.mean([mean_iou(confusion_matrix(*pair, CLASSES)) for pair in zip(label, guess, strict=True)]), rel=1e-6
    )


def test_rows_are_labels_and_columns_predictions() -> None:
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 3)
    assert confusion.tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]


def test_a_class_that_never_occurs_is_undefined_and_one_that_is_only_predicted_is_zero() -> None:
    confusion = confusion_matrix(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2]), 4)
    iou = class_iou(confusion)
    assert iou[:3].tolist() == [1, 0.5, 0] and math.isnan(iou[3])
    assert mean_iou(confusion) == pytest.approx(0.5)
    assert mean_iou(confusion, background=False) == pytest.approx(0.25)
    nothing = np.zeros((4, 4), np.int64)
    assert math.isnan(mean_iou(nothing)) and math.isnan(pixel_accuracy(nothing))


def test_many_matrices_at_once_are_each_alone() -> None:
    stack = np.stack([confusion_matrix(*random_maps(seed), CLASSES) for seed in range(6)]).reshape(2, 3, 5, 5)
    for statistic in (mean_iou, pixel_accuracy):
        together = statistic(stack)
        assert together.shape == (2, 3)
        assert together[1, 2] == statistic(stack[1, 2])


@pytest.mark.parametrize(
    ("label", "guess", "message"),
    [
        ([0, 1], [0], r"\(2,\) and the predictions \(1,\)"),
        ([0, 9], [0, 0], "labels range from 0 to 9"),
        ([0, 0], [0, 9], "predictions range from 0 to 9"),
        ([0, 0], [-1, 0], "predictions range from -1 to 0"),
    ],
)
def test_wrong_maps_are_errors(label: list[int], guess: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        confusion_matrix(np.array(label), np.array(guess), 3)


# --- intervals -------------------------------------------------------------------------------------------------------


def test_student_interval_is_that_of_scipy() -> None:
    for values in ([0.4, 0.5], [0.31, 0.35, 0.33], list(np.random.default_rng(0).random(12))):
        interval = over_seeds(values)
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert (interval.mean, interval.low, interval.high) == pytest.approx((np.mean(values), low, high), rel=1e-4)
    assert over_seeds([0.4]).mean == 0.4 and math.isnan(over_seeds([0.4]).low)
    assert over_seeds([0.4]).percent == "40.0" and over_seeds([0.4, 0.4]).percent == "40.0 [40.0, 40.0]"


def accuracy_matrices(rng: np.random.Generator, pictures: int, mean: float = 0.7) -> np.ndarray:
    """Pictures of 100 pixels; how many are right varies from picture to picture."""
    right = rng.binomial(100, rng.beta(7 * mean / 0.7, 7 * (1 - mean) / 0.7, size=pictures))
    matrices = np.zeros((pictures, 2, 2), np.int64)
    matrices[:, 0, 0], matrices[:, 0, 1] = right, 100 - right
    return matrices


def test_bootstrap_agrees_with_the_theory_of_means_and_covers() -> None:
    rng = np.random.default_rng(1)
    matrices = accuracy_matrices(rng, 200)
    interval = bootstrap(matrices, pixel_accuracy, resamples=4000)
    shares = matrices[:, 0, 0] / 100
    error = shares.std() / math.sqrt(len(shares))
    assert interval.mean == pytest.approx(shares.mean())
    assert interval.low == pytest.approx(shares.mean() - 1.96 * error, abs=0.2 * error)
    assert interval.high == pytest.approx(shares.mean() + 1.96 * error, abs=0.2 * error)
    assert bootstrap(matrices, pixel_accuracy, resamples=4000) == interval, "seeded"

    inside = [bootstrap(accuracy_matrices(rng, 60), pixel_accuracy, resamples=300) for _ in range(150)]
    covered = np.mean([one.low <= 0.7 <= one.high for one in inside])
    assert 0.87 < covered <= 1


def test_paired_differences_are_narrower_than_the_intervals_of_both() -> None:
    rng = np.random.default_rng(2)
    first = accuracy_matrices(rng, 40, 0.6)
    gain = rng.binomial(first[:, 0, 1], 0.2)  # the second run gets a fifth of the errors right
    second = first.copy()
    second[:, 0, 0] += gain
    second[:, 0, 1] -= gain
    difference = bootstrap_difference(first, second, pixel_accuracy)
    assert difference.mean == pytest.approx(pixel_accuracy(second.sum(0)) - pixel_accuracy(first.sum(0)))
    assert 0 < difference.low < difference.mean < difference.high
    alone = bootstrap(first, pixel_accuracy)
    assert difference.high - difference.low < 0.7 * (alone.high - alone.low)
    with pytest.raises(ValueError, match="on the same images"):
        bootstrap_difference(first, second[:-1])


def test_runs_that_differ_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    one = accuracy_matrices(rng, 50)
    same = bootstrap(np.stack([one, one]), pixel_accuracy)
    alone = bootstrap(one, pixel_accuracy)
    assert (same.low, same.high) == pytest.approx((alone.low, alone.high), abs=0.002)
    other = bootstrap(np.stack([one, accuracy_matrices(rng, 50, 0.5)]), pixel_accuracy)
    assert other.high - other.low > 1.5 * (same.high - same.low)
    with pytest.raises(ValueError, match=r"give \(\[runs,\] images, classes, classes\)"):
        bootstrap(one[0])


def test_a_difference_of_several_runs_draws_their_runs_too() -> None:
    rng = np.random.default_rng(4)
    first, second = (accuracy_matrices(rng, 50, agree) for agree in (0.7, 0.8))
    alone = bootstrap_difference(first, second, pixel_accuracy)
    twice = bootstrap_difference(np.stack([first, first]), np.stack([second] * 3), pixel_accuracy)
    assert dataclasses.astuple(twice) == pytest.approx(dataclasses.astuple(alone))
    scattered = np.stack([second, accuracy_matrices(rng, 50, 0.5)])
    wide = bootstrap_difference(first, scattered, pixel_accuracy)
    assert wide.mean == pytest.approx(pixel_accuracy(scattered.sum(1)).mean() - pixel_accuracy(first.sum(0)))
    assert wide.high - wide.low > 2 * (alone.high - alone.low)


def test_the_difference_over_seeds_is_that_of_an_equal_variance_t_test() -> None:
    first, second, third = (0.31, 0.35), (0.41, 0.42, 0.46), (0.2, 0.28)
    found = difference_over_seeds(first, second)
    expected = stats.ttest_ind(second, first).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert found.mean == pytest.approx(0.1)
    # With a third input the scatter is known from four degrees of freedom in place of three.
    deviation = math.sqrt(sum((len(g) - 1) * np.var(g, ddof=1) for g in (first, second, third)) / 4)
    half = stats.t.ppf(0.975, 4) * deviation * math.sqrt(1 / 2 + 1 / 3)
    pooled = difference_over_seeds(first, second, [third, (0.5,), ()])
    assert (pooled.low, pooled.high) == pytest.approx((0.1 - half, 0.1 + half), abs=1e-6)
    alone = difference_over_seeds((0.3,), (0.4,))
    assert alone.mean == pytest.approx(0.1) and math.isnan(alone.low) and math.isnan(alone.high)


# --- a segmenter on a set --------------------------------------------------------------------------------------------


class Threshold:
    """Bright pixels are cars."""

    names: Mapping[int, str] = {0: "unlabelled", 1: "car", 2: "person"}
    palette: Mapping[int, tuple[int, int, int]] = {0: (0, 0, 0), 1: (1, 1, 1), 2: (2, 2, 2)}

    def segment(self, image: np.ndarray) -> Segmentation:
        return Segmentation((image[..., 0] > 127).astype(np.int64), self.names, self.palette)


def test_a_segmenter_is_measured_on_a_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    samples = []
    for name in ("001D", "002N", "003N"):
        picture = rng.integers(256, size=(6, 8, 3)).astype(np.uint8)
        samples.append((name, picture, (picture[..., 0] > 100).astype(np.uint8)))
    result = evaluate_segmenter(Threshold(), samples)
    assert result.classes == ("unlabelled", "car", "person") and result.pictures == ("001D", "002N", "003N")
    label = np.stack([sample[2] for sample in samples])
    guess = np.stack([sample[1][..., 0] > 127 for sample in samples]).astype(int)
    numbers = result.numbers()
    assert numbers["IoU/car"] == pytest.approx(iou_by_sets(label, guess, 1))
    assert "IoU/person" not in numbers, "undefined, and NaN is no JSON"
    night = result.take(lambda name: name.endswith("N"))
    assert night.pictures == ("002N", "003N") and np.array_equal(night.total, result.confusions[1:].sum(0))

    result.save(tmp_path / "evaluation.json", input="visible")
    again = SegmentationResult.load(tmp_path / "evaluation.json")
    assert again.pictures == result.pictures and np.array_equal(again.confusions, result.confusions)
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    with pytest.raises(ValueError, match="001D: the labels range from 7 to 7"):
        evaluate_segmenter(Threshold(), [("001D", samples[0][1], np.full((6, 8), 7))])
