"""Folders of pairs on the Hub: what is refused, what is uploaded, and that it streams with every bit in its place."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from huggingface_hub import snapshot_download
from PIL import Image

from fusion_hub.data import PairedDataset
from fusion_hub.hub import PublishError
from fusion_hub.hub.dataset import DatasetInfo, check_dataset, staged_dataset, write_parquet
from tests.support.hub_server import READ_TOKEN, HubServer

SIZE = (24, 16)
NAMES = {"train": ["00012", "00013", "night street (2)"], "test": ["00099", "Été+1"]}
EXTENSIONS = (("png", "png"), ("jpg", "tiff"), ("webp", "png"))  # visible, infrared


def draw(seed: int) -> tuple[Image.Image, Image.Image]:
    """A color picture and 14 bits of counts."""
    random = np.random.default_rng(seed)
    visible = random.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
    return Image.fromarray(visible), Image.fromarray(random.integers(2000, 16384, SIZE[::-1], dtype=np.uint16))


def make_pairs(folder: Path, names: list[str], seed: int = 0) -> Path:
    for number, name in enumerate(names):
        for band, picture, extension in zip(
            ("vis", "ir"), draw(seed + number), EXTENSIONS[number % len(EXTENSIONS)], strict=True
        ):
            (folder / band).mkdir(parents=True, exist_ok=True)
            picture.save(folder / band / f"{name}.{extension}")
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two splits of 16-bit infrared with color, in several file formats."""
    root = tmp_path_factory.mktemp("data") / "mine"
    for number, (split, names) in enumerate(NAMES.items()):
        make_pairs(root / split, names, 100 * number)
    return root


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A small set to be damaged."""
    for number, split in enumerate(("train", "test")):
        make_pairs(tmp_path / "set" / split, ["a", "b"], 100 * number)
    return tmp_path / "set"


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def published(pairs: Path, hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Output of the command by format; the repositories are `tester/folder` and `tester/parquet`. All is done twice."""
    terms = ["--license", "cc-by-4.0", "--source", "drawn by a test", "--tag", "v1"]
    outputs = {}
    for name in ("folder", "parquet", "folder", "parquet"):
        command = ["publish-dataset", pairs, "--repo-id", f"tester/{name}", "--format", name, *terms]
        private = ["--private"] if name == "parquet" else []
        code, output = hub.invoke(tmp_path_factory.mktemp("publisher"), *command, *private)
        assert code == 0, output
        outputs.setdefault(name, output)
    return outputs


def stored(pairs: PairedDataset) -> list[tuple[str, Any, Any]]:
    return [(pair.name, pixels(pair.visible), pixels(pair.infrared)) for pair in pairs]


def pixels(picture: Image.Image) -> tuple[str, Any]:
    return picture.mode, np.asarray(picture).tolist()


# --- publish and read ---


