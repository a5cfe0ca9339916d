"""How well `fusion_hub.rigs.align` finds the homography between two cameras."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fusion_hub.rigs.features import corners, transform, warp

Picture = NDArray[np.float32]
DATASETS = ("msrs", "llvip", "m3fd", "roadscene", "tno", "fmb", "m3svd_video")


@dataclass(frozen=True)
class Rig:
    """A visible and an infrared picture with the homography infrared -> visible that made them."""

    name: str
    visible: Picture
    infrared: Picture
    truth: NDArray[np.float64]
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
) -> tuple[NDArray[np.float64], tuple[int, int], float]:
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


def corner_error(homography: NDArray[np.float64], truth: NDArray[np.float64], rig: Rig) -> float:
    """Largest error of the corners of the infrared picture, in pixels of a visible picture 640 pixels wide."""
    points = corners(rig.infrared.shape)
    moved = transform(points, homography) - transform(points, truth)
    return float(np.linalg.norm(moved, axis=1).max() * 640 / rig.visible.shape[1])
