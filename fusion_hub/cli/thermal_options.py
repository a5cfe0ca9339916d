"""Options of `fuse` for temperatures: how they are read, how they are drawn, and where they are saved."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusion_hub import data, files, image, rigs
from fusion_hub.cli.common import WRONG_USE, CommandError, message_of, print_message, with_option_names, wrong_use
from fusion_hub.cli.photos import VisiblePart, no_visible

if TYPE_CHECKING:
    from PIL import Image

    from fusion_hub import FusionPipeline
    from fusion_hub.onnx import FusionSession

KELVINS = {"centikelvin": 0.01, "decikelvin": 0.1}

_OWN = "the file's own"
Emissivity = Annotated[
    float | None,
    typer.Option(
        help="Emissivity of the surface in a radiometric file, 0.01 to 1; 0.95 fits most that are not metal.",
        show_default=_OWN,
    ),
]
Distance = Annotated[float | None, typer.Option(help="Distance to that surface, in meters.", show_default=_OWN)]
ReflectedTemperature = Annotated[
    float | None,
    typer.Option(help="Apparent temperature of what the surface reflects, in degrees C.", show_default=_OWN),
]
AtmosphericTemperature = Annotated[
    float | None, typer.Option(help="Temperature of the air, in degrees C.", show_default=_OWN)
]
Humidity = Annotated[
    float | None, typer.Option(help="Relative humidity of the air as a share: 0.5 is 50 %.", show_default=_OWN)
]
Counts = Annotated[
    str,
    typer.Option(
        help="What a count of a 16-bit infrared file is: auto (by its metadata), centikelvin, decikelvin, kelvins such "
        "as 0.04, or raw.",
    ),
]
Palette = Annotated[
    str | None,
    typer.Option(
        help="Draw the temperatures in colors, with their scale and the details of the fused picture: iron, "
        "white-hot, black-hot, rainbow or arctic.",
        show_default=False,
    ),
]
Highlight = Annotated[
    list[str] | None,
    typer.Option(
        help="Paint temperatures in one color: '>37C', '<0C' or '20..25C', also in F and K. May be repeated. The "
        "result has 8 bits, and a scale at its side.",
    ),
]
SaveTemperatures = Annotated[
    bool,
    typer.Option(
        "--save-temperatures",
        help="Save the temperatures beside each picture, as NAME_temperatures.tif: degrees C, float32, of the size of "
        "the visible image, NaN where there are none.",
    ),
]


@dataclass(frozen=True)
class Thermal:
    """The options, checked.

    Attributes:
        settings: how temperatures are read.
        palette, isotherms: how they are drawn.
        save: whether they are saved beside each picture.
        limits: temperatures of the first and last color; None for percentiles of each picture.
    """

    settings: "image.ThermalSettings"
    palette: str | None
    isotherms: "tuple[image.Isotherm, ...]"
    save: bool
    limits: tuple[float, float] | None

    @property
    def wanted(self) -> str:
        """The first option that needs temperatures, "" if none does."""
        names = {"--palette": self.palette, "--highlight": self.isotherms, "--save-temperatures": self.save}
        return next((name for name, value in names.items() if value), "")

    def recorded(self) -> dict[str, Any]:
        """What a folder's pictures depend on, of the options that were given."""
        given: dict[str, Any] = {"palette": self.palette, "highlight": [one.text for one in self.isotherms]}
        given |= {"counts": self.settings.counts, **self.settings.conditions, "save_temperatures": self.save}
        return {key: value for key, value in given.items() if value not in (None, [], "auto", False)}

    def concerns(self, pair: "data.Pair") -> bool:
        """Whether a pair needs more than a pipeline does with its files."""
        return bool(self.recorded()) or isinstance(pair.visible_source, VisiblePart)

    def read(self, source: Any) -> "image.Picture":
        """The infrared image of a pair; a `ValueError` where it has no temperatures, but an option needs them."""
        picture = image.read_infrared(source, self.settings)
        if self.wanted and picture.unit != "C" and not _may_be_degrees(picture):
            raise ValueError(
                f"the infrared image holds no temperatures, so {self.wanted} cannot be used: give a radiometric file "
                "of FLIR, a float TIFF in degrees C, or 16-bit counts with --counts"
            )
        return picture

    def fuse(
        self, pipeline: "FusionPipeline | FusionSession", pair: "data.Pair", rig: Any = None, **call: Any
    ) -> "Image.Image":
        """Fuse one pair and draw its temperatures, which are `info["temperatures"]` where they are to be saved."""
        visible, picture, notes = pair.visible_source, self.read(pair.infrared_source), []
        if isinstance(visible, VisiblePart) and not visible.exists():
            if self.palette is None:
                raise ValueError(no_visible(visible.file))
            drawn = self.draw(picture)
            drawn.info["notes"] = (*picture.notes, *drawn.info.get("notes", ()), _ALONE.format(visible.file))
            return drawn
        if isinstance(visible, VisiblePart) and rig is None:
            rig = visible.rig()
            if rig.frames == 0:
                notes.append(_UNREFINED)
        elif rig == "auto" and self.wanted:
            calibrator = rigs.RigCalibrator()
            calibrator.add(visible, picture)
            rig = calibrator.estimate()
        (fused,) = pipeline(visible, picture, rig=rig, **call).images
        if isinstance(visible, VisiblePart):
            visible.inherit(fused)
        fused.info["notes"] = (*fused.info["notes"], *notes)
        return self.draw(picture, fused, rig) if self.wanted else fused

    def draw(self, picture: "image.Picture", fused: "Image.Image | None" = None, rig: Any = None) -> "Image.Image":
        """The temperatures as the options say, over the fused picture or alone."""
        import numpy as np  # here, since refusals and pictures that are already there need none

        degrees = picture.pixels.astype(np.float32)
        if picture.valid is not None:
            degrees[~picture.valid] = np.nan
        if rig is not None and fused is not None:
            degrees = rig.warp(degrees, fused.size[::-1]).filled(np.nan)
        drawn = fused
        if drawn is None or self.palette or self.isotherms:
            under = None if fused is None else image.from_pil(fused, "the result").pixels
            drawn = image.draw_temperatures(
                degrees, self.palette, limits=self.limits, highlight=self.isotherms, picture=under
            )
            drawn.info.update({} if fused is None else fused.info)
            if self.palette:
                drawn.info.pop("icc_profile", None)  # of the visible image, for other colors
        for isotherm in self.isotherms:
            if not isotherm.covers(degrees).any():
                low, high = np.nanmin(degrees), np.nanmax(degrees)
                note = f"nothing is {isotherm.text}: the temperatures are {low:.1f} to {high:.1f} C"
                drawn.info["notes"] = (*drawn.info.get("notes", ()), note)
        if self.save:
            drawn.info["temperatures"] = degrees
        return drawn


