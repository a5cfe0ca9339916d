"""The Space: what it holds, that it runs on that alone, that it is published, and what is refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from fusion_hub import list_models
from fusion_hub.hub import PublishError
from fusion_hub.hub.space import check_hardware, staged_space, upload_space
from tests.support.hub_server import HubServer

SPACE = "spaces/tester/demo"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def staged() -> Iterator[Path]:
    with staged_space() as folder:
        yield folder


def files_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_it_holds(staged: Path) -> None:
    files = files_of(staged)
    assert {"app.py", "README.md", "requirements.txt", "LICENSE", "fusion_hub/__init__.py"} <= files.keys()
    for info in list_models():
        assert f"fusion_hub/pretrained/{info.name}/model/diffusion_pytorch_model.safetensors" in files
    page = {file.name for file in (ROOT / "space").iterdir() if file.is_file()}
    assert {path.split("/")[0] for path in files} == {*page, "LICENSE", "fusion_hub"}
    assert not [path for path in files if "__pycache__" in path or path.endswith(".pyc") or "/." in path]


# --- it runs on its own ---


def installed_by(requirements: Iterable[str]) -> set[str]:
    """Names of the distributions that installing these brings, itself included, as found in this environment."""
    found: set[tuple[str, str]] = set()
    open_ends = [Requirement(line) for line in requirements]
    while open_ends:
        wanted = open_ends.pop()
        for extra in ("", *wanted.extras):
            if (wanted.name.lower(), extra) in found:
                continue
            found.add((wanted.name.lower(), extra))
            needs = [Requirement(text) for text in metadata.distribution(wanted.name).requires or []]
            open_ends += [need for need in needs if need.marker is None or need.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def link_distributions(names: Iterable[str], folder: Path) -> Path:
    """A folder of packages that holds these distributions and no other."""
    folder.mkdir()
    for name in names:
        distribution = metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] != ".."}:
            place, target = Path(str(distribution.locate_file(top))), folder / top
            if place.exists() and not target.exists():
                target.symlink_to(place)
    return folder


RUN = """
import sys
tree, packages, work = sys.argv[1:]
sys.path = [tree, *sys.path, packages]  # no site: what is not named here cannot be imported

import json
from pathlib import Path
import app, fuse, fusion_hub.data
from PIL import Image

gradio_page = app.build_app(Path(work))
brain = fusion_hub.data.sample_pairs()[-1]
fused, *_ = fuse.fuse(brain.visible, brain.infrared, "difffusenet-medical")
modules = {name: module.__file__ for name, module in list(sys.modules.items()) if getattr(module, "__file__", None)}
page = {path.stem for path in Path(tree).glob("*.py")}
ours = {name: file for name, file in modules.items() if name in page or name.split(".")[0] == "fusion_hub"}
print(json.dumps({"ours": ours, "path": sys.path, "size": Image.open(fused).size, "editable": "site" in sys.modules}))
"""


def test_runs_on_its_tree_and_its_requirements_alone(staged: Path, tmp_path: Path) -> None:
    lines = [line for line in (staged / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    packages = link_distributions(installed_by([*lines, "gradio"]), tmp_path / "packages")
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-I", "-S", "-B", "-c", RUN, staged, packages, tmp_path / "work"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path), "GRADIO_TEMP_DIR": str(tmp_path / "gradio")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert {"app", "fusion_hub", "fusion_hub.pipelines.difffusenet"} <= found["ours"].keys()
    assert all(Path(file).is_relative_to(staged) for file in found["ours"].values()), found["ours"]
    assert str(ROOT) not in found["path"]
    assert found["size"] == [320, 320]


# --- it is published ---


def test_published(staged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["publish-space", "--repo-id", "tester/demo"]
    with HubServer() as hub:
        code, output = hub.invoke(tmp_path, *command, token="hf_wrong")
        assert code == 1 and "token" in output and "hf_wrong" not in output and not hub.repositories
        code, output = hub.invoke(tmp_path, *command, "--dry-run")
        assert code == 0 and "nothing was uploaded" in output and "app.py" in output and not hub.repositories
        code, output = hub.invoke(tmp_path, "publish-space", "--repo-id", "demo")
        assert code == 1 and "'demo' lacks the owner" in output

        code, output = hub.invoke(tmp_path, *command, "--private", "--hardware", "cpu-upgrade")
        repository = hub.repository(SPACE)
        assert code == 0 and repository.head.oid in output
        hub.redirect(monkeypatch, tmp_path)
        assert upload_space(staged, "tester/demo").commit == repository.head.oid
        assert repository.private and repository.settings["sdk"] == "gradio"
        assert len(repository.commits) == 2, "its creation and ours; the second time nothing was new"
        assert repository.settings["hardware"] == "cpu-upgrade"
        files = dict(repository.files)
        files.pop(".gitattributes")
        assert files == files_of(staged)
        hub.fail("POST", "/hardware", status=402)
        with pytest.raises(PublishError, match="is published, but the Hub does not give it the hardware t4-small"):
            upload_space(staged, "tester/demo", hardware="t4-small")


# --- what is refused ---


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the page and of the package, with links to the weights."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "space", root / "space")
    shutil.copytree(ROOT / "fusion_hub", root / "fusion_hub", copy_function=os.link)
    return root


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no page": (lambda r: shutil.rmtree(r / "space"), "files of the page are missing.*install fusion-hub again"),
    "no weights": (
        lambda r: shutil.rmtree(r / "fusion_hub/pretrained/red-small-msrs/model"),
        "weights of red-small-msrs are missing .*: install",
    ),
    "another color": (lambda r: replace(r / "space/README.md", "colorTo: red", "colorTo: crimson"), "crimson"),
    "no card": (lambda r: (r / "space/README.md").unlink(), "cannot be assembled.*README.md"),
    "gradio twice": (
        lambda r: replace(r / "space/requirements.txt", "torch==", "gradio==6.31.0\ntorch=="),
        "names gradio: remove it, sdk_version",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_reported(checkout: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(checkout)
    with pytest.raises(PublishError, match=message), staged_space(checkout / "fusion_hub"):
        pass


def test_hardware() -> None:
    for name in ("cpu-basic", "t4-small", "zero-a10g"):
        check_hardware(name)
    with pytest.raises(PublishError, match="'t5' is not known; choose one of cpu-basic"):
        check_hardware("t5")
