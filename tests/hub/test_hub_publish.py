"""A trained pipeline is published and loaded again, in every way and with fresh caches."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fusion_hub import DiffFuseNetPipeline, FusionPipeline, REDPipeline
from fusion_hub.cli import app
from fusion_hub.hub import PublishError
from fusion_hub.hub.card_checks import find_local_paths, is_local_path
from fusion_hub.hub.model import check_model, staged_model, without_local_paths
from fusion_hub.pipelines import checkpoints
from tests.pipelines.test_red_pipeline import red_pipeline
from tests.support.hub_server import TOKEN, HubServer
from tests.support.tiny import tiny_pipeline

FULL, HALF = (f"model/diffusion_pytorch_model{variant}.safetensors" for variant in ("", ".fp16"))
FILES = {
    *("README.md", "LICENSE", "model_index.json", "pipeline.py", "config.yaml", "training.json", "sample.png"),
    *("model/config.json", "model/modeling.py", FULL, HALF),
}
PIPELINES: dict[str, Callable[[], FusionPipeline]] = {"dfn": tiny_pipeline, "red": red_pipeline}
RUNS = {"dfn": "difffusenet-msrs", "red": "red-small-msrs"}
"""Bundled checkpoints whose reports stand in for those of the tiny ones."""


def pair() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    visible, infrared = random.integers(0, 256, (40, 56, 3)), random.integers(0, 256, (40, 56))
    return {"visible": visible.astype(np.uint8), "infrared": infrared.astype(np.uint8)}


def fuse(pipeline: FusionPipeline) -> np.ndarray:
    return pipeline(**pair(), output_type="np").images


def make_run(folder: Path, kind: str) -> Path:
    """A pipeline folder as training leaves it, with local paths in it."""
    PIPELINES[kind]().save_pretrained(folder)
    bundled = checkpoints.ROOT / RUNS[kind]
    config = yaml.safe_load((bundled / "config.yaml").read_text())
    config |= {"output_dir": "/home/mallory/runs/tiny", "resume": "none", "initial_weights": None}
    config["sources"][0]["path"] = "/home/mallory/data/msrs"
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    training = json.loads((bundled / "training.json").read_text())
    training["datasets"][0]["path"] = "/home/mallory/data/msrs"
    (folder / "training.json").write_text(json.dumps(training))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    return {kind: make_run(root / kind, kind) for kind in PIPELINES}


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        yield hub


@pytest.fixture(scope="module")
def published(hub: HubServer, runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, str]]:
    """Both pipelines, the second one private, and a third repository whose first download is damaged."""
    hub.fault("corrupt", "GET", "/tester/damaged/resolve/[^/]+/model/config.json")
    home = tmp_path_factory.mktemp("home")
    jobs = [("dfn", "tester/dfn"), ("red", "lab/red", "--private"), *[("dfn", "tester/damaged")] * 2]
    return [
        hub.invoke(home, "publish", runs[kind], "--repo-id", repo_id, "--tag", "v1", *options)
        for kind, repo_id, *options in jobs
    ]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`pair.npz`, and what each pipeline makes of it in both precisions."""
    folder = tmp_path_factory.mktemp("expected")
    np.savez(folder / "pair.npz", **pair())
    for kind, make in PIPELINES.items():
        pipeline = make()
        np.save(folder / f"{kind}.npy", fuse(pipeline))
        pipeline.model.half().float()
        np.save(folder / f"{kind}-fp16.npy", fuse(pipeline))
        assert not np.array_equal(np.load(folder / f"{kind}.npy"), np.load(folder / f"{kind}-fp16.npy"))
    return folder


# --- what is published ---


TEXTS = (".json", ".yaml", ".md", ".py")


def test_repository(hub: HubServer, published: list[tuple[int, str]]) -> None:
    for name, (code, output), private in zip(("tester/dfn", "lab/red"), published, (False, True), strict=False):
        repository = hub.repository(name)
        assert code == 0 and "at v1: downloaded again, both precisions give the same pixels" in output
        assert f'FusionPipeline.from_pretrained("{name}", revision="v1")' in output
        scheduler = {"scheduler/scheduler_config.json"} if name == "tester/dfn" else set()
        assert set(repository.files) == FILES | scheduler | {".gitattributes"}
        assert len(repository.commits) == 2 and repository.tags == {"v1": repository.head.oid}
        assert repository.private is private
        texts = {path: content.decode() for path, content in repository.files.items() if path.endswith(TEXTS)}
        assert not any("mallory" in text or "/home" in text for text in texts.values())
        assert yaml.safe_load(texts["config.yaml"])["sources"][0]["path"] == "msrs"
        assert f'from_pretrained("{name}")' in texts["README.md"] and "license: apache-2.0" in texts["README.md"]
        assert repository.files["LICENSE"].decode().strip().startswith("Apache License")
        assert repository.files["sample.png"].startswith(b"\x89PNG")


