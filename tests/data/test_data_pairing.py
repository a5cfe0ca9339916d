"""Pairing by name: every convention of cameras and data sets, no file twice, none merged in silence."""

import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image

from fusion_hub.data import PairedDataset
from fusion_hub.data.layouts import read_rows
from fusion_hub.data.pairing import Named, file_role, find_mark, pair_files, split_by_role


def save(path: Path, seed: int, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (8, 12) if channels == 1 else (8, 12, channels)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


CONVENTIONS = [
    ("street_vis", "street_ir"),
    ("street_rgb", "street_th"),
    ("street_co", "street_ir"),
    ("street-VIS", "street-IR"),
    ("FLIR_00006_RGB", "FLIR_00006_PreviewData"),
    ("FLIR_00006_RGB", "FLIR_00006"),
    ("DJI_20230101_0001_V", "DJI_20230101_0001_T"),
    ("DJI_0001_W", "DJI_0001_T"),
    ("VIS_01", "IR_01"),
    ("vis01", "ir01"),
    ("0001v", "0001i"),
    ("v01", "i01"),
    ("scene.visible", "scene.thermal"),
    ("IMG_0001", "img_0001"),
    (unicodedata.normalize("NFC", "Gel\u00e4nde"), unicodedata.normalize("NFD", "Gel\u00e4nde")),
    ("slice3_CT", "slice3_MR"),
    ("plain", "plain"),
    ("vis", "ir"),
]


@pytest.mark.parametrize(("visible", "infrared"), CONVENTIONS)
def test_conventions(visible: str, infrared: str) -> None:
    result = pair_files([Named(visible, 1), Named("other_vis", 3)], [Named(infrared, 2), Named("another_ir", 4)])
    assert [(v, i) for _, v, i in result.pairs] == [(1, 2)]
    assert [file.file for file in result.visible + result.infrared] == [3, 4] and not result.ambiguous
    if find_mark(infrared).role:  # both in one folder
        left, right = split_by_role([Named(visible, 1), Named(infrared, 2)])
        assert [file.file for file in left] == [1] and [file.file for file in right] == [2]


def test_no_two_files_become_one() -> None:
    result = pair_files(
        [Named(name, name) for name in ("A", "a", "b_vis", "B_VIS", "c", "c", "d", "d_vis", "e_w", "e_z")],
        [Named(name, name + "!") for name in ("a", "b_ir", "c", "d", "d_ir", "e_t")],
    )
    assert sorted(result.pairs) == [
        ("a", "a", "a!"),
        ("d", "d", "d!"),
        ("d_vis", "d_vis", "d_ir!"),  # the short name is taken
        ("e", "e_w", "e_t!"),  # the wide camera, not the zoom
    ]
    assert [[file.file for file in group] for group in result.ambiguous] == [["c", "c"], ["b_vis", "B_VIS"]]
    assert [file.file for file in result.visible] == ["A", "e_z"]
    assert len({name for name, _, _ in result.pairs}) == len(result.pairs)


def test_folders_tell_roles_before_names() -> None:
    assert file_role(PurePosixPath("night/IR/vis_1.png")) == ("night/vis_1", "infrared")
    assert file_role(PurePosixPath("night/v/1.png")) == ("night/1", "visible")
    assert file_role(PurePosixPath("night/street_ir.png")) == ("night/street_ir", "infrared")
    assert file_role(PurePosixPath("street.png")) == ("street", None)


@pytest.mark.parametrize("twice", [True, False])
def test_one_folder_is_split_by_names(tmp_path: Path, twice: bool) -> None:
    for number in range(2):
        save(tmp_path / "JPEGImages" / f"FLIR_{number}_RGB.jpg", number, 3)
        save(tmp_path / "JPEGImages" / f"FLIR_{number}_PreviewData.jpeg", number + 5)
    (tmp_path / "JPEGImages" / "readme.txt").write_text("no picture")
    folder = tmp_path / "JPEGImages"
    dataset = PairedDataset.open((folder, folder) if twice else tmp_path)
    assert [(p.visible_source.name, p.infrared_source.name) for p in dataset] == [
        (f"FLIR_{number}_RGB.jpg", f"FLIR_{number}_PreviewData.jpeg") for number in range(2)
    ]
    assert dataset.check().left_out == ("JPEGImages/readme.txt",) and dataset.check().ok


def test_thermal_in_the_fourth_channel(tmp_path: Path) -> None:
    """As MFNet stores it; transparency proper is refused instead."""
    first = save(tmp_path / "mfnet" / "a.png", 0, 4)
    dataset = PairedDataset.open((first.parent, first.parent))
    stored = np.asarray(Image.open(first))
    np.testing.assert_array_equal(dataset[0].visible, stored[..., :3])
    np.testing.assert_array_equal(dataset[0].infrared, stored[..., 3])
    assert "fourth channel" in str(dataset.check())
    opaque = stored.copy()
    opaque[..., 3] = 255
    opaque[0, :5, 3] = 128
    (tmp_path / "alpha").mkdir()
    Image.fromarray(opaque).save(tmp_path / "alpha" / "a.png")
    with pytest.raises(ValueError, match="give two folders"):
        PairedDataset.open((tmp_path / "alpha", tmp_path / "alpha"))


@pytest.mark.parametrize(("visible", "infrared"), [("vis", "ir"), ("PET", "MRI")])
def test_folders_in_the_wrong_order_are_exchanged(tmp_path: Path, visible: str, infrared: str) -> None:
    save(tmp_path / visible / "1.png", 1, 3)
    save(tmp_path / infrared / "1.png", 2)
    dataset = PairedDataset.open((tmp_path / infrared, tmp_path / visible))
    assert dataset[0].visible_source.parent.name == visible
    report = dataset.check()
    assert "warning:" in str(report) and "other order" in report.notes[0] and report.ok
    assert not PairedDataset.open((tmp_path / visible, tmp_path / infrared)).check().notes


def test_report_stays_short_for_many_equal_pairs(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((4, 4), np.uint8))
    pairs = [{"visible": image, "infrared": image, "name": f"{number}"} for number in range(2000)]
    text = str(PairedDataset.open(pairs).check())
    assert max(map(len, text.splitlines())) < 400 and "and 3996 more" in text


def test_exchanged_images_are_reported_by_their_channels_and_names(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "a" / f"{number}.png", number)
        save(tmp_path / "b" / f"{number}.png", number + 9, 3)
    wrong = PairedDataset.open((tmp_path / "a", tmp_path / "b"))
    assert "exchange the two" in wrong.check().notes[0] and wrong.check().ok
    assert not PairedDataset.open((tmp_path / "b", tmp_path / "a")).check().notes
    named = [save(tmp_path / folder / "1_ir.png", seed).parent for seed, folder in enumerate("cd")]
    assert "exchange the two" in PairedDataset.open(tuple(named)).check().notes[0]


def test_two_files_by_tuple(tmp_path: Path) -> None:
    visible, infrared = save(tmp_path / "s_vis.png", 0, 3), save(tmp_path / "s_ir.png", 1)
    dataset = PairedDataset.open((infrared, visible))
    assert dataset[0].visible_source == visible and "other order" in dataset.check().notes[0]
    with pytest.raises(ValueError, match="was given as both images"):
        PairedDataset.open((infrared, infrared))
    other = save(tmp_path / "gray.png", 3)
    assert "exchange the two" in PairedDataset.open((other, visible)).check().notes[0]
    both = save(tmp_path / "rgbt.png", 2, 4)
    assert "fourth channel" in PairedDataset.open((both, both)).check().notes[0]


def test_one_folder_that_cannot_be_split_is_refused(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / f"{number}.png", number, 3)
    with pytest.raises(ValueError, match="do not distinguish visible from infrared: give two folders"):
        PairedDataset.open((tmp_path, tmp_path))
    save(tmp_path / "0.png", 0, 4)
    with pytest.raises(ValueError, match=r"thermal fourth channel and files without \(1\.png\)"):
        PairedDataset.open((tmp_path, tmp_path))


LISTS = [  # what is listed, in this order; a bar separates two sides; the pairs
    ("n/b_vis.png n/a_vis.png n/a_ir.png n/b_ir.png", {"a": "n/a_vis.png n/a_ir.png", "b": "n/b_vis.png n/b_ir.png"}),
    ("n/a_vis.png n/b_vis.png | n/a_ir.png n/b_ir.png", {"a": "n/a_vis.png n/a_ir.png", "b": "n/b_vis.png n/b_ir.png"}),
    ("n/a.png n/a_ir.png n/b.png n/b_ir.png", {"a": "n/a.png n/a_ir.png", "b": "n/b.png n/b_ir.png"}),
    ("vis/1.png vis/2.png ir/1.png ir/2.png", {"1": "vis/1.png ir/1.png", "2": "vis/2.png ir/2.png"}),
    ("A/vis/1.png A/vis/2.png | B/ir/2.png", {"2": "A/vis/2.png B/ir/2.png"}),
    ("A/1.png A/2.png B/1.png B/2.png", {"1": "A/1.png B/1.png", "2": "A/2.png B/2.png"}),
    (
        "d/vis/1.png n/vis/1.png d/ir/1.png n/ir/1.png",
        {"d_1": "d/vis/1.png d/ir/1.png", "n_1": "n/vis/1.png n/ir/1.png"},
    ),
    ("thermal/a_vis.png thermal/a_ir.png thermal/b_vis.png", {"a": "thermal/a_vis.png thermal/a_ir.png"}),
    ("VIS_01.png IR_01.png vis02.png ir02.png", {"01": "VIS_01.png IR_01.png", "02": "vis02.png ir02.png"}),
]


@pytest.mark.parametrize(("listed", "pairs"), LISTS)
def test_lists_of_files(listed: str, pairs: dict[str, str], tmp_path: Path) -> None:
    files = [save(tmp_path / word, 0) for word in listed.split() if word != "|"]
    left = [tmp_path / word for word in listed.partition("|")[0].split()]
    dataset = PairedDataset.open((left, files[len(left) :]) if "|" in listed else files)
    places = {pair.name: [s.relative_to(tmp_path).as_posix() for _, s in pair.bands()] for pair in dataset}
    assert places == {name: files.split() for name, files in pairs.items()}
    assert not dataset.check().notes
    if "|" in listed and "_ir" in listed:
        swapped = PairedDataset.open((files[len(left) :], left))
        assert swapped[0].visible_source == dataset[0].visible_source and "other order" in swapped.check().notes[0]


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("n/a.png n/b.png n/c.png", "3 images .* do not distinguish visible from infrared"),
        ("n/a_vis.png n/b_vis.png", "do not distinguish"),
        ("n/a_vis.png n/a_ir.png n/a_vis.png", "n/a_vis.png was given twice"),
        ("n/a_vis.png n/a_ir.png n/a.txt", "n/a.txt: give picture files only"),
        ("n/a_vis.png n/b_ir.png", "no pair is left"),
        ("n/a.png n/a_rgb.png n/a_ir.png", r"(?s)no pair is left.*ambiguous.*a\.png, a_rgb\.png"),
    ],
)
def test_lists_that_are_refused(listed: str, message: str, tmp_path: Path) -> None:
    files = [tmp_path / word for word in listed.split()]
    for file in files:
        save(file, 0) if file.suffix == ".png" else file.write_text("no picture")
    with pytest.raises(ValueError, match=message):
        PairedDataset.open(files)


