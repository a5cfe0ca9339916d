"""How well `fusion_hub.rigs.align` finds the homography between two cameras.

    python benchmarks/alignment.py --data ../shared/data
    python benchmarks/alignment.py --part generated --rigs 60 --seed 1

Parts:

- landmarks: real pairs that are not registered, with points marked by hand.
- camera: pictures of one camera, the second warped and changed in contrast, blurred or noisy.
- generated: rigs made from registered pairs by a random crop, size, rotation and perspective of the infrared picture,
  with the ratio of the fields of view known to 10 % and unknown. A place is right if its corners lie within 10 pixels
  of those that the refinement reaches from the true homography, or exceed its error by less than 10 pixels.
- frames: 20 frames of one rig against single frames.
- refused: frames that must not be aligned.

All errors are of the corners of the infrared picture (of the marked points in the first part), in pixels of a visible
picture 640 pixels wide. Seconds are processor seconds of one thread.
"""

import csv
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import common
import cv2
import numpy as np
from numpy.typing import NDArray

from fusion_hub.evaluation.report import markdown_table
from fusion_hub.rigs import Alignment, align
from fusion_hub.rigs.features import Matrix, corners, transform, warp

Picture = NDArray[np.float32]
DATASETS = ("msrs", "llvip", "m3fd", "roadscene", "tno", "fmb", "m3svd_video")


@dataclass(frozen=True)
class Rig:
    """A visible and an infrared picture with the homography infrared -> visible that made them."""

    name: str
    visible: Picture
    infrared: Picture
    truth: Matrix
    fov_ratio: float


def read(path: Path) -> Picture:
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise SystemExit(f"{path} cannot be read")
    return np.asarray(picture, np.float32) / np.float32(255)


