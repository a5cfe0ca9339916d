"""Zip files as other programs write them: backslashes, encodings of names, names that collide, and what is refused."""

import io
import struct
import zipfile
from pathlib import Path

import archives
import pytest
from uploads import Refusal

pytestmark = pytest.mark.filterwarnings("ignore:Duplicate name")  # of what `write` begins with


def write(path: Path, names: list[str | bytes], **attributes: int) -> Path:
    """A zip file with these names as they are; bytes are not said to be UTF-8."""
    stream = io.BytesIO()
    places = []
    with zipfile.ZipFile(stream, "w") as archive:
        for index, name in enumerate(names):
            raw = name if isinstance(name, bytes) else name.encode()
            entry = zipfile.ZipInfo("x" * len(raw))
            entry.external_attr = attributes.get("external_attr", 0)
            archive.writestr(entry, b"" if raw.endswith((b"\\", b"/")) else bytes([index]))
            places.append(raw)
    content = bytearray(stream.getvalue())
    place = 0
    for raw, name in zip([*places, *places], [*names, *names], strict=True):  # local headers, then the directory
        head = min(at for at in (content.find(b"PK\3\4", place), content.find(b"PK\1\2", place)) if at >= 0)
        flags, start = (head + 6, head + 30) if content[head + 2] == 3 else (head + 8, head + 46)
        if isinstance(name, str) and not name.isascii():
            struct.pack_into("<H", content, flags, 0x800)
        content[start : start + len(raw)] = raw
        place = start + len(raw)
    path.write_bytes(content)
    return path


def unpacked(folder: Path, names: list[str | bytes], **attributes: int) -> dict[str, int]:
    """What is unpacked: the number of each name in the list, by its path."""
    target = folder / "unpacked"
    target.mkdir()
    paths = archives.unpack(write(folder / "pairs.zip", names, **attributes), target)
    found = {path.as_posix(): (target / path).read_bytes() for path in paths}
    assert {path for path in target.rglob("*") if path.is_file()} == {target / name for name in found}
    return {name: content[0] for name, content in found.items()}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["vis\\1.png", "ir\\1.png"], ["vis/1.png", "ir/1.png"]),
        (["vis/1.png", "ir\\1.png", "a\\b/c\\2.png"], ["vis/1.png", "ir/1.png", "a/b/c/2.png"]),
        (["vis\\", "vis\\1.png", "ir/", "ir/1.png"], [None, "vis/1.png", None, "ir/1.png"]),
        ([".\\vis\\1.png", "./ir/1.png", "vis\\\\2.png"], ["vis/1.png", "ir/1.png", "vis/2.png"]),
        (["vis /1.png", "ir./1.png", "3.png. "], ["vis/1.png", "ir/1.png", "3.png"]),
        (["vis\\.DS_Store", "__MACOSX\\1.png", "vis\\Thumbs.db", "1.png"], [None, None, None, "1.png"]),
        (["vis/温度.png", "vis\\Größe.png"], ["vis/温度.png", "vis/Größe.png"]),
        (["vis/Größe.png".encode("cp437"), "vis\\für.png".encode("cp437")], ["vis/Größe.png", "vis/für.png"]),
        (["vis/温度.png".encode(), "ir\\é.png".encode()], ["vis/温度.png", "ir/é.png"]),  # without the flag
        (["vis\\画像.png".encode("cp932"), "ir/表.png".encode("cp932")], ["vis/画像.png", "ir/表.png"]),
    ],
)
def test_names(tmp_path: Path, names: list[str | bytes], expected: list[str | None]) -> None:
    right = {name: index for index, name in enumerate(expected) if name is not None}
    assert unpacked(tmp_path, names) == right


def test_letters_that_end_in_a_backslash_separate_nothing(tmp_path: Path) -> None:
    names: list[str | bytes] = [f"{band}/許功蓋.png".encode("big5") for band in ("vis", "ir")]
    assert b"\\" in names[0]  # type: ignore[operator]
    found = [Path(name) for name in unpacked(tmp_path, names)]
    assert [path.parent.name for path in found] == ["vis", "ir"] and found[0].name == found[1].name


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["\\vis\\1.png"], "lead out of it"),
        (["/tmp/1.png"], "lead out of it"),
        (["../../1.png"], "lead out of it"),
        (["\\\\server\\share\\1.png"], "lead out of it"),
        (["vis\\..\\..\\1.png"], "lead out of it"),
        (["vis/.. /../1.png"], "lead out of it"),
        (["c:\\vis\\1.png"], "lead out of it"),
        (["D:1.png"], "lead out of it"),
        (["vis/10:30.png"], "a name with a colon \\('10:30.png'\\)"),
        (["vis\\1.png:stream"], "a name with a colon"),
        (["vis/.../1.png"], "only dots or blanks"),
        (["vis/1.png", "vis/1.png"], "two files named 'vis/1.png'"),
        (["vis/1.png", "vis\\1.png"], "two files named 'vis/1.png'"),
        (["vis", "vis\\1.png"], "a file and a folder named 'vis'"),
        (["vis/" + "a" * 300 + ".png"], "more than 255 bytes"),
    ],
)
def test_refusals_say_what_is_wrong(tmp_path: Path, names: list[str | bytes], message: str) -> None:
    with pytest.raises(Refusal, match=message):
        unpacked(tmp_path, names)
    assert not [path for path in (tmp_path / "unpacked").rglob("*") if path.is_file()]


def test_links_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"links \('1.png'\)"):
        unpacked(tmp_path, ["vis\\1.png"], external_attr=0o120777 << 16)
    whole = (tmp_path / "pairs.zip").read_bytes()
    for content in (b"", b"hello", whole[: len(whole) // 2], whole.replace(b"PK\3\4", b"PK\0\0")):
        (tmp_path / "pairs.zip").write_bytes(content)
        with pytest.raises(Refusal, match=r"damaged|another kind of file|links"):
            archives.unpack(tmp_path / "pairs.zip", tmp_path / "unpacked")


def test_small_files_with_a_large_directory_are_taken(tmp_path: Path) -> None:
    """Programs that write to a pipe use the 64-bit form for any file."""
    content = write(tmp_path / "pairs.zip", ["vis/1.png", "ir/1.png"]).read_bytes()
    end = content.rfind(b"PK\5\6")
    size, start = struct.unpack_from("<2L", content, end + 12)
    large = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 2, 2, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
    most = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "pairs.zip").write_bytes(content[:end] + large + locator + most)
    (tmp_path / "unpacked").mkdir()
    assert len(archives.unpack(tmp_path / "pairs.zip", tmp_path / "unpacked")) == 2
