"""`DetectionLoss`: the detector is that of the zero-shot test, and the loss asks for what the better source shows."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fusion_hub.data import CropSource, PairCrops
from fusion_hub.downstream.detectors import OnnxDetector
from fusion_hub.image.luminance import luma
from fusion_hub.training.detection_loss import DetectionLoss, detector_input, object_logits, overlaps
from fusion_hub.training.onnx_graph import OnnxGraph

onnx = pytest.importorskip("onnx", reason="needs onnx (extra downstream)")
ort = pytest.importorskip("onnxruntime", reason="needs onnxruntime (extra downstream)")


@pytest.fixture(scope="module")
def weights(data_root: Path) -> Path:
    path = data_root / "models" / "yolox_nano.onnx"
    if not path.is_file():
        pytest.skip(f"no detector at {path}")
    return path


@pytest.fixture(scope="module")
def detection(weights: Path) -> DetectionLoss:
    return DetectionLoss(weights)


@pytest.fixture(scope="module")
def batch(data_root: Path) -> dict[str, torch.Tensor]:
    """Four crops of MSRS, of which at least one has an object."""
    data = data_root / "data"
    crops = PairCrops([CropSource(data / "msrs", "train", exclude=data / "reserved.csv")], 192, 3, 100, boxes=True)
    samples = [sample for sample in (crops[n] for n in range(12)) if (sample["boxes"][:, 0] >= 0).any()][:4]
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


def test_the_graph_gives_what_onnxruntime_gives(weights: Path) -> None:
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 416, 416)).astype(np.float32)
    expected = ort.InferenceSession(str(weights)).run(None, {"images": image})[0]
    graph = OnnxGraph(weights)
    assert np.abs(graph(torch.from_numpy(image)).numpy() - expected).max() < 1e-4
    assert graph(torch.zeros(2, 3, 64, 96)).shape == (2, 2 * 3 * (1 + 4 + 16), 85)
    assert not list(graph.parameters()) and not graph.state_dict()


def test_it_sees_what_the_zero_shot_detector_sees(weights: Path, detection: DetectionLoss, data_root: Path) -> None:
    """Luminance and chroma of a whole picture, resized and decoded here, against the file's own way."""
    picture = Image.open(sorted((data_root / "data" / "msrs" / "val" / "vis").glob("*D.png"))[0]).convert("RGB")
    found = OnnxDetector(weights).detect(picture, threshold=0.3)
    rgb = np.asarray(picture, dtype=np.float32) / 255
    y = luma(rgb)
    chroma = np.stack([(rgb[..., 2] - y) / 1.772, (rgb[..., 0] - y) / 1.402])
    predictions = detection._predict(torch.from_numpy(y)[None, None], torch.from_numpy(chroma)[None], [0.65])
    kept = found.class_ids < 3
    assert kept.any()
    for box, score, class_id in zip(found.boxes[kept], found.scores[kept], found.class_ids[kept], strict=True):
        near = overlaps(torch.from_numpy(box)[None, None] * 0.65, predictions.boxes)[0, 0] > 0.9
        assert abs(float(predictions.logits[0, near, class_id].sigmoid().max()) - score) < 0.03


def test_resizing_is_that_of_the_detector() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (480, 640), dtype=np.uint8)
    small = np.asarray(Image.fromarray(gray).resize((416, 312), Image.Resampling.BILINEAR))
    image = detector_input(
        torch.from_numpy(gray / np.float32(255))[None, None], torch.zeros(1, 2, 480, 640), [0.65], 0.65
    )
    assert image.shape == (1, 3, 320, 416) and (image[:, :, 312:] == 114).all()
    assert (image[0, :, :312] - torch.from_numpy(small.astype(np.float32))).abs().max() < 1.5


