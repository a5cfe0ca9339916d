"""PET and SPECT over MRI: the scan's own colors where there is uptake, the MRI where there is none, and the scale."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from fusion_hub.data import sample_pairs
from fusion_hub.image import overlay, overlay_pair, with_legend
from fusion_hub.image.color_scale import HEAT, ColorScale


def uptake(height: int = 96, width: int = 128) -> np.ndarray:
    """A smooth field in [0, 1] with a background of zeros."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1.2 : 1.2 : width * 1j]
    field = np.exp(-((x - 0.3) ** 2 + y**2) / 0.1) + 0.6 * np.exp(-((x + 0.4) ** 2 + y**2) / 0.15) - 0.05
    return np.clip(field / field.max(), 0, 1)


def anatomy(height: int = 96, width: int = 128) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width), dtype=np.uint8)


def painted(name: str, field: np.ndarray) -> np.ndarray:
    """The field by a color scale of matplotlib."""
    return matplotlib.colormaps[name](field, bytes=True)[..., :3]


@pytest.mark.parametrize("name", ["hot", "jet", "inferno", "viridis", "gnuplot2", "CMRmap", "gray_r", "hot_r"])
@pytest.mark.parametrize("deep", [False, True])
def test_the_scale_of_a_colored_scan_is_found_again(name: str, deep: bool) -> None:
    field = uptake()
    scan = painted(name, field)
    image, scale = overlay(scan.astype(np.uint16) * 257 if deep else scan, anatomy())
    places = scale.places
    assert places[0] == 0 and places[-1] == 1 and (np.diff(places) > 0).all()
    if scale.limits is None:
        expected = painted(name, np.linspace(0, 1, 256)).astype(float)
        index = [
            int(np.abs(expected - color).sum(1).argmin()) for color in scale.at(np.linspace(0, 1, 30)).astype(float)
        ]
        assert spearmanr(index, range(30)).statistic > 0.999, (
            "low to high as the scanner had it, whatever its luminance"
        )
        np.testing.assert_array_equal(image[field > 0.75], scan[field > 0.75])
    np.testing.assert_array_equal(image[field == 0], np.repeat(anatomy()[field == 0][:, None], 3, axis=1))


def test_gray_scans_get_colors_and_their_values() -> None:
    counts = (uptake() * 22600).astype(np.int32)
    image, scale = overlay(counts, anatomy() / 255)
    assert scale.limits == (0, 22600) and tuple(image[counts == 22600][0]) == HEAT[-1]
    again, _ = overlay(np.repeat(quantized := (uptake() * 255).astype(np.uint8)[..., None], 3, axis=2), anatomy())
    assert np.abs(image.astype(int) - again).max() <= 6, "three equal channels are gray"
    turned, scale = overlay(255 - quantized, np.repeat(anatomy()[..., None], 3, axis=2))
    assert scale.limits == (255, 0), "dark means uptake over a bright background"
    np.testing.assert_array_equal(turned, again)


@pytest.mark.parametrize("name", ["pet", "spect"])
def test_our_samples_stay_readable(name: str) -> None:
    pair = next(pair for pair in sample_pairs() if pair.name == name)
    check_real(pair.visible, pair.infrared)


@pytest.mark.parametrize(("name", "kind"), [("mri_pet", "pet"), ("mri_spect", "spect")])
def test_real_scans_stay_readable(data_root: Path, name: str, kind: str) -> None:
    for scan in sorted((data_root / "data" / name / "test" / kind).iterdir())[5:40:10]:
        check_real(scan, data_root / "data" / name / "test/mri" / scan.name)


