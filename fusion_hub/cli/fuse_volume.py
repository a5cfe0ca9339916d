"""`fusion-hub fuse-volume`: two volumes of one person, such as MR and PET, into one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from fusion_hub import __version__, files, image, pipelines, volumes
from fusion_hub.cli.common import (
    MODEL_HELP,
    WRONG_USE,
    CommandError,
    Denoise,
    Device,
    DtypeName,
    OneProcess,
    Tile,
    check_device,
    choose_device,
    exit_codes,
    load_pipeline,
    message_of,
    parse_denoise,
    print_message,
    progress_bar,
    terminate_as_interrupt,
    wrong_use,
)

if TYPE_CHECKING:
    from SimpleITK import Image, Transform

EXAMPLES = """
\b
Examples:
  fusion-hub fuse-volume mr/ ct/ --output fused.nii.gz --preview check.png
  fusion-hub fuse-volume mr.nii.gz pet/ --color hot --output colored.nii.gz
  fusion-hub fuse-volume study/ study/ --series 2 --moving-series 5 --window bone --output fused.dcm
  fusion-hub fuse-volume mr/ ct/ --save-transform ct_to_mr.tfm --output fused.nrrd
  fusion-hub fuse-volume mr/ ct/ --transform ct_to_mr.tfm --output fused.nrrd
