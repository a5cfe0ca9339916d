"""What SegFormer and detector training share: they resume exactly, use several inputs, and refuse wrong options."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_hub.data import PairedDataset
from fusion_hub.data.annotations import find_boxes, find_labels
from fusion_hub.downstream import SegformerSegmenter, TransformersDetector
from fusion_hub.downstream.inputs import open_inputs, read_inputs
from fusion_hub.downstream.scores import DetectionResult, SegmentationResult, evaluate_detector, evaluate_segmenter
from fusion_hub.downstream.train_detector import DetectorConfig
from fusion_hub.downstream.train_segformer import SegFormerConfig
from fusion_hub.training import (
    ConfigError,
    Source,
    Trainer,
    TrainingConfig,
    find_checkpoints,
    load_config,
    parse_config,
)
from tests.support.downstream_runs import BOXES, LABELS, TASKS, run_config
from tests.support.tiny import tiny_pipeline
from tests.support.tiny_transformers import save_detector
from tests.support.training_runs import (
    TRAIN,
    accelerate_on_cpu,  # noqa: F401  # a fixture
    assert_resumes,
    assert_same_run,
    records,
    run_script,
    tensors,
    train,
)
from tests.support.training_toy import launch

# All that could leak from step to step: dropout, stochastic depth, noise on boxes, repeats that end.
LEAKS: dict[str, dict[str, Any]] = {
    "segformer": {"drop_path": 0.2, "classifier_dropout": 0.2},
    "detector": {"repeats": 2, "repeats_fraction": 0.7},
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", TASKS)
def test_eight_steps_equal_four_and_a_failure_and_four(tmp_path: Path, drawn: Path, name: str, processes: int) -> None:
    values = {"num_processes": processes, "gradient_accumulation_steps": 3 - processes}
    config = run_config(tmp_path, drawn, **values)
    other = {"architecture": "d_fine"} if (name, processes) == ("detector", 2) else {}
    task, model = TASKS[name][0], TASKS[name][1](tmp_path / "cache", input=["average"], **LEAKS[name], **other)
    if processes == 1:  # in this process, which is faster
        assert_resumes(task, config, model, 5)
    else:
        straight, failed = (
            dataclasses.replace(config, output_dir=str(tmp_path / run)) for run in ("straight", "failed")
        )
        assert launch(train, processes, task, straight, model) == [0] * processes
        assert 0 not in launch(train, processes, task, failed, model, 5)
        assert [folder.name for folder in find_checkpoints(tmp_path / "failed")] == ["step_000004"]
        assert launch(train, processes, task, failed, model) == [0] * processes
        assert_same_run(tmp_path / "failed", tmp_path / "straight")
    saved = tensors(tmp_path / "failed", 8)
    files = {key.partition(":")[0] for key in saved}
    assert files == {"ema/model.safetensors", "model/model.safetensors", "optimizer.safetensors"}
    assert any("running_mean" in key for key in saved)
    assert [line["step"] for line in records(tmp_path / "failed")] == list(range(1, 9))
    (cached,) = (tmp_path / "cache").iterdir()
    assert len(list(cached.rglob("*.png"))) == 3


# D-FINE weighs its distributions by how well boxes fit, so that its loss also rises at first: more and smaller steps.
@pytest.mark.parametrize(
    ("name", "values", "rate", "steps", "parts"),
    [
        ("segformer", {}, 5e-3, 12, "cross_entropy lovasz"),
        ("detector", {}, 5e-3, 20, "class box auxiliary denoising"),
        ("detector", {"architecture": "d_fine", "denoising_queries": 0}, 1e-3, 30, "class box auxiliary denoising"),
        ("detector", {"architecture": "convnet"}, 5e-3, 12, "class box"),
    ],
)
def test_a_few_steps_on_two_crops_lower_the_loss(
    tmp_path: Path, drawn: Path, name: str, values: dict[str, Any], rate: float, steps: int, parts: str
) -> None:
    torch.manual_seed(0)
    config = run_config(tmp_path, drawn)
    task = TASKS[name][0](config, TASKS[name][1](tmp_path, **values))
    crops = task.open_samples(config)
    module = task.build_training_module(task.build_model())
    samples = [crops.sample(number, 64) for number in (6, 7)]
    batch = {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    optimizer = torch.optim.Adam(module.parameters(), lr=rate)
    seen = []
    for _ in range(steps):
        loss, terms = module(batch, 0)
        assert set(terms) == set(parts.split())
        assert loss.item() == pytest.approx(sum(value.item() for value in terms.values()), rel=1e-5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    assert max(seen[-3:]) < (0.9 if name == "segformer" else 0.95) * seen[0]
    assert not {key.split(".")[0] for key in module.state_dict()} - {"model"}, "what is computed is not stored"


@pytest.mark.parametrize("name", TASKS)
def test_the_ci_configuration_trains_a_network(tmp_path: Path, name: str) -> None:
    flags = ("--output_dir", str(tmp_path / "run"), "--cache_dir", str(tmp_path / "cache"))
    assert run_script(f"{name}.py", "--config", str(TRAIN / "configs" / f"{name}_tiny_ci.yaml"), *flags) == 0
    folder = tmp_path / "run" / "pipeline"
    facts, scores, classes = ("inputs.json", "detection.json", BOXES)
    if name == "segformer":
        facts, scores, classes = ("segmentation.json", "evaluation.json", LABELS)
    files = {"config.json", "config.yaml", "model.safetensors", "preprocessor_config.json", "training.json"}
    assert {path.name for path in folder.iterdir()} == files | {facts, scores}
    about = json.loads((folder / facts).read_text())
    (seen,) = about["inputs"]
    assert seen["name"] == "average" and seen["details"]["rule"] == "average" and about["classes"] == classes
    (dataset,) = json.loads((folder / "training.json").read_text())["datasets"]
    assert dataset == {"path": "generated:2", "split": None, "pairs": 2}
    assert load_config(folder / "config.yaml")["variant"] == "tiny"

    # What was measured is what a user gets: the picture in its own size, through the image processor.
    pairs = list(PairedDataset.open("generated:1"))
    picture = open_inputs("average").picture(pairs[0])
    line = records(tmp_path / "run", "validation")[-1]
    if name == "segformer":
        segmenter = SegformerSegmenter.from_pretrained(folder)
        assert list(segmenter.names.values()) == classes and len(about["class_weights"]) == 3
        (labeled,) = find_labels(pairs)
        segmented = evaluate_segmenter(segmenter, [(labeled.name, picture, labeled.label(3))])
        assert np.array_equal(SegmentationResult.load(folder / scores).confusions, segmented.confusions)
        assert line["mIoU"] == pytest.approx(segmented.numbers()["mIoU"])
    else:
        detector = TransformersDetector.from_pretrained(folder)
        assert list(detector.names.values()) == classes
        (boxed,) = find_boxes(pairs, classes)
        detected = evaluate_detector(detector, [(boxed.name, picture, boxed.boxes, boxed.class_ids)], classes)
        saved = DetectionResult.load(folder / scores)
        assert len(boxed.boxes) and np.array_equal(saved.truth[0][0], boxed.boxes)
        for got, expected in zip(saved.found[0], detected.found[0], strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-4)
        assert line["mAP50"] == pytest.approx(detected.numbers()["mAP50"])
    with Image.open(tmp_path / "run" / "validation" / "step_000008.png") as grid:
        assert grid.mode == "RGB" and grid.width == (3 * 480 + 8 if name == "segformer" else 2 * 480 + 4)

    # It is a start for another run, also of other classes and another number of queries.
    run = run_config(tmp_path / "next", Path("unused"))
    given = {"initial_weights": str(folder), **({} if name == "segformer" else {"queries": 20})}
    model = TASKS[name][0](run, TASKS[name][1](tmp_path, **given)).build_model()
    average = type(model).from_pretrained(tmp_path / "run" / "step_000008" / "ema").state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(average[key], value), key
    assert name == "segformer" or model.config.num_queries == 20
    more = TASKS[name][0](run, TASKS[name][1](tmp_path, **given, classes=[*classes, "bicycle"])).build_model()
    key, last = "decode_head.linear_fuse.weight", "decode_head.classifier.weight"
    if name == "detector":
        key, last = "model.backbone.model.embedder.embedder.0.convolution.weight", "class_embed.0.weight"
    assert more.config.num_labels == len(more.state_dict()[last]) == len(classes) + 1
    assert torch.equal(more.state_dict()[key], average[key])


@pytest.mark.parametrize(
    ("name", "score", "stem"), [("segformer", "mIoU", "evaluation"), ("detector", "mAP50", "detection")]
)
def test_with_several_inputs_each_crop_uses_one(tmp_path: Path, drawn: Path, name: str, score: str, stem: str) -> None:
    config = run_config(
        tmp_path / "run", drawn, max_steps=2, smallest_scale=1.0, gain_jitter=0.0, batch_size=2,
        validation_sources=[Source(str(drawn))], validation_pairs=2,
    )  # fmt: skip
    names = ["visible", "infrared", "average"]
    settings: dict[str, Any] = {"input": names, "gamma_jitter": 0.0}
    if name == "detector":
        settings["test_sources"] = [Source(str(drawn))]
    model_config = TASKS[name][1](tmp_path / "cache", **settings)
    task = TASKS[name][0](config, model_config)
    crops = task.open_samples(config)
    assert [len(pictures) for pictures in crops.pictures] == [9] and [len(pairs) for pairs in crops.sets] == [3]
    gray = [bool((crops.sample(number, 64)["image"].std(0) == 0).all()) for number in range(90)]
    assert 15 < sum(gray) < 45, "a third of the crops is infrared"
    Trainer(task, config, model_config).train()
    (line,) = records(tmp_path / "run", "validation")
    folder = tmp_path / "run" / "pipeline"
    for one in names:
        saved = json.loads((folder / f"{stem}-{one}.json").read_text())
        assert f"{one}/{score}" in line and saved["input"] == one
        if name == "segformer":
            assert line[f"{one}/mIoU"] == pytest.approx(saved["numbers"]["mIoU"])
        else:
            assert len(saved["pictures"]) == 3 and saved["steps"] == 2, "all test images, two for validation"
    assert json.loads((folder / "training.json").read_text())["datasets"][0]["pairs"] == 3


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("segformer", {"variant": "b9"}, "variant must be one of b0, tiny, got b9"),
        ("segformer", {"class_weights": "inverse"}, "class_weights must be one of none, median_frequency, effective_n"),
        ("segformer", {"image_size": [480]}, r"image_size must be height and width, at least 32 each, got \[480\]"),
        ("segformer", {"classes": ["car", "car"]}, "classes must be two or more different names"),
        ("segformer", {"cross_entropy": 0.0, "lovasz": 0.0}, "there is no loss"),
        ("segformer", {"input": ["visible", "visible"]}, r"input must be one or more different names, got \['vis"),
        ("segformer", {"input": ["visible", "no-such-model"]}, "input = no-such-model: "),
        (
            "segformer",
            {"initial_weights": "/no/such/folder"},
            "/no/such/folder is no folder: train those",
        ),
        ("detector", {"variant": "b9"}, "variant must be one of small, tiny, got b9"),
        ("detector", {"architecture": "yolo"}, "architecture must be one of rt_detr_v2, d_fine, convnet, got yolo"),
        ("detector", {"architecture": "convnet", "initial_weights": "a/b"}, "a convnet starts from random weights"),
        ("detector", {"input_dtype": "float16"}, "input_dtype must be one of float32, bfloat16, got float16"),
        ("detector", {"image_size": [240, 320]}, r"height and width, multiples of 32, got \[240, 320\]"),
        ("detector", {"classes": ["car", "car"]}, "classes must be one or more different names"),
        ("detector", {"classes": ["zebra"]}, "knows the class 'zebra'"),
        ("detector", {"classes": ["car", "zebra"]}, "no training source has a box of the class 'zebra': correct it"),
        ("detector", {"annotations": ["ir"]}, "has the files of boxes boxes, but 'ir' was requested"),
        ("detector", {"queries": 0}, "queries must be 1 or more, got 0"),
        ("detector", {"repeats_fraction": 1.5}, r"repeats_fraction must be between 0 and 1, got 1\.5"),
        ("detector", {"input": []}, "input must be one or more different names"),
        (
            "detector",
            {"initial_weights": "/no/such/folder"},
            "/no/such/folder is no folder: train those",
        ),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, drawn: Path, name: str, values: dict[str, Any], message: str) -> None:
    config = run_config(tmp_path, drawn)
    with pytest.raises(ConfigError, match=message):
        task = TASKS[name][0](config, TASKS[name][1](tmp_path, **values))
        task.open_samples(config)
        task.build_model()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("segformer", {"swap_probability": 0.5}, r"swap_probability = 0\.5: SegFormer sees one image"),
        ("segformer", {"degrade_probability": 0.5}, r"degrade_probability = 0\.5: SegFormer sees one image"),
        ("segformer", {"sources": []}, "sources is empty"),
        ("detector", {"swap_probability": 0.5}, r"swap_probability = 0\.5: a detector sees one image"),
        ("detector", {"crop_size": 100}, "crop_size must be a multiple of 32 for a detector, got 100"),
    ],
)
def test_options_of_the_loop_that_do_not_apply(
    tmp_path: Path, drawn: Path, name: str, values: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TASKS[name][0](run_config(tmp_path, drawn, **values), TASKS[name][1](tmp_path))


@pytest.mark.parametrize(("name", "kinds"), [("segformer", "segformer"), ("detector", "rt_detr_v2, d_fine")])
def test_a_start_of_another_architecture_is_refused(tmp_path: Path, name: str, kinds: str) -> None:
    config = TASKS[name][1](tmp_path, initial_weights=str(save_detector("yolos", tmp_path / "yolos")))
    with pytest.raises(ConfigError, match=f"yolos cannot be loaded: it is a yolos, not one of {kinds}"):
        TASKS[name][0](run_config(tmp_path, Path("unused")), config).build_model()


def test_every_option_has_a_help_text_and_the_configurations_parse() -> None:
    for options in (DetectorConfig, SegFormerConfig):
        assert all(field.metadata["help"] for field in dataclasses.fields(options))
    training, model = parse_config((TrainingConfig, DetectorConfig), [], TRAIN / "configs" / "detector_msrs.yaml")
    assert model.classes == ["person", "bicycle", "car"] and model.initial_weights == "runs/detector/start/pipeline"
    assert {source.split for source in training.sources} == {"train"}
    assert {source.split for source in training.validation_sources} == {"val"}
    assert {source.split for source in model.test_sources} == {"test"}
    starts = {}
    for name in ("start", "", "bundle"):
        file = TRAIN / "configs" / f"segformer_msrs{'_' * bool(name)}{name}.yaml"
        training, model = parse_config((TrainingConfig, SegFormerConfig), [], file)
        assert len(model.classes) == 9 and model.variant == "b0"
        assert {source.split for source in training.sources} == {"train"}
        assert all(source.exclude for source in training.sources), "reserved pairs are left out"
        assert {source.split for source in training.validation_sources} == {"val"}
        starts[name] = training.output_dir, model.initial_weights
    assert starts["start"][1] is None
    assert {starts[name][1] for name in ("", "bundle")} == {f"{starts['start'][0]}/pipeline"}


# --- inputs and their cache ------------------------------------------------------------------------------------------


def test_fused_images_are_reused_until_anything_changes(tmp_path: Path, drawn: Path) -> None:
    made = []

    def counted(pair: Any) -> Image.Image:
        made.append(pair.name)
        return average.picture(pair)

    average = open_inputs("average")
    inputs = dataclasses.replace(average, picture=counted)
    pairs = list(PairedDataset.open(str(drawn)))
    first = [np.asarray(image) for image in read_inputs(inputs, pairs, "set/train", tmp_path)]
    assert made == [pair.name for pair in pairs]
    again = [np.asarray(image) for image in read_inputs(inputs, pairs, "set/train", tmp_path)]
    assert len(made) == 3 and all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    (folder,) = tmp_path.iterdir()
    about = json.loads((folder / "fusion-hub.json").read_text())
    assert about["details"]["rule"] == "average" and about["fingerprint"] == inputs.fingerprint
    assert not list(folder.rglob(".*")), "nothing half-written is left"

    # A truncated file, one of another method, one whose source changed: each is made again, no other.
    files = sorted((folder / "set_train").iterdir())
    files[0].write_bytes(files[0].read_bytes()[:30])
    Image.new("RGB", (128, 96)).save(files[1])
    changed = dataclasses.replace(pairs[2], visible_source=pairs[0].visible_source)
    list(read_inputs(inputs, [*pairs[:2], changed], "set/train", tmp_path))
    assert made[3:] == [pair.name for pair in pairs]
    other = dataclasses.replace(inputs, fingerprint="f" * 64)
    list(read_inputs(other, pairs[:1], "set/train", tmp_path))
    assert len(made) == 7 and len(list(tmp_path.iterdir())) == 2


def test_inputs_are_what_their_names_say(drawn: Path) -> None:
    (pair, *_) = PairedDataset.open(str(drawn))
    visible, infrared = np.asarray(pair.visible).astype(int), np.asarray(pair.infrared).astype(int)
    names = ("visible", "infrared", "average", "maximum")
    pictures = {name: np.asarray(open_inputs(name).picture(pair)) for name in names}
    assert np.array_equal(pictures["visible"], visible)
    assert np.array_equal(pictures["infrared"], np.repeat(infrared[..., None], 3, 2))
    luma = visible @ np.array([0.299, 0.587, 0.114])
    for name, fused in (("average", (luma + infrared) / 2), ("maximum", np.maximum(luma, infrared))):
        expected = np.clip(visible + (fused - luma)[..., None], 0, 255)  # the colors of the visible image
        assert np.abs(pictures[name] - expected).max() <= 0.51
    folder = open_inputs(str(drawn / "ir"))
    assert np.array_equal(np.asarray(folder.picture(pair)), pictures["infrared"]) and not folder.fingerprint
    with pytest.raises(ValueError, match="has 3 images named"):
        open_inputs(str(drawn)).picture(pair)


@pytest.mark.parametrize("factor", [0.5, 2])
def test_images_of_another_size_are_refused(tmp_path: Path, drawn: Path, factor: float) -> None:
    (pair, *_) = PairedDataset.open(str(drawn))
    width, height = pair.visible.size
    pair.visible.resize((round(width * factor), round(height * factor))).save(tmp_path / f"{pair.name}.png")
    with pytest.raises(ValueError, match=f"pixels and its pair {width}x{height}: give images of the size"):
        open_inputs(str(tmp_path)).picture(pair)


def test_a_pipeline_is_identified_by_its_weights(tmp_path: Path, drawn: Path) -> None:
    pairs = list(PairedDataset.open(str(drawn)))[:1]
    pipeline = tiny_pipeline()
    pipeline.save_pretrained(tmp_path / "pipeline")
    inputs = open_inputs(str(tmp_path / "pipeline"))
    (fused,) = read_inputs(inputs, pairs, "drawn", tmp_path / "cache")
    expected = pipeline(pairs[0].visible, pairs[0].infrared).images[0]
    assert np.array_equal(np.asarray(fused), np.asarray(expected))
    assert inputs.kind == "model" and len(inputs.details["state_sha256"]) == 64
    with torch.no_grad():
        next(pipeline.model.parameters()).add_(0.1)
    pipeline.save_pretrained(tmp_path / "pipeline")
    changed = open_inputs(str(tmp_path / "pipeline")).fingerprint
    pipeline.register_to_config(infrared_range=(0.0, 400.0))
    pipeline.save_pretrained(tmp_path / "pipeline")
    assert len({inputs.fingerprint, changed, open_inputs(str(tmp_path / "pipeline")).fingerprint}) == 3
