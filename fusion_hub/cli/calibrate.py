"""`fusion-hub calibrate`: pictures of two fixed cameras to the file that aligns all of their later pictures."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from fusion_hub import data, files, image, rigs
from fusion_hub.cli.common import (
    WRONG_USE,
    CommandError,
    exit_codes,
    load_rig,
    message_of,
    print_message,
    progress_bar,
    terminate_as_interrupt,
    wrong_use,
)
from fusion_hub.cli.fuse_inputs import find_source

EXAMPLES = """
\b
Examples:
  fusion-hub calibrate photo.jpg photo_ir.png --output rig.json
  fusion-hub calibrate visible/ infrared/ --fov-ratio 0.6 --output rig.json
  fusion-hub fuse visible/ infrared/ --rig rig.json --output fused/
"""


def calibrate(
    visible: Annotated[
        str,
        typer.Argument(
            metavar="VISIBLE",
            help="Visible image, folder, or quoted pattern. Without INFRARED: a folder with both images of each pair.",
            show_default=False,
        ),
    ],
    infrared: Annotated[
        str | None,
        typer.Argument(metavar="INFRARED", help="Infrared image, folder or pattern, same names.", show_default=False),
    ] = None,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="MORE", help="More files, as a shell expands patterns.", show_default=False),
    ] = None,
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="The rig file, such as rig.json.", show_default=False)],
    fov_ratio: Annotated[
        float | None,
        typer.Option(
            help="Width of the infrared camera's field of view divided by the visible's, to about 10 %: 0.6 where the "
            "infrared picture shows 60 % of the visible one's width. It makes the search quicker and more certain.",
            show_default="searched",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A rig file close to the truth, which is refined.", show_default="none"),
    ] = None,
    matcher: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A keypoint matching network that makes the first estimate: a folder or a Hub id owner/name of "
            "EfficientLoFTR, LightGlue or SuperGlue.",
            show_default="none",
        ),
    ] = None,
    time_offset: Annotated[
        float, typer.Option(help="Seconds by which the infrared recording is late, for videos; stored in the file.")
    ] = 0,
    check: Annotated[
        bool, typer.Option(help="Write a picture to check by beside the rig file: edges before and after.")
    ] = True,
    accept_unsure: Annotated[
        bool, typer.Option("--accept-unsure", help="Write an estimate that failed a check; the file says so.")
    ] = False,
) -> None:
    """Align an infrared with a visible camera that are fixed to each other.

    One pair is enough for a rich scene; ten to twenty pairs of the same rig make it certain. Objects should be about as
    far away as in later use: one rig file fits one distance best. The pictures may differ in size and field of view.
    """
    with exit_codes(f"{output} was not written"), terminate_as_interrupt():
        source, _ = find_source([visible, *filter(None, [infrared]), *(more or [])])
        _check_output(output)
        if not abs(time_offset) <= rigs.LONGEST_OFFSET:
            raise CommandError(f"--time-offset must be seconds, at most a day, got {time_offset:g}", WRONG_USE)
        try:
            with wrong_use():
                dataset = data.PairedDataset.open(source)
                if check:
                    _check_picture(output.with_suffix(".png"), dataset)
                close = None if start is None else load_rig(start, "--start")
                calibrator = rigs.RigCalibrator(fov_ratio, close, matcher)
            _read(calibrator, dataset)
            with _estimating() as show:
                rig = replace(calibrator.estimate(show, accept_unsure), time_offset=time_offset)
            rig.save(output)
            typer.echo(_summary(output, rig))
            if check:
                picture = image.save_image(calibrator.draw_check(rig), output.with_suffix(".png"))
                typer.echo(f"{picture}: look at it; the orange edges should lie on the edges below them")
        except (rigs.RigError, OSError, ImportError) as error:
            raise CommandError(files.disk_trouble(error, output.parent) or message_of(error)) from error


@wrong_use()
def _check_picture(picture: Path, dataset: "data.PairedDataset") -> None:
    """Refuse a name under which the picture to check by would replace an input."""
    inputs = [data.source_file(source) for pair in dataset for _, source in pair.bands()]
    if picture.resolve() in {file.resolve() for file in inputs if file is not None}:
        raise ValueError(
            f"the picture to check by, {picture}, would replace an input: give another --output, or --no-check"
        )


@wrong_use()
def _check_output(output: Path) -> None:
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder: give a file, for example {output / 'rig.json'}")
    if output.suffix.lower() != ".json":
        raise ValueError(f"--output {output}: end it with .json, for example {output.with_suffix('.json')}")
    try:
        files.check_writable(output.parent)
    except OSError as error:
        raise CommandError(str(error)) from error


def _read(calibrator: "rigs.RigCalibrator", dataset: "data.PairedDataset") -> None:
    """Add all pairs; a file that cannot be read is named and left out, pairs of another size end the command."""
    for name, why in dataset.left_out():
        print_message(f"warning: {name} is left out: {why}")
    unread = []
    with progress_bar("reading", dataset.length, shown=(dataset.length or 2) > 1) as bar:
        for pair in dataset:
            try:
                calibrator.add(pair.visible_source, pair.infrared_source)
            except rigs.RigError as error:
                raise CommandError(f"{pair.name}: {error}") from error
            except (ValueError, OSError) as error:
                unread.append((pair.name, message_of(error)))
            bar.update()
    if unread and not calibrator.added:
        raise CommandError(unread[0][1] if len(unread) == 1 else f"no pair can be read; {unread[0][0]}: {unread[0][1]}")
    for name, why in unread:
        print_message(f"warning: {name} is left out: {why}")


@contextmanager
def _estimating() -> "Iterator[Callable[[float], None]]":
    hidden = None if sys.stderr.isatty() else True
    with tqdm(
        desc="aligning", total=100, bar_format="{desc}: {percentage:3.0f}%|{bar}|", leave=False, disable=hidden
    ) as bar:

        def show(share: float) -> None:
            bar.update(round(100 * share) - bar.n)

        yield show


def _summary(output: Path, rig: "rigs.Rig") -> str:
    (height, width), (low_height, low_width) = rig.visible_size, rig.infrared_size
    pairs = f"{rig.frames} pair{'s' * (rig.frames != 1)}"
    lines = [f"{output}: infrared {low_width}x{low_height} on visible {width}x{height}, from {pairs}"]
    assert rig.confidence is not None
    if not rig.confidence.sure:
        lines.append("  NOT SURE: a check failed and --accept-unsure was given; look at the picture")
    return "\n".join([*lines, f"  {rig.confidence}"])
