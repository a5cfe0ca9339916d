"""One folder layout, all ways to load it, and what happens with a checkpoint that cannot be trusted."""

import json
import os
import pickle
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file, save_file

import fusion_hub
from fusion_hub import DiffFuseNetPipeline, FusionPipeline
from fusion_hub.pipelines import checkpoints
from tests.support.hub_server import HubServer, Repository
from tests.support.tiny import tiny_pipeline

WEIGHTS = "model/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def pair() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (40, 56, 3), dtype=np.uint8), random.integers(0, 256, (40, 56), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_pipeline().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


def fuse(pipe: FusionPipeline, pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    return pipe(*pair, output_type="np").images


# --- folders ---


def test_saved_and_loaded_outputs_are_equal(folder: Path, pair: tuple[np.ndarray, np.ndarray]) -> None:
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    modules = {"pipeline.py", "model/modeling.py"}
    settings = {"model_index.json", "model/config.json", "scheduler/scheduler_config.json"}
    assert files == {*modules, *settings, WEIGHTS}
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "DiffFuseNetPipeline"]
    assert index["model"] == ["modeling", "DiffFuseNetModel"]
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert (folder / "pipeline.py").read_text().startswith("from fusion_hub import DiffFuseNetPipeline")
    assert (folder / "model" / "modeling.py").read_text().startswith("from fusion_hub import DiffFuseNetModel")
    (folder / "README.md").write_text("card")
    tiny_pipeline().save_pretrained(folder)  # into the existing folder
    assert (folder / "README.md").read_text() == "card"
    for loader in (DiffFuseNetPipeline, FusionPipeline):
        loaded = loader.from_pretrained(folder)
        assert type(loaded) is DiffFuseNetPipeline
        assert type(loaded.scheduler).__module__.startswith("diffusers.")
        assert np.array_equal(fuse(loaded, pair), fuse(tiny_pipeline(), pair))


def test_no_local_path_is_published(folder: Path, tmp_path: Path) -> None:
    loaded = FusionPipeline.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again")
    for file in (tmp_path / "again").rglob("*.json"):
        assert "_name_or_path" not in file.read_text()
        assert str(tmp_path) not in file.read_text()
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_settings_travel_with_the_weights(
    tmp_path: Path,
    pair: tuple[np.ndarray, np.ndarray],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pipe = tiny_pipeline()
    stored = DiffFuseNetPipeline(pipe.model, pipe.scheduler, infrared_range=(50.0, 200.0))
    stored.save_pretrained(tmp_path / "ranged")
    loaded = FusionPipeline.from_pretrained(tmp_path / "ranged")
    assert np.array_equal(fuse(loaded, pair), fuse(stored, pair))
    assert not np.array_equal(fuse(loaded, pair), fuse(pipe, pair))
    pipe.register_to_config(infrared_range=[50, 200])  # whole numbers are as good, and no reason for a warning
    pipe.save_pretrained(tmp_path / "whole")
    assert np.array_equal(fuse(FusionPipeline.from_pretrained(tmp_path / "whole"), pair), fuse(stored, pair))
    assert "Expected types" not in caplog.text + capsys.readouterr().err
    overridden = FusionPipeline.from_pretrained(tmp_path / "ranged", infrared_range="auto")
    assert np.array_equal(fuse(overridden, pair), fuse(pipe, pair))


def test_save_leaves_nothing_behind_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match="safe_serialization=False"):
        pipe.save_pretrained(tmp_path / "pickled", safe_serialization=False)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pipe.scheduler, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        pipe.save_pretrained(tmp_path / "broken")
    assert list(tmp_path.iterdir()) == []


# --- dtypes and variants ---


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.model.half()
    pipe.save_pretrained(tmp_path / "half")
    assert load_file(tmp_path / "half" / WEIGHTS)["trunk.0.weight"].dtype == torch.float16
    loaded = FusionPipeline.from_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert torch.equal(loaded.model.trunk[0].weight, pipe.model.trunk[0].weight.float())


def test_variant(tmp_path: Path) -> None:
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "variant", variant="fp16")
    loaded = FusionPipeline.from_pretrained(tmp_path / "variant", variant="fp16")
    assert torch.equal(loaded.model.trunk[0].weight, pipe.model.trunk[0].weight)
    with pytest.raises(OSError, match=r"no diffusion_pytorch_model\.safetensors .*fp16"):
        FusionPipeline.from_pretrained(tmp_path / "variant")


