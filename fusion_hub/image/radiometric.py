"""Temperatures from the raw counts of radiometric files, and the place of the infrared in the visible picture.

A camera is calibrated on black bodies: a temperature T in kelvin gives the signal, in counts,

    U(T) = R1 / (R2 (exp(B / T) - F)) - O

with constants that FLIR stores in each file (R1, R2, B, F, O: Planck's law for the band of the detector). What reaches
the camera comes from the object (emissivity e), from what the object reflects, from the air and from a window (w) with
air on both sides, each of them with the transmission t of half of the distance d:

    S = t w t (e U(object) + (1 - e) U(reflected)) + t w (1 - t) U(air) + t (1 - w) U(window) + (1 - t) U(air)

which is solved for U(object). The window is taken to reflect nothing. The transmission of air follows FLIR's model,

    t = X exp(-sqrt(d / 2) (alpha1 + beta1 sqrt(h))) + (1 - X) exp(-sqrt(d / 2) (alpha2 + beta2 sqrt(h)))
    h = humidity exp(1.5587 + 0.06939 T - 0.00027816 T^2 + 0.00000068455 T^3),   T of the air in degrees C

(W. Minkina, S. Dudzik: Infrared Thermography, Errors and Uncertainties, Wiley 2009; the form with a window is that of
G. J. Tattersall: Thermimage, doi:10.5281/zenodo.1069704).
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import BinaryIO, Literal

from PIL import ExifTags, Image

from fusion_hub.image import flir
from fusion_hub.image.lazy_numpy import np
from fusion_hub.image.picture import Picture
from fusion_hub.image.sources import MAX_PIXELS, EncodedImage, check_size, opened
from fusion_hub.image.thermal_makers import other_maker

ZERO = 273.15  # K, of degrees C
_DAMAGED = "{name} has a damaged FLIR block ({what}): copy or export the file again"
_RANGES = {  # of conditions: lower and upper limit, the unit, and a hint for the usual slip
    "emissivity": (0.01, 1.0, "a share", ""),
    "distance": (0.0, 10_000.0, "meters", ""),
    "reflected_temperature": (-200.0, 3000.0, "degrees C", ""),
    "atmospheric_temperature": (-90.0, 80.0, "degrees C", ""),
    "humidity": (0.0, 1.0, "a share", ", so 0.5 for 50 %"),
}


@dataclass(frozen=True)
class Calibration:
    """Constants of a camera: Planck's law in counts, and the transmission of air. See the module for the equations."""

    r1: float
    r2: float
    b: float
    f: float
    o: float
    alpha1: float = 0.0
    alpha2: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0
    x: float = 1.0

    def signal(self, temperature: float) -> float:
        """Counts of a black body of a temperature in degrees C."""
        return self.r1 / (self.r2 * (math.exp(self.b / (temperature + ZERO)) - self.f)) - self.o


@dataclass(frozen=True)
class Conditions:
    """What the camera was told of the scene.

    Attributes:
        emissivity: of the surface, above 0 to 1.
        distance: to the surface, in meters.
        reflected_temperature: apparent temperature of what the surface reflects, in degrees C.
        atmospheric_temperature: of the air, in degrees C.
        humidity: relative humidity of the air as a share, 0 to 1.
        window_temperature: of a window before the lens, in degrees C.
        window_transmission: of that window, above 0 to 1; 1 where there is none.
    """

    emissivity: float
    distance: float
    reflected_temperature: float
    atmospheric_temperature: float
    humidity: float
    window_temperature: float = 20.0
    window_transmission: float = 1.0

    def changed(self, **given: float | None) -> Conditions:
        """With other values for those that are not None; raises a `ValueError` for one outside its range."""
        known = {key: value for key, value in given.items() if value is not None}
        check_conditions(known)
        return replace(self, **known)

    def __str__(self) -> str:
        window = f", window transmission {self.window_transmission:g}" if self.window_transmission < 1 else ""
        return (
            f"emissivity {self.emissivity:.4g}, distance {self.distance:.4g} m, reflected temperature "
            f"{self.reflected_temperature:.4g} C, atmospheric temperature {self.atmospheric_temperature:.4g} C, "
            f"humidity {self.humidity:.0%}{window}"
        )


