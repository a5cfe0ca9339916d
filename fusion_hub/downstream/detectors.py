"""Detectors: YOLO files in ONNX, run by onnxruntime, and the object detectors of `transformers`.

The bundled weights, `detector-nano-msrs`, were trained in this project. YOLOX is Apache-2.0. The makers of Ultralytics
consider weights and exports of YOLOv5, YOLOv8 and YOLO11 to be AGPL-3.0; none is distributed here.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image

from fusion_hub.downstream.protocols import Detections, Detector, check_threshold
from fusion_hub.downstream.weights import PretrainedNetwork, find_weights, require
from fusion_hub.downstream.yolo import Layout, letterbox, names_for, nms, recognize
from fusion_hub.image.processor import FusionImageProcessor, ImageInput, InfraredRange
from fusion_hub.pipelines import checkpoints
from fusion_hub.repositories import first_line

DEFAULT_SIZE = 640  # of Ultralytics, for files that leave the size open
MAX_STRIDE = 32
ONNX_FILE = "model.onnx"
"""Name of the network that this package saves."""
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def load_detector(name_or_path: str | os.PathLike[str], **settings: Any) -> Detector:
    """Load an `OnnxDetector` from an `.onnx` file or a folder with one and no `config.json`, else a
    `TransformersDetector`.

    Args:
        name_or_path: the bundled `"detector-nano-msrs"`, an ONNX file, a folder, or on the Hub `"owner/name"` or
            `"owner/name/file.onnx"`.
        settings: arguments of `from_pretrained` of the class.

    Raises:
        ImportError, OSError, ValueError: as `from_pretrained`.
    """
    name_or_path = checkpoints.resolve_detector(os.fspath(name_or_path)) or name_or_path
    path = Path(name_or_path)
    onnx_folder = path.is_dir() and not (path / "config.json").is_file() and any(path.rglob("*.onnx"))
    if path.suffix.lower() == ".onnx" or onnx_folder:
        return OnnxDetector.from_pretrained(name_or_path, **settings)
    return TransformersDetector.from_pretrained(name_or_path, **settings)


class OnnxDetector:
    """A [`Detector`] from an ONNX file of YOLOX, YOLOv5, YOLOv7, YOLOv8 or YOLO11.

    The family, the input size and the class names are read from the file. One detector may be used from several threads
    at once.

    Args:
        path: the ONNX file.
        class_names: in the order of the class ids, instead of those in the metadata of the file. Without either, 80
            classes are those of COCO.
        input_size: `(height, width)`, for files that leave it open; default from the metadata, or 640 x 640.
        iou_threshold: of two boxes of one class that overlap more, the one with the lower score is dropped.
        max_detections: the largest number of detections returned.
        threads: of onnxruntime for one image; default all cores.
        providers: of onnxruntime, in order of preference; default the CPU.

    Attributes:
        names: name of each class, by class id.
        layout: family and layout of the output.

    Raises:
        ImportError: onnxruntime is not installed.
        OSError: the file cannot be read.
        ValueError: the file is not an ONNX network of one of these families.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        input_size: tuple[int, int] | None = None,
        iou_threshold: float = 0.45,
        max_detections: int = 300,
        threads: int | None = None,
        providers: Sequence[str] = ("CPUExecutionProvider",),
    ) -> None:
        if not 0 <= iou_threshold <= 1:
            raise ValueError(f"iou_threshold must be in 0..1, got {iou_threshold}")
        if max_detections < 1:
            raise ValueError(f"max_detections must be at least 1, got {max_detections}")
        self.iou_threshold, self.max_detections = iou_threshold, max_detections
        self._session = _open_session(Path(path), threads, providers)
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self._input, self._dtype, size = _read_input(self._session, metadata, input_size)
        outputs = [output for output in self._session.get_outputs() if len(output.shape) == 3]
        if len(outputs) != 1:
            shapes = ", ".join(str(output.shape) for output in self._session.get_outputs())
            raise ValueError(
                f"the ONNX file has outputs of the shapes {shapes}: expected exactly one output with three dimensions, "
                "as in YOLO detectors exported without NMS"
            )
        self._output, shape = outputs[0].name, outputs[0].shape
        if not all(isinstance(length, int) for length in shape):  # the file leaves it open
            shape = self._run(np.zeros((1, 3, *size), dtype=np.float32)).shape
        if class_names is not None:
            metadata["names"] = repr(list(class_names))
        self.layout: Layout = recognize(tuple(shape), size, metadata)
        self.names: Mapping[int, str] = names_for(self.layout, metadata)
        self._processor = FusionImageProcessor()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        filename: str | None = None,
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> Self:
        """Load from a path or from the Hub.

        Args:
            name_or_path: an ONNX file, a folder with one, a Hub id `"owner/name"`, or `"owner/name/file.onnx"`.
            filename: file of the folder or repository, where there are several.
            revision, token, cache_dir, local_files_only: as in huggingface_hub.
            settings: arguments of the class: `class_names`, `input_size`, `iou_threshold`, `threads`, ...

        Raises:
            ImportError, OSError, ValueError: as the class; also for a name that matches no file or several.
        """
        require("onnxruntime", "OnnxDetector")  # before anything is downloaded
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        return cls(find_weights(name_or_path, ".onnx", filename, **hub), **settings)

    def detect(
        self, image: ImageInput, *, threshold: float = 0.3, value_range: InfraredRange | None = None
    ) -> Detections:
        """Find objects.

        Args:
            image: any input of a pipeline; gray becomes three equal channels.
            threshold: the lowest score, in [0, 1]; objectness times class score for families with objectness.
            value_range: for images with more than 8 bits, see `FusionImageProcessor.to_rgb`.

        Returns:
            The best class of each box, after non-maximum suppression within classes, in pixels of the image.

        Raises:
            ValueError, TypeError: unusable image, threshold outside [0, 1], or a broken network.
        """
        check_threshold(threshold)
        pixels = self._processor.to_rgb(image, value_range=value_range)
        resized, fit = letterbox(pixels, self.layout.size, centered=self.layout.centered)
        boxes, class_scores = self.layout.decode(self._run(self.layout.prepare(resized)))
        class_ids = class_scores.argmax(axis=1)
        scores = class_scores.max(axis=1)
        chosen = np.flatnonzero(scores >= threshold)
        kept = chosen[nms(boxes[chosen], scores[chosen], class_ids[chosen], self.iou_threshold)][: self.max_detections]
        size = pixels.shape[0], pixels.shape[1]
        return Detections.of(fit.to_image(boxes[kept]), scores[kept], class_ids[kept], self.names, size)

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            return self._session.run([self._output], {self._input: pixels.astype(self._dtype, copy=False)})[0]
        except Exception as error:  # the errors of onnxruntime share no base but Exception
            raise ValueError(
                f"the ONNX network cannot be run on an input of shape {pixels.shape} ({first_line(error)}): check the "
                "file, or give input_size=(height, width)"
            ) from error