def test_a_damaged_download(hub: HubServer, published: list[tuple[int, str]]) -> None:
    """Its tag was removed; the same command again made no second commit."""
    (failed, output), (code, _) = published[2:]
    assert failed == 1 and "model/config.json of 'tester/damaged' is damaged" in output and code == 0
    assert "its tag v1 was removed again; run the same command again" in output
    repository = hub.repository("tester/damaged")
    assert len(repository.commits) == 2 and repository.tags == {"v1": repository.head.oid}
    assert hub.count("DELETE .*/tester/damaged/tag/v1") == 1


# --- loading ---

PLAIN_THEN_TYPED = """
import json, os, sys
import numpy as np
from pathlib import Path
expected = Path(sys.argv[1])
inputs = dict(np.load(expected / "pair.npz"))

def check(pipe, kind, variant=None):
    fused = pipe(**inputs, output_type="np").images
    assert np.array_equal(fused, np.load(expected / f"{kind}{'-' + variant if variant else ''}.npy")), (kind, variant)
    return pipe

def refused(load, error, *parts):
    try:
        load()
    except error as found:
        assert all(part in str(found) for part in parts), found
    else:
        raise AssertionError(parts)

from diffusers import DiffusionPipeline
cache = sys.argv[2]
refused(lambda: DiffusionPipeline.from_pretrained("tester/dfn", cache_dir=cache), ValueError, "trust_remote_code")
trusted = {"trust_remote_code": True, "cache_dir": cache, "revision": "v1"}
for repo_id, kind in (("tester/dfn", "dfn"), ("lab/red", "red")):
    plain = check(DiffusionPipeline.from_pretrained(repo_id, **trusted), kind)
    check(DiffusionPipeline.from_pretrained(repo_id, variant="fp16", **trusted), kind, "fp16")
    import fusion_hub
    typed = type(plain)
    assert typed is getattr(fusion_hub, typed.__name__)
    for loader in (typed, fusion_hub.FusionPipeline):
        assert type(check(loader.from_pretrained(repo_id, cache_dir=cache), kind)) is typed
    check(typed.from_pretrained(repo_id, cache_dir=cache, local_files_only=True), kind)
"""


@pytest.mark.usefixtures("published")
def test_plain_diffusers_then_typed(hub: HubServer, expected: Path, tmp_path: Path) -> None:
    """In a process of its own, in which plain diffusers imports the classes first."""
    command = [sys.executable, "-c", PLAIN_THEN_TYPED, str(expected), str(tmp_path / "cache")]
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert TOKEN not in result.stdout + result.stderr


