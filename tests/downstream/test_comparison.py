"""What only the fused picture shows: cases by hand, and what must hold for any detections."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_hub.data.annotations import iou
from fusion_hub.downstream import Detections, compare
from fusion_hub.downstream.comparison import match

NAMES = {0: "person", 1: "bicycle", 2: "car"}
SIZE = (100, 200)


def found(*rows: tuple[float, int, tuple[float, float, float, float]]) -> Detections:
    """(score, class, box) of each."""
    scores, class_ids, boxes = zip(*rows, strict=True) if rows else ((), (), ())
    return Detections.of(np.array(boxes).reshape(-1, 4), np.array(scores), np.array(class_ids), NAMES, SIZE)


@st.composite
def any_detections(draw: st.DrawFn) -> Detections:
    rows = draw(st.lists(st.tuples(*(st.integers(0, largest) for largest in (10, 2, 5, 2, 9))), max_size=8))
    return found(*((s / 10, c, (20 * x + d, 20 * y, 20 * x + d + 18, 20 * y + 30)) for s, c, x, y, d in rows))


LEFT, MIDDLE, RIGHT = (10, 10, 30, 60), (80, 10, 100, 60), (150, 10, 190, 40)


def test_a_person_of_the_infrared_and_a_car_of_the_visible_are_nothing_new() -> None:
    comparison = compare(
        found((0.9, 0, LEFT), (0.8, 2, RIGHT)), visible=found((0.7, 2, RIGHT)), infrared=found((0.6, 0, LEFT))
    )
    assert comparison.only_fused == () and comparison.lost == {}
    assert "Nothing was found in the fused image alone" in comparison.sentence


def test_gained_and_lost_are_counted_by_class() -> None:
    comparison = compare(
        found((0.9, 0, LEFT), (0.8, 0, MIDDLE), (0.5, 2, MIDDLE)),
        visible=found((0.7, 2, RIGHT), (0.6, 0, LEFT)),
        infrared=found((0.7, 2, (151, 11, 190, 40)), (0.4, 1, LEFT)),
    )
    assert [comparison.fused.boxes[i].tolist() for i in comparison.only_fused] == [list(MIDDLE), list(MIDDLE)]
    assert comparison.lost == {"car": 1, "bicycle": 1}  # the car of both sources is one
    assert comparison.only_visible == () and comparison.only_infrared == (1,)
    assert comparison.counts == {
        "car": {"visible": 1, "infrared": 1, "fused": 1, "only fused": 1, "lost": 1},
        "person": {"visible": 1, "infrared": 0, "fused": 2, "only fused": 1, "lost": 0},
        "bicycle": {"visible": 0, "infrared": 1, "fused": 0, "only fused": 0, "lost": 1},
    }
    assert comparison.sentence.startswith("At a threshold of 0.30 the fused image shows person (2), car (1). ")
    assert "Found in neither source: person (1), car (1)." in comparison.sentence
    assert "Found in a source but not in the fused image: car (1), bicycle (1)." in comparison.sentence


def test_what_a_source_shows_faintly_is_said() -> None:
    fused = found((0.9, 0, LEFT), (0.8, 0, MIDDLE))
    comparison = compare(fused, visible=found((0.2, 0, LEFT)), infrared=found((0.25, 2, MIDDLE)))
    assert comparison.only_fused == (0, 1) and comparison.below_threshold == (0,)
    assert "A source shows 1 of these below the threshold" in comparison.sentence


def test_one_box_of_an_object_is_enough() -> None:
    # The infrared box is too far from the fused one, but the visible box between them belongs to both.
    fused, visible, infrared = ((0.9, 0, (x, 0, x + 40, 40)) for x in (0, 10, 20))
    comparison = compare(found(fused), found(visible), found(infrared))
    assert iou(comparison.fused.boxes, comparison.infrared.boxes)[0, 0] < 0.5
    assert comparison.only_fused == () and comparison.lost == {}
    # Two people are not matched with one.
    pair = found((0.9, 0, (10, 10, 30, 60)), (0.8, 0, (14, 10, 34, 60)))
    assert compare(pair, found((0.9, 0, (11, 10, 31, 60))), found()).only_fused == (1,)


@settings(max_examples=25)
@given(any_detections(), any_detections(), any_detections())
def test_every_detection_is_counted_once(fused: Detections, visible: Detections, infrared: Detections) -> None:
    comparison = compare(fused, visible, infrared, threshold=0.3)
    alone = set(comparison.only_fused)
    in_visible = match(comparison.fused, comparison.visible, 0.5)
    in_infrared = match(comparison.fused, comparison.infrared, 0.5)
    assert alone.isdisjoint(in_visible) and alone.isdisjoint(in_infrared)
    assert alone | in_visible.keys() | in_infrared.keys() == set(range(len(comparison.fused)))
    assert set(comparison.below_threshold) <= alone
    for pairs, source in ((in_visible, comparison.visible), (in_infrared, comparison.infrared)):
        assert len(set(pairs.values())) == len(pairs)
        for i, j in pairs.items():
            assert comparison.fused.class_ids[i] == source.class_ids[j]
            assert iou(comparison.fused.boxes[[i]], source.boxes[[j]])[0, 0] >= 0.5
    assert compare(fused, infrared, visible, threshold=0.3).only_fused == comparison.only_fused


@settings(max_examples=25)
@given(any_detections(), any_detections())
def test_a_copy_of_a_source_adds_and_loses_nothing_of_it(source: Detections, other: Detections) -> None:
    comparison = compare(source, source, other)
    assert comparison.only_fused == () and comparison.only_visible == ()
    nothing = compare(source.take(np.zeros(0, dtype=int)), source, source)
    assert nothing.lost == source.above(0.3).counts() and nothing.only_fused == ()


def test_pictures_of_different_size_and_wrong_thresholds_are_refused() -> None:
    other = Detections.of(np.zeros((0, 4)), np.zeros(0), np.zeros(0), NAMES, (50, 50))
    with pytest.raises(ValueError, match=r"differ in size"):
        compare(found(), found(), other)
    with pytest.raises(ValueError, match=r"threshold must be in 0\.\.1, got 2"):
        compare(found(), found(), found(), threshold=2)
    with pytest.raises(ValueError, match=r"iou_threshold must be in \(0, 1\], got 0"):
        compare(found(), found(), found(), iou_threshold=0)


def test_detections_are_clipped_sorted_and_filtered() -> None:
    detections = found((0.2, 0, LEFT), (0.9, 2, (-5, -5, 300, 20)), (0.5, 1, (250, 0, 260, 10)))
    assert [d.name for d in detections] == ["car", "person"]  # the bicycle lies outside
    assert next(iter(detections)).box == (0, 0, 200, 20)
    assert len(detections.above(0.2)) == 2 and detections.only(["person"]).counts() == {"person": 1}
    with pytest.raises(ValueError, match="does not know the class 'cat'"):
        detections.only(["cat"])
    with pytest.raises(ValueError, match="do not belong together"):
        Detections.of(np.zeros((2, 4)), np.zeros(1), np.zeros(2), NAMES, SIZE)