def check_real(scan_file: Path, mri_file: Path) -> None:
    scan, mri = np.asarray(Image.open(scan_file).convert("RGB")), np.asarray(Image.open(mri_file).convert("L"))
    image, scale = overlay(scan, mri)
    gray = np.repeat(mri[..., None], 3, axis=2)
    empty = scan.max(axis=2) < 8
    assert empty.mean() > 0.2 and np.abs(image[empty].astype(int) - gray[empty]).max() <= 1
    top = scale.at(np.linspace(0.6, 1, 50)).astype(int)
    high = np.abs(scan[:, :, None].astype(int) - top).max(axis=3).min(axis=2) < 12
    assert high.sum() > 100 and np.abs(image[high].astype(int) - scan[high]).max() <= 3
    assert len(scale.colors) > 20


def test_the_lines_of_the_documentation_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[2] / "docs/models.md").read_text(encoding="utf-8")
    code = text.split("### Color and medical pairs")[1].split("```python")[1].split("```")[0]
    pair = next(pair for pair in sample_pairs() if pair.name == "pet")
    for file, name in ((pair.visible, "pet.png"), (pair.infrared, "mri.png")):
        Image.open(file).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert Image.open("overlay.png").width > Image.open("pet.png").width


def test_two_pictures_of_any_kind_become_one_with_a_legend(tmp_path: Path) -> None:
    counts = (uptake() * 22600).astype(np.uint16)
    Image.fromarray(counts).save(tmp_path / "pet.tif")
    deep = Image.fromarray(anatomy().astype(np.uint16) * 257)
    direct = with_legend(*overlay(counts, anatomy()))
    assert np.abs(np.asarray(overlay_pair(tmp_path / "pet.tif", anatomy())).astype(int) - direct).max() <= 1
    colored = painted("jet", uptake())
    image = overlay_pair(colored.astype(np.float32) / 255, anatomy())
    np.testing.assert_array_equal(image, with_legend(*overlay(colored, anatomy())))
    assert overlay_pair(colored, deep).size == image.size  # a deep anatomy is stretched like an infrared image
    with pytest.raises(ValueError, match=r"128x96 .* 60x96"):
        overlay_pair(colored, anatomy()[:, :60])


def test_nothing_breaks_on_flat_noisy_and_tiny_scans() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for scan in (noise, np.full((64, 64, 3), (9, 200, 40), np.uint8), np.full((64, 64), 7.5), noise[:1, :1]):
        gray = np.full(scan.shape[:2], 99, np.uint8)
        image, scale = overlay(scan, gray)
        assert image.shape == (*scan.shape[:2], 3) and image.dtype == np.uint8
        assert with_legend(image, scale).shape[0] == len(image)
    assert (overlay(np.zeros((64, 64)), np.full((64, 64), 99, np.uint8))[0] == 99).all()
    holes = uptake()
    holes[:5], holes[50, 60] = np.nan, np.inf
    image, scale = overlay(holes, anatomy())
    assert scale.limits == (0, 1) and (image[:5, :, 0] == anatomy()[:5]).all() and tuple(image[50, 60]) == HEAT[-1]
    with pytest.raises(ValueError, match=r"scan has the shape \(64, 64, 4\)"):
        overlay(np.zeros((64, 64, 4)), np.zeros((64, 64)))
    with pytest.raises(ValueError, match="64x64 and 32x64 pixels: give two images of one size"):
        overlay(noise, noise[:, :32, 0])


def test_the_legend_stands_beside_the_image() -> None:
    image = np.full((96, 128, 3), 50, np.uint8)
    scale = ColorScale(np.array(HEAT, np.uint8), np.linspace(0, 1, len(HEAT)), (0, 2260))
    whole = with_legend(image, scale)
    np.testing.assert_array_equal(whole[:, :128], image)
    column = whole[:, 128 + 15].astype(int)
    shown = [place for place in range(96) if column[place].any() and np.ptp(column[place]) > 0]
    brightness = column[shown].sum(axis=1)
    assert len(shown) > 40 and (np.diff(brightness) <= 0).all(), "high on top"
    assert whole.shape == with_legend(image, None).shape and not with_legend(image, None)[:, 128:].any()
    assert (with_legend(image, scale) != with_legend(image, ColorScale(scale.colors, scale.places))).any(), "the values"