def registered_pairs(data: Path) -> dict[str, list[list[tuple[str, Path, Path]]]]:
    """Name, visible and infrared file of the registered pairs, by data set and split or clip."""
    pairs: dict[str, dict[str, list[tuple[str, Path, Path]]]] = {name: {} for name in DATASETS}
    with (data / "index.csv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["dataset"] in pairs and row["split"] != "raw":
                name = f"{row['dataset']}/{row['split']}/{row['name']}"
                split = pairs[row["dataset"]].setdefault(row["split"], [])
                split.append((name, data / row["vis"], data / row["ir"]))
    return {name: list(splits.values()) for name, splits in pairs.items()}


def random_warp(
    random: np.random.Generator, size: tuple[int, int], view: tuple[float, float] = (0.45, 0.9)
) -> tuple[Matrix, tuple[int, int], float]:
    """Homography of a smaller picture -> a picture of `size` (H, W), the size of the smaller one, the share of width.

    A window of 45 to 90 % of the width, anywhere inside, turned by up to 5 degrees, with mild perspective, resized to
    a width of 160 to 640 pixels.
    """
    height, width = size
    share = random.uniform(*view)
    window = np.array([width * share, min(height * share * random.uniform(0.9, 1.1), height)])
    angle = np.deg2rad(random.uniform(-5, 5))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    box = (np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * window / 2) @ turn.T
    box = box + random.uniform(-0.01, 0.01, (4, 2)) * window
    low, high = -box.min(0), np.array([width - 1, height - 1]) - box.max(0)
    center = np.where(low < high, random.uniform(np.minimum(low, high), np.maximum(low, high)), (low + high) / 2)
    columns = int(random.integers(160, 641))
    small = (max(8, round(columns * window[1] / window[0])), columns)
    target = (box + center).astype(np.float32)
    truth = np.asarray(cv2.getPerspectiveTransform(corners(small).astype(np.float32), target), np.float64)
    return truth, small, share


def generated_rigs(data: Path, count: int, seed: int = 0) -> Iterator[Rig]:
    """Rigs from registered pairs of all data sets in turn."""
    pairs = registered_pairs(data)
    random = np.random.default_rng(seed)
    for number in range(count):
        splits = pairs[DATASETS[number % len(DATASETS)]]
        choices = splits[random.integers(len(splits))]
        name, visible_file, infrared_file = choices[random.integers(len(choices))]
        visible, infrared = read(visible_file), read(infrared_file)
        if infrared.shape != visible.shape:
            infrared = np.asarray(cv2.resize(infrared, visible.shape[::-1]), np.float32)
        truth, small, share = random_warp(random, visible.shape)
        yield Rig(name, visible, warp(infrared, np.linalg.inv(truth), small), truth, share)


def corner_error(homography: Matrix, truth: Matrix, rig: Rig) -> float:
    """Largest error of the corners of the infrared picture, in pixels of a visible picture 640 pixels wide."""
    points = corners(rig.infrared.shape)
    moved = transform(points, homography) - transform(points, truth)
    return float(np.linalg.norm(moved, axis=1).max() * 640 / rig.visible.shape[1])


def timed(frames: Sequence[tuple[Picture, Picture]], **options: float | Matrix) -> tuple[Alignment, float]:
    begin = time.process_time()
    return align(frames, **options), time.process_time() - begin  # type: ignore[arg-type]


def landmarks(data: Path) -> None:
    rows, seconds = [], []
    for file in sorted((data / "rigs" / "landmarks").glob("*.json")):
        points = json.loads(file.read_text(encoding="utf-8"))
        visible, infrared = (read(file.with_name(points[name])) for name in ("fixed", "moving"))
        found, spent = timed([(visible, infrared)])
        moved = transform(np.array(points["landmarks_moving"]), found.homography)
        distances = np.linalg.norm(moved - np.array(points["landmarks_fixed"]), axis=1) * 640 / visible.shape[1]
        height, width = visible.shape
        rows.append([file.stem, f"{width}x{height}", np.median(distances), found.agreement, found.sure, spent])
        seconds.append(spent)
    print(
        markdown_table(
            ["pair", "size", "median error", "halves", "sure", "s"], [[shown(v) for v in row] for row in rows]
        )
    )
    print(f"median {np.median([row[2] for row in rows]):.2f}, largest {max(row[2] for row in rows):.2f}\n")


CHANGES = ("none", "blur", "noise", "gamma", "inverted", "channel")


def changed(picture: NDArray[np.uint8], change: str, random: np.random.Generator) -> Picture:
    """A color picture (BGR) as luminance, changed as another channel of the same camera might differ."""
    gray = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY), np.float32) / np.float32(255)
    if change == "blur":
        return np.asarray(cv2.GaussianBlur(gray, (0, 0), 1.5), np.float32)
    if change == "noise":
        return np.clip(gray + random.normal(0, 0.03, gray.shape), 0, 1, dtype=np.float32, casting="unsafe")
    if change == "gamma":
        return np.asarray(gray**2.2, np.float32)
    if change == "inverted":
        return 1 - gray
    return np.asarray(picture[..., 1], np.float32) / np.float32(255) if change == "channel" else gray