@dataclass(frozen=True)
class Overlay:
    """Where the camera lays the infrared over its visible picture.

    Attributes:
        scale: width of the visible picture's field of view divided by the infrared's: FLIR's Real2IR over the zoom.
        offset: `(x, y)` of the infrared's center from the visible's, in pixels of the embedded visible picture.
        visible_size: `(H, W)` of that picture.
    """

    scale: float
    offset: tuple[float, float]
    visible_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Thermogram:
    """The contents of a radiometric file.

    Attributes:
        counts: `(h, w)` uint16, as the sensor gave them.
        calibration: constants of the camera.
        conditions: emissivity, distance, ... that were set in the camera.
        camera: its model, "" where the file does not say.
        visible: the visible picture as an encoded JPEG or PNG; None where the file has none.
        overlay: how the camera lays the infrared over it; None where the file does not say.
        shown_counts: counts of the first and the last color of the picture that the camera shows; None if unknown.

    Examples:
        >>> planck = Calibration(r1=17096.453, r2=0.046642, b=1428.0, f=1.0, o=-342)
        >>> scene = Conditions(0.95, 2.0, reflected_temperature=22.0, atmospheric_temperature=20.0, humidity=0.4)
        >>> photo = Thermogram(np.array([[3400, 3500]], np.uint16), planck, scene)
        >>> photo.temperatures().round(1), photo.temperatures(emissivity=0.8).round(1)
        (array([[24.8, 26.9]], dtype=float32), array([[25.3, 27.8]], dtype=float32))
    """

    counts: np.ndarray
    calibration: Calibration
    conditions: Conditions
    camera: str = ""
    visible: bytes | None = None
    overlay: Overlay | None = None
    shown_counts: tuple[float, float] | None = None

    def picture(self, name: str = "the image", **given: float) -> Picture:
        """The temperatures under given conditions, with [`notes`], as the infrared image of a pair."""
        return Picture(
            self.temperatures(name=name, **given), depth="float32", notes=self.notes(name, **given), unit="C"
        )

    def temperatures(
        self,
        *,
        emissivity: float | None = None,
        distance: float | None = None,
        reflected_temperature: float | None = None,
        atmospheric_temperature: float | None = None,
        humidity: float | None = None,
        name: str = "the image",
    ) -> np.ndarray:
        """Degrees C, `(h, w)` float32, by the full formula, with the file's own conditions where none are given.

        Args:
            emissivity: 0.01 to 1.
            distance: meters.
            reflected_temperature: apparent, degrees C.
            atmospheric_temperature: degrees C.
            humidity: a share, 0.5 for 50 %.
            name: how messages call the picture.

        Raises:
            ValueError: a value is outside its range, or counts that no temperature explains under these conditions.
        """
        return self._solve(
            self.conditions.changed(
                emissivity=emissivity,
                distance=distance,
                reflected_temperature=reflected_temperature,
                atmospheric_temperature=atmospheric_temperature,
                humidity=humidity,
            ),
            name,
        )

    def shown_limits(self) -> tuple[float, float] | None:
        """Temperatures of the first and the last color that the camera shows, in degrees C; None if unknown."""
        if self.shown_counts is None:
            return None
        low, high = replace(self, counts=np.array([self.shown_counts])).temperatures()[0]
        return float(low), float(high)

    def _solve(self, scene: Conditions, name: str) -> np.ndarray:
        planck = self.calibration
        t, w, e = transmission(planck, scene), scene.window_transmission, scene.emissivity
        try:
            air, around, window = (
                planck.signal(temperature)
                for temperature in (
                    scene.atmospheric_temperature,
                    scene.reflected_temperature,
                    scene.window_temperature,
                )
            )
            path = (1 - t) * air + t * (1 - w) * window + t * w * (1 - t) * air
            signals = ((self.counts - path) / (t * w * t) - (1 - e) * around) / e
            share = planck.r1 / (planck.r2 * (signals + planck.o)) + planck.f
            with np.errstate(all="ignore"):
                kelvin = planck.b / np.log(share)
        except (ArithmeticError, ValueError) as error:
            raise ValueError(
                f"{name} has calibration constants that give no temperatures: export the temperatures as float TIFF"
            ) from error
        wrong = ~(np.isfinite(kelvin) & (share > 1) & (signals + planck.o > 0))
        if wrong.any():
            raise ValueError(
                f"{name} has {int(wrong.sum())} of {wrong.size} pixels that no temperature explains with {scene}: "
                "correct these values, or use emissivity 1 for the apparent temperature"
            )
        return (kelvin - ZERO).astype(np.float32)

    def overlay_homography(self, visible_size: tuple[int, int] | None = None) -> np.ndarray | None:
        """The camera's own alignment, infrared -> visible, `(3, 3)` float64 in pixel centers; None if it is unknown.

        Args:
            visible_size: `(H, W)` of the visible picture; None for the embedded one.
        """
        if self.overlay is None:
            return None
        (height, width), (rows, columns) = visible_size or self.overlay.visible_size, self.counts.shape
        share = width / self.overlay.visible_size[1]
        scale = width / (columns * self.overlay.scale)
        x, y = (share * value for value in self.overlay.offset)
        return np.array(
            [
                [scale, 0, (width - 1) / 2 + x - scale * (columns - 1) / 2],
                [0, scale, (height - 1) / 2 + y - scale * (rows - 1) / 2],
                [0, 0, 1],
            ]
        )

    def notes(self, name: str = "the image", **given: float | None) -> tuple[str, ...]:
        """What should be known about the temperatures, one sentence each, without a full stop."""
        planck, scene = self.calibration, self.conditions.changed(**given)
        found = []
        if scene.emissivity == 1:
            found.append(
                f"{name} has emissivity 1, so its temperatures are apparent ones: set the emissivity of the surface, "
                "0.95 for most that are not metal"
            )
        if not any((planck.alpha1, planck.alpha2, planck.beta1, planck.beta2)):
            found.append(f"{name} has no constants of the air, so its temperatures are not corrected for it")
        elif scene.distance == 0:
            found.append(f"{name} has distance 0, so its temperatures are not corrected for the air: set it in meters")
        return tuple(found)


