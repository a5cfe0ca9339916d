"""Edited checkpoints: refused in a sentence while loading, or the same output as before."""

import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fusion_hub import DiffFuseNetPipeline, FusionPipeline, REDModel, REDPipeline, pretrained
from fusion_hub.models.red import RED_VARIANTS
from tests.support.tiny import tiny_pipeline

INDEX, CONFIG, SCHEDULER = "model_index.json", "model/config.json", "scheduler/scheduler_config.json"
WEIGHTS, SHARDS = "model/diffusion_pytorch_model.safetensors", "model/diffusion_pytorch_model.safetensors.index.json"
REMOVED = object()
VALUES = (None, "", {}, True, -1, 10**9, float("nan"), ["modeling", "math"], REMOVED)
# What somebody may change on purpose, so that the output changes or the call needs other arguments.
SETTINGS = {"infrared_range", "tile_size", "_sha256"}

Edit = Callable[[Path], object]


def change(path: Path, key: str, value: Any) -> None:
    content = json.loads(path.read_text())
    if value is REMOVED:
        content.pop(key, None)
    else:
        content[key] = value
    path.write_text(json.dumps(content))


def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (16, 24, 3), dtype=np.uint8), random.integers(0, 256, (16, 24), dtype=np.uint8)


def fuse(pipe: FusionPipeline) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return pipe(*pair(), output_type="np").images


def verdict(folder: Path, expected: np.ndarray) -> str:
    """ "same", "other" or the refusal, which must be one line that names a file or a value."""
    try:
        pipe = FusionPipeline.from_pretrained(folder)
    except (ValueError, OSError) as error:
        assert type(error).__name__ in ("ValueError", "OSError", "FileNotFoundError"), repr(error)
        assert "\n" not in str(error) and ": " in str(error) and len(str(error)) < 1000, str(error)
        return f"{'OSError' if isinstance(error, OSError) else 'ValueError'}: {error}"
    return "same" if np.array_equal(fuse(pipe), expected) else "other"


def restored(source: Path, target: Path) -> Path:
    shutil.rmtree(target, ignore_errors=True)
    return shutil.copytree(source, target)


@pytest.fixture(scope="module", params=["difffusenet", "red"])
def original(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    if request.param == "difffusenet":
        pipe: FusionPipeline = tiny_pipeline()
    else:
        pipe = REDPipeline(REDModel(**RED_VARIANTS["tiny"]).eval())
    folder = tmp_path_factory.mktemp("original") / "saved"
    pipe.save_pretrained(folder)
    return folder, fuse(pipe)


def keys(folder: Path) -> Iterator[tuple[str, str]]:
    for name in (INDEX, CONFIG, SCHEDULER):
        if (folder / name).is_file():
            yield from ((name, key) for key in (*json.loads((folder / name).read_text()), "quantization_config"))


def test_each_value_of_each_file(original: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """Without hashes, as in a folder that was made by hand, a value that is in order may change the output.

    Hashes only add refusals, so files that are sound without them are the ones to load with them.
    """
    source, expected = original
    for name, key in keys(source):
        for value in VALUES:
            for recorded in (False, True):
                folder = restored(source, tmp_path / "edited")
                if not recorded:
                    change(folder / INDEX, "_sha256", REMOVED)
                change(folder / name, key, value)
                with warnings.catch_warnings(action="ignore"):
                    try:
                        found = verdict(folder, expected)
                    except Exception as error:
                        raise AssertionError(f"{name}: {key}={value!r}") from error
                if found != "other" and key != "_sha256":
                    break
                assert not recorded or key in SETTINGS, (name, key, value)


# --- edits of one file ---


def setting(name: str, **values: Any) -> Edit:
    return lambda folder: [change(folder / name, key, value) for key, value in values.items()]


def cut(name: str, size: int) -> Edit:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def write(name: str, text: str) -> Edit:
    return lambda folder: (folder / name).write_text(text)


def remove(name: str) -> Edit:
    return lambda folder: (folder / name).unlink()


def tensors(edit: Callable[[dict[str, Any]], object]) -> Edit:
    def run(folder: Path) -> None:
        values = load_file(folder / WEIGHTS)
        edit(values)
        save_file(values, folder / WEIGHTS)

    return run


def relabel(dtype: str) -> Edit:
    """Change the dtype of one tensor in the header, and nothing else."""

    def run(folder: Path) -> None:
        content = (folder / WEIGHTS).read_bytes()
        size = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + size])
        header["trunk.0.weight"]["dtype"] = dtype
        text = json.dumps(header).encode()
        (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])

    return run


def point_to(name: str, keep: bool = False) -> Edit:
    """An index file that names other weights; `keep` leaves the weights where they are."""

    def run(folder: Path) -> None:
        files = dict.fromkeys(load_file(folder / WEIGHTS), name)
        (folder / SHARDS).write_text(json.dumps({"metadata": {}, "weight_map": files}))
        if not keep:
            (folder / WEIGHTS).rename(folder / "model" / name)

    return run


