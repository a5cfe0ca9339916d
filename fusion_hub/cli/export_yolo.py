"""`fusion-hub export-yolo`: fused images and their boxes as a dataset for `yolo train`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fusion_hub import data, downstream
from fusion_hub.allocator import keep_freed_memory
from fusion_hub.cli.common import (
    WRONG_USE,
    CommandError,
    exit_codes,
    message_of,
    print_message,
    progress_bar,
    terminate_as_interrupt,
)

if TYPE_CHECKING:
    from fusion_hub.downstream.yolo_dataset import YoloPicture

EXAMPLES = """
\b
Examples:
  fusion-hub export-yolo --input difffusenet-msrs --train data/msrs/train --val data/msrs/val --output yolo/difffusenet
  fusion-hub export-yolo --input visible --train data/msrs/train --val data/msrs/val --output yolo/visible
  fusion-hub export-yolo --input their/fused --train data/mine:train --val data/mine:val --class person -o yolo/theirs

Then, where Ultralytics is installed:

  yolo detect train data=yolo/difffusenet/data.yaml model=yolo11n.pt
"""
_SET = (
    "A folder with vis/, ir/ and boxes/; FOLDER:SPLIT if the split is a folder in vis/. May be given several times: "
    "the last folder names of each set are then put before its file names."
)


def export_yolo(
    *,
    method: Annotated[
        str,
        typer.Option(
            "--input",
            "-i",
            metavar="METHOD",
            help="Images to export: visible or infrared; a rule (average, maximum, laplacian, guided-filter); a "
            "bundled model, a pipeline folder or a Hub id owner/name; or a folder of fused images of any method, with "
            "the stems of the pairs.",
        ),
    ] = "difffusenet-msrs",
    train: Annotated[list[str], typer.Option(metavar="SET", help=_SET, show_default=False)],
    val: Annotated[list[str], typer.Option(metavar="SET", help="As --train, for validation.", show_default=False)],
    test: Annotated[list[str], typer.Option(metavar="SET", help="As --train, for testing.", show_default="none")] = [],  # noqa: B006  # typer copies it
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="Folder for images/, labels/ and data.yaml. Run the command again to resume an interrupted export.",
            show_default=False,
        ),
    ],
    class_name: Annotated[
        list[str],
        typer.Option(
            "--class",
            metavar="NAME",
            help="A class to export; other boxes are left out. May be given several times, in the order of "
            "the class ids.",
            show_default="all classes of the box files",
        ),
    ] = [],  # noqa: B006
    annotations: Annotated[
        list[str],
        typer.Option(
            metavar="FILE",
            help="Box files to use, by stem: vis for boxes/vis.json. May be given several times.",
            show_default="all, merged: boxes of one class that overlap by half are one object",
        ),
    ] = [],  # noqa: B006
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Precision of a model.")] = "float32",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete images/ and labels/ of an earlier export and write them again.")
    ] = False,
) -> None:
    """Write fused images and their boxes as a dataset for Ultralytics' YOLO.

    Images are PNG files of the size of their pair, in the colors of the visible image. Boxes are read from the COCO
    JSON files in boxes/. Ultralytics is not needed here: run `yolo detect train data=OUTPUT/data.yaml` in an
    environment of your own.
    """
    with exit_codes("run the same command again to resume"), terminate_as_interrupt():
        if output.exists() and not output.is_dir():
            raise CommandError(f"--output {output} is a file: give a folder", WRONG_USE)
        try:
            sets = {"train": train, "val": val, "test": test}
            classes, pictures = downstream.yolo_dataset.open_sets(sets, class_name, annotations or None)
            _warn_of_shared_pairs(pictures)
            keep_freed_memory()
            inputs = downstream.open_inputs(method, dtype)
            with progress_bar(f"exporting {inputs.name}", len(pictures), shown=True) as bar:
                downstream.yolo_dataset.export(
                    pictures,
                    inputs,
                    classes,
                    output,
                    about={"annotations": annotations or "union"},
                    overwrite=overwrite,
                    progress=bar.update,
                )
        except (OSError, ValueError, ImportError) as error:
            foreign = isinstance(error, downstream.yolo_dataset.ForeignFolderError)
            raise CommandError(message_of(error), *([WRONG_USE] if foreign else [])) from error
        boxes = sum(len(picture.boxed.boxes) for picture in pictures)
        typer.echo(f"{output}/data.yaml: {len(pictures)} images, {boxes} boxes of {', '.join(classes)}")


def _warn_of_shared_pairs(pictures: "Sequence[YoloPicture]") -> None:
    """Files that are trained on, too."""
    files: dict[str, set[Path]] = {}
    for picture in pictures:
        if (file := data.source_file(picture.boxed.pair.visible_source)) is not None:
            files.setdefault(picture.part, set()).add(file.resolve())
    for part in ("val", "test"):
        own = files.get(part, set())
        if shared := len(own & files.get("train", set())):
            print_message(f"{shared} of the {len(own)} pairs of {part} are in train, too: scores on them say little")
