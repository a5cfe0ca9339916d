"""Finding and loading weights: ONNX files, and networks of `transformers` with their image processors."""

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, ClassVar, Self

import torch

from fusion_hub.data.pairs import some
from fusion_hub.image.processor import FusionImageProcessor
from fusion_hub.repositories import Unavailable, check_hub_id, download, first_line, hub_answers

INSTALL = 'pip install "fusion-hub[downstream]"'
_HUB_ADDRESS = re.compile(r"(?P<repo>[^/]+/[^/]+)(?:/(?P<file>[\w./ -]+))?")


def require(package: str, purpose: str) -> ModuleType:
    """Import an optional package. The ImportError, if it is not installed, has the command that installs it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"{purpose} needs {package}, which cannot be imported ({error}): {INSTALL}") from error


def find_weights(name: str | os.PathLike[str], suffix: str, filename: str | None = None, **hub: Any) -> Path:
    """The path of a weights file, downloaded from the Hub if necessary.

    Args:
        name: a file, a folder that holds one, a Hub id `"owner/name"`, or `"owner/name/path/in/it.onnx"`.
        suffix: of the file name, such as `".onnx"`.
        filename: path inside the folder or repository; required where there are several files.
        hub: `revision`, `token`, `cache_dir` and `local_files_only`, as in huggingface_hub.

    Raises:
        ValueError: the name is none of these, or matches several files.
        OSError: there is no such file, or the repository cannot be reached or read.
    """
    path = Path(name)
    if path.is_file():
        if path.suffix.lower() != suffix:
            raise ValueError(f"{str(path)!r} is not a {suffix} file")
        return path
    if path.is_dir():
        return path / _choose(path, suffix, filename)
    address = _HUB_ADDRESS.fullmatch(str(name))
    repo_id = address["repo"] if address else str(name)
    check_hub_id(repo_id, f"{suffix} file", "a file, a folder that holds one, or a Hub id 'owner/name'")
    return _download(repo_id, suffix, filename or (address and address["file"]), hub)


def _choose(folder: Path, suffix: str, filename: str | None) -> str:
    """Path inside the folder of `filename`, or of the only file with the suffix."""
    if filename is None:
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob(f"*{suffix}"))
        return _only(files, suffix, repr(str(folder)))
    if ".." in PurePosixPath(filename).parts:
        raise ValueError(f"filename={filename!r} leads out of the folder: give a path inside it")
    if not (folder / filename).is_file():
        raise FileNotFoundError(f"there is no {filename!r} in {str(folder)!r}")
    return filename


def _only(files: list[str], suffix: str, location: str) -> str:
    if not files:
        raise FileNotFoundError(f"there is no {suffix} file in {location}")
    if len(files) > 1:
        raise ValueError(
            f"there are {len(files)} {suffix} files in {location}: choose one with filename= ({some(files)})"
        )
    return files[0]


def _download(repo_id: str, suffix: str, filename: str | None, hub: dict[str, Any]) -> Path:
    """One file of a repository, in the cache of huggingface_hub; damaged files are refused."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError

    online = not hub.get("local_files_only") and hub_answers()
    try:
        if filename is None and online:
            listing = HfApi().list_repo_files(repo_id, revision=hub.get("revision"), token=hub.get("token"))
            names = sorted(name for name in listing if PurePosixPath(name).suffix == suffix)
            filename = _only(names, suffix, f"the repository {repo_id!r}")
        folder = download(repo_id, [filename or f"*{suffix}"], online=online, **hub)
    except (Unavailable, HTTPError) as error:
        raise OSError(
            f"there is no file or folder {repo_id!r} here, and it cannot be loaded from the Hub ({first_line(error)}): "
            "check the path, or the id, the revision, the token and the connection"
        ) from error
    return folder / _choose(folder, suffix, filename)


class PretrainedNetwork:
    """A `transformers` network with its image processor; subclasses make predictions.

    Args:
        model: the network, in evaluation mode.
        processor: its image processor.

    Attributes:
        names: name of each class, by class id.
    """

    auto_class: ClassVar[str]  # of `transformers`
    model_type: ClassVar[str | None] = None  # the only architecture that is accepted; None: any

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model, processor
        self.names: Mapping[int, str] = {int(class_id): str(name) for class_id, name in model.config.id2label.items()}
        self._images = FusionImageProcessor()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        **settings: Any,
    ) -> Self:
        """Load from a folder or from the Hub, in float32.

        Args:
            name_or_path: a bundled name, a folder written by `save_pretrained` with `preprocessor_config.json`, or a
                Hub id `"owner/name"`. Safetensors only; no code of it is run.
            device: where the network runs.
            revision, token, cache_dir, local_files_only: as in huggingface_hub.
            settings: further arguments of the class.

        Raises:
            ImportError: transformers is not installed.
            OSError: a file is missing or cannot be reached, or there are only pickled weights.
            ValueError: the weights do not fit, the network is of another kind, or a setting is invalid.
        """
        hub: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        }
        transformers = require("transformers", cls.auto_class)
        name = os.fspath(cls._locate(name_or_path))
        folder = Path(name)
        if not folder.is_dir():
            check_hub_id(name, "network", "a Hub id 'owner/name', or a folder that save_pretrained wrote")
        try:
            if not folder.is_dir():
                folder = download(name, ["*.json", "model*.safetensors"], ["*/*", "model.*.safetensors"], **hub)
            found_type = transformers.AutoConfig.from_pretrained(folder).model_type
            if cls.model_type not in (None, found_type):
                raise ValueError(f"it is a {found_type}, not a {cls.model_type}")
            # The PIL processors: those of torchvision resize differently, and torchvision is not a requirement.
            processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
            model, report = getattr(transformers, cls.auto_class).from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
        except Exception as error:  # damaged files raise anything: safetensors, JSON, configuration checks, HTTP
            kind = OSError if isinstance(error, OSError) else ValueError
            message = " ".join(str(error).split()).rstrip(".") or type(error).__name__
            raise kind(
                f"cannot load {name!r} with {cls.auto_class} ({message[:300]}): give a folder or a Hub id with "
                "config.json, preprocessor_config.json and safetensors weights"
            ) from error
        broken = [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]
        if broken:
            raise ValueError(
                f"in the weights of {name!r}, {len(broken)} tensors of the network are missing or have another shape "
                f"(first: {min(broken)}): use config.json and weights of the same checkpoint"
            )
        return cls(model.eval().to(device), processor, **settings)

    @classmethod
    def _locate(cls, name: str | os.PathLike[str]) -> str | os.PathLike[str]:
        return name

    def _outputs(self, **inputs: Any) -> Any:
        """Outputs of the network, whose logits are finite."""
        outputs = self.model(**inputs)
        if not torch.isfinite(outputs.logits).all():
            raise ValueError("the network returned NaN or infinite values: check its weights, or run it in float32")
        return outputs