def test_a_step_against_the_gradient_shows_the_objects(
    detection: DetectionLoss, batch: dict[str, torch.Tensor]
) -> None:
    """From a picture in which everything is faint; and the better source itself has no loss."""
    fused = (0.4 + 0.2 * batch["visible"]).requires_grad_()
    before = detection(fused, batch)
    (gradient,) = torch.autograd.grad(before, fused)
    assert torch.isfinite(gradient).all() and gradient.abs().max() > 0
    scales = [detection._scale(number) for number in batch["sample"].tolist()]
    assert len(set(scales)) == len(scales) and 0.5 <= min(scales) <= max(scales) <= 0.75
    boxes, class_ids, known = detection._objects(batch["boxes"], fused.shape[-2:], scales)

    def best(image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return object_logits(detection._predict(image, batch["chroma"], scales), boxes, class_ids)[known].mean()

    stepped = fused.detach() - 0.01 * gradient / gradient.abs().max()
    assert detection(stepped, batch) < before and best(stepped) > best(fused.detach())
    assert torch.equal(detection(fused, batch), before)
    same = {**batch, "infrared": batch["visible"], "chroma": torch.zeros_like(batch["chroma"])}
    assert detection(batch["visible"], same) == 0


def test_autocast_and_the_rest_of_the_batch_change_nothing(
    detection: DetectionLoss, batch: dict[str, torch.Tensor]
) -> None:
    fused = 0.4 + 0.2 * batch["visible"]
    losses = detection.per_sample(fused, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(detection.per_sample(fused, batch), losses)
    one = detection.per_sample(fused[:1], {name: tensor[:1] for name, tensor in batch.items()})
    assert torch.allclose(one, losses[:1], atol=1e-3)


def test_what_is_no_object_has_no_loss(detection: DetectionLoss, batch: dict[str, torch.Tensor]) -> None:
    fused = (0.4 + 0.2 * batch["visible"]).requires_grad_()
    none = torch.zeros_like(batch["boxes"])
    none[..., 0] = -1
    gray = torch.full_like(fused, 0.4)
    for nothing in ({**batch, "boxes": none}, {**batch, "annotated": torch.zeros_like(batch["annotated"])}):
        loss = detection(gray + 0 * fused, nothing)  # flat gray, where nothing is detected either
        loss.backward()
        assert loss == 0 and not fused.grad.any()
    cut, scales = none.clone(), [0.65] * len(none)
    cut[:, 0] = torch.tensor([0, -30, 40, 20, 140])  # 40 % within the crop
    assert detection(gray, {**batch, "boxes": cut}) == 0
    assert not detection._objects(cut, fused.shape[-2:], scales)[2].any()
    cut[:, 0, 1] = -10
    assert detection._objects(cut, fused.shape[-2:], scales)[2].sum() == len(cut)


def test_false_alarms_are_pushed_down(detection: DetectionLoss, batch: dict[str, torch.Tensor]) -> None:
    """Objects that are in no source, as the boxes say."""
    none = torch.full_like(batch["boxes"], -1)
    gray = torch.full_like(batch["visible"], 0.4)
    made_up = {**batch, "boxes": none, "visible": gray, "infrared": gray}
    assert detection(batch["visible"], made_up) > 0
    assert detection(batch["visible"], {**made_up, "visible": batch["visible"]}) == 0  # a source has them, too


def test_wrong_networks_are_refused(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    with pytest.raises(ValueError, match="is not an ONNX file"):
        OnnxGraph(tmp_path / "text.onnx")
    info = onnx.helper.make_tensor_value_info
    ends = [info(name, onnx.TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "y")]
    for operator, message in (("Erf", "has the operator 'Erf'"), ("Sigmoid", r"returns \(1, 3, 64, 64\)")):
        node = onnx.helper.make_node(operator, ["x"], ["y"])
        onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", ends[:1], ends[1:])), tmp_path / "g.onnx")
        with pytest.raises(ValueError, match=message):
            DetectionLoss(tmp_path / "g.onnx")