@dataclass(frozen=True)
class ThermalSettings:
    """How temperatures are read.

    Attributes:
        counts: what the counts of 16-bit files are: kelvins of one count (0.01 in centikelvin files), "raw" for counts
            that stay counts, "auto" for what the metadata of the file say.
        conditions: emissivity, distance ... by the names of [`Conditions`], in place of those in radiometric files.
    """

    counts: Literal["auto", "raw"] | float = "auto"
    conditions: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_conditions(self.conditions)
        if not isinstance(self.counts, str) and not 1e-4 <= self.counts <= 10:
            raise ValueError(f"counts={self.counts:g} must be kelvins of one count, from 0.0001 to 10")

    def picture(self, thermogram: Thermogram, name: str) -> Picture:
        """The temperatures, or raw counts, of a radiometric file."""
        if self.counts == "raw":
            return Picture(thermogram.counts, white=65535.0, depth="uint16")
        if self.counts != "auto":
            raise ValueError(f"{name} has constants of its own for its counts: leave out counts={self.counts:g}")
        return thermogram.picture(name, **self.conditions)

    def in_degrees(self, picture: Picture, kelvins: float | None, name: str) -> Picture:
        """The temperatures in a picture whose metadata say that a count has so many kelvins, or None."""
        if self.conditions:
            raise ValueError(
                f"{name} holds no radiometric data of FLIR, so {' and '.join(self.conditions)} cannot be set: "
                "give the original file of the camera, or no such value"
            )
        are_counts = picture.pixels.dtype == np.uint16 and picture.pixels.ndim == 2
        if isinstance(self.counts, str):
            if kelvins is None or self.counts == "raw" or not are_counts:
                return picture
        elif are_counts:
            kelvins = float(self.counts)
        else:
            kind = "colors" if picture.pixels.ndim == 3 else f"{picture.pixels.dtype} samples"
            raise ValueError(f"{name} has {kind}, no counts of 16 bits: leave out counts={self.counts:g}")
        degrees = (picture.pixels * np.float64(kelvins) - ZERO).astype(np.float32)
        return replace(picture, pixels=degrees, white=None, depth="float32", unit="C")


def check_conditions(given: Mapping[str, float], prefix: str = "") -> None:
    """Raise a `ValueError` for an emissivity, distance, temperature or humidity outside its range."""
    for key, value in given.items():
        low, high, unit, hint = _RANGES[key]
        if not low <= value <= high:
            raise ValueError(f"{prefix}{key}={value:g} must be {unit} from {low:g} to {high:g}{hint}")


def transmission(planck: Calibration, scene: Conditions) -> float:
    """Of the air along half of the distance."""
    air = scene.atmospheric_temperature
    water = scene.humidity * math.exp(1.5587 + 0.06939 * air - 0.00027816 * air**2 + 0.00000068455 * air**3)
    root = math.sqrt(scene.distance / 2)
    first = math.exp(-root * (planck.alpha1 + planck.beta1 * math.sqrt(water)))
    second = math.exp(-root * (planck.alpha2 + planck.beta2 * math.sqrt(water)))
    return planck.x * first + (1 - planck.x) * second


def read_radiometric(source: EncodedImage, name: str = "image", max_pixels: int = MAX_PIXELS) -> Thermogram:
    """The counts, constants and visible picture of a radiometric file of FLIR: a JPEG, or an FFF file of one frame.

    Args:
        source: path, or `{"bytes", "path"}`.
        name: how messages call it; the path is added.
        max_pixels: larger pictures are refused before they are decoded.

    Raises:
        ValueError: the file is missing, damaged, too large, or not radiometric; the message names it.
    """
    with opened(source, name) as (stream, name, _):
        block = find_block(stream, name)
        if block is None:
            raise ValueError(
                other_maker(stream, name)
                or f"{name} holds no radiometric data of FLIR: give the original file of the camera, as programs that "
                "edit or send pictures leave the data out"
            )
        return read_block(block, stream, name, max_pixels)


