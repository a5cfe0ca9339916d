"""Loading and saving of pipelines that live outside diffusers.

diffusers 0.42 loads a third-party pipeline from a folder but not from a Hub repository, falls back to pickled weights
and only warns about missing ones. `PortablePipeline` overrides public methods so that one layout loads in four ways:

- typed, from a folder: `DiffFuseNetPipeline.from_pretrained("runs/street")`;
- typed, from the Hub: `DiffFuseNetPipeline.from_pretrained("owner/name")`. No code of the repository is fetched or run;
- by bundled name: `DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")`;
- by plain diffusers: `DiffusionPipeline.from_pretrained("owner/name", trust_remote_code=True)`, through one-line shims
  that import the classes from this package.

The layout:

    model_index.json          {"_class_name": ["pipeline", "DiffFuseNetPipeline"],
                               "model": ["modeling", "DiffFuseNetModel"],
                               "scheduler": ["diffusers", "DDIMScheduler"], ...}
    pipeline.py               from fusion_hub import DiffFuseNetPipeline
    model/modeling.py         from fusion_hub import DiffFuseNetModel
    model/config.json, model/diffusion_pytorch_model.safetensors
    scheduler/scheduler_config.json       (of DiffFuseNet; RED has the model only)
"""

import importlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError
from safetensors import SafetensorError, safe_open

from .. import pretrained
from .snapshot import check_snapshot

WEIGHTS_STEM = "diffusion_pytorch_model"
PIPELINE_SHIM, MODEL_SHIM = "pipeline", "modeling"
WEIGHT_ALIGNMENT = 64  # bytes, that of torch's CPU allocator
HUB_ARGUMENTS = ("revision", "token", "cache_dir", "force_download", "local_files_only")


