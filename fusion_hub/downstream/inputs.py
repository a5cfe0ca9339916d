"""Images for a network that follows fusion: the visible one, the infrared one, or the result of any fusion method.

    images = read_inputs(open_inputs("difffusenet-msrs"), pairs, "msrs_train", Path("runs/inputs"))

All fused images have the colors of the visible one (its chroma; the method computes the luminance), also those of the
simple rules, so that methods differ in nothing else. Fused images are computed once and kept as PNG files. A text chunk
in each file records its sources and its method, so images of another checkpoint or of changed sources are not reused.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from fusion_hub import __version__
from fusion_hub.data.pairs import READ_ERRORS, ImageSource, Pair, inspect_picture, load_picture
from fusion_hub.evaluation.baselines import BASELINES
from fusion_hub.evaluation.methods import describe_checkpoint
from fusion_hub.files import sweep_leftovers, write_aside
from fusion_hub.image.io import EXTENSIONS
from fusion_hub.image.processor import FusionImageProcessor
from fusion_hub.image.sources import read_bytes
from fusion_hub.pipelines import FusionPipeline

SOURCES = ("visible", "infrared")
DTYPES = ("float32", "bfloat16")
PROVENANCE = "fusion-hub"
"""Keyword of the text chunk, and stem of the JSON file beside the images."""


@dataclass(frozen=True)
class Inputs:
    """Images for a network that follows fusion, one for each pair.

    Attributes:
        name: as requested: `visible`, `average`, `difffusenet-msrs`, a folder.
        kind: "source", "rule", "model" or "folder".
        picture: from a pair to its image, RGB, 8 bits.
        details: JSON-able facts needed to reproduce the images: checkpoint hash, options.
        fingerprint: changes with the images; empty for images that are only read, which need no cache.
    """

    name: str
    kind: str
    picture: Callable[[Pair], Image.Image]
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Name, kind, fingerprint and details, as written to JSON files."""
        facts = {"name": self.name, "kind": self.kind, "fingerprint": self.fingerprint}
        return {**facts, "details": dict(self.details)}


def open_inputs(name: str, dtype: str = "float32") -> Inputs:
    """The images that `name` refers to.

    Args:
        name: `visible` or `infrared`; a baseline; a bundled model, a pipeline folder or a Hub id `owner/name`; or a
            folder with one image for each pair, with its stem.
        dtype: of the computation of a model, one of `DTYPES`; published numbers are float32.

    Raises:
        ValueError, OSError: the name refers to nothing, or the pipeline cannot be loaded.
    """
    if name in SOURCES:
        return Inputs(name, "source", lambda pair: _rgb(getattr(pair, name)), {"source": name})
    if (rule := name.replace("-", "_")) in BASELINES:
        return _rule(rule)
    if (folder := Path(name)).is_dir() and not (folder / "model_index.json").is_file():
        return _folder(folder)
    logging.disable_progress_bar()
    pipeline = FusionPipeline.from_pretrained(name, dtype=getattr(torch, dtype))
    pipeline.set_progress_bar_config(disable=True)
    details = {**describe_checkpoint(pipeline), "dtype": str(pipeline.model.dtype).removeprefix("torch.")}

    def picture(pair: Pair) -> Image.Image:
        return _rgb(pipeline(pair.visible_source, pair.infrared_source).images[0])

    return _made(_portable(name), "model", picture, details)