# --- checkpoints that cannot be used ---


def test_pickle_is_refused(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / "model" / "diffusion_pytorch_model.bin")
    with pytest.raises(OSError, match=r"diffusion_pytorch_model\.bin.*[Pp]ickled weights are never loaded"):
        FusionPipeline.from_pretrained(folder)


# --- names ---


@pytest.mark.parametrize("name", ["difffusenet-mrss", "no/such/folder", "/no/such/folder", "https://host/x", ""])
def test_unknown_name_lists_what_there_is(name: str) -> None:
    with pytest.raises(ValueError, match=r"difffusenet-msrs, difffusenet-medical, red-small.*folder.*owner/name"):
        DiffFuseNetPipeline.from_pretrained(name)


def test_bundled_name(
    folder: Path, pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path / "bundled")
    with pytest.raises(OSError, match="weights of 'difffusenet-msrs' are missing"):
        FusionPipeline.from_pretrained("difffusenet-msrs")
    (tmp_path / "bundled").mkdir()
    folder.rename(tmp_path / "bundled" / "difffusenet-msrs")
    loaded = FusionPipeline.from_pretrained("difffusenet-msrs")
    assert np.array_equal(fuse(loaded, pair), fuse(tiny_pipeline(), pair))
    info = fusion_hub.list_models()[0]
    assert info.parameters == sum(parameter.numel() for parameter in loaded.model.parameters())


@pytest.mark.parametrize("info", fusion_hub.list_models(), ids=lambda info: info.name)
def test_bundled_checkpoints(info: fusion_hub.PretrainedInfo, pair: tuple[np.ndarray, np.ndarray]) -> None:
    if not info.available:
        pytest.skip(f"{info.name} is not trained yet")
    loaded = FusionPipeline.from_pretrained(info.name)
    assert type(loaded).__name__ == info.pipeline_class
    assert type(loaded.model).__name__ == info.model_class
    assert info.parameters == loaded.model.num_parameters()
    assert fuse(loaded, pair).shape == (1, 40, 56, 3)


# --- the Hub ---


FAULTY: list[tuple[str, dict[str, object], str]] = [
    ("absent", {}, "cannot load 'tester/absent' from the Hub .*difffusenet-msrs"),
    ("whole", {"revision": "v9"}, "cannot load 'tester/whole' from the Hub .*difffusenet-msrs"),
    ("corrupt", {}, f"{WEIGHTS} of 'tester/corrupt' is damaged: .* removed from the cache: load again"),
    ("corrupt", {}, "loaded"),
    ("corrupt-json", {}, "model/config.json of 'tester/corrupt-json' is damaged"),
    ("corrupt-json", {}, "loaded"),
    ("short", {}, "cannot load 'tester/short' from the Hub .*should be of size"),
    ("short", {}, "loaded"),
    ("cut-off", {}, "loaded"),  # goes on from where the connection ended
    ("busy", {}, "cannot load 'tester/busy' from the Hub .*503"),
    ("busy", {}, "cannot load 'tester/busy' from the Hub .*503"),
    ("busy", {}, "loaded"),
    ("busy-file", {}, "loaded"),
    ("whole", {"token": "hf_wrong"}, "cannot load 'tester/whole' from the Hub .*token"),
    ("whole", {"variant": "fp8"}, "of the variant 'fp8' in .*: .*give the variant that is stored"),
    ("whole", {}, "loaded"),
    ("whole", {"variant": "fp8"}, "variant=fp8"),
    ("no-index", {}, "model_index.json is missing"),
    ("no-config", {}, "config.json is missing"),
    ("no-weights", {}, r"no diffusion_pytorch_model\.safetensors .*Pickled weights are never loaded"),
    ("pickle", {}, r"no diffusion_pytorch_model\.safetensors .*Pickled weights are never loaded"),
    ("pickle", {"use_safetensors": False}, "use_safetensors=False was given"),
    ("malicious", {}, "loaded"),
    ("other-component", {}, "loaded"),
    ("other-class", {}, "describes a Popen, which is not a FusionPipeline"),
]


class Malicious:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


