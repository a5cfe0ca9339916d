"""`fusion-hub`: output, messages and exit codes, with one process and with two."""

import csv
import errno
import glob
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
import typer
from filelock import FileLock
from PIL import Image
from typer.testing import CliRunner, Result

from fusion_hub import FusionPipeline, PairedDataset, __version__, cli, pretrained
from fusion_hub.cli import common
from fusion_hub.data import generate_scene, sample_pairs
from fusion_hub.image import overlay_pair
from fusion_hub.image.io import read_picture
from fusion_hub.pipelines import checkpoints
from tests.support.hub_server import HubServer, Repository
from tests.support.tiny import tiny_pipeline

NAMES = ["a", "b.1", "c", "d", "e"]
SIZES = [(40, 56), (40, 56), (33, 47), (40, 56), (1, 1)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """`vis/*.jpg` in color and `ir/*.png` in gray, of several sizes."""
    random = np.random.default_rng(0)
    for folder in ("vis", "ir"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    for name, size in zip(NAMES, SIZES, strict=True):
        visible = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(visible).save(tmp_path / "set" / "vis" / f"{name}.jpg")
        Image.fromarray(random.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / "set" / "ir" / f"{name}.png")
    return tmp_path / "set"


def run(*arguments: object) -> Result:
    """In this process, in the dtype that the expected pictures are made in."""
    words = [str(argument) for argument in arguments]
    if words[0] == "fuse" and "--dtype" not in words:
        words += ["--dtype", "float32", "--device", "cpu"]
    return CliRunner().invoke(cli.app, words, catch_exceptions=False)


def start(*arguments: object, processes: int = 1, **environment: str) -> subprocess.CompletedProcess[str]:
    """In other processes, as a person would."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "fusion_hub.cli", *map(str, arguments)]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", **environment}
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=300)


def stems(folder: Path) -> list[str]:
    """Of everything in the folder but the record, hidden files too: a half-written one would show."""
    return sorted(path.name.removesuffix(".png") for path in folder.iterdir() if path.name != ".fusion-hub")


def report(folder: Path) -> dict[str, tuple[str, str, str]]:
    """Result, output and note of each name in the folder's report."""
    with (folder / ".fusion-hub" / "report.csv").open(encoding="utf-8-sig", newline="") as stream:
        return {row["name"]: (row["result"], row["output"], row["note"]) for row in csv.DictReader(stream)}


def spoil(pairs: Path, name: str) -> None:
    """Cut the file in the middle of its pixels, so that only decoding notices."""
    file = pairs / "vis" / f"{name}.jpg"
    file.write_bytes(file.read_bytes()[:-400])


def test_version_and_module() -> None:
    assert run("--version").output == f"fusion-hub {__version__}\n"
    result = subprocess.run([sys.executable, "-m", "fusion_hub", "--version"], capture_output=True, text=True)
    assert result.stdout == f"fusion-hub {__version__}\n"


def test_help_loads_no_heavy_library() -> None:
    script = "import sys; from fusion_hub.cli import main; sys.argv = ['x', 'fuse', '--help']\ntry: main()\nfinally: "
    script += "print([name for name in ('torch', 'diffusers', 'datasets', 'numpy', 'PIL') if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.endswith("[]\n"), result.stdout
    assert "torchrun --nproc_per_node 2" in result.stdout  # an example


def test_refusals_load_no_heavy_library(pairs: Path, tmp_path: Path, model: str) -> None:
    """Nor does a folder whose pictures are all there."""
    out = tmp_path / "out"
    assert run("fuse", pairs, "-o", out, "-m", model).exit_code == 0
    commands = {
        f"{pairs} -o {out} -m {model}": "0 fused, 5 already there",
        f"{pairs} -o {out} -m {model} --seed 3": "holds pictures made with --seed 0",
        f"{pairs} -o {out} -m nowhere": "no pipeline named 'nowhere'",
        f"{pairs} -o {out} -m {pairs}": "model_index.json is missing",
        f"{pairs}/nowhere -o {out} -m {model}": "no data set named",
        f"{pairs}/vis {pairs}/nowhere -o {out} -m {model}": "there is no file or folder",
        f"{pairs} -o {out} -m {model} --device warp": "--device warp cannot be used here",
        # These read pixels, and with them NumPy.
        f"{pairs}/vis/a.jpg {pairs}/ir/c.png -o {tmp_path}/c.png -m {model}": "nothing is resized silently",
        f"{pairs}/vis/a.jpg {model}/model_index.json -o {tmp_path}/c.png -m {model}": "is not an image",
    }
    script = f"""
import sys
from typer.testing import CliRunner
from fusion_hub.cli import app
heavy = {{"torch", "diffusers", "datasets", "accelerate", "numpy"}}
for command in {list(commands)!r}:
    result = CliRunner().invoke(app, ["fuse", *command.split()], catch_exceptions=False)
    print(repr(result.output), sorted(heavy & sys.modules.keys()))
"""
    lines = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.splitlines()
    for line, message in zip(lines, commands.values(), strict=True):
        reads_pixels = message in ("nothing is resized silently", "is not an image")
        assert message in line and line.endswith("['numpy']" if reads_pixels else "[]"), line


PATTERNS = [
    "flat/*_vis.jpg flat/*_ir.png",
    "flat/*",
    "set/vis/* set/ir/*",
    "set/**/*.*",
]


@pytest.mark.parametrize("expanded", [True, False])
@pytest.mark.parametrize("patterns", PATTERNS)
def test_patterns(pairs: Path, tmp_path: Path, model: str, patterns: str, expanded: bool) -> None:
    """Quoted, and as a shell expands them to many words."""
    (tmp_path / "flat").mkdir()
    for name in NAMES:
        (tmp_path / "flat" / f"{name}_vis.jpg").write_bytes((pairs / "vis" / f"{name}.jpg").read_bytes())
        (tmp_path / "flat" / f"{name}_ir.png").write_bytes((pairs / "ir" / f"{name}.png").read_bytes())
    words = [f"{tmp_path}/{pattern}" for pattern in patterns.split()]
    if expanded:
        words = [path for word in words for path in sorted(glob.glob(word, recursive=True))]
    result = run("fuse", *words, "-o", tmp_path / "out", "-m", model)
    assert result.exit_code == 0 and "5 fused" in result.stdout, result.output
    assert stems(tmp_path / "out") == NAMES and Image.open(tmp_path / "out" / "c.png").mode == "RGB"


def test_models_table_and_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str) -> None:
    name = pretrained.list_models()[0].name
    (tmp_path / name).symlink_to(model)
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path)
    metrics = Path(model) / "metrics.json"
    metrics.write_text(json.dumps({"sets": {"toy/test": {"metrics": {"SCD": 1.234, "VIF": 0.8}}}}))
    try:
        entry, other, *_ = json.loads(run("models", "--json").stdout)
        monkeypatch.setenv("COLUMNS", "200")
        table = run("models").stdout
    finally:
        metrics.unlink()
    count = sum(parameter.numel() for parameter in tiny_pipeline().model.parameters())
    assert entry["name"] == name and entry["available"] and entry["parameters"] == count
    assert entry["bytes"] > 4 * count and entry["metrics"]["sets"]["toy/test"]["metrics"]["VIF"] == 0.8
    assert not other["available"] and other["parameters"] is None
    assert "toy/test 1.23 0.80 -" in table and "not installed" in table and "Apache-2.0" in table


