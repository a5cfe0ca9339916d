"""Pictures of what the networks compute: true, of the image's size, the same every time."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_hub import FusionPipeline, REDPipeline
from fusion_hub.data import generate_scene
from fusion_hub.explain import Panel, explain
from fusion_hub.explain.pictures import PrincipalColors, energy, enlarge, gray, heat, limits, opposed
from fusion_hub.image.color_scale import HEAT, OPPOSED
from tests.support.tiny import red_pipeline, tiny_pipeline

SIZE = (50, 70)  # no multiple of anything
NOT_NUMBERS = re.compile(r"\b(nan|inf)\b")


def scene(height: int = SIZE[0], width: int = SIZE[1]) -> tuple[np.ndarray, np.ndarray]:
    """A drawn street at night."""
    pair = generate_scene(4, 96, 128, "night_street")
    return tuple(np.asarray(Image.fromarray(one).resize((width, height))) for one in (pair.visible, pair.infrared))


def look(pipe: FusionPipeline, **arguments: Any) -> Any:
    return pipe(*scene(), return_intermediates=True, **arguments).intermediates


def pixels(panels: list[Panel]) -> dict[str, np.ndarray]:
    return {panel.title: np.asarray(panel.image).astype(int) for panel in panels}


@pytest.mark.parametrize("make", [tiny_pipeline, red_pipeline], ids=["DiffFuseNet", "RED"])
def test_panels_are_pictures_of_the_size_of_the_image(make: Any) -> None:
    pipe = make()
    output = pipe(*scene(), return_intermediates=True)
    panels = explain(output)
    assert len(panels) > 5 and len({panel.title for panel in panels}) == len(panels)
    for panel in panels:
        assert panel.image.size == (SIZE[1], SIZE[0]) and panel.image.mode == "RGB"
        assert panel.caption[0].isupper() or panel.caption[0].isdigit(), panel.caption
        assert panel.caption.endswith(".") and not NOT_NUMBERS.search(panel.caption)
        assert panel.stage
    for first, second in zip(panels, explain(output.intermediates), strict=True):
        assert first[0::2] == second[0::2] and np.array_equal(first.image, second.image)
    text = " ".join(panel.title + " " + panel.caption for panel in explain(output, names=("PET", "MRI")))
    assert "the PET image" in text and "the MRI image" in text and not re.search("visible|infrared", text)


@pytest.mark.parametrize("make", [tiny_pipeline, red_pipeline], ids=["DiffFuseNet", "RED"])
def test_any_size_and_a_flat_pair(make: Any) -> None:
    pipe = make()
    for height, width in ((1, 1), (2, 200)):
        flat = [np.full((height, width), value, np.uint8) for value in (0, 128)]
        for pair in (scene(height, width), flat):
            panels = explain(pipe(*pair, return_intermediates=True))
            assert {panel.image.size for panel in panels} == {(width, height)}
            assert not any(NOT_NUMBERS.search(panel.caption) for panel in panels)


def test_wrong_outputs_are_named() -> None:
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match="call the pipeline with return_intermediates=True"):
        explain(pipe(*scene()))
    with pytest.raises(TypeError, match="output is of type list"):
        explain([])
    pair = torch.rand(2, 2, 1, 32, 32)
    with torch.no_grad(), pytest.raises(ValueError, match="of 2 pairs: explain one at a time"):
        explain(pipe.model(*pair, return_intermediates=True))


def test_an_output_of_the_model_itself_will_do() -> None:
    model = tiny_pipeline().model.to(torch.bfloat16)
    output = model(*torch.rand(2, 1, 1, 32, 48).bfloat16(), return_intermediates=True)  # with gradients
    assert {panel.image.size for panel in explain(output)} == {(48, 32)}


def test_example_of_the_documentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text.split("## Looking inside")[1].split("\n## ")[0], re.DOTALL)
    for picture, name in zip(scene(), ("street.png", "street_ir.png"), strict=True):
        Image.fromarray(picture).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    exec(example, {})
    printed = capsys.readouterr().out
    assert printed.startswith("torch.Size([1, 48, 13, 18])") and "Diffusion. Denoised, infrared: " in printed
    assert 20 <= len(list(tmp_path.glob("*.png"))) <= 26


STAGES = ["Features", "Diffusion", "Shared and specific", "Frequency bands", "Cross-frequency attention", "Fusion"]


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({}, []),
        ({"use_d2fe": False}, ["Diffusion"]),
        ({"use_edfd": False, "patch_size": 1}, []),
        ({"cross_frequency": "add"}, ["Cross-frequency attention"]),
        ({"frequency": "none"}, ["Frequency bands", "Cross-frequency attention"]),
    ],
    ids=str,
)
def test_parts_that_a_network_lacks_are_left_out(settings: dict[str, Any], missing: list[str]) -> None:
    panels = explain(look(tiny_pipeline(**settings)))
    assert list(dict.fromkeys(panel.stage for panel in panels)) == [stage for stage in STAGES if stage not in missing]
    specific = next(panel for panel in panels if panel.title == "Specific to visible")
    assert ("as they are" in specific.caption) == (not settings.get("use_edfd", True))


def test_noise_is_shown_where_there_is_some() -> None:
    pipe = tiny_pipeline()
    quiet = {panel.title: panel for panel in explain(look(pipe))}
    assert "With noise, visible" not in quiet and "no noise was added" in quiet["Denoised, visible"].caption
    output = look(pipe, noise_strength=1, generator=torch.Generator().manual_seed(0))
    noisy = {panel.title: panel for panel in explain(output)}
    assert "no noise was added" not in noisy["Denoised, visible"].caption
    assert not np.array_equal(noisy["With noise, visible"].image, noisy["Features, visible"].image)


def test_share_is_blue_for_visible_and_orange_for_infrared() -> None:
    output = look(tiny_pipeline())
    for share, color in ((1.0, OPPOSED[0]), (0.0, OPPOSED[-1])):
        output.share = torch.full_like(output.share, share)
        panel = next(panel for panel in explain(output) if panel.title == "Share of each image")
        assert (np.asarray(panel.image) == color).all() and f"{share:.0%}" in panel.caption


def test_what_is_the_same_everywhere_is_left_out() -> None:
    output = look(tiny_pipeline())
    varying = torch.linspace(0, 1, output.residual.shape[-1]).expand_as(output.residual)
    output.residual = varying
    output.spatial_gate = tuple(torch.rand_like(gate) for gate in output.spatial_gate)
    assert {"Added to both images", "Attention to detail, visible"} <= {panel.title for panel in explain(output)}
    output.residual = varying * 0.01 - 0.1
    output.spatial_gate = tuple(torch.full_like(gate, 2) for gate in output.spatial_gate)
    assert not [panel for panel in explain(output) if re.match("Added|Attention to detail", panel.title)]


def test_the_noise_that_was_removed_is_shown_for_each_image() -> None:
    output = look(tiny_pipeline(noise_gain=8.0, residual="own"))
    output.noise_level = torch.tensor([0.0, 10 / 255])
    varying = torch.linspace(-0.1, 0.1, output.residual.shape[-1]).expand(1, *output.residual.shape[1:])
    output.residual = torch.cat([0 * varying, varying])
    panels = {panel.title: panel for panel in explain(output)}
    assert "Noise removed from infrared" in panels and "Noise removed from visible" not in panels
    assert "0.0 in visible and 10.0 in infrared" in panels["Denoised, infrared"].caption


@pytest.mark.parametrize("name", ["difffusenet-msrs", "difffusenet-medical", "red-small-msrs", "red-small-medical"])
def test_six_panels_tell_the_story_and_all_vary(name: str) -> None:
    scene = generate_scene(0, 96, 128, "brain" if "medical" in name else "night_street")
    pipe = FusionPipeline.from_pretrained(name)
    steps = 2 if isinstance(pipe, REDPipeline) else None  # one step, the default, makes a shorter story
    panels = explain(pipe(scene.visible, scene.infrared, num_inference_steps=steps, return_intermediates=True))
    story = [panel for panel in panels if panel.plain]
    assert len(story) == 6 and story[-1] is panels[-1]
    assert all(panel.plain.endswith(".") and panel.plain.count(". ") == 0 for panel in story)
    assert min(np.asarray(panel.image).std() for panel in panels) > 3, "no flat picture"


def test_nothing_changed_is_drawn_dark() -> None:
    output = look(tiny_pipeline())
    output.enhanced = output.shallow
    panel = next(panel for panel in explain(output) if panel.title == "Changed by denoising, visible")
    assert (np.asarray(panel.image) == HEAT[0]).all() and "by 0% of" in panel.caption


def test_red_shows_its_chain_and_its_coefficients() -> None:
    pipe = red_pipeline()
    with torch.no_grad():
        pipe.model.v_logit.copy_(torch.tensor([0.4, -0.5, 0.9]))
        pipe.model.lambda_offset.fill_(-0.1)
    panels = explain(look(pipe))
    expected = "Start|After step 1|Expected after step 1|After step 2|Expected after step 2|Changed by step 2|"
    expected += "After step 3|Changed by step 3|Fused luminance"
    assert [panel.title for panel in panels] == expected.split("|")
    captions = {panel.title: panel.caption for panel in panels}
    scalars = pipe.model.coefficients()
    v, alphas = scalars["v"], scalars["alphas"]
    assert f"at {np.sqrt(np.prod(alphas)):.2f} of its brightness; x_4, the infrared image" in captions["Start"]
    assert captions["After step 1"].startswith(
        f"The state x_2 is {1 - v[2]:.2f} of a DDIM step from x_3 (learned alpha_3 = {alphas[2]:.2f})"
    )
    assert f"and {v[2]:.2f} of x_4, the infrared image" in captions["After step 1"]
    assert f"and {v[0]:.2f} of x_2 (" in captions["After step 3"]
    assert captions["Fused luminance"].startswith("The result is 0.90 x_0 + 0.10 x_1")


def test_red_with_fewer_steps_and_without_wiring() -> None:
    pipe = red_pipeline()
    titles = [panel.title for panel in explain(look(pipe, num_inference_steps=1))]
    assert titles == ["Start", "After step 1", "Fused luminance"]
    output = pipe.model(*torch.rand(2, 1, 1, 16, 16), "auto", 1e9, return_intermediates=True)
    assert "left after 2 of 3 steps: its last clean image is the result" in explain(output)[-1].caption
    panels = explain(look(red_pipeline(reversible_fusion=False)))
    assert "the mean of both images" in panels[0].caption
    assert panels[1].caption.startswith("The state x_2 is a DDIM step from x_3 (learned alpha_3 =")


def test_red_states_are_on_one_scale() -> None:
    output = look(red_pipeline())
    shown = pixels(explain(output))
    white = max(limits(output.fused)[1], 1e-3)
    for title, state in (("Start", output.states[0]), ("After step 3", output.states[-1])):
        expected = (state[0, 0].clamp(0, white) / white * 255).numpy()
        assert np.abs(shown[title] - expected[..., None]).max() <= 0.51


def test_components_are_turned_with_the_brightness() -> None:
    brightness = torch.linspace(0, 1, 32 * 40).view(1, 32, 40)
    for sign in (1, -1):
        features = torch.cat([sign * brightness * 3, torch.zeros(4, 32, 40)])
        image = np.asarray(PrincipalColors([features], brightness).paint(features, 1, (32, 40)).convert("L")).astype(
            int
        )
        assert image[0, 0] < 40 and image[-1, -1] > 215 and (np.diff(image.ravel()) >= 0).all()


def test_like_features_have_like_colors() -> None:
    torch.manual_seed(0)
    features = torch.randn(6, 24, 24)
    colors = PrincipalColors([features, features * 0.5], torch.rand(1, 48, 48))
    mirrored = colors.paint(features.flip(2), 2, (48, 48))
    assert np.array_equal(np.asarray(mirrored)[:, ::-1], colors.paint(features, 2, (48, 48)))


def test_a_weak_component_is_drawn_weakly() -> None:
    torch.manual_seed(0)
    features = torch.randn(3, 40, 40) * torch.tensor([1.0, 1e-3, 1e-3])[:, None, None]
    image = np.asarray(PrincipalColors([features], torch.rand(1, 40, 40)).paint(features, 1, (40, 40))).astype(int)
    assert (image.max(axis=-1) - image.min(axis=-1)).max() <= 2


def test_cells_lie_over_their_pixels() -> None:
    maps = torch.zeros(1, 5, 5)
    maps[0, 2, 3] = 1
    large = enlarge(maps, 4, (18, 17))[0]
    assert large.shape == (18, 17)
    rows, columns = np.nonzero(large > 0.5)
    assert rows.min() >= 8 and rows.max() <= 11 and columns.min() >= 12 and columns.max() <= 15


def test_scales() -> None:
    ramp = torch.linspace(-1, 1, 100).expand(100, 100)
    blue_black_orange = np.asarray(opposed(ramp, 0, 1, 1, (100, 100)))[0]
    assert tuple(blue_black_orange[0]) == OPPOSED[0] and tuple(blue_black_orange[-1]) == OPPOSED[-1]
    assert np.abs(blue_black_orange[50].astype(int) - OPPOSED[2]).max() <= 3
    warm = np.asarray(heat(ramp, 0, 1, 1, (100, 100)).convert("L"))[0].astype(int)
    assert (warm[:50] == warm[0]).all() and (np.diff(warm) >= 0).all()
    assert np.array_equal(np.asarray(gray(ramp, -1, 1))[0, [0, -1]], [[0] * 3, [255] * 3])
    assert energy(torch.tensor([3.0, 4.0]).view(2, 1, 1)).item() == pytest.approx(np.sqrt(12.5))


def test_limits_leave_outliers_and_borders_out() -> None:
    values = torch.rand(100, 100, generator=torch.Generator().manual_seed(0))
    values[0], values[:, -1], values[50, 50] = 1e6, -1e6, 1e6
    low, high = limits(values)
    assert 0 <= low < 0.05 and 0.95 < high <= 1
