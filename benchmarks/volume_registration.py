"""How well `fusion_hub.volumes.registration.register` finds known motions of real stacks of slices.

    python benchmarks/volume_registration.py --data ../shared/data
    python benchmarks/volume_registration.py --resample --starts 2    # the motion in the voxels
    python benchmarks/volume_registration.py --turn 60 --shift 60     # are failures recognized?

The stacks are heads of the Whole Brain Atlas, MR fixed and the other modality moving. The files have no geometry:
pixels are taken to be 0.94 mm (PET: 1.0) and slices 6.5 mm apart (SPECT: 6.6, PET: 3.4), which gives heads of the
usual size. The moving stack is turned about each axis through the center of the head and shifted along it, each
uniform up to the limits. The motion is in its position and directions, so that no voxel is cut, invented or blurred;
with `--resample` it is in the voxels, on a grid of 2 mm slices with 50 mm of room on all sides. Outside the stack
there is then air, with an edge that both volumes share: an easier case.

Two errors are given, both the mean over the voxels of the head. "reference" is from the known motion after what the
same program finds without one: does the result depend on where the volumes start? An error that it always makes does
not appear there. "atlas" is from the known motion after the atlas's own alignment, which is itself not exact.
"MR, remapped" has a moving volume made from the MR itself, by a map of gray values that is not monotonic and a blur of
3 mm: there the truth is exact, and "atlas" is the error. Flags are counted with "atlas" where the truth is exact,
otherwise with "reference". Seconds are processor seconds of one thread.
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
ROOM = 50.0  # mm


@dataclass(frozen=True)
class Found:
    """One registration: head points taken to the moving volume and back by the true motion, and the verdict."""

    points: NDArray[np.float64]
    error: float
    atlas: float
    disagreement: float
    lead: float
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


def moved(image: sitk.Image, motion: sitk.Euler3DTransform, resample: bool) -> sitk.Image:
    """The image after the motion: in its header, or in its voxels, on a grid with room for it."""
    spacing = np.array(image.GetSpacing())
    if not resample:
        turned = sitk.Image(image)
        matrix = np.reshape(motion.GetMatrix(), (3, 3)) @ np.reshape(image.GetDirection(), (3, 3))
        turned.SetDirection(matrix.ravel().tolist())
        turned.SetOrigin(motion.TransformPoint(image.GetOrigin()))
        return turned
    fine = np.array([spacing[0], spacing[1], 2.0])
    size = np.ceil((spacing * image.GetSize() + 2 * ROOM) / fine).astype(int).tolist()
    origin = (np.array(image.GetOrigin()) - spacing / 2 - ROOM + fine / 2).tolist()
    back = motion.GetInverse()
    return sitk.Resample(image, size, back, sitk.sitkLinear, origin, fine.tolist(), image.GetDirection(), 0.0)


def measure(
    fixed: sitk.Image,
    moving: sitk.Image,
    exact: bool,
    resample: bool,
    starts: int,
    shift: float,
    turn: float,
    seed: int,
) -> tuple[list[str], list[Found]]:
    """A row: share of hits, median and worst errors, seconds, flags."""
    head = np.argwhere(sitk.GetArrayViewFromImage(fixed) > 25)[::997, ::-1] * fixed.GetSpacing() + fixed.GetOrigin()
    found: list[Found] = []
    for start in range(-1, starts):
        random, scale = np.random.default_rng((seed, max(start, 0))), float(start >= 0)
        angles, shifts = np.radians(random.uniform(-turn, turn, 3)), random.uniform(-shift, shift, 3)
        motion = sitk.Euler3DTransform(head.mean(0).tolist(), *(scale * angles), (scale * shifts).tolist())
        result, back = register(fixed, moved(moving, motion, resample)), motion.GetInverse()
        there = np.array([back.TransformPoint(result.transform.TransformPoint(point)) for point in head.tolist()])
        reference = head if exact or start < 0 else found[0].points
        off, atlas_off = (float(np.linalg.norm(there - truth, axis=1).mean()) for truth in (reference, head))
        checks = (result.disagreement, result.lead, result.trustworthy)
        found.append(Found(there, off, atlas_off, *checks, result.seconds))
    found = found[1:]
    error, atlas = (np.array(column) for column in zip(*((f.error, f.atlas) for f in found), strict=True))
    flagged = np.array([not f.trustworthy for f in found])
    row = [
        str(starts),
        f"{(error <= HIT).mean():.0%}",
        f"{np.median(error):.1f} / {error.max():.1f}",
        f"{np.median(atlas):.1f} / {atlas.max():.1f}",
        f"{np.mean([f.seconds for f in found]):.1f}",
        *(f"{(flagged & (error > limit)).sum()} of {(error > limit).sum()}" for limit in (HIT, WRONG)),
        f"{(flagged & (error <= HIT)).sum()} of {(error <= HIT).sum()}",
    ]
    return row, found


def main() -> None:
    parser = common.new_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--stack", action="append", help="such as mri_ct/34; default: five of three modalities")
    parser.add_argument("--starts", type=int, default=30, help="motions of each stack")
    parser.add_argument("--resample", action="store_true", help="move the voxels instead of the header")
    parser.add_argument("--shift", type=float, default=20.0, help="largest shift along each axis, mm")
    parser.add_argument("--turn", type=float, default=15.0, help="largest rotation about each axis, degrees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = common.parse_checked(parser, None, ("starts",))
    how = (arguments.resample, arguments.starts, arguments.shift, arguments.turn, arguments.seed)
    rows, runs = [], []
    for stack in arguments.stack or (*STACKS, f"{STACKS[0]}, remapped"):
        exact = stack.endswith(", remapped")
        mr, other = read_stack(arguments.data, stack.removesuffix(", remapped"))
        row, found = measure(mr, remapped(mr) if exact else other, exact, *how)
        rows.append([stack, *row])
        runs += [{"stack": stack, **{k: v for k, v in vars(f).items() if k != "points"}} for f in found]
        print(*rows[-1], sep=", ", flush=True)
    heads = ["stack", "starts", f"within {HIT} mm", "reference, mm: median / worst", "atlas, mm: median / worst"]
    heads += ["seconds", *(f"above {limit} mm: flagged" for limit in (HIT, WRONG)), "hits flagged"]
    about = {"shift": arguments.shift, "turn": arguments.turn, "SimpleITK": sitk.Version.VersionString()}
    common.report(common.versions(1, **about), markdown_table(heads, rows), arguments.json, rows=rows, runs=runs)


if __name__ == "__main__":
    main()
