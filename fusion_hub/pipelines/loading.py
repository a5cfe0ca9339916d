"""Loading and saving of pipelines that live outside diffusers.

diffusers 0.42 loads a third-party pipeline from a folder but not from a Hub repository, falls back to pickled weights
and only warns about missing ones. `PortablePipeline` overrides public methods so that one layout loads by folder, Hub
id and bundled name, without fetching or running code of the repository, and by plain diffusers
(`DiffusionPipeline.from_pretrained("owner/name", trust_remote_code=True)`) through one-line shims:

    model_index.json          {"_class_name": ["pipeline", "DiffFuseNetPipeline"],
                               "model": ["modeling", "DiffFuseNetModel"],
                               "scheduler": ["diffusers", "DDIMScheduler"], ...}
    pipeline.py               from fusion_hub import DiffFuseNetPipeline
    model/modeling.py         from fusion_hub import DiffFuseNetModel
    model/config.json, model/diffusion_pytorch_model.safetensors
    scheduler/scheduler_config.json       (of DiffFuseNet; RED has the model only)
"""

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, Self

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin

import fusion_hub
from fusion_hub.files import write_aside
from fusion_hub.pipelines import checkpoints
from fusion_hub.pipelines.file_checks import (
    DIGESTS,
    build_empty,
    check_digests,
    check_model_folder,
    check_scheduler,
    read_json,
    record_digests,
    remove_weights,
)

