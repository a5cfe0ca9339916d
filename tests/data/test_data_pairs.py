"""`PairedDataset`: every layout opens with the right pairs, and the report finds every defect that was put in."""

import csv
import json
import pickle
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusion_hub.data import Pair, PairedDataset
from fusion_hub.data.layouts import find_splits


def picture(seed: int, size: tuple[int, int] = (12, 8), mode: str = "L") -> Image.Image:
    width, height = size
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def save(path: Path, seed: int, size: tuple[int, int] = (12, 8), mode: str = "L", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed, size, mode).save(path, **options)
    return path


def folder(root: Path, count: int = 3, visible: str = "vis", infrared: str = "ir", start: int = 0) -> Path:
    for number in range(count):
        save(root / visible / f"{number}.png", start + 2 * number, mode="RGB")
        save(root / infrared / f"{number}.png", start + 2 * number + 1)
    return root


def names(dataset: PairedDataset) -> list[str]:
    return [pair.name for pair in dataset]


# --- layouts


@pytest.mark.parametrize(
    ("visible", "infrared"), [("VI", "IR"), ("Visible", "Infrared"), ("rgb", "thermal"), ("pet", "mri")]
)
def test_common_folder_names(tmp_path: Path, visible: str, infrared: str) -> None:
    dataset = PairedDataset.open(folder(tmp_path, 3, visible, infrared))
    assert names(dataset) == ["0", "1", "2"]
    assert dataset[1].visible.mode == "RGB" and dataset[1].infrared.mode == "L"
    assert dataset.check().ok