def link(name: str) -> Edit:
    """Replace a file or folder by a link to the one of the other checkpoint."""

    def run(folder: Path) -> None:
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
        (folder / name).symlink_to(folder.parent / "two" / name)

    return run


def both(*edits: Edit) -> Edit:
    return lambda folder: [edit(folder) for edit in edits]


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, np.ndarray]:
    """A checkpoint in half precision, one of other weights, and what the first fuses to."""
    root = tmp_path_factory.mktemp("half")
    pipe = tiny_pipeline()
    pipe.model.half()
    pipe.save_pretrained(root / "one")
    edited = FusionPipeline.from_pretrained(root / "one", dtype="float16")
    edited.model.trunk[0].weight.data.mul_(2)
    edited.save_pretrained(root / "two")
    return root / "one", root / "two", fuse(FusionPipeline.from_pretrained(root / "one"))


DEEP = '{"a":' + "[" * 100_000
SHARD = "diffusion_pytorch_model-00001-of-00001.safetensors"
DAMAGED = "OSError: .* damaged or incomplete .* again"
# Refused with and without hashes.
STRUCTURE: dict[str, tuple[Edit, str]] = {
    "no index": (remove(INDEX), "OSError: .*model_index.json is missing"),
    "index not JSON": (cut(INDEX, 20), "OSError: .*model_index.json is not valid JSON"),
    "index a list": (write(INDEX, "[]"), "ValueError: .*holds no JSON object"),
    "no config": (remove(CONFIG), "OSError: .*config.json is missing"),
    "config not JSON": (cut(CONFIG, 20), "OSError: .*config.json is not valid JSON"),
    "config of another size": (
        setting(CONFIG, feature_channels=16),
        "ValueError: .*do not fit DiffFuseNetModel .* has shape",
    ),
    "config senseless": (
        setting(CONFIG, frequency="fourier"),
        "ValueError: .*config.json does not describe a DiffFuseNetModel .*fourier",
    ),
    "no weights": (remove(WEIGHTS), r"OSError: no diffusion_pytorch_model\.safetensors"),
    "empty weights": (cut(WEIGHTS, 0), DAMAGED),
    "truncated header": (cut(WEIGHTS, 500), DAMAGED),
    "truncated data": (cut(WEIGHTS, -1), DAMAGED),
    "garbage": (lambda folder: (folder / WEIGHTS).write_bytes(os.urandom(4096)), DAMAGED),
    "missing tensor": (
        tensors(lambda t: t.pop("trunk.0.bias")),
        r"ValueError: .*1 tensors are missing \(first: trunk.0.bias\)",
    ),
    "unknown tensor": (
        tensors(lambda t: t.update(extra=torch.zeros(1))),
        r"ValueError: .*1 tensors are unknown \(first: extra\)",
    ),
    "wrong shape": (
        tensors(lambda t: t.update({"trunk.0.bias": torch.zeros(3)})),
        r"ValueError: .*trunk.0.bias has shape \(3,\) instead of \(8,\)",
    ),
    "NaN": (
        tensors(lambda t: t["trunk.0.bias"].fill_(float("nan"))),
        r"ValueError: .*(NaN or infinite values \(first: trunk.0.bias\)|SHA-256)",
    ),
    "unknown model class": (
        setting(INDEX, model=["modeling", "NewModel"]),
        "ValueError: .*'NewModel'.* instead of .*'DiffFuseNetModel'",
    ),
    "another pipeline": (
        setting(INDEX, _class_name="StableDiffusionPipeline"),
        "ValueError: .*describes a StableDiffusionPipeline",
    ),
    "stray index": (point_to(SHARD, keep=True), "holds both"),
    "index of another file": (point_to("other.safetensors"), "names 'other.safetensors'"),
    "index out of the folder": (point_to(f"../../two/{WEIGHTS}", keep=True), "holds both"),
    "only an index out of the folder": (both(point_to(f"../../two/{WEIGHTS}", keep=True), remove(WEIGHTS)), "names '"),
    "index of a missing shard": (both(point_to(SHARD), remove(f"model/{SHARD}")), DAMAGED.replace(" .*", ".*")),
    "shards not JSON": (both(remove(WEIGHTS), write(SHARDS, DEEP)), "is not valid JSON"),
    "shards are numbers": (both(remove(WEIGHTS), write(SHARDS, '{"weight_map":{"a":1}}')), "no weight_map"),
    "dtype of one tensor": (relabel("BF16"), "instead of one of F16"),
    "integers": (relabel("I16"), "instead of one of F16"),
    "mixed dtypes": (tensors(lambda t: t.update({"trunk.0.bias": t["trunk.0.bias"].float()})), "instead of one of F16"),
    "deep config": (write(CONFIG, DEEP), "is not valid JSON"),
    "deep index": (write(INDEX, DEEP), "is not valid JSON"),
    "deep scheduler": (write(SCHEDULER, DEEP), "is not valid JSON"),
    "cut scheduler": (cut(SCHEDULER, 20), "is not valid JSON"),
    "huge number": (write(CONFIG, '{"num_coupling": ' + "9" * 5000 + "}"), ""),
    "folder for a file": (both(remove(CONFIG), lambda folder: (folder / CONFIG).mkdir()), "cannot be read"),
    "file for a folder": (both(lambda folder: shutil.rmtree(folder / "model"), write("model", "")), ""),
    "RED over DiffFuseNet": (setting(INDEX, _class_name=["pipeline", "REDPipeline"]), ""),
    "base class": (setting(INDEX, _class_name="DiffusionPipeline"), "describes a DiffusionPipeline"),
    "another scheduler": (setting(INDEX, scheduler=["diffusers", "DDPMScheduler"]), "DDPMScheduler"),
    "betas": (setting(SCHEDULER, trained_betas=[0.1] * 1000), "trained_betas"),
    "no memory bound": (setting(CONFIG, denoiser_channels=[10**9] * 3), ""),
}
# Sound files, which only the hashes tell from the right ones.
OTHERS: dict[str, Edit] = {
    "values": tensors(lambda t: t["trunk.0.weight"].mul_(2)),
    "zeros": tensors(lambda t: [value.zero_() for value in t.values()]),
    "dtype of all tensors": tensors(lambda t: t.update({name: value.bfloat16() for name, value in t.items()})),
    "link to other weights": link(WEIGHTS),
    "link to another model": link("model"),
    "shard of other weights": both(
        point_to(SHARD), lambda folder: shutil.copy(folder.parent / "two" / WEIGHTS, folder / "model" / SHARD)
    ),
    "other timestep": setting(CONFIG, inference_timestep=2),
}


