"""Checks of checkpoint files before anything of them is loaded.

diffusers replaces what it cannot read by defaults, casts what does not fit and follows an index file to any weights.
Here each file is compared with the others, with the class that it is for, and with the hashes that `save_pretrained`
recorded.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from reprlib import repr as shorten
from typing import Any

from safetensors import SafetensorError, safe_open

WEIGHTS_STEM = "diffusion_pytorch_model"
DTYPES = ("F16", "BF16", "F32", "F64")
DIGESTS = "_sha256"
"""Key of model_index.json: the hashes of the files in the components' folders, by path."""
UNHASHED = ("_diffusers_version", "_name_or_path")
SCHEDULE = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule"),
    *("prediction_type", "trained_betas", "rescale_betas_zero_snr"),
)
"""The settings that determine a scheduler's alphas_cumprod and the meaning of the model's output."""


def check_model_folder(folder: Path, model_class: type[Any], variant: str | None = None) -> list[Path]:
    """Compare a stored model with its class before any weight is loaded: file, names, shapes and dtypes of the tensors.

    Reads the safetensors headers only.

    Returns:
        The files that hold the model.

    Raises:
        OSError: if the configuration or the weights are missing, damaged or truncated.
        ValueError: if the configuration or the tensors do not fit `model_class`.
    """
    file, files = folder / "config.json", weight_files(folder, variant)
    expected = {name: tuple(tensor.shape) for name, tensor in build_empty(file, model_class).state_dict().items()}
    found: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {}  # the first tensor of each dtype
    for weights in files:
        if weights.suffix == ".safetensors":
            for name, (shape, dtype) in _tensors(weights).items():
                found[name] = shape
                dtypes.setdefault(dtype, name)
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    problems = [f"{len(missing)} tensors are missing (first: {missing[0]})"] if missing else []
    problems += [f"{len(unknown)} tensors are unknown (first: {unknown[0]})"] if unknown else []
    problems += [f"{name} has shape {found[name]} instead of {expected[name]}" for name in wrong[:1]]
    if problems:
        raise ValueError(
            f"the weights in {files[0]} do not fit {model_class.__name__} as {file} describes it ("
            f"{'; '.join(problems)}): use both files from the same checkpoint"
        )
    if len(dtypes) > 1 or not dtypes.keys() <= set(DTYPES):
        kinds = ", ".join(f"{dtype} ({name})" for dtype, name in sorted(dtypes.items()))
        raise ValueError(
            f"the weights in {files[0]} have the dtypes {kinds} instead of one of {', '.join(DTYPES)} for all tensors: "
            "download or copy the checkpoint again"
        )
    return [file, *files]


def build_empty(file: Path, model_class: type[Any]) -> Any:
    """The model that a config.json describes, on the meta device."""
    config = read_json(file)
    if "quantization_config" in config:
        raise ValueError(f"{file} has an unsupported quantization_config: remove it, or save the model again")
    stored = config.get("_class_name", model_class.__name__)
    if stored != model_class.__name__:
        raise ValueError(
            f"{file} describes {shorten(stored)} instead of a {model_class.__name__}: restore the file that was saved "
            "with the weights"
        )
    return _from_config(model_class, config, file)


def check_scheduler(file: Path, expected: Any) -> None:
    """Compare scheduler_config.json with the scheduler that the model was trained with."""
    stored, config = read_json(file), {"_class_name": type(expected).__name__, **expected.config}
    for key in ("_class_name", *SCHEDULE):
        value = stored.get(key)
        if value != config[key] or type(value) is not type(config[key]):
            raise ValueError(
                f"{file} has {key}={shorten(value)}, but the model was trained with {config[key]!r}: restore the file "
                "that was saved with the weights"
            )
    _from_config(type(expected), stored, file)


def _from_config(kind: type[Any], config: dict[str, Any], file: Path) -> Any:
    import torch  # here, for the other checks of this module are made before it is imported

    try:
        with torch.device("meta"):
            return kind.from_config(config)
    except ValueError as error:
        cause = str(error)
    except (TypeError, KeyError, AttributeError, RuntimeError, ArithmeticError):
        cause = "an entry is unknown or has the wrong type"
    raise ValueError(
        f"{file} does not describe a {kind.__name__} ({cause}): restore the file that was saved with the weights"
    )


def weight_files(folder: Path, variant: str | None) -> list[Path]:
    """The weights of a model: one safetensors file, or an index and its shards; plain without a file of the variant."""
    for ending in (f".{variant}", "") if variant else ("",):
        plain, index = folder / f"{WEIGHTS_STEM}{ending}.safetensors", folder / _index_name(ending)
        if plain.exists() and index.exists():
            raise ValueError(f"{folder} holds both {plain.name} and {index.name}: delete the one of another checkpoint")
        if plain.is_file():
            return [plain]
        if index.is_file():
            return [index, *_shards(index, ending)]
    others = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".pt", ".ckpt", ".safetensors"))
    found = f" (it has {', '.join(others)}, which is not loaded)" if others else ""
    wanted = f" of the variant {variant!r}" if variant else ""
    raise FileNotFoundError(
        f"no {WEIGHTS_STEM}.safetensors{wanted} in {folder}{found}: save the pipeline again with save_pretrained, or "
        "give the variant that is stored. Pickled weights are never loaded"
    )