def one_camera(data: Path, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    pictures = [visible for splits in registered_pairs(data).values() for split in splits for _, visible, _ in split]
    errors: dict[str, list[float]] = {change: [] for change in CHANGES}
    seconds = []
    for number in range(count):
        change = CHANGES[number % len(CHANGES)]
        picture = np.asarray(cv2.imread(str(pictures[random.integers(len(pictures))])), np.uint8)
        height, width = picture.shape[:2]
        scale, angle = np.exp(random.uniform(np.log(0.8), np.log(1.25))), np.deg2rad(random.uniform(-8, 8))
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        center = np.array([width - 1, height - 1]) / 2
        unit = width / 640
        target = (corners((height, width)) - center) @ turn.T + center + random.uniform(-40, 40, 2) * unit
        target = target + random.uniform(-4, 4, (4, 2)) * unit
        truth = cv2.getPerspectiveTransform(corners((height, width)).astype(np.float32), target.astype(np.float32))
        second = warp(changed(picture, change, random), np.linalg.inv(truth), (height, width))
        outside = cv2.warpPerspective(np.ones((height, width), np.uint8), np.linalg.inv(truth), (width, height))
        rig = Rig("", changed(picture, "none", random), second * outside, np.asarray(truth), scale)
        found, spent = timed([(rig.visible, rig.infrared)])
        errors[change].append(corner_error(found.homography, rig.truth, rig))
        seconds.append(spent)
    rows = [[change, len(e), np.median(e), max(e), sum(x > 0.2 for x in e)] for change, e in errors.items()]
    print(
        markdown_table(
            ["second picture", "pairs", "median", "largest", "above 0.2"], [[shown(v) for v in r] for r in rows]
        )
    )
    print(f"{np.mean(seconds):.2f} s a pair\n")


def generated(data: Path, count: int, seed: int) -> None:
    random = np.random.default_rng(seed + 1000)
    outcomes: dict[str, list[tuple[bool, bool, float]]] = {"known to 10 %": [], "unknown": []}
    for rig in generated_rigs(data, count, seed):
        frames = [(rig.visible, rig.infrared)]
        best = align(frames, start=rig.truth).homography
        for name, outcome in outcomes.items():
            ratio = rig.fov_ratio * random.uniform(0.9, 1.1)
            found, spent = timed(frames, **({"fov_ratio": ratio} if name != "unknown" else {}))
            excess = corner_error(found.homography, rig.truth, rig) - corner_error(best, rig.truth, rig)
            right = min(excess, corner_error(found.homography, best, rig)) < 10
            outcome.append((right, found.sure, spent))
            if right != found.sure:
                state = "right, refused" if right else ("wrong, SURE" if found.sure else "wrong, refused")
                print(
                    f"  {rig.name} ({name}): {state}, lead {found.lead:.1f}, margin {found.margin:.1f}, "
                    f"halves {found.agreement:.1f}, score {found.score:.2f}",
                    flush=True,
                )
    rows = []
    for name, outcome in outcomes.items():
        right_ones = [sure for right, sure, _ in outcome if right]
        wrong_ones = [sure for right, sure, _ in outcome if not right]
        seconds = float(np.mean([spent for *_, spent in outcome]))
        share = f"{len(right_ones)} of {count} ({len(right_ones) / count:.0%})"
        rows.append(
            [
                name,
                share,
                str(right_ones.count(False)),
                f"{wrong_ones.count(False)} of {len(wrong_ones)}",
                shown(seconds),
            ]
        )
    print(markdown_table(["field of view", "right", "right, but refused", "wrong and refused", "s"], rows), "\n")


def clips(data: Path) -> dict[str, list[tuple[str, Path, Path]]]:
    """Registered sets whose pairs are frames of one camera."""
    found = registered_pairs(data)
    msrs = [pair for split in found["msrs"] for pair in split]
    night = [pair for pair in msrs if pair[0].endswith("N")]
    return {"m3svd 0111_1716": found["m3svd_video"][0], "msrs night": night}


def rig_of_frames(
    pairs: Sequence[tuple[str, Path, Path]], chosen: Sequence[int], random: np.random.Generator
) -> list[Rig]:
    """Frames of one rig: the infrared pictures of several pairs after one random warp."""
    rigs: list[Rig] = []
    for number in chosen:
        name, visible_file, infrared_file = pairs[number]
        visible, infrared = read(visible_file), read(infrared_file)
        if not rigs:
            truth, small, share = random_warp(random, visible.shape)
        rigs.append(Rig(name, visible, warp(infrared, np.linalg.inv(truth), small), truth, share))
    return rigs


def many_frames(data: Path, draws: int, seed: int) -> None:
    rows = []
    for name, pairs in clips(data).items():
        random = np.random.default_rng(seed)
        errors: dict[int, list[float]] = {1: [], 20: []}
        seconds, sure = [], 0
        for _ in range(draws):
            rigs = rig_of_frames(pairs, random.permutation(len(pairs))[:20].tolist(), random)
            frames = [(rig.visible, rig.infrared) for rig in rigs]
            errors[1].append(corner_error(align(frames[:1]).homography, rigs[0].truth, rigs[0]))
            found, spent = timed(frames)
            errors[20].append(corner_error(found.homography, rigs[0].truth, rigs[0]))
            seconds.append(spent)
            sure += found.sure
        for count, values in errors.items():
            last = [sure, shown(float(np.mean(seconds)))] if count > 1 else ["", ""]
            rows.append([name, count, shown(float(np.median(values))), shown(max(values)), *last])
    print(markdown_table(["rig", "frames", "median", f"largest of {draws}", "sure", "s"], rows), "\n")


def refused(data: Path, count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rigs = list(generated_rigs(data, count, seed))
    noise = [random.normal(0.5, 0.2, rig.infrared.shape).astype(np.float32).clip(0, 1) for rig in rigs]
    cases: dict[str, list[tuple[list[tuple[Picture, Picture]], Matrix | None]]] = {
        "two scenes": [([(rig.visible, other.infrared)], None) for rig, other in pairwise(rigs)],
        "constant infrared": [([(rig.visible, np.full_like(rig.infrared, 0.5))], None) for rig in rigs[:3]],
        "infrared without features": [([(rig.visible, ramp(rig.infrared.shape))], None) for rig in rigs[:3]],
        "noise for infrared": [([(rig.visible, one)], None) for rig, one in zip(rigs, noise, strict=True)],
        "wrong start": [([(rig.visible, rig.infrared)], wrong_start(rig, random)) for rig in rigs],
        "camera that moves": [(moving_rig(data, random), None) for _ in range(max(2, count // 3))],
    }
    rows = []
    for name, tries in cases.items():
        results = [align(frames, start=start) for frames, start in tries]
        reasons = sorted({result.why for result in results if result.why}, key=len)
        rows.append(
            [name, f"{sum(not result.sure for result in results)} of {len(tries)}", reasons[0] if reasons else ""]
        )
    print(markdown_table(["frames", "refused", "for example"], rows), "\n")


def ramp(size: tuple[int, int]) -> Picture:
    rows, columns = np.indices(size)
    return ((rows + columns) / sum(size)).astype(np.float32)


def wrong_start(rig: Rig, random: np.random.Generator) -> Matrix:
    """The true homography, scaled by 1.4 or its inverse and shifted by a quarter of the width."""
    scale = 1.4 ** random.choice([-1, 1])
    shift = random.choice([-0.25, 0.25], 2) * rig.visible.shape[1]
    return np.array([[scale, 0, shift[0]], [0, scale, shift[1]], [0, 0, 1]]) @ rig.truth


def moving_rig(data: Path, random: np.random.Generator) -> list[tuple[Picture, Picture]]:
    """Ten frames, each with a warp of its own."""
    pairs = next(iter(clips(data).values()))
    chosen = random.permutation(len(pairs))[:10].tolist()
    frames = []
    for number in chosen:
        rig = rig_of_frames(pairs, [number], random)[0]
        frames.append((rig.visible, np.asarray(cv2.resize(rig.infrared, (320, 256)), np.float32)))
    return frames


def shown(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = common.new_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--part", choices=["landmarks", "camera", "generated", "frames", "refused"], action="append")
    parser.add_argument("--rigs", type=int, default=60, help="of the generated part; others take a share of it")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    parts = arguments.part or ["landmarks", "camera", "generated", "frames", "refused"]
    if "landmarks" in parts:
        landmarks(arguments.data)
    if "camera" in parts:
        one_camera(arguments.data, arguments.rigs, arguments.seed)
    if "generated" in parts:
        generated(arguments.data, arguments.rigs, arguments.seed)
    if "frames" in parts:
        many_frames(arguments.data, max(1, arguments.rigs // 6), arguments.seed)
    if "refused" in parts:
        refused(arguments.data, max(4, arguments.rigs // 6), arguments.seed)


if __name__ == "__main__":
    main()
