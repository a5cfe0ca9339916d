"""Damage small picture files of every format and count the reactions of the reader.

    python benchmarks/mutations.py --mutations 3000

Each file is changed in a few bytes, cut off, or loses, gains or repeats a block. It is then read and preprocessed as
one of a pair, in a monitored process. A file may be refused with a ValueError, or read. Failures are: any other
exception, a process that dies, more than 20 seconds, more than 4 GiB of memory, and a picture from a cut-off file whose
pixels differ from those of the whole file.
"""

import argparse
import io
import json
import os
import resource
import select
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import common
import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from fusion_hub import FusionImageProcessor
from fusion_hub.data import generate_scene
from fusion_hub.image.io import read_header, read_picture

SECONDS = 20.0
MEMORY = 4 << 30
KINDS = ("bytes", "bits", "cut", "remove", "repeat", "zeros", "number")


def real_pictures() -> tuple[np.ndarray, np.ndarray]:
    """Colors `(48, 64, 3)` and 16-bit counts `(48, 64)` of real cameras, or drawn ones without the data."""
    data = Path(os.environ.get("FUSION_HUB_DATA", "../shared")) / "data"
    files = sorted((data / "msrs" / "test" / "vis").glob("*D.*"))
    counts = sorted((data / "thermal16" / "radiometric" / "ir").glob("*.png"))
    if not files or not counts:
        scene = generate_scene(0)
        return scene.visible[200:248, 200:264], scene.infrared[200:248, 200:264].astype(np.uint16) + 2600
    with Image.open(files[0]) as image, Image.open(counts[0]) as warm:
        deep = np.asarray(warm).astype(np.uint16)
        return np.asarray(image.convert("RGB"))[200:248, 200:264], np.resize(deep[:48, :64], (48, 64))


def small_files() -> dict[str, bytes]:
    """Thirty files by name."""
    colors, counts = real_pictures()
    gray, deep = colors[..., 1], colors.astype(np.uint16) * 257
    alpha = np.dstack([colors, gray])
    files: dict[str, bytes] = {}

    def pillow(name: str, pixels: np.ndarray, kind: str, **options: Any) -> None:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        files[name] = file.getvalue()

    def tiff(name: str, pixels: np.ndarray, **options: Any) -> None:
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, metadata=None, **options)
        files[name] = file.getvalue()

    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Camera"
    pillow("gray.png", gray, "PNG")
    pillow("rgb.png", colors, "PNG", exif=exif)
    pillow("rgba.png", alpha, "PNG")
    pillow("counts.png", counts, "PNG")
    files["rgb16.png"] = bytes(imagecodecs.png_encode(deep))
    pillow("rgb.jpg", colors, "JPEG", exif=exif)
    pillow("gray.jpg", gray, "JPEG")
    pillow("progressive.jpg", colors, "JPEG", progressive=True)
    pillow("rgb.webp", colors, "WEBP")
    pillow("lossless.webp", alpha, "WEBP", lossless=True)
    pillow("rgb.bmp", colors, "BMP")
    pillow("gray.bmp", gray, "BMP")
    pillow("gray.gif", gray, "GIF")
    pillow("rgb.avif", colors, "AVIF")
    files["gray.pgm"] = b"P5\n64 48\n255\n" + gray.tobytes()
    files["counts.pgm"] = b"P5\n64 48\n65535\n" + counts.astype(">u2").tobytes()
    files["text.ppm"] = b"P3\n64 48\n255\n" + " ".join(map(str, colors.ravel())).encode()
    files["gray.jp2"] = bytes(imagecodecs.jpeg2k_encode(np.ascontiguousarray(gray), level=0))
    files["counts.jp2"] = bytes(imagecodecs.jpeg2k_encode(counts, level=0))
    files["rgb.j2k"] = bytes(imagecodecs.jpeg2k_encode(np.ascontiguousarray(colors), level=0, codecformat="j2k"))
    tiff("raw.tif", counts, photometric="minisblack")
    tiff("lzw.tif", counts, photometric="minisblack", compression="lzw", predictor=True, rowsperstrip=8)
    tiff("deflate.tif", colors, photometric="rgb", compression="deflate", byteorder=">")
    tiff("tiles.tif", deep, photometric="rgb", tile=(16, 16), compression="zstd")
    tiff("planar.tif", np.ascontiguousarray(np.moveaxis(deep, -1, 0)), photometric="rgb", planarconfig="separate")
    tiff("float.tif", (counts * 0.04).astype(np.float32), photometric="minisblack", compression="packbits")
    tiff("double.tif", counts * 0.04, photometric="minisblack", extratags=[(42113, 2, 0, "-9999", True)])
    tiff("jpeg.tif", colors, photometric="ycbcr", compression="jpeg")
    tiff("big.tif", counts, photometric="minisblack", bigtiff=True)
    file = io.BytesIO()
    Image.fromarray(colors).convert("CMYK").save(file, "TIFF", compression="tiff_lzw")
    return {**files, "cmyk.tif": file.getvalue()}