# --- tables


@pytest.mark.parametrize(
    ("encoding", "delimiter"),
    [("utf-8", ","), ("utf-8-sig", ";"), ("utf-16", "\t"), ("cp1252", ";"), ("mac_roman", ","), ("cp850", "\t")],
)
def test_csv_as_people_save_it(tmp_path: Path, encoding: str, delimiter: str) -> None:
    save(tmp_path / "img" / "Gel\u00e4nde_co.png", 0, 3)
    save(tmp_path / "img" / "Gel\u00e4nde_ir.png", 1)
    rows = [("visible_file_name", "infrared_file_name"), ("img\\Gel\u00e4nde_co.png", "img/Gel\u00e4nde_ir.png")]
    text = "\r\n".join(delimiter.join(row) for row in rows)
    (tmp_path / "metadata.csv").write_bytes(text.encode(encoding))
    (pair,) = PairedDataset.open(tmp_path)
    assert pair.visible.mode == "RGB" and pair.infrared.mode == "L"


def test_csv_of_a_mac_names_files_in_another_unicode_form(tmp_path: Path) -> None:
    save(tmp_path / unicodedata.normalize("NFC", "\u00e4.png"), 0)
    save(tmp_path / "b.png", 1)
    name = unicodedata.normalize("NFD", "\u00e4.png")
    (tmp_path / "metadata.csv").write_text(f"sep=;\nvis;ir\n{name};b.png\n", encoding="utf-8")
    assert len(PairedDataset.open(tmp_path)) == 1


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b'[{"a": 1}, {"a": 2}]', 2),
        (b'\n[\n{"a": 1}\n]\n', 1),
        (b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}\n', 2),
        ('{"a": "\u00e4"}'.encode("utf-16"), 1),
    ],
)
def test_json_lines_and_arrays(tmp_path: Path, content: bytes, rows: int) -> None:
    file = tmp_path / "metadata.jsonl"
    file.write_bytes(content)
    assert len(read_rows(file)) == rows


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON: write one JSON object in each line"),
        ("metadata.jsonl", b"[1, 2]", "entry 1 is no JSON object: write one"),
        ("metadata.jsonl", b'["a"', "line 1 is not a JSON array"),
        ("metadata.jsonl", b"[" * 100000, "is not a JSON array"),
        ("metadata.csv", b"\xff\xfe\x00", "is damaged text: save it again as UTF-8"),
    ],
)
def test_damaged_tables_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*{message}") as caught:
        read_rows(tmp_path / name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("visible", "infrared", "warned"),
    [
        ("img_01_vis", "img_02_ir", True),
        ("img_01_vis", "img_1_ir", False),
        ("FLIR0011", "FLIR0012", True),
        ("cam1_0005", "cam2_0005", False),
        ("a_vis8", "a_ir16", False),
        ("street", "street_ir", False),
    ],
)
def test_two_files_with_different_numbers(tmp_path: Path, visible: str, infrared: str, warned: bool) -> None:
    files = save(tmp_path / f"{visible}.png", 0, 3), save(tmp_path / f"{infrared}.png", 1)
    notes = PairedDataset.open(files).check().notes
    assert [("have the numbers" in note) for note in notes] == [True] * warned


def test_a_folder_with_both_images_is_no_side(tmp_path: Path) -> None:
    for seed, name in enumerate(("1_vis", "1_ir", "2_vis", "2_ir")):
        save(tmp_path / "both" / f"{name}.png", seed)
        save(tmp_path / "mean" / f"{name[0]}.png", seed)
    for folders in (("both", "mean"), ("mean", "both")):
        with pytest.raises(ValueError, match=r"both images of each pair \(1_vis.png, 1_ir.png\): give this folder"):
            PairedDataset.open(tuple(tmp_path / folder for folder in folders))
    assert len(PairedDataset.open(tmp_path / "both")) == 2


def test_marked_names_that_differ_otherwise_are_named(tmp_path: Path) -> None:
    for name in ("DJI_20240101120000_0001_V", "DJI_20240101120001_0001_T"):
        Image.new("L", (32, 32)).save(tmp_path / f"{name}.png")
    with pytest.raises(ValueError, match=r"no two whose names agree .*0000_0001_V\.png and .*0001_0001_T\.png"):
        PairedDataset.open(tmp_path)
