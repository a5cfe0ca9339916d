"""The training of detectors: boxes follow their pictures, the loss falls, and it stops and goes on exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from fusion_hub.downstream.image_training import Augmentation
from fusion_hub.downstream.train_detector import (
    NO_OBJECT,
    BoxedPicture,
    DetectionCrops,
    DetectorTask,
    DetectorTraining,
    boxes_in_view,
    initialize,
    new_network,
)
from fusion_hub.training import ConfigError
from tests.support.downstream_runs import detector_config, run_config
from tests.support.training_runs import accelerate_on_cpu, train  # noqa: F401  # a fixture

CLASSES = ["person", "car"]


# --- views and their boxes -------------------------------------------------------------------------------------------

# Each object is a bright rectangle on black, of one color for its class; so the picture tells where the boxes are.
COLORS = np.array([[255, 0, 0], [0, 255, 0]], np.uint8)


def coded_picture(boxes: list[tuple[int, int, int, int]], class_ids: list[int], size: tuple[int, int]) -> BoxedPicture:
    picture = np.zeros((*size, 3), np.uint8)
    for (left, top, right, bottom), class_id in zip(boxes, class_ids, strict=True):
        picture[top:bottom, left:right] = COLORS[class_id]
    return BoxedPicture("coded", picture, np.array(boxes, np.float32).reshape(-1, 4), np.array(class_ids, np.int64))


def extent(mask: np.ndarray) -> list[float]:
    """Left, top, right, bottom of what is true."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@settings(max_examples=40, deadline=None)
@given(number=st.integers(0, 10**6), smallest=st.floats(0.4, 1), largest=st.floats(1, 3), rare=st.floats(0, 1))
def test_boxes_move_with_their_pictures(number: int, smallest: float, largest: float, rare: float) -> None:
    item = coded_picture([(20, 30, 70, 80), (120, 40, 180, 130)], [0, 1], (150, 200))
    augmentation = Augmentation(scale=(smallest, largest), rare_classes=rare)
    crops = DetectionCrops([[item]], [None], 3, 2, augmentation, shape=(96, 128))
    sample = crops.sample(number, 192)
    image, boxes, classes = sample["image"].numpy(), sample["boxes"], sample["classes"].tolist()
    assert image.shape == (3, 192, 256) and boxes.shape == (2, 4) and int(sample["sample"]) == number
    shown = [class_id for class_id in classes if class_id != NO_OBJECT]
    assert classes == shown + [NO_OBJECT] * (2 - len(shown)) and shown == sorted(set(shown))
    for (x, y, width, height), class_id in zip(boxes.tolist(), shown, strict=False):
        expected = extent(image[class_id] > 0.5)
        got = [256 * (x - width / 2), 192 * (y - height / 2), 256 * (x + width / 2), 192 * (y + height / 2)]
        assert got == pytest.approx(expected, abs=3 * largest), "half of an enlarged pixel, and its neighbors"
    for class_id in {0, 1} - set(shown):  # left out: hardly anything of it is to be seen
        whole = [50 * 50, 60 * 90][class_id] * (256 / 200) * (192 / 150)
        assert (image[class_id] > 0.5).sum() <= 0.35 * whole * largest**2
    again = crops.sample(number, 192)
    assert all(torch.equal(sample[name], again[name]) for name in sample)


def test_a_view_does_not_depend_on_its_resolution() -> None:
    item = coded_picture([(20, 30, 70, 80), (120, 40, 180, 130)], [0, 1], (150, 200))
    crops = DetectionCrops([[item]], [None], 0, 2, Augmentation(scale=(0.7, 1.5)), shape=(96, 128))
    for number in range(10):
        small, large = crops.sample(number, 96), crops.sample(number, 192)
        assert small["image"].shape[2:] == (128,) and large["image"].shape[2:] == (256,)
        torch.testing.assert_close(small["boxes"], large["boxes"])


def test_boxes_that_leave_the_view_are_cut_or_left_out() -> None:
    boxes = np.array([[0, 0, 10, 10], [8, 8, 28, 28], [13, 13, 33, 33], [50, 50, 60, 60], [20, 20, 21, 40]], np.float32)
    found, which = boxes_in_view(boxes, (0, 0, 20, 20), (40, 40))
    assert which.tolist() == [0, 1], "a third of the second lies inside, an eighth of the third, a line is no object"
    assert found.tolist() == pytest.approx(np.array([[0, 0, 0.5, 0.5], [0.4, 0.4, 1, 1]]))


def test_views_seek_rare_classes() -> None:
    empty = coded_picture([], [], (64, 64))
    rare = coded_picture([(50, 3, 58, 11)], [1], (64, 64))
    augmentation = Augmentation(scale=(2.0, 3.0), rare_classes=1.0)
    crops = DetectionCrops([[empty] * 9, [rare]], [None, None], 0, 3, augmentation, shape=(64, 64))
    assert all((crops.sample(number, 64)["classes"] == 1).any() for number in range(30))
    crops = DetectionCrops([[empty] * 9, [rare]], [1.0, 3.0], 0, 3, Augmentation(), shape=(64, 64))
    assert sum((crops.sample(number, 64)["classes"] == 1).any() for number in range(300)) in range(195, 255)