def mutate(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """One damaged copy, and what was done to it."""
    kind = str(rng.choice(KINDS))
    changed, length = bytearray(data), len(data)
    # Half of the changes hit the header, where the sizes and offsets are.
    start = int(rng.integers(0, min(length, 400) if rng.random() < 0.5 else length))
    size = int(rng.integers(1, 1 + max(1, length // 8)))
    if kind == "bytes":
        for _ in range(int(rng.integers(1, 6))):
            changed[int(rng.integers(0, length))] = int(rng.integers(0, 256))
        changed[start] = int(rng.integers(0, 256))
    elif kind == "bits":
        changed[start] ^= 1 << int(rng.integers(0, 8))
    elif kind == "cut":
        changed = changed[: int(rng.integers(1, length))]
    elif kind == "remove":
        del changed[start : start + size]
    elif kind == "repeat":
        changed[start:start] = changed[start : start + size]
    elif kind == "zeros":
        changed[start : start + size] = bytes(len(changed[start : start + size]))
    else:  # a number in the header becomes an extreme one
        value = int(rng.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFF, 65536])).to_bytes(4, "big")
        changed[start : start + 4] = value if rng.random() < 0.5 else value[::-1]
    return kind, bytes(changed)


def worker() -> None:
    """Reads a line `[name, length]` and so many bytes from standard input, and answers with a line of JSON each."""
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    processor = FusionImageProcessor()
    print("ready", flush=True)
    while line := sys.stdin.buffer.readline():
        name, length = json.loads(line)
        data = sys.stdin.buffer.read(length)
        answer: dict[str, Any] = {}
        try:
            source = {"bytes": data, "path": name}
            read_header(source)
            picture = read_picture(source)
            other = np.tile(np.arange(picture.size[1], dtype=np.uint8), (picture.size[0], 1))
            processor.preprocess(other, picture)
            answer = {"read": True, "notes": len(picture.notes)}
            pixels = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
            answer["digest"] = hash((pixels.shape, pixels.dtype.name, pixels.tobytes()))
        except ValueError as error:
            text = str(error)
            answer = {"refused": text, "library": name not in text or "\n" in text}
        except BaseException as error:
            answer = {"exception": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


class Watched:
    """A process that reads pictures; it is replaced when it dies or hangs."""

    process: subprocess.Popen[bytes] | None = None

    def read(self, name: str, data: bytes) -> dict[str, Any]:
        if self.process is None:
            command = [sys.executable, __file__, "--worker"]
            environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
            )
            assert self.process.stdout is not None
            self.process.stdout.readline()
        assert self.process.stdin is not None and self.process.stdout is not None
        start = time.monotonic()
        self.process.stdin.write(json.dumps([name, len(data)]).encode() + b"\n" + data)
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            kind = "crash" if self.process.poll() is not None else "hang"
            self.process.kill()
            self.process.wait()
            self.process = None
            return {kind: True}
        return {**json.loads(line), "seconds": time.monotonic() - start}


def mutations(files: dict[str, bytes], count: int, seed: int) -> Iterator[tuple[str, str, bytes]]:
    """`(file, kind, data)`, evenly over the files."""
    rng, names = np.random.default_rng(seed), list(files)
    for number in range(count):
        name = names[number % len(names)]
        kind, data = mutate(files[name], rng)
        yield name, kind, data


def main(argv: list[str] | None = None) -> int:
    """The number of wrong outcomes, 100 at most."""
    parser = common.new_parser(__doc__)
    parser.add_argument("--mutations", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that were read wrongly")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        worker()
        return 0
    files, watched, found = small_files(), Watched(), Counter[str]()
    whole = {name: watched.read(name, data) for name, data in files.items()}
    for name, answer in whole.items():
        if "digest" not in answer:
            raise SystemExit(f"{name} is not read whole: {answer}")
    slowest, wrong = 0.0, []
    for number, (name, kind, data) in enumerate(mutations(files, arguments.mutations, arguments.seed)):
        answer = watched.read(name, data)
        slowest = max(slowest, answer.get("seconds", 0.0))
        if "digest" in answer:
            same = answer["digest"] == whole[name]["digest"]
            outcome = "read, the same" if same else "read, other pixels"
            if kind == "cut" and not same and not answer["notes"]:
                outcome = "PICTURE FROM A CUT FILE"
        elif "refused" in answer:
            outcome = "MESSAGE OF A LIBRARY" if answer["library"] else "refused"
        else:
            outcome = next(k for k in ("exception", "crash", "hang") if k in answer).upper()
        found[outcome] += 1
        if outcome.isupper():
            wrong.append(f"{number} {name} {kind}: {outcome} {answer}")
            if arguments.keep is not None:
                arguments.keep.mkdir(parents=True, exist_ok=True)
                (arguments.keep / f"{number}_{kind}_{name}").write_bytes(data)
    print(f"{arguments.mutations} mutations of {len(files)} files, seed {arguments.seed}; slowest {slowest:.2f} s")
    for outcome, count in sorted(found.items()):
        print(f"{count:6d}  {outcome}")
    for line in wrong[:50]:
        print(line[:300])
    return min(len(wrong), 100)


if __name__ == "__main__":
    raise SystemExit(main())