def test_stems_pair_over_extensions_and_numbers_sort_as_numbers(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        save(tmp_path / "vis" / f"a{number}.webp", number, lossless=True)
        save(tmp_path / "ir" / f"a{number}.TIFF", number + 50)
    (tmp_path / "vis" / "notes.txt").write_text("not a picture")
    (tmp_path / "vis" / "._a1.png").write_bytes(b"left by another system")
    (tmp_path / "label").mkdir()
    assert names(PairedDataset.open(tmp_path)) == ["a1", "a2", "a10"]


def test_splits_as_outer_or_inner_folder(tmp_path: Path) -> None:
    assert len(PairedDataset.open(folder(tmp_path / "single" / "train").parent)) == 3  # needs no name
    for split, count in (("train", 3), ("Test", 2)):
        folder(tmp_path / "outer" / split, count)
        folder(tmp_path / "inner", count, f"visible/{split}", f"infrared/{split}")
    for layout in ("outer", "inner"):
        assert len(PairedDataset.open(tmp_path / layout, split="train")) == 3
        assert len(PairedDataset.open(tmp_path / layout, split="test")) == 2
        with pytest.raises(ValueError, match="train"):  # several splits: none is chosen silently
            PairedDataset.open(tmp_path / layout)
        with pytest.raises(ValueError, match="'val'"):
            PairedDataset.open(tmp_path / layout, split="val")
    assert len(PairedDataset.open(tmp_path / "outer" / "train", split="train")) == 3
    inner = tmp_path / "inner"
    assert len(PairedDataset.open((inner / "visible", inner / "infrared"), split="test")) == 2
    with pytest.raises(ValueError, match="do not both have a folder 'val'"):
        PairedDataset.open((inner / "visible", inner / "infrared"), split="val")


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_metadata_file(tmp_path: Path, suffix: str) -> None:
    folder(tmp_path, 3, "a", "b")
    columns = ("visible_file_name", "infrared_file_name", "name")
    rows = [dict(zip(columns, (f"a/{n}.png", f"b/{n}.png", f"scene {n}"), strict=True)) for n in (2, 0)]
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    text = "\n".join(lines if suffix == "csv" else map(json.dumps, rows))
    (tmp_path / f"metadata.{suffix}").write_text(text)
    dataset = PairedDataset.open(tmp_path)
    assert names(dataset) == ["scene 2", "scene 0"]
    assert np.array_equal(np.asarray(dataset[0].visible), np.asarray(Image.open(tmp_path / "a" / "2.png")))
    assert dataset.check().unlisted == ("a/1.png", "b/1.png")


def test_metadata_may_not_leave_its_folder(tmp_path: Path) -> None:
    save(tmp_path / "x.png", 0)
    root = folder(tmp_path / "set", 1, "a", "b")
    for path in ("../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png", "C:\\x.png", ""):
        (root / "metadata.jsonl").write_text(json.dumps({"vis": "a/0.png", "ir": path}))
        with pytest.raises(ValueError, match=r"row 1, ir.*must be a path below"):
            PairedDataset.open(root)


def test_metadata_with_missing_files_and_hostile_names(tmp_path: Path) -> None:
    root = folder(tmp_path, 2, "a", "b")
    rows = [
        {"visible": "a/0.png", "infrared": "b/0.png", "name": "../../0"},
        {"visible": "a/gone.png", "infrared": "b/1.png", "name": "one"},
        {"visible": "a/1.png", "infrared": "b/gone.png", "name": "two"},
    ]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = PairedDataset.open(root)
    assert names(dataset) == ["_.._0"]  # a name becomes a file name
    report = dataset.check()
    assert report.missing_visible == ("one (a/gone.png)",) and report.missing_infrared == ("two (b/gone.png)",)


def test_two_folders_two_files_and_lists(tmp_path: Path) -> None:
    root = folder(tmp_path, 2, "left", "right")
    assert names(PairedDataset.open((root / "left", str(root / "right")))) == ["0", "1"]
    assert names(PairedDataset.open((root / "left" / "1.png", root / "right" / "0.png"))) == ["1"]
    deep = np.arange(96, dtype=np.uint16).reshape(8, 12) * 600
    memory = {"visible": picture(1), "infrared": deep, "name": "memory"}
    files = root / "left" / "0.png", root / "right" / "0.png"
    dataset = PairedDataset.open([files, memory, Pair("own", picture(2), picture(3))])
    assert names(dataset) == ["0", "memory", "own"]
    assert np.array_equal(dataset[1].infrared, deep)
    assert dataset.check().ok
    assert PairedDataset.open(dataset) is dataset


# --- the datasets library


def table(count: int = 4):
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    deep = [np.full((8, 12), 1000 * n + 7, np.uint16) for n in range(count)]
    rows = {"vis": [picture(n, mode="RGB") for n in range(count)], "ir": deep, "id": [f"p{n}" for n in range(count)]}
    return Dataset.from_dict(rows, Features({"vis": ImageFeature(), "ir": ImageFeature(), "id": Value("string")}))


def test_datasets_object_keeps_sixteen_bits() -> None:
    dataset = PairedDataset.open(table())
    assert names(dataset) == ["p0", "p1", "p2", "p3"]
    assert dataset[3].infrared.mode == "I;16" and np.asarray(dataset[3].infrared).max() == 3007
    assert dataset[-1].name == "p3" and names(dataset[1:3]) == ["p1", "p2"]


def test_stream_has_no_length_but_everything_else() -> None:
    stream = PairedDataset.open(table().to_iterable_dataset(num_shards=2))
    assert stream.length is None and names(stream) == ["p0", "p1", "p2", "p3"]
    assert sorted(names(stream.shard(0, 2)) + names(stream.shard(1, 2))) == ["p0", "p1", "p2", "p3"]
    assert stream.check().pairs == 4
    rows = list(stream.to_hf())
    assert [row["name"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert rows[0]["visible"].mode == "RGB" and rows[2]["infrared"].mode == "I;16"
    for act in (lambda: len(stream), lambda: stream[0], lambda: stream.exclude(["p0"])):
        with pytest.raises(TypeError, match="streamed"):
            act()


def test_streams_with_a_decoder_and_without_names() -> None:
    """`load_dataset` streams from the Hub with decoding threads, which a cast alone would leave in place."""
    stream = PairedDataset.open(table().to_iterable_dataset().decode(num_threads=2))
    assert all(isinstance(pair.visible_source, dict) for pair in stream)
    assert [np.asarray(pair.infrared).max() for pair in stream] == [7, 1007, 2007, 3007]
    unnamed = PairedDataset.open(table().remove_columns("id").to_iterable_dataset(num_shards=2))
    assert len({name for rank in range(2) for name in names(unnamed.shard(rank, 2))}) == 4  # different in each shard


def test_an_empty_cell_does_not_end_the_iteration() -> None:
    from datasets import Dataset, Features
    from datasets import Image as ImageFeature

    rows = {"visible": [picture(0), None, picture(1)], "infrared": [picture(2), picture(3), picture(4)]}
    holes = Dataset.from_dict(rows, Features({"visible": ImageFeature(), "infrared": ImageFeature()}))
    for source in (holes, holes.to_iterable_dataset()):
        report = PairedDataset.open(source).check()
        assert report.pairs == 3 and report.usable == 2 and len(report.unreadable) == 1


def test_to_hf_round_trip(tmp_path: Path) -> None:
    dataset = PairedDataset.open(folder(tmp_path))
    exported = dataset.to_hf()
    assert exported.column_names == ["name", "visible", "infrared"]
    undecoded = exported.cast_column("visible", type(exported.features["visible"])(decode=False))
    assert undecoded[0]["visible"]["bytes"] is None
    back = PairedDataset.open(exported)
    for before, after in zip(dataset, back, strict=True):
        assert before.name == after.name
        assert np.array_equal(np.asarray(before.visible), np.asarray(after.visible))
    memory = PairedDataset.open([{"visible": picture(0), "infrared": np.full((8, 12), 4321, np.uint16), "name": "m"}])
    assert np.asarray(memory.to_hf()[0]["infrared"]).max() == 4321


def test_hub_layout_with_metadata_loads_through_datasets(tmp_path: Path) -> None:
    """The folder that the Hub would hold: `datasets` itself makes two image columns of `*_file_name`."""
    from datasets import load_dataset

    root = folder(tmp_path / "set" / "train", 3, "a", "b")
    lines = ["visible_file_name,infrared_file_name"] + [f"a/{n}.png,b/{n}.png" for n in range(3)]
    (root / "metadata.csv").write_text("\n".join(lines))
    for streaming in (False, True):
        cache = str(tmp_path / "cache")
        loaded = load_dataset(str(tmp_path / "set"), split="train", streaming=streaming, cache_dir=cache)
        dataset = PairedDataset.open(loaded)
        assert names(dataset) == ["0", "1", "2"]
        assert dataset.check(decode=True).ok


def test_a_folder_of_parquet_files(tmp_path: Path) -> None:
    """A downloaded copy of such a Hub dataset, read while streaming, so that nothing is put into a cache."""
    pairs = [{"name": name, "visible": picture(1, mode="RGB"), "infrared": picture(2)} for name in ("0", "1", "2")]
    (tmp_path / "copy" / "data").mkdir(parents=True)
    PairedDataset.open(pairs).to_hf().to_parquet(tmp_path / "copy" / "data" / "train-00000-of-00001.parquet")
    copy = PairedDataset.open(tmp_path / "copy", split="train", streaming=True)
    assert [(p.name, p.visible.mode, p.infrared.mode) for p in copy] == [(name, "RGB", "L") for name in ("0", "1", "2")]
    with pytest.raises(ValueError, match="as a data set it cannot be opened with the split 'night'"):
        PairedDataset.open(tmp_path / "copy", split="night", streaming=True)


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        ("vis ir", []),
        ("train/vis train/ir test/vis test/ir notes", ["test", "train"]),
        ("vis/train ir/train vis/test", ["test", "train"]),
        ("train/vis train/ir val", ["train", "val"]),
    ],
)
def test_splits_are_found(tmp_path: Path, folders: str, splits: list[str]) -> None:
    for inside in folders.split():
        (tmp_path / inside).mkdir(parents=True)
    assert find_splits(tmp_path) == splits


# --- a set as a sequence


def test_shard_exclude_slice_and_pickle(tmp_path: Path) -> None:
    dataset = PairedDataset.open(folder(tmp_path, 5))
    for world in (1, 2, 7):
        shares = [names(dataset.shard(rank, world)) for rank in range(world)]
        assert sorted(name for share in shares for name in share) == names(dataset)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        with pytest.raises(ValueError, match="rank"):
            dataset.shard(world, world)
    assert names(dataset.exclude(["1", "3", "never"])) == ["0", "2", "4"]
    assert names(dataset.exclude(["1"])[1:].shard(1, 2)) == ["3"]
    assert names(pickle.loads(pickle.dumps(dataset))) == names(dataset)
    with pytest.raises(IndexError):
        dataset[5]


def test_nothing_is_read_before_it_is_needed(tmp_path: Path) -> None:
    root = folder(tmp_path, 2)
    (root / "ir" / "0.png").write_bytes(b"not a picture")
    pairs = list(PairedDataset.open(root))  # a bad file does not end the iteration
    assert pairs[0].visible.size == (12, 8)
    with pytest.raises(ValueError, match="not an image that can be read"):
        _ = pairs[0].infrared
    assert pairs[1].infrared.size == (12, 8)


# --- the report


def test_report_finds_every_defect(tmp_path: Path) -> None:
    root = folder(tmp_path, 3)
    save(root / "vis" / "alone_here.png", 20)
    save(root / "ir" / "alone_there.png", 21)
    for name in ("twice.png", "twice.jpg"):
        save(root / "vis" / name, 22)
    save(root / "ir" / "twice.png", 23)
    save(root / "vis" / "sizes.png", 24, (12, 8))
    save(root / "ir" / "sizes.png", 25, (8, 12))
    save(root / "vis" / "broken.png", 26)
    (root / "ir" / "broken.png").write_bytes(b"\x89PNG nonsense")
    save(root / "vis" / "copy.png", 0, mode="RGB")  # the same as vis/0.png
    save(root / "ir" / "copy.png", 27)
    dataset = PairedDataset.open(root)
    report = dataset.check()
    assert report.missing_infrared == ("alone_here.png",) and report.missing_visible == ("alone_there.png",)
    assert report.ambiguous == ("twice (twice.jpg, twice.png)",)
    assert report.unequal_sizes == ("sizes: visible 12x8, infrared 8x12",)
    assert len(report.unreadable) == 1 and report.unreadable[0].startswith("broken (infrared)")
    assert report.duplicates == ("0 (visible) = copy (visible)",)
    assert (report.pairs, report.usable) == (6, 4)
    assert not report.ok and report.raise_if_empty() is report
    text = str(report)
    for word in ("6 pairs, 4 usable", "alone_here", "alone_there", "twice", "8x12", "broken", "copy", "unequal sizes"):
        assert word in text
    assert names(dataset.exclude(report.bad_names)) == ["0", "1", "2", "copy"]
    with pytest.raises(ValueError, match=r"no usable pair(.|\n)*12x8"):
        dataset.exclude(["0", "1", "2", "copy", "broken"]).check().raise_if_empty()


def test_decoding_finds_truncated_files_and_equal_pixels(tmp_path: Path) -> None:
    root = folder(tmp_path, 2)
    whole = save(root / "vis" / "cut.png", 40, (64, 64)).read_bytes()
    (root / "vis" / "cut.png").write_bytes(whole[: len(whole) // 2])
    save(root / "ir" / "cut.png", 41, (64, 64))
    save(root / "vis" / "same.tiff", 0, mode="RGB")  # the pixels of vis/0.png in another format
    save(root / "ir" / "same.png", 42)
    dataset = PairedDataset.open(root)
    assert dataset.check().ok
    report = dataset.check(decode=True)
    assert report.bad_names == {"cut"} and report.duplicates == ("0 (visible) = same (visible)",)


def test_sizes_are_those_after_the_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, suffix in enumerate((".jpg", ".png", ".webp", ".tiff")):
        save(tmp_path / "vis" / f"{number}{suffix}", number, (8, 12), "RGB", exif=exif)
        save(tmp_path / "ir" / f"{number}.png", number + 9, (12, 8))
    assert PairedDataset.open(tmp_path).check().ok


def test_overlap_between_splits(tmp_path: Path) -> None:
    train = PairedDataset.open(folder(tmp_path / "train", 3, start=0))
    test = PairedDataset.open(folder(tmp_path / "test", 3, start=4))  # its first pair is the last of train
    found = train.find_overlap(test)
    assert {tuple(match) for match in found} == {("2", "visible", "0", "visible"), ("2", "infrared", "0", "infrared")}
    assert not train[:2].find_overlap(test)


# --- errors


def test_error_names_what_was_seen_and_what_is_understood(tmp_path: Path) -> None:
    save(tmp_path / "vis" / "a.png", 0)
    (tmp_path / "warm").mkdir()
    with pytest.raises(ValueError, match=r"no infrared folder\. Seen: vis, warm\..*thermal.*give the two folders"):
        PairedDataset.open(tmp_path)
    save(tmp_path / "rgb" / "a.png", 0)
    save(tmp_path / "ir" / "a.png", 0)
    with pytest.raises(ValueError, match="several folders may be the visible one: rgb, vis"):
        PairedDataset.open(tmp_path)


def test_no_pair_left_is_an_error_with_the_report(tmp_path: Path) -> None:
    save(tmp_path / "vis" / "a_vis.png", 0)
    save(tmp_path / "ir" / "b_ir.png", 0)
    with pytest.raises(ValueError, match=r"no pair is left(.|\n)*a_vis(.|\n)*b_ir"):
        PairedDataset.open(tmp_path)
    (tmp_path / "ir" / "b_ir.png").unlink()
    with pytest.raises(ValueError, match="holds no image"):
        PairedDataset.open(tmp_path)


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("no such folder at all", FileNotFoundError, "no such folder"),
        (42, TypeError, "int"),
        ([], ValueError, "no pair is left"),
        ([1], TypeError, "pair 0"),
        ([{"visible": "a.png"}], ValueError, "'infrared'"),
        ([("a.png", 3)], TypeError, "pair 0 of the list, infrared is a int"),
        ([("x/a.png", "y/a.png"), ("z/a.png", "y/a.png")], ValueError, "same name for several pairs: a"),
        (("no_vis", "no_ir"), FileNotFoundError, "no_vis"),
    ],
)
def test_bad_sources(source: object, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        PairedDataset.open(source)


def test_table_without_image_columns() -> None:
    from datasets import Dataset

    with pytest.raises(ValueError, match=r"no infrared column\. Seen: visible, depth"):
        PairedDataset.open(Dataset.from_dict({"visible": ["a"], "depth": ["b"]}))
    with pytest.raises(ValueError, match="'visible' does not hold images"):
        PairedDataset.open(Dataset.from_dict({"visible": [1.5], "infrared": [2.5]}))


# --- real data


def test_real_sets_have_the_pairs_of_the_index(data_root: Path) -> None:
    with (data_root / "data" / "index.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    wanted = ("roadscene", "tno", "msrs", "mri_pet", "mri_ct", "mri_spect")
    counts = Counter((row["dataset"], row["split"]) for row in rows if row["dataset"] in wanted)
    for (dataset, split), count in counts.items():
        opened = PairedDataset.open(data_root / "data" / dataset, split=split)
        listed = {row["name"] for row in rows if (row["dataset"], row["split"]) == (dataset, split)}
        assert len(opened) == count and set(names(opened)) == listed


def test_real_sets_report(data_root: Path) -> None:
    data = data_root / "data"
    tno = PairedDataset.open(data / "tno", split="test")
    assert tno.check(decode=True).ok
    assert not tno.find_overlap(PairedDataset.open(data / "tno", split="train"))
    raw = PairedDataset.open(data / "roadscene", split="raw").check()
    assert raw.usable == 0 and len(raw.unequal_sizes) == raw.pairs == 6
