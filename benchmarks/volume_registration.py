"""How well `fusion_hub.volumes.registration.register` finds a known motion of real stacks of slices.

    python benchmarks/volume_registration.py --data ../shared/data
    python benchmarks/volume_registration.py --starts 10 --turn 90 --shift 60    # are failures recognized?

The stacks are heads of the Whole Brain Atlas, MR fixed and the other modality moving. The files have no geometry:
pixels are taken to be 0.94 mm (PET: 1.0) and slices 6.5 mm apart (SPECT: 6.6, PET: 3.4), which gives heads of the
usual size. The moving stack is turned about each axis and shifted along it, each uniform up to the limits, and
resampled.

Two errors are given, both the mean over the voxels of the head. "motion" is from what the same stack's other motions
give in the median: repeatability, not accuracy. "atlas" is from the atlas's own alignment, which is itself
not exact. "MR, remapped" has a moving volume made from the MR itself, by a map of gray values that is not monotonic and
a blur of 3 mm: there the truth is exact, and "atlas" is the error. A result is wrong if "motion" is above 5 mm ("atlas"
where most motions fail, `--turn` above 30). Seconds are processor seconds of one thread.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import common
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from PIL import Image

from fusion_hub.evaluation.report import markdown_table
from fusion_hub.volumes.registration import register

SPACING = {"mri_ct": (0.94, 6.5), "mri_pet": (1.0, 1.7), "mri_spect": (0.94, 3.3)}  # mm: pixels, numbered slices
STACKS = ("mri_ct/34", "mri_ct/37", "mri_ct/41", "mri_pet/41", "mri_spect/10")  # not tuned on; all PET is one head
HIT, WRONG = 1.5, 5.0  # mm


@dataclass(frozen=True)
class Found:
    """One registration: head points taken to the moving volume and back by the true motion, and the verdict."""

    points: NDArray[np.float64]
    trustworthy: bool
    seconds: float


def read_stack(data: Path, stack: str) -> tuple[sitk.Image, sitk.Image]:
    """MR and the other modality; numbers without a slice are interpolated."""
    dataset, case = stack.split("/")
    pixel, step = SPACING[dataset]
    volumes = []
    for modality in ("mri", dataset.removeprefix("mri_")):
        folder = data / dataset / "train" / modality
        files = {int(f.stem[-3:]): f for f in folder.iterdir() if re.fullmatch(rf"{case}\d{{3}}", f.stem)}
        if not files:
            raise SystemExit(f"{folder} has no slices of case {case}")
        numbers = sorted(files)
        slices = np.stack([np.asarray(Image.open(files[n]).convert("L"), np.float32) for n in numbers])
        every = int(np.median(np.diff(numbers)))
        at = np.interp(np.arange(numbers[0], numbers[-1] + 1, every), numbers, np.arange(len(numbers)))
        below, part = np.minimum(at.astype(int), len(numbers) - 2), (at % 1)[:, None, None]
        part = np.where((at.astype(int) > below)[:, None, None], 1, part)
        image = sitk.GetImageFromArray(((1 - part) * slices[below] + part * slices[below + 1]).astype(np.float32))
        image.SetSpacing((pixel, pixel, step * every))
        volumes.append(image)
    return volumes[0], volumes[1]


def remapped(mr: sitk.Image) -> sitk.Image:
    """A second modality with exactly the anatomy of the first."""
    gray = sitk.GetArrayFromImage(mr) / 255
    image = sitk.GetImageFromArray((np.sin(np.pi * gray) * 200 + 20 * gray).astype(np.float32))
    image.CopyInformation(mr)
    return sitk.SmoothingRecursiveGaussian(image, 1.3)


def moved(image: sitk.Image, motion: sitk.Transform) -> sitk.Image:
    """The image after the motion, on a grid with room for it."""
    room = [8, 8, int(np.ceil(45 / image.GetSpacing()[2]))]
    return sitk.Resample(image, sitk.ConstantPad(image, room, room, 0.0), motion.GetInverse(), sitk.sitkLinear, 0.0)


def measure(fixed: sitk.Image, moving: sitk.Image, starts: int, shift: float, turn: float, seed: int) -> list[str]:
    """A row: share of hits, median and worst error, seconds, flags."""
    head = np.argwhere(sitk.GetArrayViewFromImage(fixed) > 25)[::997, ::-1] * fixed.GetSpacing() + fixed.GetOrigin()
    found = []
    for start in range(starts):
        random = np.random.default_rng((seed, start))
        angles, shifts = np.radians(random.uniform(-turn, turn, 3)), random.uniform(-shift, shift, 3)
        motion = sitk.Euler3DTransform(head.mean(0).tolist(), *angles, shifts.tolist())
        result, back = register(fixed, moved(moving, motion)), motion.GetInverse()
        there = [back.TransformPoint(result.transform.TransformPoint(point)) for point in head.tolist()]
        found.append(Found(np.array(there), result.trustworthy, result.seconds))
    center = np.median([f.points for f in found], axis=0)
    error, atlas = (
        np.array([np.linalg.norm(f.points - there, axis=1).mean() for f in found]) for there in (center, head)
    )
    wrong, flagged = (error if turn <= 30 else atlas) > WRONG, np.array([not f.trustworthy for f in found])
    return [
        str(starts),
        f"{(error <= HIT).mean():.0%}",
        f"{np.median(error):.1f} / {error.max():.1f}",
        f"{np.median(atlas):.1f} / {atlas.max():.1f}",
        f"{np.mean([f.seconds for f in found]):.1f}",
        f"{(wrong & flagged).sum()} of {wrong.sum()}",
        f"{(~wrong & flagged).sum()} of {(~wrong).sum()}",
    ]


def main() -> None:
    parser = common.new_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--stack", action="append", help="such as mri_ct/34; default: five of three modalities")
    parser.add_argument("--starts", type=int, default=30, help="motions of each stack")
    parser.add_argument("--shift", type=float, default=20.0, help="largest shift along each axis, mm")
    parser.add_argument("--turn", type=float, default=15.0, help="largest rotation about each axis, degrees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = common.parse_checked(parser, None, ("starts",))
    how = (arguments.starts, arguments.shift, arguments.turn, arguments.seed)
    rows = []
    for stack in arguments.stack or (*STACKS, f"{STACKS[0]}, remapped"):
        mr, other = read_stack(arguments.data, stack.removesuffix(", remapped"))
        rows.append([stack, *measure(mr, remapped(mr) if stack.endswith("remapped") else other, *how)])
        print(*rows[-1], sep=", ", flush=True)
    heads = ["stack", "starts", f"within {HIT} mm", "motion, mm: median / worst", "atlas, mm: median / worst"]
    heads += ["seconds", "wrong ones flagged", "right ones flagged"]
    about = {"shift": arguments.shift, "turn": arguments.turn, "SimpleITK": sitk.Version.VersionString()}
    common.report(common.versions(1, **about), markdown_table(heads, rows), arguments.json, rows=rows)


if __name__ == "__main__":
    main()