"""
_WINDOW = (
    "LOW,HIGH in the volume's unit; for CT brain, subdural, bone, lung, soft-tissue, mediastinum or abdomen; full, "
    "percentile or uptake"
)
_SERIES = (
    "Of a folder with several DICOM series: the number, the UID, or the position in the list that the error shows. /2 "
    "after it, or alone, is the second of several volumes, such as time points"
)
ModalityName = Literal["CT", "MR", "PT", "NM"]


def fuse_volume(
    fixed: Annotated[
        Path,
        typer.Argument(
            metavar="FIXED",
            help="A folder with a DICOM series, or a DICOM, NIfTI, NRRD or MetaImage file.",
            show_default=False,
        ),
    ],
    moving: Annotated[
        Path,
        typer.Argument(
            metavar="MOVING", help="The other volume of the same person, brought onto the first.", show_default=False
        ),
    ],
    *,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="A .nii.gz, .nii, .nrrd or .mha file, or a new folder that ends in .dcm for a DICOM series.",
            show_default=False,
        ),
    ],
    model: Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP)] = "difffusenet-medical",
    registration: Annotated[
        Literal["rigid", "affine", "none"] | None,
        typer.Option(
            "--register",
            help="How the moving volume is aligned: rigid, affine (also scales and shears), or none.",
            show_default="rigid; none where both volumes share a DICOM frame of reference",
        ),
    ] = None,
    transform: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A .tfm file to use instead of a registration.", show_default="none"),
    ] = None,
    save_transform: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the transform to a .tfm file.", show_default="not kept")
    ] = None,
    accept_unsure: Annotated[
        bool, typer.Option("--accept-unsure", help="Fuse even if the registration failed its checks.")
    ] = False,
    window: Annotated[
        str | None,
        typer.Option(help=f"Black and white of FIXED: {_WINDOW}.", show_default="by modality, see docs/volumes.md"),
    ] = None,
    moving_window: Annotated[str | None, typer.Option(help="The same for MOVING.", show_default="by modality")] = None,
    series: Annotated[str | None, typer.Option(help=f"{_SERIES}.", show_default="the only one")] = None,
    moving_series: Annotated[str | None, typer.Option(help="The same for MOVING.", show_default="the only one")] = None,
    modality: Annotated[
        ModalityName | None,
        typer.Option(
            help="What FIXED is, for files that do not say: CT, MR, PT (PET) or NM (SPECT).", show_default="unknown"
        ),
    ] = None,
    moving_modality: Annotated[
        ModalityName | None, typer.Option(help="The same for MOVING.", show_default="unknown")
    ] = None,
    grid: Annotated[
        Literal["fixed", "moving"] | None,
        typer.Option(help="Whose voxels the result has.", show_default="CT or MR over PET and SPECT, else fixed"),
    ] = None,
    planes: Annotated[
        int, typer.Option(min=1, max=3, help="1 fuses the slices; 3 averages three orthogonal planes.")
    ] = 1,
    color: Annotated[
        str | None,
        typer.Option(
            metavar="MAP",
            help="Color of PET or SPECT uptake over the fused gray: hot, iron or pet. A legend is written, too.",
            show_default="gray",
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a PNG with orthogonal views and a checkerboard.", show_default="none"),
    ] = None,
    keep_identity: Annotated[
        str | None,
        typer.Option(
            metavar="REASON",
            help="For a DICOM output: keep patient, study and references to the sources. The reason is stored with it.",
            show_default="de-identified",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[DtypeName, typer.Option(help="Precision of the network; auto is float32.")] = "auto",
    tile: Tile = None,
    denoise: Denoise = "auto",
) -> None:
    """Fuse two volumes of one person, such as MR with CT, PET or SPECT. Research software, not for diagnosis.

    The volumes may differ in grid, orientation and unit: MOVING is registered to FIXED by mutual information and
    resampled in physical space. Black and white are the same for all slices. Outside MOVING the result is the
    anatomical image alone. The output holds voxels and geometry and nothing else of the sources, unless --keep-identity
    is given; a .json file beside it lists the settings.
    """
    with exit_codes("nothing was written"), terminate_as_interrupt():
        _check_packages()
        if planes == 2:
            raise CommandError("--planes 2: give 1 or 3", WRONG_USE)
        amount = parse_denoise(denoise)
        check_device(device)
        _check_output(output, (fixed, moving), save_transform, preview, color is not None)
        with _in_a_sentence(output):
            if keep_identity is not None and output.suffix.lower() != ".dcm":
                raise volumes.VolumeError("--keep-identity is for a DICOM output: end --output with .dcm")
            if color is not None:
                volumes.color_scale(color, (0, 1), "")
            identity = None
            first = volumes.read_volume(fixed, series=series, modality=modality)
            second = volumes.read_volume(moving, series=moving_series, modality=moving_modality)
            if keep_identity is not None:
                kept = [(fixed, series), (moving, moving_series)]
                kept = kept[::-1] if (grid or volumes.choose_grid(first, second)) == "moving" else kept
                identity = volumes.read_identity(kept, keep_identity)
            checkpoint = pipelines.locate(model)
            pipelines.check_stored(checkpoint, None, 0, tile, amount)
            volumes.choose_window(first, window), volumes.choose_window(second, moving_window)
            mapping, found = _find_transform(first, second, registration, transform, accept_unsure)
            pair = volumes.align(first, second, mapping, window=window, moving_window=moving_window, grid=grid)
            pipeline = load_pipeline(checkpoint, choose_device(device, OneProcess(device)), dtype)
            fused = _fuse(pair, pipeline, cast(Literal[1, 3], planes), amount, tile)
            levels, scale = volumes.to_levels(fused), None
            if color is not None:
                levels, scale = volumes.color_uptake(fused, pair, color)
            settings: dict[str, Any] = {
                "model": Path(model).name,
                "weights": pipelines.hash_checkpoint(checkpoint),
                "dtype": dtype,
                "planes": planes,
                "denoise": amount,
                "color": color,
                "keep_identity": keep_identity,
                "volumes": [_number_of(first, series), _number_of(second, moving_series)],
            }
            with _all_or_none() as written:
                if scale is not None:
                    written.append(volumes.save_legend(scale, _beside(output, "_legend.png")))
                if preview is not None:
                    sheet = volumes.draw_views(pair, fused, None if scale is None else levels)
                    written.append(image.save_image(sheet, preview))
                if save_transform is not None:
                    volumes.save_transform(mapping, save_transform)
                    written.append(save_transform)
                written.append(_write_record(output, pair, fused, found, settings))
                _write(levels, output, pair, identity)
            if mapping is None and registration is None:
                print_message(
                    "the volumes share a frame of reference and were not registered: --register rigid does it"
                )
            for note in fused.notes:
                print_message(f"warning: {note}")
        size = " x ".join(map(str, pair.grid.GetSize()))
        typer.echo(f"{output}: {size} voxels; {', '.join(map(str, written))}")


@contextmanager
def _all_or_none() -> Iterator[list[Path]]:
    """A list for the files that are written; they are removed if what comes after them fails or is interrupted."""
    written: list[Path] = []
    try:
        yield written
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        raise


def _is_ours(record: Path) -> bool:
    try:
        return "Fusion Hub" in str(json.loads(record.read_bytes()).get("program"))
    except (OSError, ValueError, AttributeError):
        return False


def _number_of(volume: "volumes.Volume", series: str | None) -> str | None:
    """Which of several volumes was chosen, as text; not the name of a DICOM series, which could identify somebody."""
    _, slash, number = str(series or "").rpartition("/")
    return (number if slash or not volume.source.startswith("DICOM") else "").lstrip("#") or None


def _check_packages() -> None:
    """Report a missing extra before any work."""
    try:
        getattr(volumes, "VolumeError")  # noqa: B009  # imported on first use
    except ImportError as error:
        raise CommandError(str(error), WRONG_USE) from error


def _check_output(
    output: Path, inputs: tuple[Path, Path], save_transform: Path | None, preview: Path | None, colored: bool
) -> None:
    legend, record = _beside(output, "_legend.png"), _beside(output, ".json")
    with wrong_use():
        for written in filter(None, (output, save_transform, preview, legend, record)):
            try:
                written.exists()
            except OSError as error:
                raise ValueError(f"{written} cannot be a file: {error.strerror}") from error
        for place in inputs:
            if place.is_dir() and output.resolve().is_relative_to(place.resolve()):
                raise ValueError(f"--output {output} lies in {place}, where it would be read as a source next time")
        for written in filter(None, (save_transform, preview, legend if colored else None, record)):
            if written.is_dir():
                raise ValueError(f"{written} is a folder, and a file of this name is to be written: give another name")
        if preview is not None and colored and preview.resolve() == legend.resolve():
            raise ValueError(f"--preview {preview} has the name of the legend: give another name")
        if record.exists() and not _is_ours(record):
            raise ValueError(f"{record} exists and is no record of fuse-volume: give another --output")
        if output.suffix.lower() == ".dcm":
            volumes.check_folder(output)
        else:
            volumes.check_target(output)
            if output.is_dir():
                raise ValueError(f"--output {output} is a folder: give another name for the file")
        if save_transform is not None and save_transform.suffix.lower() != ".tfm":
            raise ValueError(f"--save-transform {save_transform}: end it with .tfm")
        if preview is not None and preview.suffix.lower() != ".png":
            raise ValueError(f"--preview {preview}: end it with .png")
        for written in filter(None, (output, save_transform, preview)):
            if written.resolve() in {one.resolve() for one in inputs}:
                raise ValueError(f"{written} is one of the inputs: give another name")
            try:
                files.check_writable(written.parent)
            except OSError as error:
                raise ValueError(str(error)) from error


@contextmanager
def _in_a_sentence(output: Path) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise CommandError("the memory is not enough for volumes of this size: crop them, or reduce them") from error
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        raise CommandError(files.disk_trouble(error, output.parent) or message_of(error)) from error


def _find_transform(
    first: "volumes.Volume",
    second: "volumes.Volume",
    wanted: Literal["rigid", "affine", "none"] | None,
    file: Path | None,
    accept_unsure: bool,
) -> "tuple[Transform | None, volumes.Registration | None]":
    """The transform from points of the fixed to the moving volume, and its registration where there was one."""
    if file is not None:
        if wanted is not None:
            raise CommandError("--register and --transform exclude each other: give one", WRONG_USE)
        return volumes.load_transform(file), None
    if wanted == "none" or (wanted is None and first.space is not None and first.space == second.space):
        return None, None
    found = volumes.register(first.image, second.image, wanted or "rigid", report=lambda words: print_message(words))
    print_message(
        f"registered in {found.seconds:.0f} s: normalized mutual information {found.quality:.3f} (chance "
        f"{found.chance:.3f}), two searches agree within {found.disagreement:.1f} mm, overlap {found.overlap:.0%}"
    )
    if not found.trustworthy:
        if not accept_unsure:
            raise CommandError(
                f"the registration is not certain, {found.reason}: check the inputs, give a --transform, or add "
                "--accept-unsure and look at the --preview"
            )
        print_message(f"warning: the registration is not certain, {found.reason}: look at the --preview")
    return found.transform, found


def _fuse(
    pair: "volumes.AlignedPair",
    pipeline: Any,
    planes: Literal[1, 3],
    denoise: float | Literal["auto"],
    tile: int | None,
) -> "volumes.Volume":
    with progress_bar("fusing", sum(pair.anatomy.shape[:planes]), shown=True, unit="slice") as bar:

        def advance(done: int, total: int) -> None:
            bar.update(done - bar.n)

        return volumes.fuse_aligned(pair, pipeline, planes=planes, denoise=denoise, tile=tile, progress=advance)


def _write(levels: "Image", output: Path, pair: "volumes.AlignedPair", identity: "volumes.Identity | None") -> None:
    if output.suffix.lower() == ".dcm":
        names = [one.modality or "volume" for one in pair.sources]
        volumes.write_dicom(levels, output, " + ".join(names), identity)
    else:
        volumes.write_image(levels, output)


def _write_record(
    output: Path,
    pair: "volumes.AlignedPair",
    fused: "volumes.Volume",
    found: "volumes.Registration | None",
    settings: dict[str, Any],
) -> Path:
    """What the result was made with, without names of files; written beside it."""
    record: dict[str, Any] = {
        "program": f"Fusion Hub {__version__}",
        "notice": "derived, not for diagnosis",
        **settings,
    }
    record["sources"] = [
        {"modality": one.modality, "unit": one.unit, "window": limits, "source": one.source}
        for one, limits in zip(pair.sources, pair.windows, strict=True)
    ]
    record["grid"] = pair.grid_side
    if found is not None:
        numbers = {name: value for name, value in vars(found).items() if name != "transform"}
        record["registration"] = {**numbers, "parameters": found.transform.GetParameters()}
    record["notes"] = fused.notes
    target = _beside(output, ".json")
    with files.write_aside(target) as aside:
        aside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return target


def _beside(output: Path, end: str) -> Path:
    """A file of the output's name with another end, `fused_legend.png` for `fused.nii.gz`."""
    name = output.name.removesuffix(".gz")
    return output.with_name(name[: -len(Path(name).suffix)] + end)
