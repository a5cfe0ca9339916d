"""Edited checkpoints: refused in a sentence while loading, or the same output as before."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
    return random.integers(0, 256, (32, 48, 3), dtype=np.uint8), random.integers(0, 256, (32, 48), dtype=np.uint8)


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
        return str(error)
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


@pytest.mark.parametrize("recorded", [True, False], ids=["with hashes", "without hashes"])
def test_each_value_of_each_file(original: tuple[Path, np.ndarray], recorded: bool, tmp_path: Path) -> None:
    """Without hashes, as in a folder that was made by hand, a value that is in order may change the output."""
    source, expected = original
    for name, key in keys(source):
        for value in VALUES:
            folder = restored(source, tmp_path / "edited")
            if not recorded:
                change(folder / INDEX, "_sha256", REMOVED)
            change(folder / name, key, value)
            with warnings.catch_warnings(action="ignore"):
                try:
                    found = verdict(folder, expected)
                except Exception as error:
                    raise AssertionError(f"{name}: {key}={value!r}") from error
            if recorded and key not in SETTINGS:
                assert found != "other", (name, key, value)


def edit_tensors(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS)


def relabel(folder: Path, dtype: str) -> None:
    """Change the dtype of one tensor in the header, and nothing else."""
    content = (folder / WEIGHTS).read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["trunk.0.weight"]["dtype"] = dtype
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])


def point_to(folder: Path, name: str, keep: bool = True) -> Path:
    """An index file that names other weights; its path."""
    files = dict.fromkeys(load_file(folder / WEIGHTS), name)
    (folder / SHARDS).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    if not keep:
        (folder / WEIGHTS).rename(folder / "model" / name)
    return folder / SHARDS


def link(path: Path, target: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    path.symlink_to(target)


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
# Refused also where no hashes are recorded.
STRUCTURE: dict[str, Edit] = {
    "stray index": lambda folder: point_to(folder, SHARD),
    "index of another file": lambda folder: point_to(folder, "other.safetensors", keep=False),
    "index out of the folder": lambda folder: point_to(folder, f"../../two/{WEIGHTS}"),
    "index of a missing shard": lambda folder: (
        point_to(folder, SHARD, keep=False),
        (folder / "model" / SHARD).unlink(),
    ),
    "index not JSON": lambda folder: ((folder / WEIGHTS).unlink(), (folder / SHARDS).write_text(DEEP)),
    "index of numbers": lambda folder: (
        (folder / WEIGHTS).unlink(),
        (folder / SHARDS).write_text('{"weight_map":{"a":1}}'),
    ),
    "dtype of one tensor": lambda folder: relabel(folder, "BF16"),
    "integers": lambda folder: relabel(folder, "I16"),
    "mixed dtypes": lambda folder: edit_tensors(
        folder, lambda t: t.update({"trunk.0.bias": t["trunk.0.bias"].float()})
    ),
    "deep config": lambda folder: (folder / CONFIG).write_text(DEEP),
    "deep index": lambda folder: (folder / INDEX).write_text(DEEP),
    "deep scheduler": lambda folder: (folder / SCHEDULER).write_text(DEEP),
    "cut scheduler": lambda folder: (folder / SCHEDULER).write_bytes((folder / SCHEDULER).read_bytes()[:20]),
    "huge number": lambda folder: (folder / CONFIG).write_text('{"num_coupling": ' + "9" * 5000 + "}"),
    "folder for a file": lambda folder: ((folder / CONFIG).unlink(), (folder / CONFIG).mkdir()),
    "file for a folder": lambda folder: (shutil.rmtree(folder / "model"), (folder / "model").write_text("")),
    "RED over DiffFuseNet": lambda folder: change(folder / INDEX, "_class_name", ["pipeline", "REDPipeline"]),
    "base class": lambda folder: change(folder / INDEX, "_class_name", "DiffusionPipeline"),
    "another scheduler": lambda folder: change(folder / INDEX, "scheduler", ["diffusers", "DDPMScheduler"]),
    "betas": lambda folder: change(folder / SCHEDULER, "trained_betas", [0.1] * 1000),
    "no memory bound": lambda folder: change(folder / CONFIG, "denoiser_channels", [10**9] * 3),
}
# Sound files, which only the hashes tell from the right ones.
OTHERS: dict[str, Edit] = {
    "values": lambda folder: edit_tensors(folder, lambda t: t["trunk.0.weight"].mul_(2)),
    "zeros": lambda folder: edit_tensors(folder, lambda t: [value.zero_() for value in t.values()]),
    "dtype of all tensors": lambda folder: edit_tensors(
        folder, lambda t: t.update({name: value.bfloat16() for name, value in t.items()})
    ),
    "link to other weights": lambda folder: link(folder / WEIGHTS, folder.parent / "two" / WEIGHTS),
    "link to another model": lambda folder: link(folder / "model", folder.parent / "two" / "model"),
    "shard of other weights": lambda folder: (
        point_to(folder, SHARD, keep=False),
        shutil.copy(folder.parent / "two" / WEIGHTS, folder / "model" / SHARD),
    ),
    "other timestep": lambda folder: change(folder / CONFIG, "inference_timestep", 2),
}


@pytest.mark.parametrize("kind", [*STRUCTURE, *OTHERS])
def test_damage(half: tuple[Path, Path, np.ndarray], kind: str, tmp_path: Path) -> None:
    one, two, expected = half
    restored(two, tmp_path / "two")
    for recorded in (True, False):
        folder = restored(one, tmp_path / "one")
        if not recorded:
            change(folder / INDEX, "_sha256", REMOVED)
        (STRUCTURE | OTHERS)[kind](folder)
        found = verdict(folder, expected)
        if kind in STRUCTURE or recorded:
            assert found not in ("same", "other"), kind
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