class PortablePipeline(DiffusionPipeline):
    """A `DiffusionPipeline` that loads and saves in the layout above.

    Public methods are those of diffusers; the differences: weights are safetensors only, stored half precision becomes
    float32 unless `dtype` is given, and a damaged or incomplete checkpoint is an error, never silent random weights.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a pipeline; called on a base class it returns the class that `model_index.json` names.

        Args:
            pretrained_model_name_or_path: a bundled name (`fusion_hub.list_models()`), a folder, or a Hub id
                `"owner/name"`; looked up in this order.
            kwargs: as in diffusers: `dtype`, `variant`, `revision`, `token`, `cache_dir`, `force_download`,
                `local_files_only`, `device_map`, components to use instead of the stored ones, ...

        Raises:
            ValueError: for a name that is none of the three, a pipeline of another class, `use_safetensors=False`, or
                weights that do not fit the model.
            OSError: for a missing, damaged or truncated file, or a repository that cannot be reached.
        """
        if not kwargs.pop("use_safetensors", True):
            raise ValueError(
                "use_safetensors=False was given: pickled weights can run code, only safetensors are loaded"
            )
        name = os.fspath(pretrained_model_name_or_path)
        folder = cls._locate(name, kwargs)
        pipeline_class = cls._stored_class(folder)
        if pipeline_class is not cls:
            return pipeline_class.from_pretrained(folder, **kwargs)

        for component, model_class in cls._stored_models(folder).items():
            if component not in kwargs:
                check_model_folder(folder / component, model_class, kwargs.get("variant"))
        pipeline = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        for component, model in pipeline.components.items():
            if isinstance(model, ModelMixin) and component not in kwargs:
                _check_finite(model, folder / component)
        return pipeline

    def register_modules(self, **kwargs: Any) -> None:
        """As diffusers' `register_modules`; refuses a model whose checkpoint lacked tensors.

        Plain `DiffusionPipeline.from_pretrained` only warns of them and leaves them without memory.
        """
        for component, model in kwargs.items():
            if isinstance(model, torch.nn.Module) and not hasattr(model, "hf_device_map"):
                missing = [name for name, parameter in model.named_parameters() if parameter.is_meta]
                if missing:
                    raise ValueError(
                        f"{component} was loaded without {len(missing)} of its tensors (first: {missing[0]}): take "
                        "its weights and config.json from the same checkpoint"
                    )
                _align(model)
        super().register_modules(**kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch the JSON and safetensors files of a Hub repository, never its code; return the local folder.

        Args:
            pretrained_model_name: Hub id `"owner/name"`.
            kwargs: `revision`, `token`, `cache_dir`, `force_download`, `local_files_only`, and `variant`, which
                restricts the weights to the files of that variant.

        Raises:
            OSError: if the repository cannot be reached or read, or a file arrived damaged.
        """
        variant = kwargs.get("variant")
        weights = f"*/*.{variant}*.safetensors" if variant else "*/*.safetensors"
        try:
            folder = snapshot_download(
                pretrained_model_name,
                allow_patterns=["*.json", weights],
                ignore_patterns=None if variant else ["*/*.*.safetensors"],
                **{key: kwargs[key] for key in HUB_ARGUMENTS if kwargs.get(key) is not None},
            )
        except (OSError, ValueError, HTTPError) as error:
            raise OSError(
                f"cannot load {pretrained_model_name!r} from the Hub ({_first_line(error)}): check the id, the "
                "revision, the token and the connection, or give an existing folder or a bundled name "
                f"({_bundled_names()})"
            ) from error
        check_snapshot(Path(folder), pretrained_model_name)
        return folder

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As diffusers' `load_config`; the shims' names become the real class name and modules of this package."""
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        for key, entry in config.items():
            if isinstance(entry, list) and entry and entry[0] == MODEL_SHIM:
                config[key] = [_public_class(entry[1], key).__module__, entry[1]]
        return loaded

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `model_index.json` and the shims, and clear the components' JSON of local paths.

        Here and not in `save_pretrained`, which uploads (`push_to_hub=True`) right after it has called this method.
        """
        super().save_config(save_directory)
        root = Path(save_directory)
        index = json.loads((root / self.config_name).read_text())
        index.pop("_name_or_path", None)
        for name, entry in index.items():
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
                continue
            for config in root.glob(f"{name}/*.json"):
                _drop_local_path(config)
            component = getattr(self, name, None)
            if isinstance(component, ModelMixin) and not type(component).__module__.startswith("diffusers."):
                (root / name / f"{MODEL_SHIM}.py").write_text(_shim(type(component)))
                index[name] = [MODEL_SHIM, entry[1]]
        index["_class_name"] = [PIPELINE_SHIM, type(self).__name__]
        (root / f"{PIPELINE_SHIM}.py").write_text(_shim(type(self)))
        _write_json(root / self.config_name, index)
        if push_to_hub:
            self._upload_folder(
                save_directory, kwargs.pop("repo_id", root.name), token=kwargs.pop("token", None), **kwargs
            )

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        use_flashpack: bool = False,
        **kwargs: Any,
    ) -> None:
        """Save the pipeline.

        A folder that does not exist yet appears complete or not at all: it is written aside and renamed. An existing
        folder is written into, file by file, so that cards and licences beside the weights stay.

        Args:
            save_directory: folder to write.
            safe_serialization, use_flashpack: only their defaults; kept for diffusers' signature.
            variant: ending of the weights' file names, `"fp16"`.
            max_shard_size: `"2GB"`; larger weights are split into several files.
            push_to_hub: also upload, with `repo_id`, `token`, `private`, ... in `kwargs`.

        Raises:
            ValueError: for `safe_serialization=False` or `use_flashpack=True`.
            OSError: if the folder cannot be written.
        """
        if not safe_serialization or use_flashpack:
            raise ValueError(
                f"safe_serialization={safe_serialization}, use_flashpack={use_flashpack} was given: weights are saved "
                "as safetensors only, leave both at their defaults"
            )
        kwargs |= {"variant": variant, "max_shard_size": max_shard_size, "push_to_hub": push_to_hub}
        target = Path(save_directory)
        if target.is_file():
            raise NotADirectoryError(f"save_directory {str(target)!r} is a file: give a folder")
        if target.exists():
            super().save_pretrained(str(target), **kwargs)
            return
        kwargs.setdefault("repo_id", target.name)  # diffusers would take it from the folder written aside
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            aside.chmod(0o755)  # mkdtemp makes private folders; a saved pipeline is an ordinary one
            super().save_pretrained(str(aside), **kwargs)
            aside.rename(target)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise

    @classmethod
    def _locate(cls, name: str, kwargs: Mapping[str, Any]) -> Path:
        """Folder of a bundled name, of a path, or of a Hub snapshot."""
        if (bundled := pretrained.resolve(name)) is not None:
            return bundled
        if os.path.isdir(name):
            return Path(name)
        if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
            return Path(cls.download(name, **kwargs))
        raise ValueError(
            f"no pipeline named {name!r}: give a bundled name ({_bundled_names()}), an existing folder, or a Hub id "
            "'owner/name'"
        )

    @classmethod
    def _stored_class(cls, folder: Path) -> type[Self]:
        """The class to load with: this one, or the one named by `model_index.json` if it derives from this one."""
        index = _read_json(folder / cls.config_name)
        stored = index.get("_class_name")
        stored = stored[-1] if isinstance(stored, list) and stored else stored
        if any(stored == base.__name__ for base in cls.__mro__):
            return cls
        found = _find_public(str(stored))
        if isinstance(found, type) and issubclass(found, cls):
            return found
        raise ValueError(
            f"{folder / cls.config_name} describes a {stored}, which is not a {cls.__name__}: load it with that class, "
            "or with FusionPipeline.from_pretrained if it is one of this package"
        )

    @classmethod
    def _stored_models(cls, folder: Path) -> dict[str, type[ModelMixin]]:
        """Components of the stored pipeline that carry weights, and their classes."""
        models: dict[str, type[ModelMixin]] = {}
        for name, entry in cls.load_config(folder).items():
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
                continue
            # Only modules of libraries that we import anyway: a file must not choose what gets imported.
            if entry[0].split(".")[0] in ("fusion_hub", "diffusers"):
                candidate = getattr(importlib.import_module(entry[0]), entry[1], None)
                if isinstance(candidate, type) and issubclass(candidate, ModelMixin):
                    models[name] = candidate
        return models


def check_model_folder(folder: Path, model_class: type[Any], variant: str | None = None) -> None:
    """Compare a stored model with its class before any weight is loaded: file, names and shapes of the tensors.

    Reads the safetensors headers only.

    Raises:
        OSError: if the configuration or the weights are missing, damaged or truncated.
        ValueError: if the configuration or the tensors do not fit `model_class`.
    """
    from accelerate import init_empty_weights

    config = _read_json(folder / "config.json")
    try:
        with init_empty_weights():
            model = model_class.from_config(config)
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(
            f"{folder / 'config.json'} does not describe a {model_class.__name__} ({_first_line(error)}): restore the "
            "file that was saved with the weights"
        ) from error
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    files = _weight_files(folder, variant)
    found: dict[str, tuple[int, ...]] = {}
    for file in files:
        found.update(_tensor_shapes(file))
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    if missing or unknown or wrong:
        problems = [f"{len(missing)} tensors are missing (first: {missing[0]})"] if missing else []
        problems += [f"{len(unknown)} tensors are unknown (first: {unknown[0]})"] if unknown else []
        problems += [f"{name} has shape {found[name]} instead of {expected[name]}" for name in wrong[:1]]
        raise ValueError(
            f"the weights in {files[0]} do not fit {model_class.__name__} as {folder / 'config.json'} describes it: "
            f"{'; '.join(problems)}. Take both files from the same checkpoint"
        )


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The safetensors file of a model, or its shards; the plain ones if there are none of the variant."""
    for suffix in (f"[.]{re.escape(variant)}", "") if variant else ("",):
        pattern = re.compile(rf"{WEIGHTS_STEM}{suffix}(-\d+-of-\d+)?[.]safetensors")
        files = sorted(path for path in folder.glob("*.safetensors") if pattern.fullmatch(path.name))
        if files:
            return files
    others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".safetensors"))
    found = f" (there is {', '.join(others)}, which is not loaded without being asked for)" if others else ""
    wanted = f" of the variant {variant!r}" if variant else ""
    raise FileNotFoundError(
        f"no {WEIGHTS_STEM}.safetensors{wanted} in {folder}{found}: save the pipeline again with save_pretrained, or "
        "give the variant that is stored. Pickled weights are never loaded"
    )


