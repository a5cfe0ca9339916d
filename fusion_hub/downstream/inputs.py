"""What a network after fusion looks at: the visible picture, the infrared one, or what any method makes of both.

    pictures = read_inputs(open_inputs("difffusenet-msrs"), pairs, "msrs_train", Path("runs/inputs"))

All fused pictures have the colours of the visible one (its chroma; the method makes the luminance), those of the simple
rules too, so that methods differ in nothing else. Fused pictures are made once and kept as PNG files. Each holds in a
text chunk what it was made of: one of another checkpoint, or of changed sources, is never taken for the right one.
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
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fusion_hub.data.layouts import EXTENSIONS
from fusion_hub.data.pictures import READ_ERRORS, ImageSource, Pair, load_picture, read_bytes
from fusion_hub.evaluation.baselines import BASELINES
from fusion_hub.files import sweep_leftovers, write_aside
from fusion_hub.image.processor import FusionImageProcessor

SOURCES = ("visible", "infrared")
DTYPES = ("float32", "bfloat16")
PROVENANCE = "fusion-hub"
"""Keyword of the text chunk, and the start of the name of the file beside the pictures."""


@dataclass(frozen=True)
class Inputs:
    """Pictures for a network after fusion, one for each pair.

    Attributes:
        name: what was asked for: `visible`, `average`, `difffusenet-msrs`, a folder.
        kind: "source", "rule", "model" or "folder".
        picture: from a pair to its picture, RGB, 8 bits.
        details: what has to be known to get the same pictures again, JSON-able: checkpoint hash, options.
        fingerprint: changes with the pictures; empty for those that are read and not made, which need no cache.
    """

    name: str
    kind: str
    picture: Callable[[Pair], Image.Image]
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""


def open_inputs(name: str, dtype: str = "float32") -> Inputs:
    """The pictures that `name` stands for.

    Args:
        name: `visible` or `infrared`; a baseline; a bundled model, a pipeline folder or a Hub id
            `owner/name`; or a folder with one image for each pair, of its stem.
        dtype: in which a model computes, one of `DTYPES`; published numbers are float32.

    Raises:
        ValueError, OSError: it stands for nothing, or the pipeline cannot be loaded.
    """
    if name in SOURCES:
        return Inputs(name, "source", lambda pair: _rgb(getattr(pair, name)), {"source": name})
    if name.replace("-", "_") in BASELINES:
        return _rule(name.replace("-", "_"))
    folder = Path(name)
    if folder.is_dir() and not (folder / "model_index.json").is_file():
        return _folder(folder)
    return _model(name, dtype)


def read_inputs(inputs: Inputs, pairs: Sequence[Pair], label: str, cache: Path) -> Iterator[Image.Image]:
    """The picture of each pair, in order; fused ones from `cache`, where missing ones are added.

    Processes of one run share the work: each begins with its own share, and takes what others have made meanwhile.

    Args:
        label: of the set; it names a folder in the cache.

    Raises:
        ValueError, OSError: a picture cannot be read or made.
    """
    if not inputs.fingerprint:
        yield from (inputs.picture(pair) for pair in pairs)
        return
    folder = cache / f"{file_name(inputs.name)}-{inputs.fingerprint[:12]}"
    place = folder / file_name(label)
    place.mkdir(parents=True, exist_ok=True)
    sweep_leftovers(folder)
    sweep_leftovers(place)
    with write_aside(folder / f"{PROVENANCE}.json") as path:
        _describe(inputs, path)
    files = [place / f"{pair.name}.png" for pair in pairs]
    rank, world = (int(os.environ.get(key, default)) for key, default in (("RANK", "0"), ("WORLD_SIZE", "1")))
    order = sorted(range(len(pairs)), key=lambda index: (index - rank) % world)
    missing = [index for index in order if not _is_of(files[index], _record(inputs, pairs[index]))]
    if missing:
        _make(inputs, [(pairs[index], files[index]) for index in missing], f"{inputs.name}: {label}", shown=rank == 0)
    for file in files:
        with Image.open(file) as image:
            yield image.convert("RGB")


def write_picture(inputs: Inputs, pair: Pair, file: Path) -> bool:
    """Write the picture of a pair as PNG with its provenance, aside and then in place; True if it was written.

    False if `file` is already what this method makes of these sources. What is read from a folder is always written.
    """
    record = _record(inputs, pair)
    if inputs.kind != "folder" and _is_of(file, record):
        return False
    text = PngInfo()
    text.add_text(PROVENANCE, record)
    picture = inputs.picture(pair)
    with write_aside(file) as path:
        picture.save(path, "PNG", pnginfo=text)
    return True


def _make(inputs: Inputs, work: Sequence[tuple[Pair, Path]], title: str, shown: bool) -> None:
    from tqdm import tqdm

    for pair, file in tqdm(work, desc=f"fusing {title}", unit="picture", disable=not shown):
        write_picture(inputs, pair, file)  # nothing if another process was quicker


# --- the kinds -------------------------------------------------------------------------------------------------------


def _rgb(picture: Any) -> Image.Image:
    return Image.fromarray(FusionImageProcessor().to_rgb(picture))


def _rule(name: str) -> Inputs:
    processor = FusionImageProcessor()

    def picture(pair: Pair) -> Image.Image:
        visible, infrared, contexts = processor.preprocess(pair.visible_source, pair.infrared_source)
        return _rgb(processor.postprocess(BASELINES[name](visible, infrared), contexts)[0])

    details = {"rule": name, "colour": "of the visible picture"}
    return Inputs(name, "rule", picture, details, _digest(details))


def _model(name: str, dtype: str) -> Inputs:
    import torch
    from diffusers.utils import logging

    from fusion_hub.evaluation.methods import describe_checkpoint
    from fusion_hub.pipelines import FusionPipeline

    logging.disable_progress_bar()
    pipeline = FusionPipeline.from_pretrained(name, dtype=getattr(torch, dtype))
    pipeline.set_progress_bar_config(disable=True)

    def picture(pair: Pair) -> Image.Image:
        return _rgb(pipeline(pair.visible_source, pair.infrared_source).images[0])

    details = {**describe_checkpoint(pipeline), "dtype": str(pipeline.model.dtype).removeprefix("torch.")}
    return Inputs(_shown(name), "model", picture, details, _digest(details))


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
                f"{folder} has {len(found)} images named {pair.name!r}: give one for each pair, of the stem of the pair"
            )
        return _rgb(found[0])

    return Inputs(_shown(str(folder)), "folder", picture, {"folder": folder.name, "images": len(files)})


def _shown(name: str) -> str:
    """A name that holds no place of one machine."""
    return "/".join(Path(name).parts[-2:]) if Path(name).is_absolute() else name


# --- the cache -------------------------------------------------------------------------------------------------------


def _record(inputs: Inputs, pair: Pair) -> str:
    """What one fused picture was made of and by."""
    sources = {"visible": _source_digest(pair.visible_source), "infrared": _source_digest(pair.infrared_source)}
    return json.dumps({"method": inputs.name, "fingerprint": inputs.fingerprint, "sources": sources}, sort_keys=True)


def _source_digest(source: ImageSource) -> str:
    if isinstance(source, Path | Mapping):
        return hashlib.sha256(read_bytes(source)).hexdigest()
    pixels = np.ascontiguousarray(np.asarray(load_picture(source)))
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype} ".encode() + pixels.tobytes()).hexdigest()


def _is_of(file: Path, record: str) -> bool:
    """Whether a cached picture is whole and was made of the same sources by the same method."""
    try:
        with Image.open(file) as image:
            return image.info.get(PROVENANCE) == record
    except READ_ERRORS:
        return False


def _describe(inputs: Inputs, path: Path) -> None:
    import torch

    from fusion_hub import __version__

    values = {
        "name": inputs.name,
        "kind": inputs.kind,
        "fingerprint": inputs.fingerprint,
        "details": dict(inputs.details),
        "made_with": {"fusion_hub": __version__, "torch": torch.__version__},
    }
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def file_name(text: str) -> str:
    """A name that can be one of a file: `runs/x/pipeline` becomes `runs_x_pipeline`."""
    return re.sub(r"[^\w.-]+", "_", text).strip("_.") or "_"


def _digest(details: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(details, sort_keys=True).encode()).hexdigest()
