"""Evaluation: what is measured, intervals, guard rails, folders of other people's images, resuming, the files."""

import csv
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion_hub.data import PairedDataset, generated_pairs
from fusion_hub.evaluation import (
    FORMAT,
    Evaluation,
    EvaluationSet,
    Method,
    Row,
    baseline_method,
    bootstrap_mean,
    collect,
    evaluate,
    folder_method,
    luminance,
    measure_share,
    pipeline_method,
    report,
    source_luminance,
    with_baselines,
)
from fusion_hub.evaluation import run as run_module
from fusion_hub.evaluation.methods import Kind, stretch
from fusion_hub.evaluation.records import GUARD_METRICS, Records, measure_pair, slug
from fusion_hub.evaluation.report import by_convention
from fusion_hub.image.io import DeepImage
from fusion_hub.metrics import evaluate_pair
from tests.support.tiny import tiny_pipeline

METRICS = ("EN", "SD", "SF", "SCD", "VIF", "Qabf")


@pytest.fixture(scope="module")
def drawn() -> EvaluationSet:
    """Four small street scenes."""
    return EvaluationSet.of("drawn/test", PairedDataset.open(generated_pairs(4, height=64, width=80)))


def rule(name: str, choose: Callable[..., np.ndarray], kind: Kind = "model", **details: object) -> Method:
    """A method that makes a picture out of the two source luminances."""
    return Method(name, kind, lambda pair, dataset: Image.fromarray(choose(*source_luminance(pair))), details, name)


def measured(methods: list[Method], dataset: EvaluationSet, folder: Path, images: Path | None = None) -> Evaluation:
    """As `evaluate`, but without the files of the report."""
    everything = with_baselines(methods)
    failures = measure_share(everything, [dataset], METRICS, folder, images=images)
    return collect(everything, [dataset], METRICS, folder, failures)


def row(result: Evaluation, method: str) -> Row:
    return next(found for found in result.rows if found.method == method)


# --- what is measured ---


def test_luminance_rounds_bt601() -> None:
    colors = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    expected = [[int(0.299 * r + 0.587 * g + 0.114 * b + 0.5) for r, g, b in line] for line in colors.tolist()]
    assert luminance(Image.fromarray(colors)).tolist() == expected
    gray = colors[..., 0]
    assert np.array_equal(luminance(Image.fromarray(gray)), gray)
    assert np.array_equal(luminance(Image.fromarray(gray.astype(np.uint16) * 257)), gray)
    assert np.array_equal(luminance(Image.fromarray(np.stack([gray] * 3, -1))), gray)
    with pytest.raises(ValueError, match="float values beyond 0 to 1"):
        luminance(Image.fromarray(gray.astype(np.float32)))
    with pytest.raises(ValueError, match="float values beyond 0 to 1"):
        luminance(DeepImage(colors.astype(np.float32)))
    assert np.array_equal(luminance(DeepImage(np.stack([gray] * 3, -1) / np.float32(255))), gray)
    assert np.array_equal(luminance(DeepImage(np.stack([gray, gray[::-1]], -1).astype(np.uint16) * 257)), gray)
    with pytest.raises(ValueError, match=r"the mode I: .* save it with 8 bits"):
        luminance(Image.fromarray(gray.astype(np.int32)))


def test_sixteen_bits_in_the_low_ones_are_refused(drawn: EvaluationSet, tmp_path: Path) -> None:
    for pair in drawn.pairs:
        Image.fromarray(source_luminance(pair)[0].astype(np.uint16)).save(tmp_path / f"{pair.name}.png")
    method = folder_method("low", tmp_path, {drawn.name: drawn.names})
    with pytest.raises(ValueError, match=r"16 bits and no value above \d+.*full scale of 65535"):
        method.fuse(drawn.pairs[0], drawn.name)