@pytest.mark.usefixtures("published")
def test_every_way_of_reading_gives_the_same_bits(
    pairs: Path, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With empty caches and a token that may only read."""
    hub.redirect(monkeypatch, tmp_path, READ_TOKEN)
    for repo_id in ("tester/folder", "tester/parquet"):
        snapshot = snapshot_download(repo_id, repo_type="dataset", revision="v1")
        for split, names in NAMES.items():
            expected = stored(PairedDataset.open(pairs, split))
            assert [name for name, *_ in expected] == names and {infrared[0] for *_, infrared in expected} == {"I;16"}
            stream = datasets.load_dataset(repo_id, split=split, revision="v1", streaming=True)
            rows = [(pixels(row["visible"]), pixels(row["infrared"])) for row in stream]
            assert rows == [(visible, infrared) for _, visible, infrared in expected]
            assert {type(stream.features[band]) for band in ("infrared", "visible")} == {datasets.Image}
            assert stored(PairedDataset.open(repo_id, split, streaming=True)) == expected
            assert stored(PairedDataset.open(repo_id, split)) == expected
            assert stored(PairedDataset.open(snapshot, split)) == expected
            assert len(datasets.load_dataset(snapshot, split=split)) == len(expected)


def test_what_is_in_the_repository(hub: HubServer, pairs: Path, published: dict[str, str]) -> None:
    for name, output in published.items():
        repository = hub.repository(f"datasets/tester/{name}")
        assert repository.private is (name == "parquet") and repository.tags == {"v1": repository.head.oid}
        assert len(repository.commits) == 2, "that of its creation, and ours; the second time nothing was new"
        card = repository.files["README.md"].decode()
        assert "license: cc-by-4.0" in card and "drawn by a test" in card
        for words in ("train: 3 pairs", "test: 2 pairs", "infrared: 5 I;16", "README.md", f"tester/{name} at v1"):
            assert words.lower() in output.lower(), output
    files = hub.repository("datasets/tester/folder").files
    assert files["train/infrared/00013.tiff"] == (pairs / "train/ir/00013.tiff").read_bytes()
    rows = files["train/metadata.csv"].decode().splitlines()[:2]
    assert rows == ["infrared_file_name,visible_file_name", "infrared/00012.png,visible/00012.png"]
    shards = {path for path in hub.repository("datasets/tester/parquet").files if path.endswith(".parquet")}
    assert shards == {f"data/{split}-00000-of-00001.parquet" for split in NAMES}
    assert list(pairs.parent.iterdir()) == [pairs], "nothing is left beside the folder"


# --- faults: a sentence, and nothing uploaded ---


def save_over(target: Path, source: Path) -> None:
    target.write_bytes(source.read_bytes())


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no infrared partner": (lambda f: (f / "train/ir/a.png").unlink(), "train: no infrared picture for a.png: add it"),
    "no visible partner": (lambda f: (f / "test/vis/b.jpg").unlink(), "test: no visible picture for b.tiff: add it"),
    "unequal sizes": (
        lambda f: Image.new("I;16", (20, 16)).save(f / "test/ir/a.png"),
        "test: pictures of different size, a: visible 24x16, infrared 20x16",
    ),
    "truncated": (
        lambda f: (f / "train/ir/a.png").write_bytes((f / "train/ir/a.png").read_bytes()[:-300]),
        r"train: files that cannot be read, a \(infrared\): .*cut off",
    ),
    "no picture": (lambda f: (f / "train/vis/a.png").write_text("text"), r"cannot be read, a \(visible\)"),
    "leak": (
        lambda f: save_over(f / "test/ir/a.png", f / "train/ir/a.png"),
        r"train and test share 1 pictures, a \(infrared\) = a \(infrared\): remove",
    ),
    "leak in another file format": (
        lambda f: Image.open(f / "train/ir/b.tiff").save(f / "test/ir/a.png"),
        r"train and test share 1 pictures, b \(infrared\) = a \(infrared\)",
    ),
    "two files of one stem": (
        lambda f: draw(7)[0].save(f / "train/vis/a.bmp"),
        r"train: several files with the same stem, a \(a.bmp, a.png\)",
    ),
    "only one band in a split": (
        lambda f: [file.unlink() for file in (f / "test/ir").iterdir()],
        "test.ir holds no image",
    ),
    "a name that no address takes": (lambda f: make_pairs(f / "train", ["a?b#c"], 50), r"train: names .* 'a\?b#c'"),
    "names that differ in case": (lambda f: make_pairs(f / "train", ["B"], 50), "differ in case only, B, b: rename"),
    "a split that datasets cannot name": (lambda f: (f / "test").rename(f / "test-1"), "test-1 cannot name a split"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_reported(fresh: Path, fault: str) -> None:
    damage, message = FAULTS[fault]
    damage(fresh)
    with pytest.raises(PublishError, match=message):
        check_dataset(fresh)


def test_all_faults_at_once(fresh: Path) -> None:
    for fault in ("no infrared partner", "unequal sizes", "names that differ in case"):
        FAULTS[fault][0](fresh)
    with pytest.raises(PublishError) as refusal:
        check_dataset(fresh)
    for message in ("no infrared picture for a", "different size, a", "differ in case only"):
        assert message in str(refusal.value)


def test_a_folder_without_pairs_or_files(tmp_path: Path) -> None:
    with pytest.raises(PublishError, match="is not a folder"):
        check_dataset(tmp_path / "missing")
    with pytest.raises(PublishError, match="no visible folder"):
        check_dataset(tmp_path)
    make_pairs(tmp_path, ["a"])
    rows = "visible_file_name,infrared_file_name\nvis/a.png,ir/a.png\nvis/b.png,ir/a.png\n"
    (tmp_path / "metadata.csv").write_text(rows)
    with pytest.raises(PublishError, match=r"train: no visible picture for b \(vis/b.png\)"):
        check_dataset(tmp_path)


def test_nothing_is_uploaded_after_a_fault(fresh: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    for number, split in enumerate(("train", "test")):
        make_pairs(damaged / split, ["a"], 100 * number)
    FAULTS["leak"][0](damaged)
    command, license_option = ["publish-dataset", fresh, "--repo-id", "tester/damaged"], ["--license", "mit"]
    commands: list[tuple[list[object], int, str]] = [
        (["publish-dataset", damaged, *command[2:], *license_option], 1, "share 1 pictures"),
        (command, 2, "--license is missing"),
        ([*command, "--licence", "cc-by-5.0"], 1, "cc-by-5.0"),
        ([*command[:3], "damaged", *license_option], 1, "'damaged'"),
        ([*command, "--dry-run"], 0, "dry run: nothing was uploaded"),
    ]
    with HubServer() as hub:
        for arguments, code, message in commands:
            found = hub.invoke(tmp_path / "home", *arguments)
            assert found[0] == code and message in found[1], found
        assert "--license is required" in found[1] and not hub.repositories


def test_refusals_by_the_hub(fresh: Path, tmp_path: Path) -> None:
    command = ["publish-dataset", fresh, "--repo-id", "tester/refused", "--license", "mit", "--tag", "v1"]
    with HubServer() as hub:
        code, output = hub.invoke(tmp_path, *command, token="hf_wrong")
        assert code == 1 and "token" in output and "hf_wrong" not in output and not hub.repositories
        hub.fail("POST", "/commit/", status=412)
        hub.fail("POST", "/tag/", status=403)
        hub.fail("GET|HEAD", r"/resolve/.*metadata\.csv", status=404, times=float("inf"))
        for message in ("somebody else changed tester/refused", "may not write", "its split train cannot be streamed"):
            code, output = hub.invoke(tmp_path, *command)
            assert code == 1 and message in output, output
        assert "its tag v1 was removed again" in output and not hub.repository("datasets/tester/refused").tags
        hub.faults.clear()
        assert hub.invoke(tmp_path, *command)[0] == 0
        repository = hub.repository("datasets/tester/refused")
        assert repository.tags == {"v1": repository.head.oid} and len(repository.commits) == 2


# --- layouts, notes, shards ---


@pytest.mark.parametrize(("folder", "split"), [("val", "val"), ("Test", "test"), ("street", "train")])
def test_a_set_without_splits_is_named_after_its_folder(tmp_path: Path, folder: str, split: str) -> None:
    assert check_dataset(make_pairs(tmp_path / folder, ["a"])).sizes == {split: 1}


def test_bands_above_splits(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        pair = make_pairs(tmp_path / "single", [split], number)
        for band in ("vis", "ir"):
            (tmp_path / "set" / band / split).mkdir(parents=True)
            (pair / band / f"{split}.png").rename(tmp_path / "set" / band / split / "a.png")
    assert check_dataset(tmp_path / "set").sizes == {"test": 1, "train": 1}


def test_notes(fresh: Path) -> None:
    assert check_dataset(fresh).notes == ()
    (fresh / "train/label").mkdir()
    (fresh / "terms.txt").write_text("ask us")
    save_over(fresh / "train/vis/c.png", fresh / "train/vis/a.png")
    Image.new("L", SIZE).save(fresh / "train/ir/c.png")
    exif = Image.Exif()
    exif.get_ifd(0x8825)[1] = "N"
    draw(9)[0].save(fresh / "test/vis/b.jpg", exif=exif)
    notes = "\n".join(check_dataset(fresh).notes)
    for words in (
        "train: equal pictures within the split: a (visible) = c (visible)",
        "the infrared pictures have different depths (4 I;16, 1 L)",
        "the EXIF data of 1 files show everyone where they were taken: b (visible)",
        "not published, because they are not pairs: train/label, terms.txt",
    ):
        assert words in notes, notes


def test_shards_share_the_pairs(pairs: Path, tmp_path: Path) -> None:
    dataset = PairedDataset.open(make_pairs(tmp_path / "set", [str(number) for number in range(9)]))
    largest = max(pair.visible_source.stat().st_size for pair in dataset)
    files = write_parquet(dataset, tmp_path / "data", "train", shard_bytes=2 * largest)
    assert [file.name for file in files] == [f"train-{number:05d}-of-00008.parquet" for number in range(8)]
    streamed = list(PairedDataset.open(tmp_path, "train", streaming=True))
    assert [pair.name for pair in streamed] == [pair.name for pair in dataset]
    for ours, theirs in zip(dataset, streamed, strict=True):
        np.testing.assert_array_equal(np.asarray(ours.infrared), np.asarray(theirs.infrared))


def test_large_folders_want_parquet(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fusion_hub.hub.dataset.FOLDER_ENTRIES", 1)
    checked = check_dataset(fresh)
    with (
        pytest.raises(PublishError, match=r"train has 2 pairs, but the Hub allows 1 files .*--format parquet"),
        staged_dataset(checked, "tester/large", DatasetInfo("mit")),
    ):
        pass