def test_a_pair_gives_the_picture_of_the_pipeline(pairs: Path, tmp_path: Path, model: str) -> None:
    sources = pairs / "vis" / "c.jpg", pairs / "ir" / "c.png"
    result = run("fuse", *sources, "--output", tmp_path / "new" / "out.png", "--model", model)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "new" / "out.png") as image:
        assert image.mode == "RGB" and image.size == (47, 33)
        expected = FusionPipeline.from_pretrained(model)(*map(str, sources)).images[0]
        assert np.array_equal(image, expected)
        assert image.getexif()[0x0131] == f"Fusion Hub {__version__} (tiny, float32)"


def test_a_named_file_is_overwritten_unless_it_is_to_be_kept(pairs: Path, tmp_path: Path, model: str) -> None:
    out = tmp_path / "out.png"
    out.write_bytes(b"mine")
    arguments = ("fuse", pairs / "vis" / "c.jpg", pairs / "ir" / "c.png", "-o", out, "-m", model)
    result = run(*arguments, "--no-overwrite")
    assert result.exit_code == 0 and "kept because of --no-overwrite" in result.stdout and out.read_bytes() == b"mine"
    assert run(*arguments).exit_code == 0 and Image.open(out).size == (47, 33)
    other = ("fuse", pairs / "vis" / "a.jpg", pairs / "ir" / "a.png", "-o", out, "-m", model)
    assert run(*other).exit_code == 0 and Image.open(out).size == (56, 40)


def test_options_reach_the_pipeline(pairs: Path, tmp_path: Path, model: str) -> None:
    def picture(*options: object) -> np.ndarray:
        result = run("fuse", pairs / "vis/a.jpg", pairs / "ir/a.png", "-o", tmp_path / "a.png", "-m", model, *options)
        assert result.exit_code == 0, result.output
        return np.asarray(Image.open(tmp_path / "a.png"))

    plain = picture()
    for option in ("--rescale minmax", "--infrared-range 100,200", "--noise-strength 1", "--num-inference-steps 2"):
        assert not np.array_equal(plain, picture(*option.split())), option
    for option in ("--infrared-range dtype", "--tile 0"):
        assert np.array_equal(plain, picture(*option.split())), option


def test_two_folders_and_a_dataset_folder_give_the_same(pairs: Path, tmp_path: Path, model: str) -> None:
    (pairs / "vis" / "alone.jpg").write_bytes((pairs / "vis" / "a.jpg").read_bytes())
    two = run("fuse", pairs / "vis", pairs / "ir", "--output", tmp_path / "two", "--model", model)
    one = run("fuse", pairs, "--output", tmp_path / "one", "--model", model, "--batch-size", 3)
    assert two.exit_code == one.exit_code == 0, (two.output, one.output)
    assert "missing infrared (1): alone" in two.stdout and "5 fused" in two.stdout
    assert stems(tmp_path / "two") == stems(tmp_path / "one") == NAMES
    for name, size in zip(NAMES, SIZES, strict=True):
        single, batch = (np.asarray(Image.open(tmp_path / place / f"{name}.png")) for place in ("two", "one"))
        assert single.shape == (*size, 3)
        assert np.abs(single.astype(int) - batch).max() <= 1  # the sums of a batch may be rounded otherwise