def faulty_repositories(folder: Path, mark: Path) -> dict[str, Repository]:
    """What is wrong with them lies in the files."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    index = json.loads(files["model_index.json"])
    code = f"import os\nos.mkdir({str(mark)!r})\n".encode()
    without_weights = {name: content for name, content in files.items() if name != WEIGHTS}
    unpickled = pickle.dumps(Malicious(mark))
    contents = {
        "no-index": {name: content for name, content in files.items() if name != "model_index.json"},
        "no-config": {name: content for name, content in files.items() if name != "model/config.json"},
        "no-weights": without_weights,
        "pickle": {**without_weights, "model/diffusion_pytorch_model.bin": unpickled},
        "malicious": {**files, "pipeline.py": code, "model/modeling.py": code, "setup.py": code, "x.bin": unpickled},
        "other-component": {**files, "model_index.json": json.dumps({**index, "evil": ["os", "mkdir"]}).encode()},
        "other-class": {
            **files,
            "model_index.json": json.dumps({**index, "_class_name": ["subprocess", "Popen"]}).encode(),
        },
    }
    sound = ("corrupt", "corrupt-json", "short", "cut-off", "busy", "busy-file", "whole")
    return {name: Repository(content) for name, content in (*contents.items(), *((name, files) for name in sound))}


def test_plain_diffusers_refuses_an_incomplete_checkpoint(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["trunk.0.bias"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ValueError, match=r"without 1 of its tensors \(first: trunk.0.bias\)"):
        DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)


def test_faults_of_the_hub_and_of_repositories(
    folder: Path, tmp_path: Path, pair: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each error is one message; nothing is executed, and nothing damaged stays in the cache."""
    expected, cache, mark = fuse(tiny_pipeline(), pair), tmp_path / "cache", tmp_path / "executed"
    results: list[str] = []
    with HubServer() as hub:
        hub.redirect(monkeypatch, tmp_path / "home", token=None)
        hub.repositories |= {f"tester/{name}": content for name, content in faulty_repositories(folder, mark).items()}
        sha = hub.repository("tester/whole").head.blobs[WEIGHTS].sha256
        # The repositories share their weights, so these three strike in the order of FAULTY.
        hub.fault("corrupt", "GET", f"/lfs/{sha}")
        hub.fault("short", "GET", f"/lfs/{sha}", after=2)
        hub.fault("truncate", "GET", f"/lfs/{sha}", after=3)
        hub.fault("corrupt", "GET", "/tester/corrupt-json/resolve/.*/model/config.json")
        hub.fail("GET", "^/api/models/tester/busy$", 503, times=2)
        hub.fail("GET", "^/api/models/tester/busy/revision/", 503, times=2)
        hub.fail("HEAD", "/tester/busy-file/resolve/.*/model/config.json", 503, times=2)
        for repo_id, settings, _ in FAULTY:
            try:
                name = f"tester/{repo_id}"
                pipe = FusionPipeline.from_pretrained(name, cache_dir=cache / repo_id, **settings)
                assert type(pipe) is DiffFuseNetPipeline
                results.append("loaded" if np.array_equal(fuse(pipe, pair), expected) else "loaded other weights")
            except (OSError, ValueError) as error:
                results.append(" ".join(str(error).split()))
        requests = [request for request in hub.requests if "/resolve/" in request]
    for (repo_id, settings, message), result in zip(FAULTY, results, strict=True):
        assert re.search(f"^{message}$" if message == "loaded" else message, result), (repo_id, settings, result)
    assert not mark.exists()
    assert requests and not any(request.endswith((".py", ".bin")) for request in requests)
    assert not [path for path in cache.rglob("*") if path.name.endswith(".incomplete")]


# --- the package ---


def test_import_is_light() -> None:
    script = (
        "import sys, fusion_hub; assert not {'torch', 'diffusers', 'datasets', 'PIL'} & set(sys.modules), sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_public_names() -> None:
    assert set(fusion_hub.__all__) <= set(dir(fusion_hub))
    for name in fusion_hub.__all__:
        assert getattr(fusion_hub, name) is not None
    with pytest.raises(AttributeError, match="Fusion"):
        _ = fusion_hub.Fusion


def test_version_has_one_source() -> None:
    project = tomllib.loads((Path(fusion_hub.__file__).parents[1] / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "fusion_hub.__version__"}