def test_values_are_those_of_evaluate_pair(drawn: EvaluationSet) -> None:
    visible, infrared = source_luminance(drawn.pairs[0])
    fused = np.maximum(visible, infrared)
    record = measure_pair(fused, visible, infrared, METRICS)
    assert record["values"] == evaluate_pair(fused, visible, infrared, [*METRICS, *GUARD_METRICS])
    assert record["stretched"]["SD"] == evaluate_pair(stretch(fused), visible, infrared, ["SD"])["SD"]
    assert record["distance_visible"] == pytest.approx(np.abs(fused.astype(int) - visible).mean())
    assert record["distance_sources"] == pytest.approx(np.abs(visible.astype(int) - infrared).mean())


def test_another_size_is_an_error_and_never_a_resize() -> None:
    image = np.zeros((50, 60), dtype=np.uint8)
    with pytest.raises(ValueError, match=r"60x49 and its sources 60x50.*nothing is resized"):
        measure_pair(image[:49], image, image, METRICS)


def test_undefined_values_are_none_not_nan() -> None:
    flat = np.full((50, 60), 7, dtype=np.uint8)
    textured = np.random.default_rng(0).integers(0, 256, flat.shape, dtype=np.uint8)
    for images in ((flat, flat, flat), (textured, flat, flat), (flat, textured, flat), (flat, textured, textured)):
        values = measure_pair(*images, ("EN", "SCD", "CC", "VIF", "Qabf", "PSNR", "SSIM"))["values"]
        assert all(value is None or math.isfinite(value) for value in values.values())


# --- both conventions ---