def test_bad_pairs_are_reported_and_the_rest_is_fused(pairs: Path, tmp_path: Path, model: str) -> None:
    spoil(pairs, "a")
    Image.new("L", (9, 9)).save(pairs / "ir" / "d.png")
    for batch_size in (1, 4):
        out = tmp_path / f"out{batch_size}"
        result = run("fuse", pairs, "--output", out, "--model", model, "--batch-size", batch_size)
        assert result.exit_code == 1
        assert stems(out) == ["b.1", "c", "e"]
        assert "d: visible 56x40, infrared 9x9" in result.stdout  # before work starts
        assert "3 fused, 2 failed" in result.stdout
        failures = re.findall("^failed: (.*?): (.*)", result.stderr, flags=re.MULTILINE)
        assert [name for name, _ in failures] == ["a", "d"] and "vis/a.jpg" in failures[0][1].replace("\\", "/")
        assert "Traceback" not in result.output


def test_what_is_done_is_skipped(pairs: Path, tmp_path: Path, model: str) -> None:
    out = tmp_path / "out"
    arguments = ("fuse", pairs, "--output", out, "--model", model)
    (pairs / "vis" / "alone.gif").write_bytes(b"GIF89a")
    first = run(*arguments, "--limit", 2).stdout
    assert "2 fused, 1 file left out;" in first and stems(out) == ["a", "b.1"]
    assert "missing infrared (1): alone.gif" in first
    before = (out / "b.1.png").stat().st_mtime_ns
    (out / "a.png").write_bytes(b"no picture")  # not what is called done
    again = run(*arguments)
    assert "4 fused, 1 already there" in again.stdout
    assert (out / "b.1.png").stat().st_mtime_ns == before and Image.open(out / "a.png").size == (56, 40)
    assert report(out)["b.1"] == ("already there", "b.1.png", "")
    assert report(out)["alone.gif"] == ("left out", "", "no infrared partner")
    Image.new("RGB", (56, 40), (9, 99, 199)).save(pairs / "vis" / "a.jpg")  # a changed input
    assert "1 fused, 4 already there" in run(*arguments).stdout
    assert "5 fused" in run(*arguments, "--overwrite").stdout


def same_times(folder: Path) -> Path:
    """As after an unpacked archive: no file can be told from another by its time."""
    for file in folder.rglob("*.*"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    return folder


def test_other_files_of_the_same_names_are_not_what_is_done(tmp_path: Path, model: str) -> None:
    random = np.random.default_rng(0)
    for flight, band, name in itertools.product(("first", "second"), ("vis", "ir"), ("1", "2")):
        file = tmp_path / flight / band / f"{name}.bmp"  # all of one size
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 56), dtype=np.uint8)).save(file)
    first, second, out = same_times(tmp_path / "first"), same_times(tmp_path / "second"), tmp_path / "out"
    rest = ("--output", out, "--model", model)
    assert "2 fused" in run("fuse", first, *rest).stdout
    before = (out / "1.png").read_bytes()
    refused = run("fuse", second, *rest)
    assert refused.exit_code == 2 and "made from other files of that name" in refused.stderr
    first = first.rename(tmp_path / "moved")  # the same pictures at another place
    assert "0 fused, 2 already there" in run("fuse", first, *rest).stdout
    shutil.copy(second / "ir" / "2.bmp", first / "ir" / "2.bmp")
    assert "0 fused, 2 already there" in run("fuse", first, *rest, "--no-overwrite").stdout
    assert (out / "1.png").read_bytes() == before
    assert "2 fused" in run("fuse", second, *rest, "--overwrite").stdout and (out / "1.png").read_bytes() != before


def test_two_runs_do_not_share_a_folder(pairs: Path, tmp_path: Path, model: str) -> None:
    out = tmp_path / "out"
    arguments = ("fuse", pairs, "--output", out, "--model", model)
    assert "1 fused" in run(*arguments, "--limit", 1).stdout
    with FileLock(out / ".fusion-hub" / "lock"):  # as another process holds it
        busy = run(*arguments)
        assert busy.exit_code == 1 and f"another run writes to {out}" in busy.stderr and stems(out) == ["a"]
        assert "1 already there" in run(*arguments, "--limit", 1).stdout  # writes no picture
    assert "4 fused, 1 already there" in run(*arguments).stdout


