"""`fusion-hub export-yolo`: fused pictures and their boxes as a set that `yolo train` reads."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fusion_hub.cli.common import WRONG_USE, CommandError, exit_codes, message_of, progress_bar, terminate_as_interrupt

if TYPE_CHECKING:
    from fusion_hub.data import Pair
    from fusion_hub.downstream.yolo_dataset import YoloPicture

EXAMPLES = """
Examples:

  fusion-hub export-yolo --input difffusenet-msrs --train data/msrs/train --val data/msrs/val --output yolo/difffusenet

  fusion-hub export-yolo --input visible --train data/msrs/train --val data/msrs/val --output yolo/visible

  fusion-hub export-yolo --input their/fused --train data/mine:train --val data/mine:val --class person -o yolo/theirs

Then, where Ultralytics is installed:

  yolo detect train data=yolo/difffusenet/data.yaml model=yolo11n.pt
"""
_SET = (
    "A folder with vis/, ir/ and boxes/; FOLDER:SPLIT where the split lies below vis/. May be given several times: the "
    "files then have the name of their set in front."
)


def export_yolo(
    *,
    method: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            metavar="METHOD",
            help="What the pictures are: visible or infrared; a rule (average, maximum, laplacian, guided-filter); a "
            "bundled model, a pipeline folder or a Hub id owner/name; or a folder of images that any method has fused, "
            "with the stems of the pairs.",
        ),
    ] = "difffusenet-msrs",
    train: Annotated[list[str], typer.Option(metavar="SET", help=_SET, show_default=False)],
    val: Annotated[list[str], typer.Option(metavar="SET", help="As --train, to validate on.", show_default=False)],
    test: Annotated[list[str], typer.Option(metavar="SET", help="As --train, to test on.", show_default="none")] = [],  # noqa: B006  # typer copies it
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for images/, labels/ and data.yaml. A run that was stopped goes on from it.",
            show_default=False,
        ),
    ],
    class_name: Annotated[
        list[str],
        typer.Option(
            "--class",
            metavar="NAME",
            help="A class to export, in the order of its number; other boxes are left out. May be given several times.",
            show_default="all that the files of boxes know",
        ),
    ] = [],  # noqa: B006
    annotations: Annotated[
        list[str],
        typer.Option(
            metavar="FILE",
            help="Which files in boxes/ to use, by stem, such as vis for boxes/vis.json. May be given several times.",
            show_default="all, as one truth: boxes of one class that overlap by half are one object",
        ),
    ] = [],  # noqa: B006
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="In which a model computes.")] = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Remake a set of this command: its images/ and labels/ are deleted.")
    ] = False,
) -> None:
    """Write fused pictures and their boxes as a data set for Ultralytics' YOLO.

    Pictures are PNG files of the size of their pair, in the colours of the visible picture. Boxes are read from the
    COCO JSON files in boxes/. Ultralytics is not needed here: the set is for `yolo detect train data=OUTPUT/data.yaml`
    in an environment of your own.
    """
    with exit_codes("the same command goes on from here"), terminate_as_interrupt():
        if output.exists() and not output.is_dir():
            raise CommandError(f"--output {output} is a file: give a folder", WRONG_USE)
        try:
            classes, pictures = _arrange({"train": train, "val": val, "test": test}, class_name, annotations or None)
            _export(pictures, method, dtype, classes, annotations, output, overwrite)
        except (OSError, ValueError, ImportError) as error:
            raise CommandError(message_of(error)) from error
        boxes = sum(len(picture.boxed.boxes) for picture in pictures)
        typer.echo(f"{output}/data.yaml: {len(pictures)} pictures, {boxes} boxes of {', '.join(classes)}")


def _export(
    pictures: "Sequence[YoloPicture]",
    name: str,
    dtype: str,
    classes: Sequence[str],
    annotations: Sequence[str],
    output: Path,
    overwrite: bool,
) -> None:
    from fusion_hub.allocator import keep_freed_memory
    from fusion_hub.downstream.inputs import open_inputs
    from fusion_hub.downstream.yolo_dataset import DESCRIPTION, NotOurs, export

    keep_freed_memory()
    inputs = open_inputs(name, dtype)
    if overwrite and (output / DESCRIPTION).is_file():
        (output / "data.yaml").unlink(missing_ok=True)  # first: a set that has it is whole
        for part in ("images", "labels"):
            shutil.rmtree(output / part, ignore_errors=True)
        (output / DESCRIPTION).unlink(missing_ok=True)
    try:
        with progress_bar(f"exporting {inputs.name}", len(pictures), shown=True) as (bar, task):
            about = {"annotations": list(annotations) or "union"}
            export(pictures, inputs, classes, output, about=about, progress=lambda: bar.advance(task))
    except NotOurs as error:
        raise CommandError(message_of(error), WRONG_USE) from error


def _arrange(
    sets: dict[str, list[str]], class_names: Sequence[str], annotations: Sequence[str] | None
) -> "tuple[list[str], list[YoloPicture]]":
    """The classes, and the pictures of all parts with their boxes."""
    from fusion_hub.data.boxes import find_boxes, known_classes
    from fusion_hub.downstream.yolo_dataset import arrange

    pairs = {part: {_label(text): _open(text) for text in dict.fromkeys(texts)} for part, texts in sets.items()}
    everything = [pair for parts in pairs.values() for found in parts.values() for pair in found]
    classes = list(class_names) or known_classes(everything, annotations)
    pictures = []
    for part, found in pairs.items():
        boxed = {label: find_boxes(pairs, classes, annotations, every_class=False) for label, pairs in found.items()}
        pictures += arrange(part, boxed)
    return classes, pictures


def _parse(text: str) -> tuple[str, str | None]:
    """`FOLDER:SPLIT` in two; a name that holds a colon of its own is one."""
    folder, colon, split = text.rpartition(":")
    if colon and split and not Path(text).exists() and Path(folder).is_dir():
        return folder, split
    return text, None


def _open(text: str) -> "list[Pair]":
    from fusion_hub.data import PairedDataset

    folder, split = _parse(text)
    return list(PairedDataset.open(folder, split))


def _label(text: str) -> str:
    """`msrs_train` of `data/msrs/train` and of `data/msrs:train`."""
    folder, split = _parse(text)
    parts = [*Path(folder).resolve().parts, split] if split else Path(folder).resolve().parts
    return re.sub(r"[^\w.-]+", "_", "_".join(parts[-2:])).strip("_.") or "set"