COMPONENTS = (ModelMixin, SchedulerMixin)
PIPELINE_SHIM, MODEL_SHIM = "pipeline", "modeling"
WEIGHT_ALIGNMENT = 64  # bytes, that of torch's CPU allocator
FLOATS = {name: getattr(torch, name) for name in ("float16", "bfloat16", "float32", "float64")}
HUB_ARGUMENTS = ("variant", "revision", "token", "cache_dir", "force_download", "local_files_only")


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
                `local_files_only`, `device_map`, components to use instead of the stored ones, ... A `dtype` may be a
                name, `"bfloat16"`.

        Raises:
            ValueError: for a name that is none of the three, a pipeline of another class, `use_safetensors=False`, an
                unknown `dtype`, files that do not fit each other or that changed since they were saved.
            OSError: for a missing, damaged or truncated file, or a repository that cannot be reached.
        """
        if not kwargs.pop("use_safetensors", True):
            raise ValueError("use_safetensors=False was given: pickled weights can run code, only safetensors load")
        for key in ("dtype", "torch_dtype"):
            if kwargs.get(key) is not None:
                kwargs[key] = _float_dtype(kwargs[key])
        folder = checkpoints.locate(pretrained_model_name_or_path, **_hub_arguments(kwargs))
        pipeline_class = cls._stored_class(folder)
        if pipeline_class is not cls:
            return pipeline_class.from_pretrained(folder, **kwargs)

        cls._check_folder(folder, kwargs)
        pipeline = super().from_pretrained(str(folder), use_safetensors=True, **kwargs)
        for component, model in pipeline.components.items():
            if isinstance(model, ModelMixin) and component not in kwargs:
                values = ((name, value) for name, value in model.state_dict().items() if value.is_floating_point())
                broken = [name for name, value in values if not value.is_meta and not torch.isfinite(value).all()]
                if broken:
                    raise ValueError(
                        f"the weights in {folder / component} hold NaN or infinite values (first: {broken[0]}): "
                        "download or copy the checkpoint again, or load it in a wider dtype"
                    )
        return pipeline

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise a `ValueError` for a bad value among the settings in `model_index.json`."""

    def register_modules(self, **kwargs: Any) -> None:
        """As diffusers' `register_modules`; refuses a model whose checkpoint lacked tensors.

        Plain `DiffusionPipeline.from_pretrained` only warns of them and leaves them without memory.
        """
        for component, model in kwargs.items():
            if isinstance(model, torch.nn.Module) and not hasattr(model, "hf_device_map"):
                if missing := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
                    raise ValueError(
                        f"{component} was loaded without {len(missing)} of its tensors (first: {missing[0]}): take "
                        "its weights and config.json from the same checkpoint"
                    )
                # Some kernels choose their algorithm by the address. Weights read from a file begin anywhere in memory;
                # without this copy a loaded model is 1e-6 away from the one that was saved.
                for parameter in model.parameters():
                    if parameter.device.type == "cpu" and parameter.data_ptr() % WEIGHT_ALIGNMENT:
                        parameter.data = parameter.data.clone()
            expected = self._component_classes().get(component)
            if expected and isinstance(model, ModelMixin) and not isinstance(model, expected):
                kind = f"a {type(model).__name__}, which {type(self).__name__} cannot use"
                raise ValueError(f"{component} is {kind}: give a {expected.__name__}")
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
        return os.fspath(checkpoints.locate(pretrained_model_name, **_hub_arguments(kwargs)))

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As diffusers' `load_config`; the shims' names become the real class name and modules of this package."""
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        if isinstance(config.get("_class_name"), list):
            config["_class_name"] = config["_class_name"][-1]
        for key, entry in config.items():
            if isinstance(entry, list) and entry and entry[0] == MODEL_SHIM:
                found = _find_public(entry[1])
                if not (isinstance(found, type) and issubclass(found, ModelMixin)):
                    raise ValueError(
                        f"fusion_hub lacks {entry[1]!r}, the class of {key!r} in model_index.json: upgrade fusion_hub, "
                        "or load with diffusers' DiffusionPipeline and trust_remote_code=True if you trust the source"
                    )
                config[key] = [found.__module__, entry[1]]
        return loaded

    def save_config(self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write `model_index.json` and the shims, and clear the components' JSON of local paths.

        This method does it because `save_pretrained` uploads (`push_to_hub=True`) right after calling it.
        """
        super().save_config(save_directory)
        root = Path(save_directory)
        index = json.loads((root / self.config_name).read_text())
        index.pop("_name_or_path", None)
        for name, entry in index.items():
            if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
                continue
            for config in root.glob(f"{name}/*.json"):
                content = json.loads(config.read_text())
                if isinstance(content, dict) and content.pop("_name_or_path", None) is not None:
                    _write_json(config, content)
            component = getattr(self, name, None)
            if isinstance(component, ModelMixin) and not type(component).__module__.startswith("diffusers."):
                (root / name / f"{MODEL_SHIM}.py").write_text(_shim(type(component)))
                index[name] = [MODEL_SHIM, entry[1]]
        index["_class_name"] = [PIPELINE_SHIM, type(self).__name__]
        (root / f"{PIPELINE_SHIM}.py").write_text(_shim(type(self)))
        index[DIGESTS] = record_digests(root, self._component_classes())
        _write_json(root / self.config_name, index)
        if push_to_hub:
            repo_id, token = kwargs.pop("repo_id", root.name), kwargs.pop("token", None)
            self._upload_folder(save_directory, repo_id, token=token, **kwargs)

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

        A new folder appears complete or not at all. An existing folder is written into, file by file, so that cards and
        licenses stay; its old weights of the same variant are removed first.

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
            for name in self._component_classes():
                remove_weights(target / name, variant)
            super().save_pretrained(str(target), **kwargs)
            return
        kwargs.setdefault("repo_id", target.name)  # diffusers would take it from the folder written aside
        with write_aside(target) as aside:
            super().save_pretrained(str(aside), **kwargs)

    @classmethod
    def _component_classes(cls) -> dict[str, type[Any]]:
        """Models and schedulers that this pipeline is made of: the arguments of its `__init__` that are such."""
        kinds = inspect.get_annotations(cls.__init__).items()
        return {name: kind for name, kind in kinds if isinstance(kind, type) and issubclass(kind, COMPONENTS)}

    @classmethod
    def _stored_class(cls, folder: Path) -> type[Self]:
        """The class to load with: this one, or the one named by `model_index.json` if it derives from this one."""
        stored = read_json(folder / cls.config_name).get("_class_name")
        stored = stored[-1] if isinstance(stored, list) and stored else stored
        bases = (base for base in cls.__mro__ if issubclass(base, PortablePipeline) and base._component_classes())
        if any(stored == base.__name__ for base in bases):
            return cls
        found = _find_public(str(stored))
        if isinstance(found, type) and issubclass(found, cls) and found._component_classes():
            return found
        raise ValueError(
            f"{folder / cls.config_name} describes a {str(stored)[:100]}, which is not a {cls.__name__}: load it with "
            "that class, or with FusionPipeline.from_pretrained if it is one of this package"
        )

    @classmethod
    def _check_folder(cls, folder: Path, kwargs: Mapping[str, Any]) -> None:
        """Refuse a folder whose parts are damaged or do not belong together; those given in `kwargs` are not used."""
        index = read_json(folder / cls.config_name)
        if "_use_default_values" in index:  # diffusers would skip the components it names
            raise ValueError(f"{folder / cls.config_name} has _use_default_values: remove it or restore the saved file")
        files: list[Path] = []
        models: dict[str, type[Any]] = {}
        for name, kind in cls._component_classes().items():
            if name in kwargs:
                continue
            modules = (MODEL_SHIM, "fusion_hub", kind.__module__) if issubclass(kind, ModelMixin) else ("diffusers",)
            entry = index.get(name)
            if not isinstance(entry, list) or entry not in [[module, kind.__name__] for module in modules]:
                raise ValueError(
                    f"{folder / cls.config_name} has {name}={shorten(entry)} instead of "
                    f"{[modules[0], kind.__name__]!r}: restore the saved file, or load it with the pipeline class that "
                    "it was saved with"
                )
            if issubclass(kind, ModelMixin):
                models[name] = kind
                files += check_model_folder(folder / name, kind, kwargs.get("variant"))
            elif "model" in models:
                files.append(folder / name / "scheduler_config.json")
                model = build_empty(folder / "model" / "config.json", models["model"])
                check_scheduler(files[-1], model.build_scheduler())
        try:
            cls.check_settings({key: value for key, value in index.items() if key not in kwargs})
        except ValueError as error:
            raise ValueError(f"{folder / cls.config_name}: {error}") from error
        if DIGESTS in index:
            check_digests(folder, index[DIGESTS], files)


def _hub_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {key: arguments[key] for key in HUB_ARGUMENTS if arguments.get(key) is not None}


def _float_dtype(value: Any) -> Any:
    """A torch dtype from its name; diffusers ignores names. Of a mapping, each value."""
    if isinstance(value, Mapping):
        return {key: _float_dtype(one) for key, one in value.items()}
    dtype = FLOATS.get(value.removeprefix("torch.")) if isinstance(value, str) else value
    if dtype not in FLOATS.values():
        raise ValueError(f"dtype={value!r} is not supported: use one of {', '.join(FLOATS)}")
    return dtype


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    with write_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _shim(cls: type) -> str:
    """One line that imports a class by its public name, so that published folders survive moved files."""
    module = "fusion_hub" if _find_public(cls.__name__) is cls else cls.__module__
    return f"from {module} import {cls.__name__}  # noqa: F401\n"


def _find_public(name: str) -> Any:
    return getattr(fusion_hub, name) if name in fusion_hub.__all__ else None
