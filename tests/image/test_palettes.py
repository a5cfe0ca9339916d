"""Drawn temperatures: colors that mean what the scale beside them says."""

import math
import re

import numpy as np
import pytest

from fusion_hub.image import PALETTES, draw_temperatures, parse_isotherm
from fusion_hub.image.color_scale import _ticks, with_legend
from fusion_hub.image.luminance import luma
from fusion_hub.image.palettes import ABOVE, BELOW, BETWEEN, palette_scale

RAMP = np.linspace(10, 50, 600 * 500, dtype=np.float32).reshape(600, 500)


def drawn(*args, **more) -> np.ndarray:
    return np.asarray(draw_temperatures(*args, **more)).astype(int)


@pytest.mark.parametrize("palette", PALETTES)
def test_a_color_means_one_temperature(palette: str) -> None:
    image = drawn(RAMP, palette, limits=(10, 50))
    scale = palette_scale(palette, (10, 50))
    expected = scale.at((RAMP - 10) / 40)
    assert image.shape[0] == 600 and np.abs(image[:, :500] - expected).max() <= 1
    # The strip has the colors of the picture, high on top.
    bar = image[50:550, 540]
    assert np.abs(bar - scale.at(np.linspace(1, 0, 500))).max() <= 2


@pytest.mark.parametrize("palette", sorted(PALETTES.keys() - {"rainbow", "black-hot"}))
def test_hotter_is_brighter(palette: str) -> None:
    lightness = luma(palette_scale(palette, (0, 1)).at(np.linspace(0, 1, 200))[None].astype(np.float32))[0]
    assert (np.diff(lightness) > -0.5).all() and np.ptp(lightness) > 150


def test_isotherms_are_painted_over_the_palette() -> None:
    image = drawn(RAMP, "white-hot", limits=(10, 50), highlight=[">45C", "<12C", "20..25C", "68..70F"])
    image = image[:, :500]
    for color, where in ((ABOVE, RAMP >= 45), (BELOW, RAMP <= 12), (BETWEEN, (RAMP >= 20) & (RAMP <= 25))):
        assert (image[where] == color).all()
    plain = (RAMP > 12) & (RAMP < 20)
    assert (np.ptp(image[plain], axis=1) == 0).all()  # gray


def test_isotherms_on_the_pictures_own_colors() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (*RAMP.shape, 3), dtype=np.uint8)
    temperatures = np.where(RAMP < 30, np.nan, RAMP)
    image = drawn(temperatures, None, picture=picture, highlight=[">40C"])[:, :500]
    np.testing.assert_array_equal(image[RAMP < 40], picture[RAMP < 40])
    none = drawn(temperatures, None, picture=picture, highlight=[">80C"])[:, :500]
    np.testing.assert_array_equal(none, picture)
    assert (image[RAMP > 40][:, 0] > image[RAMP > 40][:, 2]).all()  # reddish, with the brightness of the picture
    assert image[RAMP > 40][:, 0].std() > 10


def test_details_of_the_picture_leave_the_temperature_readable() -> None:
    """A picture that is bright on one side changes no color but at its edge; its texture is added."""
    picture = np.zeros(RAMP.shape, np.uint8)
    picture[:, 250:] = 200
    flat = drawn(np.full_like(RAMP, 30), "iron", limits=(10, 50), picture=picture)[:, :500]
    expected = palette_scale("iron", (10, 50)).at(np.array(0.5)).astype(int)
    away = np.abs(np.arange(500) - 249.5) > 20
    assert np.abs(flat[:, away] - expected).max() <= 2 and np.abs(flat[:, ~away] - expected).max() > 20
    hidden = np.where(RAMP < 30, np.nan, RAMP)
    outside = drawn(hidden, "iron", picture=picture)[:, :500][RAMP < 30]
    assert (np.ptp(outside, axis=1) == 0).all() and set(outside[:, 0]) <= {0, 200}


def test_small_pictures_are_enlarged_and_constant_ones_drawn() -> None:
    assert drawn(RAMP[:60:10, :80:10], "iron").shape[1] > 480
    assert drawn(np.full((500, 500), 20.0), "iron").shape[0] == 500


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        (">37C", 37, math.inf),
        ("<0C", -math.inf, 0),
        ("20..25C", 20, 25),
        (" > 98.6 \u00b0F", 37, math.inf),
        ("273.15..300K", 0, 26.85),
        ("-5..-1.5c", -5, -1.5),
    ],
)
def test_isotherms_as_text(text: str, low: float, high: float) -> None:
    found = parse_isotherm(text)
    assert (found.low, found.high) == pytest.approx((low, high))


@pytest.mark.parametrize(
    "text", ["37C", ">37", "hot", "25..20C", "20..20C", ">nanC", "20-25C", "", ">37X", "..5C", ">1e3C"]
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"--highlight {text!r} is")):
        parse_isotherm(text, "--highlight")


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="palette 'hot' is unknown: use one of iron, white-hot"):
        draw_temperatures(RAMP, "hot")
    with pytest.raises(ValueError, match="no temperatures to draw"):
        draw_temperatures(np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match="differ in size"):
        draw_temperatures(RAMP, picture=np.zeros((3, 4), np.uint8))


@pytest.mark.parametrize(("low", "high"), [(24.4, 25.5), (-68, -0.2), (17, 1200), (0, 1e-3), (5, 5)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = _ticks(low, high, 9)
    assert len(ticks) <= 9 and (len(ticks) >= 2 or high == 5)
    for place, text in ticks.items():
        assert 0 < place < 1 and float(text) == pytest.approx(low + place * (high - low))
    for width in (20, 64, 640):
        image = np.zeros((width, width, 3), np.uint8)
        assert with_legend(image, palette_scale("iron", (low, high))).shape[1] > width