_ALONE = "{} holds no visible picture, so its temperatures are drawn alone"
_UNREFINED = (
    "the two pictures of the photo could not be aligned closer than the camera's own geometry says, which fits one "
    "distance: near things may be doubled"
)


def _may_be_degrees(picture: "image.Picture") -> bool:
    """Whether a picture is of floats that are no luminance in [0, 1]."""
    if picture.pixels.dtype.kind != "f" or picture.pixels.ndim == 3:
        return False
    import numpy as np

    known = picture.pixels[np.isfinite(picture.pixels)]
    return known.size > 0 and (known.min() < 0 or known.max() > 1)


def temperatures_file(picture: Path) -> Path:
    """Where the temperatures beside a picture are saved."""
    return picture.with_name(f"{picture.stem}_temperatures.tif")


def store_temperatures(drawn: "Image.Image", target: Path, metadata: bool) -> None:
    """Save the temperatures that a picture carries, in degrees C, beside it; nothing where it has none."""
    if (degrees := drawn.info.pop("temperatures", None)) is not None:
        stored = image.to_image(image.Picture(degrees))
        stored.info.update({key: value for key, value in drawn.info.items() if key != "icc_profile"})
        image.save_image(stored, temperatures_file(target), metadata=metadata)


def describe_temperatures(pair: "data.Pair", thermal: Thermal) -> str:
    """By which constants the temperatures of a pair were found; "" where the infrared has none of its own."""
    file = data.source_file(pair.infrared_source)
    if file is None or thermal.settings.counts == "raw":
        return ""
    try:
        thermogram = image.read_radiometric(file)
    except ValueError:
        return ""
    given = thermal.settings.conditions
    chosen = f" ({' and '.join(given)} as given)".replace("_", " ") if given else ""
    return f"{file.name}: {thermogram.camera or 'FLIR'}, {thermogram.conditions.changed(**given)}{chosen}"


def alone(pairs: "list[data.Pair]") -> Path | None:
    """The file of an infrared image that has no visible one, neither beside it nor inside."""
    visible = pairs[0].visible_source
    if not isinstance(visible, VisiblePart):
        return None
    return None if visible.exists() else visible.file


def draw_alone(thermal: Thermal, file: Path, output: Path, metadata: bool) -> None:
    """Draw and save the temperatures of a file that has no visible picture, and say so."""
    try:
        picture = thermal.read(file)
        drawn = thermal.draw(picture)
        store_temperatures(drawn, output, metadata)
        image.save_image(drawn, output, metadata=metadata)
    except (ValueError, OSError) as error:
        raise CommandError(files.disk_trouble(error, output.parent) or message_of(error)) from error
    for note in (*picture.notes, *drawn.info.get("notes", ())):
        print_message(f"warning: {with_option_names(note)}")
    if text := describe_temperatures(data.Pair(file.stem, file, file), thermal):
        typer.echo(text)
    typer.echo(f"{output}: temperatures drawn, the file has no visible picture")


@wrong_use()
def check_thermal(
    conditions: dict[str, float | None],
    counts: str,
    palette: str | None,
    highlight: list[str] | None,
    save: bool,
    infrared_range: Any,
    colors: str,
) -> Thermal:
    """The options as they were given."""
    kelvins: Any = KELVINS.get(counts, counts)
    if kelvins not in ("auto", "raw"):
        try:
            kelvins = float(kelvins)
        except ValueError:
            advice = "give auto, centikelvin, decikelvin, raw, or the kelvins of a count such as 0.04"
            raise CommandError(f"--counts {counts}: {advice}", WRONG_USE) from None
    isotherms = tuple(image.parse_isotherm(text, "--highlight") for text in highlight or ())
    if palette is not None and palette not in image.PALETTES:
        raise CommandError(f"--palette {palette} is unknown: use one of {', '.join(image.PALETTES)}", WRONG_USE)
    settings = image.ThermalSettings(kelvins, {key: value for key, value in conditions.items() if value is not None})
    limits = infrared_range if isinstance(infrared_range, tuple) else None
    thermal = Thermal(settings, palette, isotherms, save, limits)
    if colors == "overlay" and thermal.wanted:
        raise CommandError(f"--colors overlay and {thermal.wanted} exclude each other: give one of them", WRONG_USE)
    if kelvins == "raw" and thermal.wanted:
        raise CommandError(f"--counts raw leaves no temperatures for {thermal.wanted}: leave it out", WRONG_USE)
    return thermal
