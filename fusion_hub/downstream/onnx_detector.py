"""YOLO files in ONNX, run by onnxruntime. No PyTorch, no Ultralytics: letterbox, decoding and NMS are in this package.

YOLOX is Apache-2.0. Weights and exports of Ultralytics (YOLOv5, YOLOv8, YOLO11) are AGPL-3.0 by their makers' reading:
such a file is the user's to bring.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from fusion_hub.downstream.boxes import letterbox, nms
from fusion_hub.downstream.protocols import Detections, check_threshold
from fusion_hub.downstream.weights import find_weights, require
from fusion_hub.downstream.yolo import Layout, names_for, recognise
from fusion_hub.image.processor import FusionImageProcessor, ImageInput, InfraredRange

DEFAULT_SIZE = 640  # of Ultralytics, where the file leaves the size open
MAX_STRIDE = 32
_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxDetector:
    """A [`Detector`] from an ONNX file of YOLOX, YOLOv5, YOLOv7, YOLOv8 or YOLO11.

    Which of them it is, its input size and its class names are read from the file. One detector may be used from
    several threads at once.

    Args:
        path: the ONNX file.
        class_names: instead of those in the file's metadata, in their order; without either 80 classes are COCO's.
        input_size: `(height, width)`, for files that leave it open; default what the metadata says, or 640 x 640.
        iou_threshold: overlap above which the weaker of two boxes of one class is dropped.
        max_detections: at most so many are returned, the best.
        threads: of onnxruntime for one picture; default: all cores.
        providers: of onnxruntime, best first; default: the CPU.

    Attributes:
        names: name of each class, by class id.
        layout: what the file was recognised as.

    Raises:
        ImportError: if onnxruntime is not installed.
        OSError: if the file cannot be read.
        ValueError: if the file is no ONNX network, or none of these.
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
        self.iou_threshold = iou_threshold
        self.max_detections = max_detections
        self._session = _open(Path(path), threads, providers)
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self._input, self._dtype, size = _read_input(self._session, metadata, input_size)
        self._output, shape = _read_output(self._session)
        if not all(isinstance(length, int) for length in shape):  # the file leaves it open: look
            shape = self._run(np.zeros((1, 3, *size), dtype=np.float32)).shape
        if class_names is not None:
            metadata["names"] = repr(list(class_names))
        self.layout: Layout = recognise(tuple(shape), size, metadata)
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
            filename: which file of the folder or repository, where there are several.
            revision, token, cache_dir, local_files_only: as in huggingface_hub.
            settings: of the class: `class_names`, `input_size`, `iou_threshold`, `threads`, ...

        Raises:
            ImportError, OSError, ValueError: as the class; also for a name that stands for no file or for several.
        """
        require("onnxruntime", "OnnxDetector")  # before anything is downloaded
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        return cls(find_weights(name_or_path, ".onnx", filename, **hub), **settings)

    def detect(
        self, image: ImageInput, *, threshold: float = 0.3, value_range: InfraredRange | None = None
    ) -> Detections:
        """Find objects.

        Args:
            image: of any kind that a pipeline takes; grey becomes three equal channels.
            threshold: the least score, in [0, 1]; objectness times class score where there is objectness.
            value_range: of pictures with more than 8 bits, see `FusionImageProcessor.to_rgb`.

        Returns:
            The best class of each box, after non-maximum suppression within classes, in pixels of the picture.

        Raises:
            ValueError, TypeError: for an image that cannot be used, a threshold outside [0, 1], a broken network.
        """
        check_threshold(threshold)
        pixels = self._processor.to_rgb(image, value_range=value_range)
        picture, fitted = letterbox(pixels, self.layout.size, centred=self.layout.centred)
        output = self._run(self.layout.prepare(picture))
        boxes, class_scores = self.layout.decode(output)
        class_ids = class_scores.argmax(axis=1)
        scores = np.take_along_axis(class_scores, class_ids[:, None], axis=1)[:, 0]
        chosen = np.flatnonzero(scores >= threshold)
        kept = chosen[nms(boxes[chosen], scores[chosen], class_ids[chosen], self.iou_threshold)][: self.max_detections]
        found = fitted.to_picture(boxes[kept])
        return Detections.of(found, scores[kept], class_ids[kept], self.names, (pixels.shape[0], pixels.shape[1]))

    def _run(self, pixels: np.ndarray) -> np.ndarray:
        try:
            return self._session.run([self._output], {self._input: pixels.astype(self._dtype, copy=False)})[0]
        except Exception as error:  # onnxruntime's errors share no base but Exception
            raise ValueError(
                f"the ONNX network cannot be run on an input of shape {pixels.shape} ({_first_line(error)}): check the "
                "file, or give input_size=(height, width)"
            ) from error


def _open(path: Path, threads: int | None, providers: Sequence[str]) -> Any:
    """An onnxruntime session that leaves the cores alone between two pictures."""
    runtime = require("onnxruntime", "OnnxDetector")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    if not path.is_file():
        raise FileNotFoundError(f"there is no ONNX file {str(path)!r}")
    unknown = sorted(set(providers) - set(runtime.get_available_providers()))
    if unknown:
        raise ValueError(
            f"this onnxruntime has no {unknown[0]!r}: use some of {', '.join(runtime.get_available_providers())}"
        )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return runtime.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime's errors share no base but Exception
        raise ValueError(
            f"{str(path)!r} is no ONNX network that onnxruntime can load ({_first_line(error)}): download or export it "
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
        raise ValueError(f"the ONNX file has the inputs {shapes}; expected is one picture (1, 3, height, width)")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ValueError(
            f"the ONNX file takes batches of {shape[0]} pictures: export it for one, or with any batch size"
        )
    if inputs[0].type not in _FLOATS:
        raise ValueError(f"the input of the ONNX file is a {inputs[0].type}: export it with float32 or float16")
    default = wanted or _metadata_size(metadata) or (DEFAULT_SIZE, DEFAULT_SIZE)
    size = tuple(
        length if isinstance(length, int) else chosen for length, chosen in zip(shape[2:], default, strict=True)
    )
    if wanted is not None and tuple(wanted) != size:
        raise ValueError(f"the ONNX file takes pictures of {size[0]} x {size[1]} only, got input_size={tuple(wanted)}")
    if any(length < MAX_STRIDE or length % MAX_STRIDE for length in size):
        raise ValueError(f"input_size must be positive multiples of {MAX_STRIDE}, got {size[0]} x {size[1]}")
    return inputs[0].name, _FLOATS[inputs[0].type], (size[0], size[1])


def _read_output(session: Any) -> tuple[str, Sequence[Any]]:
    """Name and shape of the output with the boxes; a length that the file leaves open is a name or None."""
    outputs = [output for output in session.get_outputs() if len(output.shape) == 3]
    if len(outputs) != 1:
        shapes = ", ".join(str(output.shape) for output in session.get_outputs())
        raise ValueError(
            f"the ONNX file has outputs of the shapes {shapes}; expected is exactly one with three dimensions, as YOLO "
            "detectors have that were exported without NMS inside"
        )
    return outputs[0].name, outputs[0].shape


def _metadata_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """`imgsz` as Ultralytics writes it: "[640, 640]"."""
    numbers = metadata.get("imgsz", "").strip("[]() ").split(",")
    if len(numbers) != 2 or not all(number.strip().isdigit() for number in numbers):
        return None
    return int(numbers[0]), int(numbers[1])


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