def test_training_sees_what_the_image_processor_gives(tmp_path: Path, drawn: Path) -> None:
    config = run_config(tmp_path, drawn, smallest_scale=1.0, gain_jitter=0.0)
    plain = {"largest_scale": 1.0, "gamma_jitter": 0.0, "rare_class_crops": 0.0}
    task = DetectorTask(config, detector_config(tmp_path, **plain))
    crops = task.open_samples(config)
    module = task.build_training_module(task.build_model())
    processor = task.predictor(module.model.eval()).processor
    expected = [
        processor(images=Image.fromarray(picture), return_tensors="pt")["pixel_values"][0]
        for item in crops.pictures[0]
        for picture in (item.picture, item.picture[:, ::-1])
    ]
    for number in range(6):
        seen = (crops.sample(number, 64)["image"] - module.mean) / module.std
        assert min(float((seen - one).abs().max()) for one in expected) < 0.06, number
    whole = torch.cat([torch.from_numpy(item.picture.copy()).flatten(0, 1) for item in crops.pictures[0]]) / 255
    torch.testing.assert_close(module.mean.flatten(), whole.mean(0), atol=1e-5, rtol=1e-4)


# --- networks and losses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["rt_detr_v2", "d_fine"])
def test_a_batch_without_objects_has_a_loss(architecture: str) -> None:
    torch.manual_seed(0)
    module = DetectorTraining(
        new_network(architecture, "tiny", num_labels=2, num_queries=12, num_denoising=6), ((0.0,) * 3, (1.0,) * 3)
    )
    batch = {"image": torch.rand(2, 3, 64, 64), "boxes": torch.zeros(2, 0, 4)}
    loss, parts = module({**batch, "classes": torch.zeros(2, 0, dtype=torch.int64)}, 0)
    loss.backward()
    assert loss.isfinite() and parts["box"] == 0 and parts["denoising"] == 0


def test_repeats_match_more_predictions_to_each_box_and_only_at_first() -> None:
    given: list[list[Tensor]] = []

    class Network(nn.Module):
        def forward(self, pixel_values: Tensor, labels: list[dict[str, Tensor]]) -> Any:
            given.append([labels[0]["class_labels"], labels[0]["boxes"][:, 0]])
            return type("Output", (), {"loss": pixel_values.sum(), "loss_dict": {}})

    module = DetectorTraining(Network(), ((0.0,) * 3, (1.0,) * 3), repeats=3, repeated_steps=5)
    boxes = torch.tensor([[[0.25, 0.5, 0.1, 0.1], [0.75, 0.5, 0.1, 0.1], [0.0, 0.0, 0.0, 0.0]]])
    batch = {"image": torch.rand(1, 3, 8, 8), "boxes": boxes, "classes": torch.tensor([[1, 0, NO_OBJECT]])}
    for step in (4, 5):
        module(batch, step)
    assert [one.tolist() for one in given[0]] == [[1, 0] * 3, [0.25, 0.75] * 3]
    assert [one.tolist() for one in given[1]] == [[1, 0], [0.25, 0.75]]


@pytest.mark.parametrize("architecture", ["rt_detr_v2", "d_fine"])
def test_new_networks_pass_their_pictures_on(architecture: str) -> None:
    torch.manual_seed(0)
    model = new_network(architecture, "small", num_labels=2, num_queries=20, num_denoising=10)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert len(norms) > 20 and all((norm.weight == 1).all() and (norm.bias == 0).all() for norm in norms)
    output = model.train()(pixel_values=torch.randn(2, 3, 64, 96))
    first = output.enc_topk_bboxes
    assert set(np.round(first.detach()[..., 2].flatten().tolist(), 3)) <= {0.05, 0.1, 0.2}, "boxes start as anchors"
    levels = model.model.backbone(torch.randn(2, 3, 64, 96), torch.ones(2, 64, 96))
    assert all(0.1 < float(level[0].std()) < 10 for level in levels), "neither vanishes nor explodes"
    before = [parameter.clone() for parameter in model.parameters() if not parameter.any()]
    initialize(model)
    assert len(before) <= sum(not parameter.any() for parameter in model.parameters()), "zeros stay"


def test_averages_of_tied_weights_and_the_normalization_of_a_start(tmp_path: Path, drawn: Path) -> None:
    # The heads of these networks are tied: they are in the file twice, and both must be the average.
    config = run_config(tmp_path / "run", drawn, max_steps=2)
    train(DetectorTask, config, detector_config(tmp_path / "cache"))
    average = load_file(tmp_path / "run" / "step_000002" / "ema" / "model.safetensors")
    current = load_file(tmp_path / "run" / "step_000002" / "model" / "model.safetensors")
    tied = [name for name in average if f"model.decoder.{name}" in average and name.startswith("class_embed")]
    assert tied
    for name in tied:
        assert torch.equal(average[name], average[f"model.decoder.{name}"])
    assert not torch.equal(average["class_embed.0.weight"], current["class_embed.0.weight"])
    # A run that starts from it keeps its normalization, whatever its own images are.
    start = str(tmp_path / "run" / "pipeline")
    seen = []
    for name in ("visible", "infrared"):
        task = DetectorTask(config, detector_config(tmp_path / "cache", input=[name], initial_weights=start))
        task.open_samples(config)
        module = task.build_training_module(task.build_model())
        seen.append([*module.mean.flatten().tolist(), *module.std.flatten().tolist()])
    assert seen[0] == seen[1]


# --- the task and its script -----------------------------------------------------------------------------------------


def test_pictures_of_another_size_than_their_boxes_are_named(tmp_path: Path, drawn: Path) -> None:
    for file in (drawn / "vis").iterdir():
        Image.open(file).resize((64, 48)).save(tmp_path / file.name)
    config = run_config(tmp_path / "run", drawn)
    with pytest.raises(ConfigError, match="is 64x48 pixels and its pair 128x96: give images of the size"):
        DetectorTask(config, detector_config(tmp_path / "cache", input=[str(tmp_path)])).open_samples(config)
