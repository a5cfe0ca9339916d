"""The table of what a detector finds in three pictures: its counts and sums."""

import night_pairs
import numpy as np

from fusion_hub.downstream import Detections, compare

NAMES = {0: "person", 1: "car"}
LEFT, RIGHT = (10, 10, 30, 40), (50, 10, 70, 40)


def found(*objects: tuple[tuple[int, int, int, int], int, float]) -> Detections:
    boxes = np.array([box for box, _, _ in objects], dtype=np.float32).reshape(-1, 4)
    kinds, scores = [kind for _, kind, _ in objects], [score for _, _, score in objects]
    return Detections(boxes, np.array(scores, dtype=np.float32), np.array(kinds, dtype=np.int64), NAMES, (60, 80))


def test_each_pair_has_a_line_and_all_together() -> None:
    person, faint, car = (LEFT, 0, 0.8), (RIGHT, 1, 0.2), (RIGHT, 1, 0.6)
    first = compare(fused=found(person, car), visible=found(faint), infrared=found(person))
    second = compare(fused=found(), visible=found(), infrared=found(person))
    lines = night_pairs.table([("1N", first), ("2N", second)]).splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["pair", "visible", "infrared", "fused", "only fused", "lost"]
    assert cells[2] == ["1N", "-", "person 1", "car 1, person 1", "car 1 (1)", "-"]
    assert cells[3] == ["2N", "-", "person 1", "-", "-", "person 1"]
    assert cells[4] == ["all", "-", "person 2", "car 1, person 1", "car 1 (1)", "person 1"]