def test_a_changed_four_channel_input_is_fused_again(tmp_path: Path, model: str) -> None:
    random = np.random.default_rng(0)
    (tmp_path / "rgbt").mkdir()
    for name in "ab":
        Image.fromarray(random.integers(0, 256, (40, 56, 4), dtype=np.uint8)).save(tmp_path / "rgbt" / f"{name}.png")
    arguments = ("fuse", tmp_path / "rgbt", "--output", tmp_path / "out", "--model", model)
    assert "2 fused" in run(*arguments).stdout
    Image.fromarray(random.integers(0, 256, (40, 56, 4), dtype=np.uint8)).save(tmp_path / "rgbt" / "b.png")
    assert "1 fused, 1 already there" in run(*arguments).stdout


DAMAGES: list[dict[str, Any]] = [
    {"output": "../../precious.png"},
    {"output": 7},
    {"output": "a\0.png"},
    {"output": "report.csv"},
    {"name": ["a"]},
    {"notes": None},
    {"notes": [1]},
    {"bytes": "many"},
    {"inputs": 3},
    {"more": 1},
]


def test_damaged_lines_of_the_record_count_as_not_done(pairs: Path, tmp_path: Path, model: str) -> None:
    precious = tmp_path / "precious.png"
    precious.write_bytes(b"not ours")
    out = tmp_path / "some" / "out"
    arguments = ("fuse", pairs, "--output", out, "--model", model)
    assert "5 fused" in run(*arguments).stdout
    file = out / ".fusion-hub" / "done-0.jsonl"
    whole = [json.loads(line) for line in file.read_text().splitlines()]
    for changes in (DAMAGES[:4], DAMAGES[4:8], DAMAGES[8:]):  # for each of the first lines one
        damaged = [line | change for line, change in zip(whole, changes, strict=False)]
        lines = [*damaged, *whole[len(changes) :]]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert f"{len(changes)} fused, {5 - len(changes)} already there" in run(*arguments).stdout
    assert precious.read_bytes() == b"not ours" and (out / ".fusion-hub" / "report.csv").is_file()


def test_a_folder_holds_no_mixture(pairs: Path, tmp_path: Path, model: str) -> None:
    changed = tmp_path / "other" / "tiny"
    pipeline = tiny_pipeline()
    with torch.no_grad():
        next(pipeline.model.parameters()).add_(0.01)
    pipeline.save_pretrained(changed)
    arguments = ("fuse", pairs, "--output", tmp_path / "out", "--model", model)
    run(*arguments, "--limit", 1)
    changes = {
        "--rescale none; it is now minmax": ("--rescale", "minmax"),
        r"--infrared-range by default; it is now \[0.0, 99.0\]": ("--infrared-range", "0,99"),
        "--visible-range by default; it is now minmax": ("--visible-range", "minmax"),
        "--dtype float32; it is now bfloat16": ("--dtype", "bfloat16"),
        "--seed 0; it is now 3": ("--seed", 3),
        "--denoise auto; it is now 0.0": ("--denoise", 0),
        "--colors fused; it is now overlay": ("--colors", "overlay"),
        "--tile by default; it is now 256": ("--tile", 256),
        "--model .*; it is now .*": ("--model", changed),
    }
    for message, change in changes.items():
        result = run(*arguments, *change)
        assert result.exit_code == 2 and stems(tmp_path / "out") == ["a"]
        assert re.search(rf"holds pictures made with {message}: give another folder.*--overwrite", result.stderr)
    assert run(*arguments, "--overwrite", *changes["--seed 0; it is now 3"]).exit_code == 0


def test_an_overlay_keeps_the_colors_of_a_scan(tmp_path: Path, model: str) -> None:
    scene = generate_scene(0, 96, 128, "brain")
    pet, mri = tmp_path / "pet.png", tmp_path / "mri.png"
    Image.fromarray(scene.visible).save(pet)
    Image.fromarray(scene.infrared).save(mri)
    result = run("fuse", pet, mri, "--model", model, "--colors", "overlay", "--output", tmp_path / "laid.png")
    assert result.exit_code == 0
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "laid.png")), overlay_pair(pet, mri))
    result = run("fuse", pet, mri, "--colors", "overlay", "--output", tmp_path / "other.png")
    assert result.exit_code == 2 and not (tmp_path / "other.png").exists()
    assert "--colors overlay is for PET or SPECT with MRI" in result.stderr and "difffusenet-medical" in result.stderr


