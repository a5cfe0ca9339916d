"""What the words VISIBLE, INFRARED, MORE of a command name: a pair of files, folders, patterns or a dataset."""

import glob
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fusion_hub import data, files, image
from fusion_hub.cli.common import WRONG_USE, CommandError, print_message, wrong_use
from fusion_hub.cli.photos import VisiblePart
from fusion_hub.cli.thermal_options import Thermal

if TYPE_CHECKING:
    from fusion_hub.rigs import Rig


@wrong_use()
def find_source(words: Sequence[str], streaming: bool = False) -> tuple[Any, bool]:
    """The argument of `PairedDataset.open`, and whether it is one pair of files."""
    if streaming and len(words) > 1:
        raise ValueError("--streaming is for a Hub dataset: give its id alone")
    found = [_expand(word) for word in words]
    paths = [Path(word) for word in words]
    if len(words) == 1 and found[0] is None:
        if paths[0].is_file():
            raise ValueError(f"{words[0]} is a single image: give the INFRARED image too")
        if not (paths[0].exists() or "/" in words[0] or words[0].startswith("generated")):
            raise ValueError(
                f"there is no file or folder {words[0]!r}, and INFRARED is missing: give both images of a pair, two "
                "folders, or one set of pairs (a folder or a Hub id owner/name)"
            )
        return words[0], False
    for name, path, matches in zip(("VISIBLE", "INFRARED", *words[2:]), paths, found, strict=False):
        if matches is None and not path.exists():
            raise ValueError(f"{name}: there is no file or folder {str(path)!r}")
    if len(words) == 2 and found[0] is not None and found[1] is not None:
        return (found[0], found[1]), False
    if len(words) != 2 or found != [None, None]:
        return [file for path, matches in zip(paths, found, strict=True) for file in matches or [path]], False
    if paths[0].is_dir() != paths[1].is_dir():
        raise ValueError(f"{words[0]} and {words[1]}: give two files or two folders, not one of each")
    if paths[0].is_dir():
        return tuple(paths), False
    pairs, notes = data.file_pair(*paths)
    for note in notes:
        print_message(f"warning: {note}")
    return pairs, True


def _expand(word: str) -> list[Path] | None:
    """The files that a quoted pattern matches; None for a plain path."""
    if Path(word).exists() or not glob.has_magic(word):
        return None
    if not (matches := sorted(glob.glob(word, recursive=True))):
        raise ValueError(f"no file matches {word}: check the pattern")
    return [Path(match) for match in matches]


@wrong_use()
def check_output(output: Path, single: bool, inputs: Sequence[str], beside: Sequence[Path] = ()) -> None:
    """Refuse an `--output` that is no place for one fused image and the files beside it, or for several images."""
    try:
        files.check_writable(output if output.is_dir() else output.parent)
    except OSError as error:
        raise CommandError(str(error)) from error
    if not single:
        if output.exists() and not output.is_dir():
            raise ValueError(f"--output {output} is a file: give a folder for several pairs")
        return
    if output.is_dir():
        raise ValueError(f"--output {output} is a folder: give a file, for example {output / 'fused.png'}")
    if output.suffix.lower() not in image.SAVE_SUFFIXES:
        raise ValueError(f"--output {output}: end it with one of {', '.join(image.SAVE_SUFFIXES)}")
    given = [Path(word).resolve() for word in inputs]
    for file in (output, *beside):
        if file.resolve() in given:
            what = "is one of the inputs" if file == output else f"would replace the input {file}"
            raise ValueError(f"--output {output} {what}: give another name")


def open_dataset(
    source: Any,
    split: str | None,
    streaming: bool,
    limit: int | None,
    folder: Path | None,
    rig: "Rig | str | None" = None,
    thermal: Thermal | None = None,
) -> "data.PairedDataset":
    """Open the set and refuse what would destroy files, or cannot be fused."""
    dataset = data.PairedDataset.open(source, split=split if folder else None, streaming=streaming)
    if dataset.length is None:
        return dataset
    dataset = dataset if limit is None else dataset[:limit]
    names = Counter(pair.name for pair in dataset)
    inputs = [data.source_file(source) for pair in dataset for source in (pair.visible_source, pair.infrared_source)]
    if folder and folder.resolve() in {file.parent.resolve() for file in inputs if file is not None}:
        raise CommandError(f"--output {folder} holds the inputs: give another folder", WRONG_USE)
    if repeated := [name for name, count in names.items() if count > 1]:
        raise CommandError(
            f"several pairs have the name {repeated[0]!r} ({len(repeated)} such names), so that one picture would "
            "replace the other: give the pairs different names"
        )
    if folder is None:  # one pair: what cannot be read is known before torch is imported
        named = [(band, file) for band, file in dataset[0].bands() if isinstance(file, Path)]
        pictures = [
            (
                thermal.read(file) if band == "infrared" and thermal else image.read_picture(file, band, role=band),
                f"{band} ({str(file)!r})",
            )
            for band, file in named
        ]
        if isinstance(dataset[0].visible_source, VisiblePart):
            dataset[0].visible_source()
        if len(pictures) == 2 and rig is None:
            image.check_equal_sizes(*pictures[0], *pictures[1])
        elif len(pictures) == 2 and rig is not None and not isinstance(rig, str):
            rig.at(*(picture.size for picture, _ in pictures))
    return dataset


def describe(dataset: "data.PairedDataset", registered: bool) -> None:
    """Print what the check of a set finds."""
    if dataset.length is None:
        typer.echo(f"{dataset.description}: streamed, so it is not checked beforehand")
    elif all(isinstance(pair.visible_source, VisiblePart) for pair in dataset):
        typer.echo(f"{dataset.length} radiometric photos")
    else:
        typer.echo(str(dataset.check(registered=registered)))