def run_note(folder: Path) -> str | None:
    """What to give in place of the folder of a training run; None for every other folder."""
    pipeline = folder / "pipeline"
    if (folder / "model_index.json").is_file():
        return None
    if (pipeline / "model_index.json").is_file():
        return f"{folder} is the folder of a run: give the pipeline in it, {pipeline}"
    if (folder / "config.yaml").is_file() and any(folder.glob("step_*")):
        return f"{folder} is the folder of a run that has not ended: resume the training, which then writes {pipeline}"
    return None


def remove_weights(folder: Path, variant: str | None) -> None:
    """Delete the weights of one variant, whole or in shards: a later load must not find parts of two checkpoints."""
    ending = f".{variant}" if variant else ""
    pattern = re.compile(rf"{WEIGHTS_STEM}{re.escape(ending)}(-\d+-of-\d+)?[.]safetensors")
    for path in folder.glob(f"{WEIGHTS_STEM}*"):
        if pattern.fullmatch(path.name) or path.name == _index_name(ending):
            path.unlink()


def _index_name(ending: str) -> str:
    return f"{WEIGHTS_STEM}.safetensors.index{ending}.json"


def _shards(index: Path, ending: str) -> list[Path]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(file, str) for file in files.values()):
        raise ValueError(f"{index} has no weight_map of tensors and files: download or copy the checkpoint again")
    for name in sorted(set(files.values())):
        if not re.fullmatch(rf"{WEIGHTS_STEM}{re.escape(ending)}-\d+-of-\d+[.]safetensors", name):
            raise ValueError(f"{index} names {shorten(name)}, which is no shard of this model: restore the saved file")
    shards = [index.with_name(name) for name in sorted(set(files.values()))]
    for shard in shards:
        if {tensor for tensor, file in files.items() if file == shard.name} != _tensors(shard).keys():
            raise ValueError(f"{index} names other tensors than {shard} holds: use both from the same checkpoint")
    return shards


def _tensors(file: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and dtype of each tensor, from the header."""
    try:
        with safe_open(file, framework="np") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise OSError(f"{file} is damaged or incomplete or missing: download or copy the checkpoint again") from error


def record_digests(root: Path, components: Iterable[str]) -> dict[str, str]:
    """SHA-256 of the settings and weights in the components' folders, by path from `root`."""
    files = sorted(path for name in components for path in (root / name).glob("*"))
    files = [path for path in files if path.suffix in (".json", ".safetensors")]
    return {path.relative_to(root).as_posix(): digest(path) for path in files}


def hash_checkpoint(folder: Path) -> str:
    """SHA-256 of everything in a pipeline's folder that its pictures depend on, in any copy of it.

    Raises:
        OSError: the folder is no pipeline, or a file cannot be read.
    """
    index = {key: value for key, value in read_json(folder / "model_index.json").items() if key != DIGESTS}
    content = [{key: value for key, value in index.items() if key not in UNHASHED}]
    content.append(record_digests(folder, (part.name for part in folder.iterdir() if part.is_dir())))
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def check_digests(root: Path, digests: Any, files: Iterable[Path]) -> None:
    """Raise a `ValueError` if a file differs from what `record_digests` gave, or is not recorded."""
    if not isinstance(digests, Mapping):
        raise ValueError(f"{root / 'model_index.json'} has {DIGESTS}={shorten(digests)}, no hashes: restore the file")
    for file in files:
        if digests.get(file.relative_to(root).as_posix()) != digest(file):
            raise ValueError(
                f"{file} is not the file that was saved with this checkpoint (SHA-256): restore it, or delete "
                f'"{DIGESTS}" from {root / "model_index.json"} if you changed it on purpose'
            )


def digest(file: Path) -> str:
    """SHA-256 of a file; of JSON the content counts, so that line endings and a version number change nothing."""
    if file.suffix == ".json":
        content = {key: value for key, value in read_json(file).items() if key not in UNHASHED}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an `OSError` if it is missing or not valid JSON, a `ValueError` if it is no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path} is missing: give the folder that save_pretrained wrote, complete with this file"
        ) from error
    except (ValueError, RecursionError) as error:
        raise OSError(f"{path} is not valid JSON: download or copy the checkpoint again") from error
    except OSError as error:
        raise OSError(f"{path} cannot be read ({error.strerror}): it must be a file that you may read") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object: restore the saved file")
    return content