@pytest.mark.parametrize("kind", [*STRUCTURE, *OTHERS])
def test_damage(half: tuple[Path, Path, np.ndarray], kind: str, tmp_path: Path) -> None:
    one, two, expected = half
    edit, message = STRUCTURE.get(kind) or (OTHERS[kind], "SHA-256")
    restored(two, tmp_path / "two")
    for recorded in (True, False):
        folder = restored(one, tmp_path / "one")
        if not recorded:
            change(folder / INDEX, "_sha256", REMOVED)
        edit(folder)
        found = verdict(folder, expected)
        if kind in STRUCTURE or recorded:
            assert found not in ("same", "other") and re.search(message, found), found
        else:
            assert found == "other", found


def test_pipeline_refuses_the_model_of_another() -> None:
    with pytest.raises(ValueError, match="model is a DiffFuseNetModel, which REDPipeline cannot use: give a REDModel"):
        REDPipeline(tiny_pipeline().model)


@pytest.mark.parametrize("name", pretrained.PRETRAINED)
def test_bundled_checkpoints_have_hashes(name: str) -> None:
    info = pretrained.PRETRAINED[name]
    digests = json.loads((info.folder / INDEX).read_text())["_sha256"]
    assert {WEIGHTS, CONFIG} <= digests.keys()
    measured = info.metrics["provenance"]["methods"][name]["sha256"]
    assert digests[WEIGHTS] == measured["diffusion_pytorch_model.safetensors"], (
        "the card's numbers are of other weights"
    )


def test_saving_leaves_what_belongs(tmp_path: Path) -> None:
    """Whole into shards, shards into whole, a variant beside: each time exactly the files of the last save of each."""
    pipe, folder = tiny_pipeline(), tmp_path / "saved"
    expected = fuse(pipe)
    pipe.save_pretrained(folder, variant="fp16")
    for size, count in (("30KB", 3), (None, 1), ("20KB", 4), ("30KB", 3), (None, 1)):
        pipe.save_pretrained(folder, max_shard_size=size)
        names = {path.name for path in (folder / "model").glob("*.safetensors") if ".fp16" not in path.name}
        assert (len(names) >= 2) == (count > 1)
        assert (folder / SHARDS).exists() == (count > 1)
        assert np.array_equal(fuse(FusionPipeline.from_pretrained(folder)), expected)
        assert np.array_equal(fuse(FusionPipeline.from_pretrained(folder, variant="fp16")), expected)
        digests = json.loads((folder / INDEX).read_text())["_sha256"]
        assert names <= {Path(name).name for name in digests}
        assert all((folder / name).is_file() for name in digests)


@pytest.mark.parametrize("name", ["bfloat16", "torch.bfloat16", "float16"])
def test_dtype_by_name(half: tuple[Path, Path, np.ndarray], name: str) -> None:
    for key in ("dtype", "torch_dtype"):
        loaded = DiffFuseNetPipeline.from_pretrained(half[0], **{key: name})
        assert str(loaded.model.dtype) == f"torch.{name.removeprefix('torch.')}"


@pytest.mark.parametrize("value", ["bf16", "int8", "", 16, {"default": "x"}])
def test_unknown_dtype_is_refused(half: tuple[Path, Path, np.ndarray], value: object) -> None:
    with pytest.raises(ValueError, match=r"dtype=.* use one of float16, bfloat16, float32, float64"):
        DiffFuseNetPipeline.from_pretrained(half[0], dtype=value)