def read_inputs(inputs: Inputs, pairs: Sequence[Pair], label: str, cache: Path) -> Iterator[Image.Image]:
    """The image of each pair, in order; fused ones from `cache`, to which missing ones are added.

    The processes of one run share the work: each starts with its own part and skips what others have finished.

    Args:
        label: of the dataset; names a folder in the cache.

    Raises:
        ValueError, OSError: an image cannot be read or computed.
    """
    if not inputs.fingerprint:
        yield from (inputs.picture(pair) for pair in pairs)
        return
    method_folder = cache / f"{file_name(inputs.name)}-{inputs.fingerprint[:12]}"
    folder = method_folder / file_name(label)
    folder.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(method_folder)
    sweep_leftovers(folder)
    with write_aside(method_folder / f"{PROVENANCE}.json") as path:
        values = {**inputs.to_dict(), "made_with": {"fusion_hub": __version__, "torch": torch.__version__}}
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    files = [folder / f"{pair.name}.png" for pair in pairs]
    rank, world = (int(os.environ.get(key, default)) for key, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    order = sorted(range(len(pairs)), key=lambda index: (index - rank) % world)
    missing = [index for index in order if not _is_current(files[index], _record(inputs, pairs[index]))]
    title = f"fusing {inputs.name}: {label}"
    for index in tqdm(missing, desc=title, unit="image", disable=rank != 0 or not missing):
        write_picture(inputs, pairs[index], files[index])  # skipped if another process was faster
    for file in files:
        with Image.open(file) as image:
            yield image.convert("RGB")


def write_picture(inputs: Inputs, pair: Pair, file: Path) -> None:
    """Write the image of a pair as PNG with its provenance, whole or not at all.

    Kept if `file` already is the result of this method for these sources. Images from a folder are always written.
    """
    record = _record(inputs, pair)
    if inputs.kind == "folder" or not _is_current(file, record):
        text = PngInfo()
        text.add_text(PROVENANCE, record)
        image = inputs.picture(pair)
        with write_aside(file) as path:
            image.save(path, "PNG", pnginfo=text)


def file_name(text: str) -> str:
    """A valid file name: `runs/x/pipeline` becomes `runs_x_pipeline`."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "_"


def _rgb(image: Any) -> Image.Image:
    return Image.fromarray(FusionImageProcessor().to_rgb(image))


def _made(name: str, kind: str, picture: Callable[[Pair], Image.Image], details: Mapping[str, Any]) -> Inputs:
    digest = hashlib.sha256(json.dumps(details, sort_keys=True).encode()).hexdigest()
    return Inputs(name, kind, picture, details, digest)


def _rule(name: str) -> Inputs:
    processor = FusionImageProcessor()

    def picture(pair: Pair) -> Image.Image:
        visible, infrared, contexts = processor.preprocess(pair.visible_source, pair.infrared_source)
        return _rgb(processor.postprocess(BASELINES[name](visible, infrared), contexts)[0])

    return _made(name, "rule", picture, {"rule": name, "colour": "of the visible picture"})  # as in existing caches


def _folder(folder: Path) -> Inputs:
    files: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        if file.suffix.lower() in EXTENSIONS and not file.name.startswith("."):
            files.setdefault(file.stem, []).append(file)
    if not files:
        raise ValueError(f"{folder} is neither a pipeline folder nor a folder with images")

    def picture(pair: Pair) -> Image.Image:
        found = files.get(pair.name, [])
        if len(found) != 1:
            raise ValueError(
                f"{folder} has {len(found)} images named {pair.name!r}: give one image for each pair, with its stem"
            )
        image, size = _rgb(found[0]), inspect_picture(pair.visible_source, decode=False)[0]
        if image.size != size:
            sizes = [f"{width}x{height}" for width, height in (image.size, size)]
            raise ValueError(
                f"{found[0]} is {sizes[0]} pixels and its pair {sizes[1]}: give images of the size of their pairs, "
                "since boxes and labels are in pixels"
            )
        return image

    return Inputs(_portable(str(folder)), "folder", picture, {"folder": folder.name, "images": len(files)})


def _portable(name: str) -> str:
    """A name without the path of one machine."""
    return "/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name


def _record(inputs: Inputs, pair: Pair) -> str:
    """Sources and method of one fused image."""
    sources = {"visible": _source_digest(pair.visible_source), "infrared": _source_digest(pair.infrared_source)}
    return json.dumps({"method": inputs.name, "fingerprint": inputs.fingerprint, "sources": sources}, sort_keys=True)


def _source_digest(source: ImageSource) -> str:
    if isinstance(source, Path | Mapping):
        return hashlib.sha256(read_bytes(source)).hexdigest()
    pixels = np.ascontiguousarray(np.asarray(load_picture(source)))
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype} ".encode() + pixels.tobytes()).hexdigest()


def _is_current(file: Path, record: str) -> bool:
    """Whether a cached image is whole and was made from the same sources by the same method."""
    try:
        with Image.open(file) as image:
            return image.info.get(PROVENANCE) == record
    except READ_ERRORS:
        return False
