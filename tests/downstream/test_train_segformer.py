"""The training of SegFormer: its pictures and labels, its losses, and that it stops and goes on exactly."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fusion_hub.data import PairedDataset, generate_scene
from fusion_hub.data.annotations import find_labels
from fusion_hub.downstream.image_training import Augmentation
from fusion_hub.downstream.scores import (
    class_iou,
    confusion_matrix,
)
from fusion_hub.downstream.train_segformer import (
    LabeledPicture,
    SegFormerTask,
    SegmentationCrops,
    class_weights,
    lovasz_softmax,
    segformer_logits,
    weighted_cross_entropy,
)
from fusion_hub.training import ConfigError
from tests.support.downstream_runs import detector_config, run_config, segformer_config
from tests.support.training_runs import accelerate_on_cpu  # noqa: F401  # a fixture

CLASSES = ["unlabelled", "car", "person"]


# --- pictures and labels ---------------------------------------------------------------------------------------------


def coded_picture(height: int = 60, width: int = 80) -> LabeledPicture:
    """Every pixel's color tells its class: 40, 80 or 120, in blocks that survive resizing."""
    label = np.kron(np.random.default_rng(0).integers(3, size=(height // 10, width // 10)), np.ones((10, 10)))
    picture = np.repeat((40 * (label + 1)).astype(np.uint8)[..., None], 3, axis=2)
    return LabeledPicture("coded", picture, label.astype(np.uint8))


def test_labels_move_with_their_pictures() -> None:
    augmentation = Augmentation(scale=(0.5, 2.0), rare_classes=0.3)
    crops = SegmentationCrops([[coded_picture()]], [None], 3, 3, augmentation)
    outside = 0
    for number in range(40):
        sample = crops.sample(number, 48)
        image, label = sample["image"], sample["label"]
        assert image.shape == (3, 48, 48) and label.shape == (48, 48) and int(sample["sample"]) == number
        assert image.dtype == torch.float32 and label.dtype == torch.int64
        inside = label != 255
        outside += int(not inside.all())
        assert (image[:, ~inside] * 255 <= 120).all()
        right = ((image[0] * 255 / 40 - 1).round() == label)[inside].float().mean()
        assert right > 0.8, "only the edges of blocks may differ"
        again = crops.sample(number, 48)
        assert all(torch.equal(sample[name], again[name]) for name in sample)
    assert outside, "scenes shrunk below the crop leave pixels that do not count"
    other = SegmentationCrops([[coded_picture()]], [None], 4, 3, augmentation).sample(0, 48)
    assert not torch.equal(other["image"], crops.sample(0, 48)["image"])


def test_crops_seek_rare_classes_and_keep_to_the_weights() -> None:
    empty = LabeledPicture("empty", np.zeros((64, 64, 3), np.uint8), np.zeros((64, 64), np.uint8))
    rare = dataclasses.replace(empty, name="rare", label=empty.label.copy())
    rare.label[3:6, 50:53] = 2
    crops = SegmentationCrops([[empty] * 9, [rare]], [None, None], 0, 4, Augmentation(rare_classes=1.0))
    assert all((crops.sample(number, 24)["label"] == 2).any() for number in range(30))
    for weights, expected in (([None, None], range(15, 50)), ([1.0, 3.0], range(195, 255))):  # one in ten, 3 in 4
        crops = SegmentationCrops([[empty] * 9, [rare]], weights, 0, 4, Augmentation())
        assert sum((crops.sample(number, 64)["label"] == 2).any() for number in range(300)) in expected


def test_labels_lie_beside_the_pictures(tmp_path: Path, drawn: Path) -> None:
    labeled = find_labels(list(PairedDataset.open(str(drawn))))
    scene = generate_scene(0, 96, 128, "day_road")
    assert labeled[0].name == "0_day_road" and np.array_equal(labeled[0].label(3), scene.classes)
    # With the splits below the kinds: ROOT/vis/SPLIT and ROOT/label/SPLIT.
    for band in ("vis", "ir", "label"):
        (tmp_path / band).mkdir()
        (tmp_path / band / "val").symlink_to(drawn / band)
    assert len(find_labels(list(PairedDataset.open(str(tmp_path), "val")))) == 3


def test_missing_and_wrong_labels_are_named(tmp_path: Path, drawn: Path) -> None:
    for band in ("vis", "ir"):
        (tmp_path / band).symlink_to(drawn / band)
    pairs = list(PairedDataset.open(str(tmp_path)))
    with pytest.raises(ValueError, match="has no folder with the class of each pixel: name it one of label"):
        find_labels(pairs)
    (tmp_path / "labels").mkdir()
    Image.new("L", (128, 96), 7).save(tmp_path / "labels" / "0_day_road.png")
    with pytest.raises(ValueError, match="2 of 3 pairs have no class map: 1_night_street, 2_smoke"):
        find_labels(pairs)
    (one,) = find_labels(pairs[:1])
    with pytest.raises(ValueError, match="has the value 7: give classes 0 to 2"):
        one.label(3)
    Image.new("RGB", (128, 96)).save(tmp_path / "labels" / "0_day_road.png")
    with pytest.raises(ValueError, match="has the mode RGB"):
        one.label(3)
    for pair, size in zip(pairs, ((64, 48), (128, 96), (128, 96)), strict=True):
        Image.new("L", size).save(tmp_path / "labels" / f"{pair.name}.png")
    config = run_config(tmp_path / "run", tmp_path)
    with pytest.raises(ConfigError, match="'0_day_road' is 128x96, but its label map is 64x48"):
        SegFormerTask(config, segformer_config(tmp_path)).open_samples(config)


def test_options_outside_their_limits_are_named(tmp_path: Path) -> None:
    limits = {"largest_scale": (0.5, 101), "gamma_jitter": (-0.1, 3.5), "rare_class_crops": (-0.1, 1.5)}
    of_segformer = {"drop_path": (-0.1, 1.5), "classifier_dropout": (-0.1, 1.5), "class_weight_power": (-1, 1.5)}
    of_segformer |= {"cross_entropy": (-1, math.inf), "lovasz": (-1, math.nan)}
    for make, options in ((detector_config, limits), (segformer_config, limits | of_segformer)):
        for name, value in ((name, value) for name, values in options.items() for value in values):
            with pytest.raises(ConfigError, match=f"{name} must be .*, got {value}"):
                make(tmp_path, **{name: value})


# --- losses ----------------------------------------------------------------------------------------------------------


def test_class_weights_follow_their_definitions() -> None:
    labels = [np.array([[0, 0, 0, 1], [0, 0, 255, 255]]), np.array([[0, 2, 2, 2], [0, 0, 0, 0]])]
    frequency = np.array([10 / 14, 1 / 6, 3 / 8])  # pixels of the class / pixels of the pictures that have it
    median, pixels = np.median(frequency) / frequency, np.array([10, 1, 3])
    effective = 1 / (1 - 0.9 ** np.array([2.0, 1.0, 1.0]))
    for weighting, more, weights in (
        ("median_frequency", {}, median),
        ("median_frequency", {"power": 0.5}, median**0.5),
        ("effective_number", {"beta": 0.9}, effective),
        ("none", {}, np.ones(3)),
    ):
        expected = weights / ((weights * pixels).sum() / pixels.sum())
        assert class_weights(labels, 4, weighting, **more) == pytest.approx(np.append(expected, 0))


def test_the_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 5, 6, generator=generator)
    labels = torch.randint(3, (4, 5, 6), generator=generator)
    labels[0, :2] = 255
    weights = torch.tensor([0.5, 2.0, 3.0])
    whole = weighted_cross_entropy(logits, labels, weights)
    parts = [weighted_cross_entropy(logits[i : i + 2], labels[i : i + 2], weights) for i in (0, 2)]
    assert whole == pytest.approx(sum(part.item() for part in parts) / 2)
    true = labels.clamp(max=2)
    by_hand = -weights[true] * logits.log_softmax(1).gather(1, true[:, None])[:, 0] * (labels != 255)
    assert whole == pytest.approx(by_hand.mean().item(), rel=1e-5)


def test_lovasz_of_certain_predictions_is_one_minus_iou() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(4, (2, 8, 9), generator=generator)
    labels[labels == 3] = 255
    guess = torch.randint(3, (2, 8, 9), generator=generator)
    iou = np.nanmean(class_iou(confusion_matrix(labels.numpy(), guess.numpy(), 4))[:3])
    for prediction, expected in ((guess, 1 - iou), (torch.where(labels == 255, 0, labels), 0)):
        logits = (1e4 * torch.nn.functional.one_hot(prediction, 4).movedim(-1, 1)).float()
        assert lovasz_softmax(logits, labels).item() == pytest.approx(expected, abs=1e-6)
    nothing = torch.zeros(1, 4, 2, 2, requires_grad=True)
    lovasz_softmax(nothing, torch.full((1, 2, 2), 255)).backward()
    assert torch.equal(nothing.grad, torch.zeros_like(nothing))


@pytest.mark.parametrize("size", [(64, 96), (61, 75)])
def test_the_quick_decoder_is_the_decoder(tmp_path: Path, drawn: Path, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    task = SegFormerTask(run_config(tmp_path, drawn), segformer_config(tmp_path, drop_path=0, classifier_dropout=0))
    model = task.build_model().double().train()
    assert (torch.cat([p.flatten() for p in model.decode_head.linear_projections[0].parameters()]) != 0).any()
    for projection in model.decode_head.linear_projections:
        nn.init.normal_(projection.proj.bias)  # new biases are 0, which would hide a mistake
    pixels = torch.rand(2, 3, *size, dtype=torch.float64)
    results = []
    for logits in (lambda: model(pixel_values=pixels).logits, lambda: segformer_logits(model, pixels)):
        model.zero_grad()
        output = logits()
        output.square().mean().backward()
        results.append([output.detach(), *(p.grad.clone() for p in model.parameters())])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


def test_the_encoder_starts_as_its_authors_start_it(tmp_path: Path, drawn: Path) -> None:
    torch.manual_seed(0)
    model = SegFormerTask(run_config(tmp_path, drawn), segformer_config(tmp_path, variant="b0")).build_model()
    seen = set()
    for name, layer in model.segformer.named_modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = layer.weight[0, 0].numel() * layer.out_channels // layer.groups
            seen.add(layer.groups > 1)
            assert layer.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15), name
        elif isinstance(layer, nn.Linear):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15), name
    assert seen == {True, False}
    assert model.num_parameters() == pytest.approx(3.72e6, rel=0.01)  # B0 with nine classes


def test_training_sees_what_the_image_processor_gives(tmp_path: Path, drawn: Path) -> None:
    config = run_config(tmp_path, drawn)
    task = SegFormerTask(config, segformer_config(tmp_path, image_size=[48, 64]))
    (pictures,) = task.open_samples(config).pictures
    module = task.build_training_module(task.build_model())
    (pair, *_) = PairedDataset.open(str(drawn))
    expected = task.predictor(module.model).processor(images=pair.visible, return_tensors="pt")["pixel_values"][0]
    seen = torch.from_numpy(pictures[0].picture.transpose(2, 0, 1).copy()) / 255
    torch.testing.assert_close((seen - module.mean) / module.std, expected, atol=1e-5, rtol=1e-5)
    whole = torch.cat([torch.from_numpy(item.picture.copy()).flatten(0, 1) for item in pictures]) / 255
    torch.testing.assert_close(module.mean.flatten(), whole.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(module.std.flatten(), whole.std(0), atol=1e-4, rtol=1e-3)