def find_block(stream: BinaryIO, name: str) -> flir.Block | None:
    """The FLIR block of an opened file, nothing of it decoded; None if there is none."""
    try:
        data = flir.find_block(stream)
        block = None if data is None else flir.parse_block(data)
    except flir.Damage as damage:
        raise ValueError(_DAMAGED.format(name=name, what=damage)) from damage
    if block is not None and block.several:
        raise ValueError(f"{name} holds several frames, as thermal videos do: export the one to read")
    return block


def read_block(
    block: flir.Block, stream: BinaryIO, name: str, max_pixels: int, with_visible: bool = True
) -> Thermogram:
    """[`read_radiometric`] of the block of an opened file."""
    try:
        counts = flir.decode_counts(block, partial(check_size, name=name, max_pixels=max_pixels))
        if block.camera is None:
            raise flir.Damage("it has no constants of the camera")
        calibration, conditions = _constants(block.camera)
        visible, size = _visible(block.embedded if with_visible else None, name, max_pixels)
        overlay = None if block.overlay is None or size is None else _overlay(block.overlay, size, _zoom(stream))
    except flir.Damage as damage:
        raise ValueError(_DAMAGED.format(name=name, what=damage)) from damage
    return Thermogram(
        counts, calibration, conditions, block.camera.text(0xD4, 32), visible, overlay, _shown_counts(block.camera)
    )


def _constants(camera: flir.Record) -> tuple[Calibration, Conditions]:
    read = partial(camera.read, "f")
    r1, b, f, r2, o = read(0x58), read(0x5C), read(0x60), read(0x30C), camera.read("i", 0x308)
    planck = Calibration(r1, r2, b, f, o, read(0x70), read(0x74), read(0x78), read(0x7C), read(0x80))
    emissivity, distance, reflected, air, window, through = (read(0x20 + 4 * index) for index in range(6))
    humidity = read(0x3C)
    humidity = humidity / 100 if humidity > 1 else humidity  # some cameras write percent
    window = air if through == 1 else window  # there is none
    scene = Conditions(emissivity, distance, reflected - ZERO, air - ZERO, humidity, window - ZERO, through)
    values = [*vars(planck).values(), *vars(scene).values()]
    kelvin = (reflected, air, window)
    if not all(map(math.isfinite, values)) or min(planck.r1, planck.r2, planck.b) <= 0 or min(kelvin) <= 0:
        raise flir.Damage("its calibration constants are missing")
    if not (0 < emissivity <= 1 and distance >= 0 and 0 <= humidity <= 1 and 0 < through <= 1):
        raise flir.Damage(f"its constants are impossible: {scene}")
    return planck, scene


def _shown_counts(camera: flir.Record) -> tuple[float, float] | None:
    """From the middle and the width of the range, which older cameras do not store."""
    if len(camera.data) < 0x33E:
        return None
    middle, width = camera.read("H", 0x338), camera.read("H", 0x33C)
    return (middle - width / 2, middle + width / 2) if 0 < width <= 2 * middle else None


def _visible(embedded: flir.Record | None, name: str, max_pixels: int) -> tuple[bytes | None, tuple[int, int] | None]:
    """The embedded picture and its size `(H, W)`; None for kinds other than JPEG and PNG of 8-bit colors."""
    if embedded is None or len(embedded.data) <= 32:
        return None, None
    size = embedded.read("H", 4), embedded.read("H", 2)
    data = bytes(embedded.data[32:])
    check_size(size, f"the visible picture in {name}", max_pixels)
    if data.startswith(b"\xff\xd8\xff"):
        return data, size
    if not data.startswith(b"\x89PNG") or data[24:26] != b"\x08\x02":
        return None, None
    # Cameras store Y, Cb and Cr in it.
    planes = flir.decode_png(data, size, 3, 8)
    stream = io.BytesIO()
    Image.frombytes("YCbCr", size[::-1], planes.tobytes()).convert("RGB").save(stream, "PNG", compress_level=1)
    return stream.getvalue(), size


def _overlay(record: flir.Record, visible_size: tuple[int, int], zoom: float) -> Overlay | None:
    scale, x, y = record.read("f", 0), record.read("h", 4), record.read("h", 6)
    if not (math.isfinite(scale) and 0.1 < scale < 20):
        return None
    return Overlay(scale / zoom, (x, y), visible_size)


def _zoom(stream: BinaryIO) -> float:
    """The digital zoom of the EXIF block, by which the infrared that is stored is wider than the one that is shown.

    1 where there is none. Ratios below 1 are no zoom: the AX8 writes 0.2 over infrared that fills its visible picture.
    """
    stream.seek(0)
    try:
        with Image.open(stream, formats=("JPEG",)) as image:
            zoom = float(image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DigitalZoomRatio, 1))
    except Exception:  # no JPEG, or damaged metadata
        return 1.0
    return zoom if 1 <= zoom <= 64 else 1.0
