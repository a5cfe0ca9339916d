"""One door to both kinds of detector."""

import os
from pathlib import Path
from typing import Any

from fusion_hub.downstream.protocols import Detector


def load_detector(name_or_path: str | os.PathLike[str], **settings: Any) -> Detector:
    """An `OnnxDetector` for what ends in `.onnx` and for folders with such a file but no `config.json`, else a
    `TransformersDetector`.

    Args:
        name_or_path: an ONNX file, a folder, or on the Hub `"owner/name"` or `"owner/name/file.onnx"`.
        settings: of the `from_pretrained` that is called.

    Raises:
        ImportError, OSError, ValueError: as that `from_pretrained`.
    """
    path = Path(name_or_path)
    plain_folder = path.is_dir() and not (path / "config.json").is_file() and any(path.rglob("*.onnx"))
    if path.suffix.lower() == ".onnx" or plain_folder:
        from fusion_hub.downstream.onnx_detector import OnnxDetector

        return OnnxDetector.from_pretrained(name_or_path, **settings)
    from fusion_hub.downstream.transformers_detector import TransformersDetector

    return TransformersDetector.from_pretrained(name_or_path, **settings)