@pytest.mark.usefixtures("published")
def test_typed_private_and_then_offline(
    hub: HubServer, expected: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(
        loader: type[FusionPipeline], repo_id: str, kind: str, variant: str | None = None, **settings: Any
    ) -> None:
        pipeline = loader.from_pretrained(repo_id, revision="v1", variant=variant, cache_dir=tmp_path, **settings)
        assert np.array_equal(fuse(pipeline), np.load(expected / f"{kind}{f'-{variant}' if variant else ''}.npy"))

    hub.redirect(monkeypatch, tmp_path, token=None)
    before = len(hub.requests)
    for token in (None, "hf_wrong"):
        with pytest.raises(OSError, match=r"cannot load 'lab/red' from the Hub(.|\n)*token"):
            REDPipeline.from_pretrained("lab/red", token=token, cache_dir=tmp_path)
    check(REDPipeline, "lab/red", "red", token=TOKEN)
    check(DiffFuseNetPipeline, "tester/dfn", "dfn")
    check(FusionPipeline, "tester/dfn", "dfn", "fp16")
    fetched = [request for request in hub.requests[before:] if "/resolve/" in request]
    assert fetched and not any(request.endswith(".py") for request in fetched)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    check(REDPipeline, "lab/red", "red")
    check(FusionPipeline, "tester/dfn", "dfn")
    check(DiffFuseNetPipeline, "tester/dfn", "dfn", "fp16")
    for settings in ({"revision": "v1", "variant": "fp16"}, {"revision": "v2"}):
        with pytest.raises(OSError, match="lab/red"):
            REDPipeline.from_pretrained("lab/red", cache_dir=tmp_path, **settings)
    assert len(hub.requests) == before


# --- the command ---


def test_bundled_checkpoint(hub: HubServer, tmp_path: Path) -> None:
    code, output = hub.invoke(tmp_path / "home", "publish", "difffusenet-msrs", "--repo-id", "tester/msrs")
    repository = hub.repository("tester/msrs")
    assert code == 0 and f'revision="{repository.head.oid}"' in output
    assert len(repository.commits) == 2 and not repository.tags
    bundled = load_file(checkpoints.ROOT / "difffusenet-msrs" / FULL)
    (tmp_path / "full").write_bytes(repository.files[FULL])
    (tmp_path / "half").write_bytes(repository.files[HALF])
    full, half = load_file(tmp_path / "full"), load_file(tmp_path / "half")
    assert full.keys() == half.keys() == bundled.keys()
    for name, value in bundled.items():
        assert np.array_equal(half[name], value) and np.array_equal(full[name], value.float())
    assert json.loads(repository.files["metrics.json"])["sets"].keys() == {"tno/test", "roadscene/test", "msrs/test"}
    assert "model-index:" in repository.files["README.md"].decode()


def test_dry_run(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    result = CliRunner().invoke(app, ["publish", str(runs["red"]), "--repo-id", "me/red", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert all(name in result.stdout for name in FILES) and "11 files" in result.stdout
    assert "the card says that nothing was measured" in result.stdout
    assert "dry run: nothing was uploaded to https://huggingface.co/me/red" in result.stdout


def test_the_folder_of_an_evaluation_on_training_pairs(runs: dict[str, Path], tmp_path: Path) -> None:
    for band, image in pair().items():
        (tmp_path / "msrs" / "train" / band).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "msrs" / "train" / band / "a.png")
    results = str(tmp_path / "results")
    words = ["evaluate", "-m", str(runs["dfn"]), "--data", str(tmp_path / "msrs" / "train"), "-o", results]
    assert CliRunner().invoke(app, [*words, "--metrics", "EN"]).exit_code == 0
    words = ["publish", str(runs["dfn"]), "--repo-id", "me/dfn", "--evaluation", results, "--dry-run"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "warning: the numbers on msrs/train come from the training set, and the card says so" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("no-such", "--repo-id", "me/x"), 1, "no-such is not a checkpoint, it has no model_index.json"),
        (("{runs}", "--repo-id", "me/x"), 1, "is the folder of a run: give the pipeline in it"),
        (
            ("{red}", "--repo-id", "me/x", "--licence", "mit", "--dry-run"),
            1,
            "the text of the license mit is not known",
        ),
        (("{red}", "--repo-id", "me/x", "--licence", "GPL"), 1, "LICENSE"),
        (("{red}", "--repo-id", "me/x", "--data-terms", "mine"), 2, "--data-terms mine: give a name and terms"),
        (("{red}", "--repo-id", "me/x", "--evaluation", "no.json"), 1, "there is no no.json: give the folder that"),
        (("{red}", "--repo-id", "x", "--dry-run"), 1, "'x' lacks the owner"),
    ],
)
def test_wrong_use(runs: dict[str, Path], tmp_path: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    (tmp_path / "pipeline").mkdir()
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    filled = [argument.format(red=runs["red"], runs=tmp_path) for argument in arguments]
    result = CliRunner().invoke(app, ["publish", *filled])
    assert result.exit_code == code
    assert message in result.stderr and result.stderr.count("\n") == 1


# --- staging and its checks ---


@pytest.fixture(scope="module")
def staged(runs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what would be uploaded."""
    copy = tmp_path_factory.mktemp("staged") / "model"
    with staged_model(runs["dfn"], "tester/dfn") as found:
        shutil.copytree(found.folder, copy)
        left = found.folder
    assert not left.exists() and check_model(copy) == []
    return copy


def test_staging_is_repeatable(staged: Path, runs: dict[str, Path]) -> None:
    with staged_model(runs["dfn"], "tester/dfn") as again:
        for path in FILES:
            assert (again.folder / path).read_bytes() == (staged / path).read_bytes(), path


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def cast(file: Path, change: Callable) -> None:
    save_file({name: change(value) for name, value in load_file(file).items()}, file)


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "no license": (lambda f: (f / "LICENSE").unlink(), "LICENSE is missing"),
    "no half weights": (lambda f: (f / HALF).unlink(), "diffusion_pytorch_model.fp16.safetensors is missing"),
    "no full weights": (lambda f: (f / FULL).unlink(), "diffusion_pytorch_model.safetensors is missing"),
    "damaged weights": (lambda f: (f / HALF).write_bytes(b"x" * 99), "damaged or incomplete"),
    "weights of another size": (lambda f: cast(f / FULL, lambda v: v[..., :1].contiguous()), "do not fit"),
    "full is half": (lambda f: cast(f / FULL, lambda v: v.half()), "holds F16 instead of F32"),
    "half is full": (lambda f: cast(f / HALF, lambda v: v.float()), "holds F32 instead of F16"),
    "pickle": (lambda f: (f / "model" / "optimizer.bin").write_bytes(b"x"), "optimizer.bin looks like a pickle"),
    "code": (lambda f: (f / "tools.py").write_text("x = 1\n"), "tools.py does not belong in"),
    "code in a shim": (
        lambda f: edit(f / "pipeline.py", "from fusion_hub", "import os\nfrom fusion_hub"),
        "pipeline.py is not the one line",
    ),
    "unknown class": (
        lambda f: edit(f / "model_index.json", "DiffFuseNetModel", "NewModel"),
        "names 'NewModel' as the model's class",
    ),
    "path in JSON": (lambda f: edit(f / "training.json", "msrs", "/mnt/msrs"), "training.json holds a path"),
    "path in YAML": (
        lambda f: edit(f / "config.yaml", "precision: ", "tracker_dir: ~/logs\nprecision: "),
        "config.yaml holds a path of this machine, '~/l",
    ),
    "path in the card": (
        lambda f: edit(f / "README.md", "## Limits", "See `/home/me/notes.txt`.\n\n## Limits"),
        "README.md: it holds a path of this machine, '/home/me/notes.txt'",
    ),
    "card": (lambda f: edit(f / "README.md", "library_name", "libary_name"), "README.md: the metadata"),
    "large": (lambda f: (f / "sample.png").write_bytes(bytes(11 * 2**20)), "sample.png has 11,534,336 bytes"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_check_finds(staged: Path, tmp_path: Path, kind: str) -> None:
    spoil, message = WRONG[kind]
    folder = tmp_path / "model"
    shutil.copytree(staged, folder)
    spoil(folder)
    problems = check_model(folder)
    assert any(message in problem for problem in problems), problems


def test_what_a_run_may_lack(runs: dict[str, Path], tmp_path: Path) -> None:
    for lost, message in (("config.yaml", "config.yaml is missing"), (FULL, "no diffusion_pytorch_model.safetensors")):
        folder = tmp_path / lost.replace("/", "-")
        shutil.copytree(runs["dfn"], folder)
        (folder / lost).unlink()
        with pytest.raises(PublishError, match=f"cannot be published: .*{message}"), staged_model(folder, "me/x"):
            pass


def test_values_beyond_half_precision(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "large"
    shutil.copytree(runs["dfn"], folder)
    pipeline = FusionPipeline.from_pretrained(folder)
    pipeline.model.trunk[0].bias.data[0] = 1e5
    pipeline.save_pretrained(folder)
    with pytest.raises(PublishError, match="has values beyond half precision"), staged_model(folder, "me/x"):
        pass


def test_license_of_weights_from_stable_diffusion(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(runs["red"], folder)
    edit(folder / "config.yaml", "sd15: null", "sd15: /models/sd15")
    with staged_model(folder, "me/red") as staged:
        card = (staged.folder / "README.md").read_text()
        text = (staged.folder / "LICENSE").read_text()
    assert "license: creativeml-openrail-m" in card and "base_model_relation: finetune" in card
    assert "CreativeML Open RAIL-M" in text and "Use Restrictions" in text


# --- paths of one machine ---


def test_local_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUSION_HUB_DATA", str(tmp_path / "shared"))
    values = {
        str(tmp_path / "runs" / "x"): "runs/x",
        str(tmp_path / "shared" / "data" / "tno"): "${FUSION_HUB_DATA}/data/tno",
        "/home/me/data/mine/train": "mine",
        "~/data/mine": "mine",
        "../../me/mine": "mine",
        "C:\\data\\mine": "mine",
        "${FUSION_HUB_DATA}/data/tno": "${FUSION_HUB_DATA}/data/tno",
        "owner/name": "owner/name",
        "none": "none",
    }
    assert without_local_paths({"paths": list(values), "n": 1}) == {"paths": list(values.values()), "n": 1}
    assert not any(is_local_path(value) for value in values.values())
    for text in ("see /home/me/x", '"/mnt/data/x"', "C:\\Users\\me", "in ~/data", str(Path.home() / "x")):
        assert find_local_paths(text, ".md"), text
    for text in ("https://huggingface.co/me/x/tree/main", "visible/infrared 3/4", "and/or", "</b>", "a / b / c"):
        assert not find_local_paths(text, ".md"), text