def test_the_stretched_row_is_that_of_images_stretched_by_someone_else(drawn: EvaluationSet, tmp_path: Path) -> None:
    """Of a network and a rule before rounding, in color too; of a folder after it. `rescale` gives the same row."""
    pipeline = tiny_pipeline()
    plain = pipeline_method("tiny", pipeline)
    rescaled = pipeline_method("tiny+minmax", pipeline, {"rescale": "minmax"})
    dim = rule("theirs", lambda v, i: 100 + v // 4, kind="folder")
    result = measured([plain, rescaled, dim, baseline_method("average")], drawn, tmp_path)
    expected: dict[str, list[float]] = {"tiny": [], "average": [], "theirs": []}
    for pair in drawn.pairs:
        visible, infrared = source_luminance(pair)
        picture = pipeline(pair.visible_source, pair.infrared_source, rescale="minmax").images[0]
        mean = (visible.astype(float) + infrared) / 2
        half, low, high = 100 + visible // 4, int((visible // 4).min()) + 100, int((visible // 4).max()) + 100
        images = {
            "tiny": luminance(picture),
            "average": np.rint((mean - mean.min()) / (mean.max() - mean.min()) * 255).astype(np.uint8),
            "theirs": np.floor((half - float(low)) / (high - low) * 255 + 0.5).astype(np.uint8),
        }
        for name, image in images.items():
            expected[name].append(evaluate_pair(image, visible, infrared, ["SD"])["SD"])
    for name, values in expected.items():
        found = row(result, name)
        assert found.minmax_values["SD"] == pytest.approx(values, rel=2e-3), name
        assert found.minmax["SD"].mean == pytest.approx(np.mean(values), rel=2e-3)
        assert found.minmax["SD"].mean > found.metrics["SD"].mean
    own = row(result, "tiny+minmax")
    assert own.values == row(result, "tiny").minmax_values and own.was_stretched and not own.minmax
    # The same file is read by the leaderboard, which keeps the conventions apart.
    tables = by_convention(result.rows)
    assert [r.method for r in tables["clamped"]] == ["tiny", "theirs", "average", "maximum"]
    assert [r.method for r in tables["stretched"]] == ["tiny", "tiny+minmax", "theirs", "average", "maximum"]


def test_a_stretch_of_a_stretched_or_constant_image_changes_nothing(drawn: EvaluationSet, tmp_path: Path) -> None:
    methods = [rule("full", lambda v, i: stretch(v), "folder"), rule("flat", lambda v, i: np.full_like(v, 7), "folder")]
    result = measured(methods, drawn, tmp_path)
    for name in ("full", "flat"):
        assert row(result, name).minmax_values == row(result, name).values
    without = measure_share(methods, [drawn], METRICS, tmp_path / "without", stretched=False)
    (full, _) = collect(methods, [drawn], METRICS, tmp_path / "without", without, stretched=False).rows
    assert not full.minmax and "minmax" not in full.as_json()
    assert full.values == row(result, "full").values


def test_a_folder_that_must_have_been_stretched_is_compared_with_stretched_rows(tmp_path: Path) -> None:
    pairs = [tuple((np.random.default_rng(k).random((2, 48, 48)) * 60 + 90).astype(np.uint8)) for k in range(3)]
    low = EvaluationSet.of("low", PairedDataset.open(pairs))
    methods = [rule("theirs", lambda v, i: stretch(v), "folder"), rule("plain", lambda v, i: v, "folder")]
    result = measured(methods, low, tmp_path)
    assert row(result, "theirs").was_stretched and row(result, "plain").was_stretched is None
    assert any("taken as stretched on saving" in text for text in row(result, "theirs").warnings)
    assert "theirs" not in {r.method for r in by_convention(result.rows)["clamped"]}


def test_a_folder_that_was_clamped_at_both_ends_is_not_taken_as_stretched(tmp_path: Path) -> None:
    pairs = [tuple((np.random.default_rng(k).random((2, 48, 48)) * 60 + 90).astype(np.uint8)) for k in range(3)]
    low = EvaluationSet.of("low", PairedDataset.open(pairs))

    def clip(visible: np.ndarray, _: np.ndarray) -> np.ndarray:
        return (8 * (visible - 120.0) + 128).clip(0, 255).astype(np.uint8)

    result = measured([rule("boosted", clip, "folder")], low, tmp_path)
    assert row(result, "boosted").full_range == 1 and row(result, "boosted").was_stretched is None
    assert "boosted" in {r.method for r in by_convention(result.rows)["clamped"]}


def test_white_sources_are_no_sign_of_a_clamp(tmp_path: Path) -> None:
    pairs = [(np.random.default_rng(k).random((2, 48, 48)) * 60 + 90).astype(np.uint8) for k in range(3)]
    for pair in pairs:
        pair[:, :10] = 160  # lamps, at one level in both sources
    low = EvaluationSet.of("low", PairedDataset.open([tuple(pair) for pair in pairs]))
    result = measured([rule("theirs", lambda v, i: stretch(v), "folder")], low, tmp_path)
    assert row(result, "theirs").clamped > 0.1 and row(result, "theirs").was_stretched


def test_the_name_of_a_baseline_is_not_free(drawn: EvaluationSet) -> None:
    with pytest.raises(ValueError, match="'maximum' is the name of a baseline"):
        with_baselines([rule("maximum", lambda v, i: v, "folder")])
    assert [method.name for method in with_baselines([baseline_method("maximum")])] == ["maximum", "average"]


def test_equal_means_share_the_mark_and_a_part_of_the_images_has_none(drawn: EvaluationSet, tmp_path: Path) -> None:
    def fail_on_the_last(visible: np.ndarray, infrared: np.ndarray) -> np.ndarray:
        if np.array_equal(visible, source_luminance(drawn.pairs[3])[0]):
            raise ValueError("not this one")
        return np.maximum(visible, infrared) // 2 + 127

    dim = [rule(name, lambda v, i: v // 2) for name in ("one", "same")]
    result = measured([*dim, rule("part", fail_on_the_last)], drawn, tmp_path)
    assert row(result, "part").n == 3
    rows = [row(result, name) for name in ("one", "same", "part")]
    for metric in METRICS:
        assert report.best(rows, metric) == ["one", "same"]
    assert report.latex(result).count(r"\textbf") >= 2 * report.latex(result).count(r"\begin{tabular}")


def test_metrics_over_fewer_images_say_so(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 2, 48, 48), dtype=np.uint8)
    pictures[0, 1] = pictures[0, 0]  # a pair of equal pictures has an infinite PSNR, which has no mean
    same = EvaluationSet.of("same", PairedDataset.open([tuple(pair) for pair in pictures]))
    methods = with_baselines([rule("copy", lambda v, i: v), rule("nearly", lambda v, i: v ^ 1)])
    failures = measure_share(methods, [same], ["PSNR"], tmp_path)
    result = collect(methods, [same], ["PSNR"], tmp_path, failures)
    assert report.mean_text(row(result, "copy"), "PSNR").endswith(" (2 of 3)")
    assert report.best(result.rows[:2], "PSNR") == ["nearly"]


# --- statistics ---


def test_the_bootstrap_interval_is_that_of_scipy() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).normal(3, 1, 40)
    found = bootstrap_mean(list(values))
    expected = bootstrap((values,), np.mean, n_resamples=20000, method="percentile", rng=2).confidence_interval
    assert found.mean == pytest.approx(values.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx(expected, abs=0.02)
    assert bootstrap_mean(list(values)) == found  # seeded


def test_undefined_values_do_not_count() -> None:
    assert bootstrap_mean([1.0, None, 3.0]) == bootstrap_mean([1.0, 3.0])
    assert bootstrap_mean([None, 2.0]).n == 1
    assert math.isnan(bootstrap_mean([None]).mean)


# --- guard rails ---


def test_copying_one_source_is_called_out(drawn: EvaluationSet, tmp_path: Path) -> None:
    result = measured([rule("visible", lambda v, i: v), rule("infrared", lambda v, i: i)], drawn, tmp_path)
    for band, other in (("visible", "infrared"), ("infrared", "visible")):
        text = " ".join(row(result, band).warnings)
        assert f"near the {band} source: 0.0 gray levels" in text and f"keeps little of the {other} source" in text
    assert not row(result, "average").warnings and not row(result, "maximum").warnings


def test_a_stretch_that_explains_the_gain_is_called_out(tmp_path: Path) -> None:
    # Sources of low contrast, so that a stretch of their average beats the plain maximum.
    random = np.random.default_rng(0)
    pairs = [tuple((random.random((2, 64, 64)) * 60 + 90).astype(np.uint8)) for _ in range(2)]
    low = EvaluationSet.of("low", PairedDataset.open(pairs))

    def mean(v: np.ndarray, i: np.ndarray) -> np.ndarray:
        return ((v.astype(int) + i) // 2).astype(np.uint8)

    methods = [
        rule("stretched", lambda v, i: stretch(mean(v, i)), kind="folder"),
        rule("own+minmax", lambda v, i: stretch(mean(v, i)), rescale="minmax"),
        rule("plain", mean, rescale="none"),
    ]
    result = measured(methods, low, tmp_path)
    assert any("span 0 to 255, and a min-max stretch" in w for w in row(result, "stretched").warnings)
    assert any("were stretched, and a min-max stretch" in w for w in row(result, "own+minmax").warnings)
    assert not any("stretch" in w for w in row(result, "plain").warnings)


# --- other people's images ---


def test_a_folder_of_fused_images_gives_the_row_of_its_method(drawn: EvaluationSet, tmp_path: Path) -> None:
    result = measured([baseline_method("laplacian")], drawn, tmp_path, images=tmp_path)
    other = folder_method("theirs", tmp_path / "drawn_test" / "laplacian", {drawn.name: drawn.names})
    again = measured([other], drawn, tmp_path)
    assert row(again, "theirs").values == row(result, "laplacian").values
    assert other.details["folder"] == "laplacian"  # a name, no path of this machine


@pytest.mark.parametrize("ending", ["_vis", "_IR", "_fused", ""])
def test_fused_images_may_have_the_names_of_sources(drawn: EvaluationSet, tmp_path: Path, ending: str) -> None:
    for level, name in enumerate(drawn.names):
        Image.new("L", (8, 8), level).save(tmp_path / f"{name}{ending}.png")
    method = folder_method("x", tmp_path, {drawn.name: drawn.names})
    levels = [np.asarray(method.fuse(pair, drawn.name)).max() for pair in drawn.pairs]
    assert levels == list(range(len(drawn.names)))


def test_incomplete_or_ambiguous_folders_are_refused(drawn: EvaluationSet, tmp_path: Path) -> None:
    names = {drawn.name: drawn.names}
    with pytest.raises(FileNotFoundError, match="no folder"):
        folder_method("x", tmp_path / "nowhere", names)
    for name in drawn.names[:-1]:
        Image.new("L", (8, 8)).save(tmp_path / f"{name}.png")
    with pytest.raises(FileNotFoundError, match=rf"no image for 1 of the 4 pairs .*{drawn.names[-1]}"):
        folder_method("x", tmp_path, names)
    Image.new("L", (8, 8)).save(tmp_path / f"{drawn.names[-1]}.png")
    Image.new("L", (8, 8)).save(tmp_path / f"{drawn.names[-1]}.bmp")
    with pytest.raises(ValueError, match="are images of one pair: leave one"):
        folder_method("x", tmp_path, names)
    with pytest.raises(FileNotFoundError, match="one folder for each"):
        folder_method("x", tmp_path, {"a/test": ["1"], "b/test": ["2"]})


def test_several_sets_have_a_folder_each(drawn: EvaluationSet, tmp_path: Path) -> None:
    for number, part in enumerate(("a/test", "b")):
        (tmp_path / part).mkdir(parents=True)
        Image.new("L", (8, 8 + number)).save(tmp_path / part / f"{drawn.names[0]}.png")
    method = folder_method("x", tmp_path, {"a/test": drawn.names[:1], "b/test": drawn.names[:1]})
    assert [method.fuse(drawn.pairs[0], name).height for name in ("a/test", "b/test")] == [8, 9]


def test_a_fused_image_of_another_size_fails_alone(drawn: EvaluationSet, tmp_path: Path) -> None:
    for name, pair in zip(drawn.names, drawn.pairs, strict=True):
        picture = Image.fromarray(source_luminance(pair)[0])
        picture = picture.resize((9, 9)) if name == drawn.names[1] else picture
        picture.save(tmp_path / f"{name}.png")
    result = measured([folder_method("x", tmp_path, {drawn.name: drawn.names})], drawn, tmp_path / "out")
    (failure,) = result.failures
    assert failure.pair == drawn.names[1] and "9x9" in failure.reason
    found = row(result, "x")
    assert found.n == 3 and any(f"measured on 3 of 4 pairs, without {drawn.names[1]}" in w for w in found.warnings)


# --- runs ---


def test_average_and_maximum_are_always_there(drawn: EvaluationSet) -> None:
    names = [method.name for method in with_baselines([baseline_method("maximum"), baseline_method("guided-filter")])]
    assert names == ["maximum", "guided_filter", "average"]
    with pytest.raises(ValueError, match="not a baseline"):
        baseline_method("median")
    with pytest.raises(ValueError, match="different names"):
        with_baselines([rule("a/b", min), rule("a_b", min)])
    assert [slug(name) for name in ("tno/test", "../../etc", "..")] == ["tno_test", "_.._etc", "_"]


def test_nothing_is_measured_twice_unless_it_changed(
    drawn: EvaluationSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = tiny_pipeline()
    first = measured([pipeline_method("tiny", pipeline)], drawn, tmp_path)
    calls: list[str] = []
    measure = run_module.measure_pair
    monkeypatch.setattr(run_module, "measure_pair", lambda *a: calls.append("") or measure(*a))
    second = measured([pipeline_method("tiny", pipeline)], drawn, tmp_path)
    assert not calls and second.as_json() == first.as_json()
    next(pipeline.model.parameters()).data.add_(0.01)
    measured([pipeline_method("tiny", pipeline)], drawn, tmp_path)
    assert len(calls) == len(drawn.pairs)


def test_shares_of_processes_make_the_whole_and_a_cut_line_is_measured_again(
    drawn: EvaluationSet, tmp_path: Path
) -> None:
    methods = with_baselines([])
    for process in range(3):
        measure_share(methods, [drawn], METRICS, tmp_path, process=process, processes=3)
    whole = measured([], drawn, tmp_path / "whole")
    assert collect(methods, [drawn], METRICS, tmp_path).as_json() == whole.as_json()

    file = Records(tmp_path, methods[0], drawn, METRICS).folder / "0.jsonl"
    file.write_bytes(file.read_bytes()[:-40])  # as a crash leaves it
    assert collect(methods, [drawn], METRICS, tmp_path).rows[0].n == 3
    measure_share(methods, [drawn], METRICS, tmp_path)
    assert collect(methods, [drawn], METRICS, tmp_path).as_json() == whole.as_json()


def test_pictures_and_tables_of_another_run_are_replaced(drawn: EvaluationSet, tmp_path: Path) -> None:
    def picture() -> np.ndarray:
        return np.asarray(Image.open(tmp_path / "images" / "drawn_test" / "mine" / f"{drawn.names[0]}.png"))

    bright = Method("mine", "model", lambda p, _: Image.fromarray(source_luminance(p)[0]), {}, "bright")
    dark = Method("mine", "model", lambda p, _: Image.fromarray(source_luminance(p)[0] // 2), {}, "dark")
    evaluate([bright], [drawn], METRICS, tmp_path, save_images=True)
    first = picture()
    evaluate([dark], [drawn], METRICS, tmp_path, save_images=True)
    np.testing.assert_array_equal(picture(), first // 2)
    evaluate([bright], [drawn], METRICS, tmp_path, save_images=True)  # measured already, but the picture is another
    np.testing.assert_array_equal(picture(), first)
    evaluate([replace(dark, name="other")], [drawn], METRICS, tmp_path, stretched=False)
    names = {file.name for file in (tmp_path / "per_image").iterdir()}
    assert names == {f"drawn_test--{name}.csv" for name in ("other", "average", "maximum")}


def test_settings_beside_the_weights_are_part_of_a_model(drawn: EvaluationSet) -> None:
    first, second = tiny_pipeline(), tiny_pipeline()
    assert pipeline_method("m", first).fingerprint == pipeline_method("m", second).fingerprint
    second.register_to_config(infrared_range=(0.0, 400.0))
    assert pipeline_method("m", first).fingerprint != pipeline_method("m", second).fingerprint


def test_the_files(drawn: EvaluationSet, tmp_path: Path) -> None:
    pipeline = tiny_pipeline()
    result = evaluate([pipeline_method("tiny_1|x", pipeline)], [drawn], METRICS, tmp_path, save_images=True)
    content = json.loads((tmp_path / "summary.json").read_text())
    assert content["format"] == FORMAT
    tiny, average, maximum = content["rows"]
    assert (tiny["method"], tiny["kind"], tiny["dataset"], tiny["n"]) == ("tiny_1|x", "model", "drawn/test", 4)
    assert average["kind"] == maximum["kind"] == "baseline"
    for name in METRICS:
        found, values = tiny["metrics"][name], tiny["per_image"]["values"][name]
        assert found["low"] is found["high"] is None  # no interval over four images
        assert found["mean"] == pytest.approx(np.mean(values), rel=1e-12)
    assert tiny["per_image"]["names"] == drawn.names
    provenance = json.dumps(content["provenance"])
    assert "state_sha256" in provenance and '"rescale"' not in provenance.split('"average"')[0]
    assert not re.search(r"/(tmp|home|root|work)/", provenance)

    text = (tmp_path / "report.md").read_text()
    assert r"tiny\_1\|x" in text and not re.search(r"\bnan\b", text)
    assert r"tiny\_1|x" in (tmp_path / "table.tex").read_text()
    with (tmp_path / "per_image" / "drawn_test--tiny_1_x.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [float(line["VIF"]) for line in lines] == tiny["per_image"]["values"]["VIF"]
    with (tmp_path / "per_image" / "drawn_test--tiny_1_x--minmax.csv").open(newline="") as stream:
        assert [float(line["VIF"]) for line in csv.DictReader(stream)] == tiny["minmax"]["values"]["VIF"]
    assert set(tiny["minmax"]["metrics"]) == set(tiny["metrics"])
    for figure in ("figure.png", "examples.png"):
        with Image.open(tmp_path / figure) as image:
            assert min(image.size) > 200
    assert (tmp_path / "images" / "drawn_test" / "tiny_1_x" / f"{drawn.names[0]}.png").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert result.failures == ()


def test_the_digest_follows_the_pictures_and_streams_are_refused() -> None:
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    images = [Image.fromarray(np.full((8, 8), level, np.uint8)) for level in (1, 2)]
    pairs = PairedDataset.open([(images[0], images[1]), (images[1], images[0])])
    digest = EvaluationSet.of("x", pairs).digest
    assert EvaluationSet.of("y", pairs).digest == digest != EvaluationSet.of("x", pairs[:1]).digest
    features = Features({"visible": ImageFeature(), "infrared": ImageFeature()})
    table = Dataset.from_dict({"visible": images, "infrared": images[::-1]}, features=features)
    with pytest.raises(ValueError, match="streaming=False"):
        EvaluationSet.of("x", PairedDataset.open(table.to_iterable_dataset()))


# --- real data: the rows that are known ---


def test_maximum_on_tno_gives_the_known_row(data_root: Path, tmp_path: Path) -> None:
    """Measured with CDDFuse's own program; rows of the other baselines: test_baselines.py."""
    tno = EvaluationSet.of("tno/test", PairedDataset.open(data_root / "data" / "tno", split="test"))
    methods = [baseline_method("maximum")]
    measure_share(methods, [tno], METRICS, tmp_path)
    (found,) = collect(methods, [tno], METRICS, tmp_path).rows
    expected = {"EN": 6.81, "SD": 40.01, "SF": 10.06, "SCD": 1.540, "VIF": 0.924, "Qabf": 0.599}
    for metric, value in expected.items():
        assert found.metrics[metric].mean == pytest.approx(value, abs=0.006 if value > 2 else 0.0011), metric


def test_fixed_counts_are_measured_as_they_were_fused(tmp_path: Path) -> None:
    """An average of counts in a fixed range equals the baseline that is measured by the same range."""
    rng = np.random.default_rng(0)
    for band in ("visible", "lwir", "mean"):
        (tmp_path / band).mkdir()
    for name in ("a", "b"):
        visible = rng.integers(0, 256, (64, 64)).astype(np.uint8)
        counts = rng.integers(7400, 8000, (64, 64)).astype(np.uint16)
        Image.fromarray(visible).save(tmp_path / "visible" / f"{name}.png")
        Image.fromarray(counts).save(tmp_path / "lwir" / f"{name}.png")
        infrared = np.rint(np.clip((counts - 7200.0) / (8950 - 7200), 0, 1) * 255)
        Image.fromarray(np.rint((visible + infrared) / 2).astype(np.uint8)).save(tmp_path / "mean" / f"{name}.png")
    pairs = PairedDataset.open((tmp_path / "visible", tmp_path / "lwir"))
    fixed = EvaluationSet.of("counts", pairs, ranges={"infrared_range": (7200, 8950)})
    method = folder_method("mine", tmp_path / "mean", {"counts": fixed.names})
    result = evaluate([method], [fixed], ("SCD", "Qabf", "EN"), tmp_path / "out")
    mine, average = (next(row for row in result.rows if row.method == name) for name in ("mine", "average"))
    for metric in ("SCD", "Qabf", "EN"):
        assert abs(mine.metrics[metric].mean - average.metrics[metric].mean) < 0.02
    assert "sources read by infrared_range (7200, 8950)" in result.markdown
    assert fixed.digest != EvaluationSet.of("counts", pairs).digest