def _open_session(path: Path, threads: int | None, providers: Sequence[str]) -> Any:
    """An onnxruntime session whose threads do not spin between two images."""
    runtime = require("onnxruntime", "OnnxDetector")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no ONNX file {str(path)!r}")
    available = runtime.get_available_providers()
    if unknown := sorted(set(providers) - set(available)):
        raise ValueError(f"this onnxruntime has no provider {unknown[0]!r}: use some of {', '.join(available)}")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # the errors of onnxruntime share no base but Exception
        raise ValueError(
            f"onnxruntime cannot load {str(path)!r} as an ONNX network ({first_line(error)}): download or export it "
            "again"
        ) from error


def _read_input(
    session: Any, metadata: Mapping[str, str], wanted: tuple[int, int] | None
) -> tuple[str, Any, tuple[int, int]]:
    """Name, dtype and `(height, width)` of the input."""
    inputs = session.get_inputs()
    shape = inputs[0].shape
    if len(inputs) != 1 or len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3):
        shapes = ", ".join(f"{node.name} {node.shape}" for node in inputs)
        raise ValueError(f"the ONNX file has the inputs {shapes}: expected one image (1, 3, height, width)")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ValueError(f"the ONNX file takes batches of {shape[0]} images: export it with batch size 1 or any size")
    if inputs[0].type not in _FLOATS:
        raise ValueError(f"the input of the ONNX file is a {inputs[0].type}: export it with float32 or float16")
    # Ultralytics writes imgsz: "[640, 640]"
    found = re.fullmatch(r"[\[( ]*(\d+)\s*,\s*(\d+)[\]) ]*", metadata.get("imgsz", ""))
    default = wanted or ((int(found[1]), int(found[2])) if found else (DEFAULT_SIZE, DEFAULT_SIZE))
    height, width = (fixed if isinstance(fixed, int) else free for fixed, free in zip(shape[2:], default, strict=True))
    if wanted is not None and tuple(wanted) != (height, width):
        raise ValueError(f"the ONNX file takes only images of {height} x {width}, got input_size={tuple(wanted)}")
    if any(length < MAX_STRIDE or length % MAX_STRIDE for length in (height, width)):
        raise ValueError(f"input_size must be positive multiples of {MAX_STRIDE}, got {height} x {width}")
    return inputs[0].name, _FLOATS[inputs[0].type], (height, width)


class TransformersDetector(PretrainedNetwork):
    """A [`Detector`] around a `transformers` network: RT-DETRv2, D-FINE, YOLOS, DETR and related ones.

        detector = TransformersDetector.from_pretrained("PekingU/rtdetr_v2_r18vd")

    Args:
        model: the network, in evaluation mode.
        processor: its image processor, with `post_process_object_detection`.

    Attributes:
        names: name of each class, by class id.
    """

    auto_class = "AutoModelForObjectDetection"

    @torch.inference_mode()
    def detect(
        self, image: ImageInput, *, threshold: float = 0.3, value_range: InfraredRange | None = None
    ) -> Detections:
        """Find objects; these networks need no non-maximum suppression.

        Args:
            image: any input of a pipeline; gray becomes three equal channels.
            threshold: the lowest score, in [0, 1].
            value_range: for images with more than 8 bits, see `FusionImageProcessor.to_rgb`.

        Raises:
            ValueError, TypeError: unusable image, threshold outside [0, 1], or a broken network.
        """
        check_threshold(threshold)
        pixels = self._images.to_rgb(image, value_range=value_range)
        inputs = self.processor(images=Image.fromarray(pixels), return_tensors="pt").to(self.model.device)
        outputs = self._outputs(**inputs.to(self.model.dtype))
        size = pixels.shape[0], pixels.shape[1]
        # `transformers` keeps scores above its threshold; here the threshold itself is included.
        found = self.processor.post_process_object_detection(outputs, threshold=-1.0, target_sizes=[size])[0]
        boxes, scores, class_ids = (found[key].float().cpu().numpy() for key in ("boxes", "scores", "labels"))
        return Detections.of(boxes, scores, class_ids, self.names, size).above(threshold)