def _tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise OSError(
            f"{file} is damaged or incomplete ({_first_line(error)}): download or copy the checkpoint again"
        ) from error


def _check_finite(model: ModelMixin, folder: Path) -> None:
    broken = [name for name, value in model.state_dict().items() if value.is_floating_point() and not _finite(value)]
    if broken:
        raise ValueError(
            f"the weights in {folder} hold NaN or infinite values (first: {broken[0]}): download or copy the "
            "checkpoint again, or load it in a wider dtype"
        )


def _finite(value: torch.Tensor) -> bool:
    return value.is_meta or bool(torch.isfinite(value).all())


def _align(model: torch.nn.Module) -> None:
    """Copy CPU weights that begin anywhere in memory, as those read from a file do, to where torch puts its own.

    Some kernels choose their way by the address: without this a loaded model is 1e-6 away from the one that was saved.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % WEIGHT_ALIGNMENT:
            parameter.data = parameter.data.clone()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing: give the folder that save_pretrained wrote, complete with this file"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise OSError(f"{path} is not valid JSON ({error}): download or copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__} instead of an object: restore the saved file")
    return content


def _drop_local_path(config: Path) -> None:
    """diffusers records where a component was loaded from; that is a path of this machine."""
    content = json.loads(config.read_text())
    if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
        _write_json(config, content)


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    aside = path.with_name(f"{path.name}.tmp")
    aside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    aside.replace(path)


def _shim(cls: type) -> str:
    """One line that imports a class: by its public name, so that moving a file of ours breaks no published folder."""
    module = "fusion_hub" if _find_public(cls.__name__) is cls else cls.__module__
    return f"from {module} import {cls.__name__}  # noqa: F401\n"


def _find_public(name: str) -> Any:
    import fusion_hub

    return getattr(fusion_hub, name) if name in fusion_hub.__all__ else None


def _public_class(name: str, component: str) -> type[ModelMixin]:
    found = _find_public(name)
    if not (isinstance(found, type) and issubclass(found, ModelMixin)):
        raise ValueError(
            f"model_index.json names {name!r} as the class of {component!r}, which fusion_hub does not have: upgrade "
            "fusion_hub, or load with diffusers' DiffusionPipeline and trust_remote_code=True if you trust the source"
        )
    return found


def _bundled_names() -> str:
    return ", ".join(info.name for info in pretrained.list_models())


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