def test_pictures_of_unknown_origin_are_not_taken_for_done(pairs: Path, tmp_path: Path, model: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    Image.new("RGB", (56, 40)).save(out / "a.png")
    result = run("fuse", pairs, "--output", out, "--model", model)
    assert result.exit_code == 2 and "that no run has recorded" in result.stderr
    (out / ".fusion-hub").mkdir()
    (out / ".fusion-hub" / "run.json").write_text("{")
    result = run("fuse", pairs, "--output", out, "--model", model)
    assert result.exit_code == 2 and "run.json is damaged or of another version" in result.stderr


def test_warnings_are_printed_and_reported(tmp_path: Path, model: str) -> None:
    pixels = {"vis": np.arange(40 * 56, dtype=np.uint8).reshape(40, 56), "ir": np.full((40, 56), 7, np.uint8)}
    for folder, array in pixels.items():
        (tmp_path / "set" / folder).mkdir(parents=True)
        for name in "abc":
            Image.fromarray(array).save(tmp_path / "set" / folder / f"{name}.png")
    result = run("fuse", tmp_path / "set", "--output", tmp_path / "out", "--model", model)
    assert result.exit_code == 0 and result.stderr.count("warning:") == 1
    assert "is constant (value 7)" in result.stderr and "and 2 more pairs" in result.stderr
    assert all("is constant" in note for _, _, note in report(tmp_path / "out").values())
    files = [tmp_path / "set" / folder / "a.png" for folder in ("vis", "ir")]
    single = run("fuse", *files, "--output", tmp_path / "a.png", "--model", model)
    assert "fusion-hub: warning: infrared ('" in single.stderr and "is constant" in single.stderr


def test_float_and_deep_visible_images_in_folders(tmp_path: Path, model: str) -> None:
    random = np.random.default_rng(0)
    for folder in ("vis", "ir"):
        (tmp_path / "set" / folder).mkdir(parents=True)
    pictures = {
        "gray.tif": random.random((40, 56)).astype(np.float32),
        "color.tif": random.random((40, 56, 3)).astype(np.float32),
        "deep.tif": random.integers(0, 65536, (40, 56, 3), dtype=np.uint16),
        "mono.tif": random.integers(0, 65536, (40, 56), dtype=np.uint16),
    }
    for name, pixels in pictures.items():
        tifffile.imwrite(tmp_path / "set" / "vis" / name, pixels)
        Image.fromarray(random.integers(0, 256, (40, 56), dtype=np.uint8)).save(
            tmp_path / "set" / "ir" / name.replace(".tif", ".png")
        )
    arguments = ("fuse", tmp_path / "set", "--output", tmp_path / "out", "--model", model)
    assert run(*arguments).exit_code == 0
    kinds = {
        file.name: read_picture(file).pixels.dtype.name for file in (tmp_path / "out").glob("*.*") if file.is_file()
    }
    assert kinds == {"gray.tif": "float32", "color.tif": "float32", "deep.png": "uint16", "mono.png": "uint16"}
    assert "4 already there" in run(*arguments).stdout
    coarse = run(*arguments[:2], "--output", tmp_path / "coarse", "--model", model, "--dtype", "bfloat16")
    assert "leaves about 270 gray levels" in coarse.stderr


def test_names_as_long_as_a_file_system_takes(pairs: Path, tmp_path: Path, model: str) -> None:
    for old, new in (("a", "n" * 245), ("c", "m" * 251)):
        (pairs / "vis" / f"{old}.jpg").rename(pairs / "vis" / f"{new}.jpg")
        (pairs / "ir" / f"{old}.png").rename(pairs / "ir" / f"{new}.png")
    result = run("fuse", pairs, "--output", tmp_path / "out", "--model", model)
    assert result.exit_code == 0 and {"n" * 245, "m" * 251} < set(stems(tmp_path / "out")), result.stderr


def test_a_disk_that_takes_nothing_stops_the_run_at_once(
    pairs: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    result = run("fuse", pairs, "--output", tmp_path / "file" / "out", "--model", model)
    assert result.exit_code == 1 and "is a file: choose another folder" in result.stderr
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("fusion_hub.image.save_image", lambda *_, **__: (_ for _ in ()).throw(full))
    result = run("fuse", pairs, "--output", tmp_path / "out", "--model", model)
    assert result.exit_code == 1 and result.stderr.count("the disk is full") == 1


def test_a_killed_run_leaves_nothing(pairs: Path, tmp_path: Path, model: str) -> None:
    out = tmp_path / "out"
    run("fuse", pairs, "--output", out, "--model", model, "--limit", 1)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (out / f".b.1.png.{gone.pid}-0123abcd.tmp").write_bytes(b"half")
    (out / f".c.png.{os.getppid()}-0123abcd.tmp").write_bytes(b"of a process that runs")
    assert run("fuse", pairs, "--output", out, "--model", model).exit_code == 0
    assert [name for name in stems(out) if name.startswith(".")] == [f".c.png.{os.getppid()}-0123abcd.tmp"]


def test_one_file_for_both_images_is_refused(pairs: Path, tmp_path: Path, model: str) -> None:
    file = pairs / "vis" / "a.jpg"
    result = run("fuse", file, file, "-o", tmp_path / "a.png", "-m", model)
    assert result.exit_code == 2 and "was given as both images" in result.stderr
    swapped = run("fuse", pairs / "ir" / "a.png", file, "-o", tmp_path / "a.png", "-m", model)
    assert swapped.exit_code == 0 and "warning:" in swapped.stderr and Image.open(tmp_path / "a.png").mode == "RGB"


def test_noise_belongs_to_the_pair_and_the_seed(pairs: Path, tmp_path: Path, model: str) -> None:
    """Not to the run: a resumed one gives the same picture."""

    def picture(*options: object) -> np.ndarray:
        out = tmp_path / "-".join(map(str, options))
        run("fuse", pairs, "--output", out, "--model", model, "--noise-strength", 1, *options)
        return np.asarray(Image.open(out / "a.png"))

    first = picture("--seed", 1)
    os.remove(pairs / "vis" / "b.1.jpg")
    assert np.array_equal(first, picture("--seed", 1, "--limit", 1))
    assert not np.array_equal(first, picture("--seed", 2, "--limit", 1))


def test_two_pairs_of_one_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features({"name": Value("string"), "visible": ImageFeature(), "infrared": ImageFeature()})
    image = Image.new("L", (16, 16), 90)
    rows = {"name": ["same", "same", "other"], "visible": [image] * 3, "infrared": [image] * 3}
    table = Dataset.from_dict(rows, features=features)
    opened = [table, table.to_iterable_dataset()]
    open_set = PairedDataset.open
    monkeypatch.setattr(PairedDataset, "open", lambda *_, **__: open_set(opened.pop(0)))

    result = run("fuse", "owner/data", "--output", tmp_path / "out", "--model", model)
    assert result.exit_code == 1 and "several pairs have the name 'same'" in result.stderr
    assert not (tmp_path / "out").exists()

    streamed = run("fuse", "owner/data", "--streaming", "--output", tmp_path / "out", "--model", model)
    assert streamed.exit_code == 1 and "2 fused, 1 failed" in streamed.stdout
    assert "failed: same: an earlier pair has the same name" in streamed.stderr
    assert stems(tmp_path / "out") == ["other", "same"]


def test_real_pairs(data_root: Path, tmp_path: Path, model: str) -> None:
    result = run("fuse", data_root / "data" / "roadscene", "--split", "test", "-o", tmp_path, "-m", model, "--limit", 2)
    assert result.exit_code == 0, result.output
    for pair in PairedDataset.open(data_root / "data" / "roadscene", split="test")[:2]:
        with Image.open(tmp_path / f"{pair.name}.png") as image:
            assert (image.size, image.mode) == (pair.visible.size, "RGB")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("{set}/vis/a.jpg -o out.png", 2, "give the INFRARED image too"),
        ("{set}/vis/a.jpg {set}/ir -o out.png", 2, "two files or two folders"),
        ("{set}/vis/*.bmp {set}/ir/*.png -o out", 2, "vis/*.bmp: check the pattern"),
        ("{set}/vis/* -o out", 1, "do not distinguish visible from infrared"),
        ("{set}/vis/a.jpg {set}/ir/a.png {set}/ir/b.png -o out.png", 2, "no file or folder"),
        ("{set}/vis/a.jpg {set}/ir/a.png {set}/ir -o out", 1, "give picture files only"),
        ("{set}/vis/zzz.jpg {set}/ir/a.png -o out.png", 2, "VISIBLE: there is no file or folder"),
        ("{set}/vis/a.jpg {set}/ir/a.png -o {set}", 2, "is a folder: give a file"),
        ("{set}/vis/a.jpg {set}/ir/a.png -o out.xyz", 2, "end it with one of .png"),
        ("{set}/vis/a.jpg {set}/ir/a.png -o {set}/vis/../vis/a.jpg", 2, "is one of the inputs"),
        ("{set} -o {set}/vis/a.jpg", 2, "is a file: give a folder"),
        ("{set} -o {set}/vis", 2, "holds the inputs"),
        ("{set}/vis {set}/ir --streaming -o out", 2, "--streaming is for a Hub dataset"),
        ("{set} -o out --tile 3", 2, "pixels for this model, or 0 for no tiles"),
        ("{set} -o out --num-inference-steps 500", 2, "from 1 to 20, the inference_timestep of the model"),
        ("{set} -o out --denoise 2", 2, "--denoise 2: give auto, or a number from 0 (none) to 1"),
        ("{set} -o out --denoise much", 2, "--denoise much: give auto"),
        ("{set} -o out --denoise 0.5", 2, "--denoise 0.5 was given, but this model was not trained to remove noise"),
        ("{set} -o out --infrared-range 9,2", 2, "two rising numbers LOW,HIGH"),
        ("{set} -o out --infrared-range hot", 2, "two rising numbers LOW,HIGH"),
        ("{set} -o out --device warp", 2, "--device warp cannot be used here"),
        ("{set} -o out --dtype int8", 2, "int8"),
        ("{set} -o out --model nowhere", 1, "no pipeline named 'nowhere'"),
        ("{set}/ir -o out", 1, "do not distinguish visible from infrared"),
        ("nowhere/at/all -o out", 1, "no data set named"),
        ("mi -o out", 2, "there is no file or folder 'mi', and INFRARED is missing: give both images"),
        ("{set}/vis/a.jpg {set}/ir/c.png -o out.png", 1, "nothing is resized silently"),
    ],
)
def test_mistakes_give_one_line(
    pairs: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, arguments: str, code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    words = [word.format(set=pairs) for word in arguments.split()]
    extra = [] if "--model" in words else ["--model", model]
    extra += [] if "--device" in words else ["--device", "cpu"]
    result = CliRunner().invoke(cli.app, ["fuse", *words, *extra, *([] if "--dtype" in words else ["--dtype=float32"])])
    assert result.exit_code == code, result.output
    assert message in result.stderr and "Traceback" not in result.stderr
    assert not re.search(r"\bNone\b|\btuple\b|\w=|\w+Error\b", result.stderr), "words of Python"
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_truncated_checkpoint(pairs: Path, tmp_path: Path, model: str) -> None:
    tiny_pipeline().save_pretrained(tmp_path / "broken")
    weights = tmp_path / "broken" / "model" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    result = run("fuse", pairs, "-o", tmp_path / "out", "-m", tmp_path / "broken")
    assert result.exit_code == 1 and "is damaged or incomplete" in result.stderr and not (tmp_path / "out").exists()


def test_dtype_auto_is_the_same_on_every_machine(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 differs by up to three levels, so a default that depends on the machine gives different pictures."""
    for found in ({"avx512_bf16": True}, {"avx2": True}):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert common.load_pipeline(model, torch.device("cpu"), "auto").dtype is torch.float32
    assert common.load_pipeline(model, torch.device("cpu"), "bfloat16").dtype is torch.bfloat16


def test_messages_name_options_as_they_are_typed() -> None:
    for text, shown in {
        "tile=3 must be": "--tile 3 must be",
        "choose one with split=": "choose one with --split",
        "give infrared_range=(low, high)": "give --infrared-range LOW,HIGH",
        "--infrared-range 5: give": "--infrared-range 5: give",
        "the file tiles=3.png": "the file tiles=3.png",
    }.items():
        assert common.with_option_names(text) == shown


def test_two_processes_share_a_folder(pairs: Path, tmp_path: Path, model: str) -> None:
    spoil(pairs, "b.1")
    options = ("--model", model, "--dtype", "float32", "--noise-strength", 1)
    one = run("fuse", pairs, "--output", tmp_path / "one", *options, "--device", "cpu")
    two = start("fuse", pairs, "--output", tmp_path / "two", *options, processes=2)
    assert one.exit_code == 1 and two.returncode != 0
    assert two.stdout.count("5 pairs") == 1 and two.stdout.count("4 fused, 1 failed") == 1, two.stderr
    assert two.stderr.count("failed: b.1: ") == 1 and "exitcode  : 1" in two.stderr
    assert stems(tmp_path / "one") == stems(tmp_path / "two") == ["a", "c", "d", "e"]
    for name in stems(tmp_path / "one"):
        single, shared = (np.asarray(Image.open(tmp_path / place / f"{name}.png")) for place in ("one", "two"))
        assert np.abs(single.astype(int) - shared).max() <= 1  # threads may sum in another order


def test_two_processes_share_a_streamed_hub_dataset(pairs: Path, tmp_path: Path, model: str) -> None:
    in_memory = [
        {"name": pair.name, "visible": pair.visible, "infrared": pair.infrared} for pair in PairedDataset.open(pairs)
    ]
    PairedDataset.open(in_memory).to_hf().to_parquet(tmp_path / "train.parquet")
    with HubServer() as hub:
        content = (tmp_path / "train.parquet").read_bytes()
        hub.repositories["datasets/owner/data"] = Repository({"train.parquet": content})
        result = start(
            *("fuse", "owner/data", "--streaming", "--split", "train", "--output", tmp_path / "out", "--model", model),
            processes=2,
            **hub.environment(tmp_path / "cache"),
        )
    assert result.returncode == 0, result.stderr
    assert "5 fused" in result.stdout and stems(tmp_path / "out") == NAMES
    for name, (height, width) in zip(NAMES, SIZES, strict=True):
        assert Image.open(tmp_path / "out" / f"{name}.png").size == (width, height)


def test_a_mistake_of_one_process_stops_all_and_is_printed_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(common, "gather", lambda own: [own, ("no pipeline named 'nowhere'", 1)])
    with pytest.raises(common.CommandError, match="no pipeline named 'nowhere'") as error:
        common.fail_together(lambda: "fine here")
    for rank in ("0", "1"):
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(typer.Exit) as end, common.exit_codes("unused"):
            raise error.value
        assert end.value.exit_code == 1
    assert capsys.readouterr().err == "fusion-hub: error: no pipeline named 'nowhere'\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--num-inference-steps 99", "--num-inference-steps 99 must be a whole number from 1 to 40"),
        ("--tile 5", "--tile 5 must be a whole number of at least 704 pixels for this model"),
        ("-m red-small-msrs --num-inference-steps 3", "--num-inference-steps 3 must be a whole number from 1 to 2"),
        ("-m red-small-msrs --noise-strength 0.5", "--noise-strength 0.5 was given, but this model draws no noise"),
    ],
)
def test_options_are_refused_before_torch_is_loaded(pairs: Path, tmp_path: Path, words: str, message: str) -> None:
    program = "import sys; sys.modules['torch'] = None; from fusion_hub.cli import main; main()"
    arguments = ["fuse", str(pairs), "-o", str(tmp_path / "out"), *words.split()]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("evaluate", "--data", "{data}", "--model", "mine"), "NAME=FOLDER"),
        (("evaluate", "--data", "{data}", "--metrics", "qabg"), "did you mean Qabf"),
        (("leaderboard", "nowhere"), "nowhere does not exist: give a summary.json"),
        (("downstream", "nowhere"), "nowhere does not exist: give a run folder"),
    ],
)
def test_a_wrong_word_is_answered_with_the_right_one(
    arguments: tuple[str, ...], found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for band in ("vis", "ir"):
        (tmp_path / "data" / band).mkdir(parents=True)
        Image.new("L", (32, 32), 90).save(tmp_path / "data" / band / "a.png")
    monkeypatch.chdir(tmp_path)
    result = run(*(word.format(data="data") for word in arguments))
    assert result.exit_code in (1, 2) and found in result.stderr and result.stderr.count("\n") == 1


def test_warnings_are_lines_without_paths(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        common.show_warnings_in_words()
        warnings.warn("the driver is too old,\n the CPU is used", UserWarning, stacklevel=1)
        warnings.warn("for programmers", FutureWarning, stacklevel=1)
    assert capsys.readouterr().err == "fusion-hub: warning: the driver is too old, the CPU is used\n"


def test_an_option_does_not_take_the_next_one_as_its_value(tmp_path: Path) -> None:
    result = run("fuse", "a.png", "b.png", "-o", tmp_path / "o.png", "--infrared-range", "--model", "x")
    assert result.exit_code == 2 and "Error: --infrared-range needs a value, but --model follows it." in result.output


def test_the_folder_of_a_run_names_its_pipeline(pairs: Path, tmp_path: Path, model: str) -> None:
    shutil.copytree(model, tmp_path / "mine" / "pipeline")
    result = run("fuse", pairs, "-o", tmp_path / "out", "-m", tmp_path / "mine")
    advice = f"is the folder of a run: give the pipeline in it, {tmp_path / 'mine' / 'pipeline'}"
    assert result.exit_code == 1 and advice in result.output
    (tmp_path / "mine" / "pipeline").rename(tmp_path / "mine" / "step_000010")
    (tmp_path / "mine" / "config.yaml").touch()
    assert "a run that has not ended" in run("fuse", pairs, "-o", tmp_path / "out", "-m", tmp_path / "mine").output


def test_a_sequence_of_counts_gets_one_hint(tmp_path: Path, model: str) -> None:
    random = np.random.default_rng(0)
    for folder, kind in (("vis", np.uint8), ("ir", np.uint16)):
        (tmp_path / "set" / folder).mkdir(parents=True)
        for name in "ab":
            Image.fromarray(random.integers(0, 200, (40, 56), dtype=kind)).save(
                tmp_path / "set" / folder / f"{name}.png"
            )
    words = ("fuse", tmp_path / "set", "-m", model, "-o")
    hint = "16 bits, and each is stretched by itself: give --infrared-range LOW,HIGH"
    assert run(*words, tmp_path / "one").output.count(hint) == 1
    assert hint not in run(*words, tmp_path / "two", "--infrared-range", "0,200").output
    assert hint not in run(*words, tmp_path / "three", "--limit", 1).output
    (tmp_path / "set" / "ir").rename(tmp_path / "set" / "mri")
    assert hint not in run(*words, tmp_path / "four").output


def test_an_overlay_is_of_uptake(tmp_path: Path, model: str) -> None:
    for name in ("ct", "pet", "scan", "mri"):
        Image.fromarray(np.arange(1600, dtype=np.uint8).reshape(40, 40)).save(tmp_path / f"{name}.png")
    results = {
        name: run("fuse", tmp_path / f"{name}.png", tmp_path / "mri.png", "-m", model, *overlay, tmp_path / "o.png")
        for name, overlay in dict.fromkeys(("ct", "pet", "scan"), ("--colors", "overlay", "-o")).items()
    }
    assert [result.exit_code for result in results.values()] == [0, 0, 0]
    warning = "--colors overlay draws every value as uptake, so use it only for PET and SPECT"
    assert [warning in result.output for result in results.values()] == [True, False, True]
    assert "ct.png is named as a CT" in results["ct"].output and "scan.png has no colors" in results["scan"].output


def test_a_value_may_be_called_like_an_argument() -> None:
    """`--format folder`: "folder" is a value here, although the command has an argument of that name."""
    result = CliRunner().invoke(
        cli.app, ["publish-dataset", "nowhere", "--repo-id", "me/x", "--format", "folder", "--dry-run"]
    )
    assert result.exit_code == 2 and "there is no folder 'nowhere'" in result.output


@pytest.mark.skipif(not torch.__version__.endswith("+cpu"), reason="this build of torch may find a GPU")
def test_a_build_for_cpus_refuses_cuda_at_once(tmp_path: Path) -> None:
    """Without loading torch, which takes a second."""
    code = (
        "import sys\nfrom fusion_hub.cli import app\ntry: app()\nfinally: sys.exit(9 if 'torch' in sys.modules else 0)"
    )
    pair = sample_pairs()[0]
    command = [
        sys.executable,
        "-c",
        code,
        "fuse",
        pair.visible,
        pair.infrared,
        "-o",
        tmp_path / "o.png",
        "--device=cuda",
    ]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert result.returncode == 0 and "a build for CPUs): try cpu" in result.stderr
