"""Hostile input for the page: refused with a message that holds no path; the server stays up and small."""

import gzip
import io
import json
import re
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import httpx
import nibabel
import numpy as np
import pytest
import tifffile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless
from space_load import Page

from tests.support import flir_file, scans
from tests.support.clips import moving_square, write_clip
from tests.support.space_page import black_png, encoded, noise, png_chunk, wait_for_examples, zipped

MODEL = "difffusenet-msrs"
MIB = 2**20
HTTP = httpx.Client(timeout=60)  # one for all: making a client takes longer than a request
# What a message may never hold: absolute paths and parts of a traceback.
LEAKS = re.compile(r"/(tmp|work|home|root|usr|var|opt|etc)/|site-packages|Traceback|\.py\b|gradio/|Errno")

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


@pytest.fixture(scope="module")
def client(space_page: Page, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    downloads = tmp_path_factory.mktemp("downloads")
    client = Client(space_page.url, verbose=False, download_files=str(downloads), analytics_enabled=False)
    yield client
    client.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that can be fused with itself."""
    path = tmp_path_factory.mktemp("good") / "good.png"
    Image.fromarray(noise()).save(path)
    return path


@pytest.fixture(scope="module", autouse=True)
def still_works(space_page: Page, client: Client, good: Path) -> Iterator[None]:
    """A visitor gets a fusion before and after all of this."""
    wait_for_examples(space_page)
    before = fuse(client, good, good)
    yield
    assert fuse(client, good, good) == before


@pytest.fixture(autouse=True)
def unharmed(space_page: Page, still_works: None) -> Iterator[None]:
    """After each test the server is the same one, it answers, and no memory was filled."""
    before = space_page.memory_mib()
    Path(f"/proc/{space_page.process.pid}/clear_refs").write_text("5")  # resets the peak
    yield
    assert HTTP.get(f"{space_page.url}/config").status_code == httpx.codes.OK
    assert space_page.process.poll() is None
    status = Path(f"/proc/{space_page.process.pid}/status").read_text()
    peak = int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]
    assert peak - before < 200, "something large was decoded, unpacked or kept"


def fuse(client: Client, visible: Path, infrared: Path) -> Image.Image:
    files = {"visible": handle_file(visible), "infrared": handle_file(infrared)}
    with Image.open(client.predict(**files, model=MODEL, api_name="/fuse")[0]) as picture:
        picture.load()
        return picture


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def tifffile_bytes(array: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, photometric="rgb", extrasamples=["unassalpha"], **options)
    return stream.getvalue()


TOO_LARGE = r"too large|pixels\. At most"
NO_IMAGE = r"damaged|cut off|empty \(0 bytes\)|not an image|is a (PDF document|zip archive)"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><image href="file:///etc/passwd"/></svg>'
PICTURES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "bomb of 169 megapixels": ("bomb.png", lambda: black_png(13_000, 13_000), TOO_LARGE),
    "2**31 pixels wide": ("wide.png", lambda: black_png(2**31 - 1, 2**31 - 1, rows=False), f"{TOO_LARGE}|{NO_IMAGE}"),
    "one pixel high": ("thin.png", lambda: black_png(12_000_000, 1), ".+"),
    "one pixel": ("dot.png", lambda: encoded(noise()[:1, :1]), ".+"),
    "bomb in a text chunk": (
        "text.png",
        lambda: black_png(64, 48, png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 * MIB), 1))),
        f"{NO_IMAGE}|size",
    ),
    "truncated PNG": ("half.png", lambda: half(encoded(noise())), NO_IMAGE),
    "truncated JPEG": ("half.jpg", lambda: half(encoded(noise(), "JPEG")), NO_IMAGE),
    "truncated TIFF": ("half.tiff", lambda: half(encoded(noise(), "TIFF", compression="tiff_lzw")), NO_IMAGE),
    "0 bytes": ("nothing.png", lambda: b"", NO_IMAGE),
    "SVG named .png": ("svg.png", lambda: SVG, NO_IMAGE),
    "PostScript named .png": ("ps.png", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nrun\n", NO_IMAGE),
    "PDF": ("file.pdf", lambda: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n", NO_IMAGE),
    "program": ("program.exe", lambda: b"\x7fELF" + bytes(4096), NO_IMAGE),
    "zip named .png": ("zip.png", lambda: b"PK\x03\x04" + bytes(64), NO_IMAGE),
    "moving GIF": (
        "moving.gif",
        lambda: encoded(noise(), "GIF", save_all=True, append_images=[Image.fromarray(noise(1))]),
        "2 pictures",
    ),
    "TIFF of NaN alone": ("nan.tiff", lambda: encoded(np.full((48, 64), np.nan, np.float32), "TIFF"), "NaN"),
    "TIFF that unpacks to a gigabyte": (
        "deep.tiff",
        lambda: tifffile_bytes(np.zeros((3000, 4000, 4)), compression="zlib"),
        "MiB of memory",
    ),
    "other size": ("turned.png", lambda: encoded(noise().T), "48"),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_refused_with_a_message(client: Client, good: Path, tmp_path: Path, name: str) -> None:
    file, content, message = PICTURES[name]
    path = tmp_path / file
    path.write_bytes(content())
    for visible, infrared in ((path, good), (good, path)):
        with pytest.raises(AppError) as refusal:
            fuse(client, visible, infrared)
        check_message(str(refusal.value), message)


def check_message(text: str, message: str) -> None:
    assert "has not enabled verbose error reporting" not in text, "no message of ours"
    assert not LEAKS.search(text), f"names a place: {text}"
    assert re.search(message, text, re.IGNORECASE), text


def call(page: Page, endpoint: str, *data: object) -> str:
    """The last event of one call whose values are sent as they are; "refused" if it is not even taken."""
    answer = HTTP.post(f"{page.url}/gradio_api/call{endpoint}", json={"data": data})
    if answer.status_code != httpx.codes.OK:
        return f"refused {answer.text}"
    return HTTP.get(f"{page.url}/gradio_api/call{endpoint}/{answer.json()['event_id']}").text


def upload(page: Page, path: Path) -> dict[str, object]:
    """A picture on the server, as the page itself names it in calls."""
    answer = HTTP.post(f"{page.url}/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
    return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}


def pictures_of(count: int, height: int, width: int) -> list[np.ndarray]:
    return [np.full((height, width), 80 + index, np.uint8) for index in range(count)]


def clip_bytes(suffix: str, frames: list[np.ndarray], codec: str = "libx264", **options: object) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return write_clip(Path(folder) / f"clip{suffix}", frames, codec, **options).read_bytes()  # type: ignore[arg-type]


def many_frames(suffix: str, count: int) -> bytes:
    """One tiny picture, so many times."""
    stream = io.BytesIO()
    with av.open(io.BytesIO(clip_bytes(".avi", pictures_of(1, 48, 64), "mpeg4"))) as source:
        [packet, *_] = source.demux(video=0)
        with av.open(stream, "w", format={".mp4": "mp4", ".mkv": "matroska"}[suffix]) as target:
            track = target.add_stream_from_template(source.streams.video[0])
            for number in range(count):
                packet.stream, packet.pts, packet.dts = track, number, number
                target.mux(packet)
    return stream.getvalue()


def wide_gif() -> bytes:
    """A few bytes that state a picture of 65535 x 65535 pixels."""
    head = b"GIF89a" + struct.pack("<2H", 65535, 65535) + b"\xf0\0\0" + bytes(6)
    frame = b"!\xf9\x04\0\x0a\0\0\0," + struct.pack("<4H", 0, 0, 2, 2) + b"\0\x02\x03\x84\x51\x05\0"
    return head + 3 * frame + b";"


NO_VIDEO = "not a video that can be read|holds no frame|holds no video|is one picture"
CLIPS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "100000 frames, stated": ("many.mp4", lambda: many_frames(".mp4", 100_000), "has 100000 frames of 64 x 48"),
    "100000 frames, not stated": ("many.mkv", lambda: many_frames(".mkv", 100_000), "more than 300 frames"),
    "65535 pixels each way": ("wide.gif", wide_gif, f"more than the limit|{NO_VIDEO}"),
    "frames of 8K": ("8k.mp4", lambda: clip_bytes(".mp4", pictures_of(1, 4320, 7680)), "7680x4320"),
    "frames of 4K": ("4k.mkv", lambda: clip_bytes(".mkv", pictures_of(1, 2160, 3840)), "3840x2160"),
    "cut off": ("half.mp4", lambda: half(clip_bytes(".mp4", pictures_of(20, 48, 64))), NO_VIDEO),
    "0 bytes": ("nothing.mp4", lambda: b"", NO_VIDEO),
    "a picture": ("picture.mp4", lambda: encoded(noise()), NO_VIDEO),
    "named as a picture": ("clip.png", lambda: clip_bytes(".mp4", pictures_of(2, 48, 64)), NO_VIDEO),
    "noise": ("noise.mp4", lambda: np.random.default_rng(0).bytes(100_000), NO_VIDEO),
    "a program": ("program.avi", lambda: b"\x7fELF" + bytes(4096), NO_VIDEO),
    "a list of files": ("list.mp4", lambda: b"ffconcat version 1.0\nfile /etc/passwd\n", NO_VIDEO),
    "a list of addresses": ("list.m3u8", lambda: b"#EXTM3U\n#EXTINF:1\nhttp://127.0.0.1:1/a.ts\n", NO_VIDEO),
    "without a feature": ("flat.mp4", lambda: clip_bytes(".mp4", pictures_of(4, 48, 64)), "could not be aligned"),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_clips_are_refused_with_a_message(client: Client, space_page: Page, tmp_path: Path, name: str) -> None:
    file, content, message = CLIPS[name]
    path, good = tmp_path / file, write_clip(tmp_path / "good.mp4", moving_square(4))
    path.write_bytes(content())
    # Infrared frames after the last visible one are not read.
    for visible, infrared in ((path, good), (good, path))[: 1 if "not stated" in name else 2]:
        files = handle_file(visible), handle_file(infrared)
        with pytest.raises(AppError) as refusal:
            client.predict(*files, name == "without a feature", api_name="/fuse_clip")
        check_message(str(refusal.value), message)
        assert str(refusal.value).count("\n") == 0
    assert not [*space_page.files.rglob("*_fused.mp4"), *space_page.files.rglob("*partial*")]


def test_a_clip_that_is_cut_off_later_is_fused_so_far(client: Client, tmp_path: Path) -> None:
    whole = clip_bytes(".mkv", moving_square(50))
    path = tmp_path / "half.mkv"
    path.write_bytes(whole[: len(whole) * 2 // 3])
    good = write_clip(tmp_path / "good.mp4", moving_square(50))
    _, after, text = client.predict(handle_file(path), handle_file(good), False, api_name="/fuse_clip")
    assert "The visible clip (half.mkv) is cut off" in text and not LEAKS.search(text)
    file = after["video"] if isinstance(after, dict) else after
    with av.open(str(file)) as opened:
        assert 15 < sum(1 for _ in opened.decode(video=0)) < 50


def rle_bomb() -> bytes:
    """A slice of 1024 x 1024 pixels whose runs unpack to 64 times its size."""
    [image] = scans.series(np.zeros((1, 1024, 1024), np.int16), "CT")
    segment = bytes([129, 0]) * (8 * MIB)
    header = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13)
    image.PixelData = encapsulate([header + segment + bytes([129, 0])])
    image["PixelData"].VR = "OB"
    image.file_meta.TransferSyntaxUID = RLELossless
    stream = io.BytesIO()
    image.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


NIFTI = bytes(nibabel.Nifti1Image(np.arange(1000, dtype=np.int16).reshape(10, 10, 10), np.eye(4)).to_bytes())
FAR = NIFTI[:108] + struct.pack("<f", 3e9) + NIFTI[112:]  # where its voxels begin
NRRD = b"NRRD0004\ntype: short\ndimension: 3\nsizes: 250 250 250\nencoding: gzip\nendian: little\n\n"
VOLUMES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "gzip bomb": ("a.nii.gz", lambda: gzip.compress(NIFTI + bytes(1024 * MIB), 1), "more than 160 MB"),
    "zip bomb": ("a.zip", lambda: zipped({"a": bytes(1024 * MIB)}), "more than 160 MB"),
    "voxels far away": ("a.nii.gz", lambda: gzip.compress(FAR), "damaged|cut short"),
    "NRRD bomb": ("a.nrrd", lambda: NRRD + gzip.compress(bytes(1024 * MIB), 1), "constant|damaged"),
    "crash of MetaIO": ("a.mha", lambda: scans.CRASH, "states -1"),
    "RLE bomb": ("a.dcm", rle_bomb, "damaged|no decoder"),
}


@pytest.mark.parametrize("name", VOLUMES)
def test_volumes_are_refused_with_a_message(client: Client, space_page: Page, tmp_path: Path, name: str) -> None:
    file, content, message = VOLUMES[name]
    path = tmp_path / file
    path.write_bytes(content())
    before = kept_volumes(space_page)
    with pytest.raises(AppError) as refusal:
        client.predict(handle_file(path), handle_file(path), "difffusenet-medical", api_name="/fuse_volume")
    check_message(str(refusal.value), message)
    assert kept_volumes(space_page) == before


def kept_volumes(page: Page) -> list[Path]:
    """What was unpacked and read; the visitors of other tests may have volumes, too."""
    return [*page.files.rglob("fusion_hub_volume_*"), *page.files.rglob("volume.npy")]


BLOCK = flir_file.block()
WIDE = [(1, flir_file.image_record(2, (60_000, 60_000), b"x")), (32, flir_file.camera_record())]
THERMAL: dict[str, tuple[bytes, str]] = {
    "half of a block": (flir_file.jpeg(BLOCK[: len(BLOCK) // 2]), "damaged FLIR block"),
    "a block of zeros": (flir_file.jpeg(bytes(500)), "damaged|holds no radiometric data"),
    "an ordinary JPEG": (encoded(noise(), "JPEG"), "holds no radiometric data of FLIR"),
    "half of a file": (half(flir_file.photo()), "damaged|cut off|holds no radiometric data"),
    "a program": (b"\x7fELF" + bytes(4096), "holds no radiometric data|not an image"),
    "nothing": (b"", "holds no radiometric data|empty"),
    "a large size": (
        flir_file.jpeg(flir_file.fff(WIDE)),
        "damaged|more than|too large|limit",
    ),
}


@pytest.mark.parametrize("name", THERMAL)
def test_radiometric_files_are_refused_with_a_message(client: Client, tmp_path: Path, name: str) -> None:
    content, message = THERMAL[name]
    path = tmp_path / "scan.jpg"
    path.write_bytes(content)
    with pytest.raises(AppError) as refusal:
        client.predict(handle_file(path), api_name="/temperatures")
    check_message(str(refusal.value), message)


@pytest.mark.parametrize("name", ["bomb of 169 megapixels", "one pixel", "other size"])  # others as for `/fuse`
def test_pictures_that_cannot_be_aligned_are_refused(client: Client, good: Path, tmp_path: Path, name: str) -> None:
    file, content, message = PICTURES[name]
    path = tmp_path / file
    path.write_bytes(content())
    for visible, infrared in ((path, good), (good, path)):
        with pytest.raises(AppError) as refusal:
            client.predict(handle_file(visible), handle_file(infrared), api_name="/align")
        check_message(str(refusal.value), f"{message}|aligned")


FORGED: dict[str, object] = {
    "system file": {"path": "/etc/passwd"},
    "our source": {"path": str(Path(__file__).parents[2] / "space" / "app.py")},
    "path upwards": {"path": "../../../../etc/passwd"},
    "file URL as path": {"path": "file:///etc/passwd"},
    "file URL": {"path": "x.png", "url": "file:///etc/passwd"},
    "loopback URL": {"path": "http://127.0.0.1:1/x.png", "url": "http://127.0.0.1:1/x.png"},
    "address of a cloud's secrets": {"path": "http://169.254.169.254/latest/meta-data/"},
    "other scheme": {"path": "gopher://127.0.0.1/x.png", "url": "gopher://127.0.0.1/x.png"},
    "zero in the path": {"path": "/tmp/\0.png"},
    "long path": {"path": "/tmp/" + "a" * 5000},
    "device": {"path": "/dev/zero"},
    "folder": {"path": "/tmp"},
    "no path": {},
    "base64": {"path": None, "url": "data:image/png;base64,AAAA"},
    "text": "/etc/passwd",
    "number": 7,
    "list": [{"path": "/etc/passwd"}],
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_forged_files_are_refused(space_page: Page, good: Path, name: str) -> None:
    forged = FORGED[name]
    if isinstance(forged, dict):
        forged = forged | {"meta": {"_type": "gradio.FileData"}}
    answer = call(space_page, "/fuse", forged, upload(space_page, good), MODEL)
    assert "event: complete" not in answer
    assert answer.startswith("refused") or "event: error" in answer
    assert "root:" not in answer
    assert not LEAKS.search(answer.replace(json.dumps(forged), ""))


@pytest.mark.parametrize("model", ["../../etc", "/etc", "", None, 7, "no-such-model", {"a": 1}, ["difffusenet-msrs"]])
def test_forged_models_are_refused(space_page: Page, good: Path, model: object) -> None:
    picture = upload(space_page, good)
    for endpoint in ("/fuse", "/detect", "/measure", "/explain"):
        answer = call(space_page, endpoint, picture, picture, model)
        assert "event: error" in answer and "difffusenet-msrs or red-small-msrs" in answer, "it names those that exist"
        assert not LEAKS.search(answer) and "choices" not in answer
    answer = call(space_page, "/batch", [picture], model)
    assert "event: error" in answer and "There is no model" in answer


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Steps are", ["many"]),
        ("The left picture is", ["all", "above"]),
        ("Colors are", ["all", "Visible", "auto", "auto", False, "green"]),
    ],
)
def test_forged_choices_are_refused(space_page: Page, good: Path, name: str, values: list[object]) -> None:
    picture = upload(space_page, good)
    answer = call(space_page, "/fuse", picture, picture, MODEL, *values)
    assert "event: error" in answer and name in answer and "list of choices" not in answer


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../../../etc/passwd",
        "/gradio_api/file=%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/",
        f"/gradio_api/file={Path(__file__).parents[2] / 'space' / 'app.py'}",
        f"/gradio_api/file={Path(__file__).parents[2] / 'space' / 'fuse.py'}",
        "/gradio_api/file=/dev/zero",
        "/gradio_api/file=",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/static/..%2f..%2f..%2frequirements.txt",
        "/assets/..%2f..%2f..%2fgradio%2froutes.py",
    ],
)
def test_addresses_give_no_file(space_page: Page, path: str) -> None:
    answer = HTTP.get(space_page.url + path)
    assert answer.status_code >= 300 or answer.text.strip() == "" or "event: error" in answer.text
    assert "root:" not in answer.text and "import " not in answer.text
    assert "127.0.0.1:1" not in answer.headers.get("location", ""), "sends the visitor elsewhere"


def test_results_of_others_cannot_be_listed(space_page: Page, client: Client, good: Path) -> None:
    fuse(client, good, good)
    [results] = space_page.files.rglob("fusion_hub_results")
    for folder in (space_page.files, results.parent, results, next(results.iterdir())):
        for end in ("", "/"):
            answer = HTTP.get(f"{space_page.url}/gradio_api/file={folder}{end}")
            assert answer.status_code in (httpx.codes.FORBIDDEN, httpx.codes.NOT_FOUND)
            assert "fused" not in answer.text


def test_uploads_stay_in_their_folder(space_page: Page) -> None:
    for name in ("../../../up.png", "/etc/up.png", "..\\..\\up.png", "a/../../up.png", "\u202egnp.png"):
        answer = HTTP.post(f"{space_page.url}/gradio_api/upload", files={"files": (name, b"x")})
        if answer.status_code == httpx.codes.OK:
            place = Path(answer.json()[0])
            assert place.resolve().is_relative_to(space_page.files.resolve()), name
            assert place.is_file()
    assert not [*space_page.files.parent.glob("up*")]


def test_large_uploads_are_cut_off(space_page: Page) -> None:
    for name, content in (("large.png", bytes(40 * MIB)), ("a" * 9000 + ".png", b"x")):
        answer = HTTP.post(f"{space_page.url}/gradio_api/upload", files={"files": (name, content)})
        assert answer.status_code in (httpx.codes.REQUEST_ENTITY_TOO_LARGE, httpx.codes.BAD_REQUEST), name


@pytest.mark.parametrize("body", [b"", b"[", b"{}", b'{"data": 7}', b'{"data": []}', b"[" * 100_000, b"\xff\xfe"])
def test_broken_calls_are_refused(space_page: Page, body: bytes) -> None:
    for address in ("call/fuse", "call/no_such", "queue/join", "cancel"):
        url, kind = f"{space_page.url}/gradio_api", {"content-type": "application/json"}
        answer = HTTP.post(f"{url}/{address}", content=body, headers=kind)
        text = answer.text
        if answer.status_code == httpx.codes.OK and "event_id" in text:
            text = HTTP.get(f"{url}/call/fuse/{answer.json()['event_id']}").text
            assert "event: error" in text
        assert not LEAKS.search(text), text


def run_batch(client: Client, files: list[Path]) -> Path:
    return Path(client.predict(files=[handle_file(file) for file in files], model=MODEL, api_name="/batch"))


def pair(name: str = "a") -> dict[str, bytes]:
    return {f"vis/{name}.png": encoded(noise()), f"ir/{name}.png": encoded(noise(1))}


def many_entries(zip64: bool) -> bytes:
    """500,000 names; with `zip64` the old-style end of the file counts only one of them."""
    entry = struct.pack("<4s4B4HL2L5H2L", b"PK\x01\x02", 20, 3, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    count, directory = 500_000, entry * 500_000
    end64 = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), 0)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, len(directory), 1)
    if zip64:
        return directory + end64 + locator + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 47, 0, 0)
    return directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65_535, 65_535, len(directory), 0, 0)


ARCHIVES: dict[str, tuple[Callable[[], bytes], str]] = {
    "one large file": (lambda: zipped({"vis/a.png": bytes(100 * MIB)}), "more than|MB"),
    "260 MB in many files": (lambda: zipped({f"vis/{n}.png": bytes(20 * MIB) for n in range(13)}), "more than|MB"),
    "300 pictures": (lambda: zipped({f"vis/{n}.png": b"x" for n in range(300)}), "at most"),
    "60 pairs": (lambda: zipped({f"{band}/{n}.png": b"x" for n in range(60) for band in ("vis", "ir")}), "at most 50"),
    "half a million names": (lambda: many_entries(zip64=False), "at most|damaged"),
    "half a million names behind a zip64 end": (lambda: many_entries(zip64=True), "at most|damaged|unknown kind"),
    "names that lead out": (lambda: zipped(pair() | {"../../evil.png": b"x", "/tmp/evil.png": b"x"}), "lead out"),
    "link": (lambda: zipped({"vis/a.png": b"/etc/passwd", "ir/a.png": b"/etc/passwd"}, mode=0o120777), "links"),
}  # fmt: skip
"""Other refusals of `archives.unpack` are in `test_space_archives.py`."""


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_are_refused_with_a_message(client: Client, space_page: Page, tmp_path: Path, name: str) -> None:
    content, message = ARCHIVES[name]
    path = tmp_path / "archive.zip"
    path.write_bytes(content())
    with pytest.raises(AppError) as refusal:
        run_batch(client, [path])
    check_message(str(refusal.value), message)
    assert not [*space_page.files.rglob("evil*"), *Path("/tmp").glob("evil*")]
    assert not [*space_page.files.rglob("fusion_hub_batch_*")], "what was unpacked must go"


def test_bad_pictures_in_an_archive_harm_only_themselves(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "mixed.zip"
    bad = {
        "vis/bomb.png": black_png(13_000, 13_000),
        "ir/bomb.png": encoded(noise()),
        "vis/<script>.png": SVG,
        "ir/<script>.png": SVG,
        "vis/=cmd().png": b"",
        "ir/=cmd().png": b"",
    }
    path.write_bytes(zipped(pair() | bad))
    with zipfile.ZipFile(run_batch(client, [path])) as answer:
        names = answer.namelist()
        report = answer.read("report.csv").decode()
        with answer.open("a.png") as file, Image.open(file) as picture:
            assert picture.size == (64, 48)
    assert sorted(names) == ["a.png", "report.csv"]
    assert not LEAKS.search(report)
    assert report.count("\n") == 5 and "13000 x 13000 pixels" in report
    assert not re.search(r"^[=+@-]", report, re.MULTILINE), "a spreadsheet would run it"


def test_a_lying_directory_unpacks_no_more_than_it_says(client: Client, tmp_path: Path) -> None:
    """It says that a file of 64 MiB has 10 bytes."""
    path = tmp_path / "lying.zip"
    content, size = zipped({"vis/a.png": bytes(64 * MIB), "ir/a.png": b"x"}), struct.pack("<I", 64 * MIB)
    assert content.count(size) == 2
    path.write_bytes(content.replace(size, struct.pack("<I", 10)))
    try:
        answer = run_batch(client, [path])
    except AppError as refusal:
        check_message(str(refusal), ".+")
    else:
        with zipfile.ZipFile(answer) as result:
            assert result.namelist() == ["report.csv"]


def test_300_files_are_refused(client: Client, space_page: Page, good: Path) -> None:
    # Past the client, which would send them one by one.
    content = good.read_bytes()
    parts = [("files", (f"{number}.png", content)) for number in range(300)]
    places = HTTP.post(f"{space_page.url}/gradio_api/upload", files=parts).json()
    files = [{"path": place, "meta": {"_type": "gradio.FileData"}} for place in places]
    answer = call(space_page, "/batch", files, MODEL)
    assert "event: error" in answer and "at most 50 pairs" in answer
    answer = call(space_page, "/fuse", files, files, MODEL)
    assert "event: complete" not in answer
