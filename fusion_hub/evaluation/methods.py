"""Methods to evaluate: pipelines, rules without a network, and folders of fused images from other programs."""

import hashlib
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image

from fusion_hub.data.pairing import find_mark
from fusion_hub.data.pairs import ImageSource, Pair, load_picture
from fusion_hub.evaluation.baselines import BASELINES, fuse_plane
from fusion_hub.image.inputs import from_array
from fusion_hub.image.io import EXTENSIONS, DeepImage, from_pil, read_picture, to_image
from fusion_hub.image.luminance import Role, luma, quantize
from fusion_hub.image.picture import Picture, full_scale
from fusion_hub.image.processor import FusionImageProcessor, InputWarning

if TYPE_CHECKING:
    from fusion_hub.pipelines import FusionPipeline

Kind = Literal["model", "baseline", "folder"]
Fuse = Callable[[Pair, str], Image.Image]
"""From a pair, and the name of its set, to the fused picture as it would be saved."""

FuseBoth = Callable[[Pair, str], tuple[Image.Image, Image.Image]]
"""The same, and the picture that is stretched to the full range before it is rounded."""

Rescale = Literal["none", "minmax"]
LOW_BITS = 4095
"""A 16-bit picture without a larger value holds 12 bits or fewer."""
ALWAYS = ("average", "maximum")
"""Baselines in every report: a claim means little without them."""


@dataclass(frozen=True)
class Method:
    """One way to fuse.

    Attributes:
        name: in tables.
        kind: "model", "baseline" or "folder".
        fuse: `(pair, dataset name) -> PIL image` of the pair's size.
        details: everything needed to get the same picture again, as JSON: checkpoint hash, options, folder.
        fingerprint: changes whenever its pictures could change; only results with the same one are resumed.
        fuse_both: fuses once for both conventions; None: the picture of `fuse` is stretched as it is.
    """

    name: str
    kind: Kind
    fuse: Fuse
    details: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    fuse_both: FuseBoth | None = None

    def pictures(self, pair: Pair, dataset: str) -> tuple[Image.Image, np.ndarray]:
        """The picture of `fuse`, and the luminance `(H, W)` uint8 of the same picture stretched from its minimum to
        its maximum: the second convention of published tables."""
        if self.fuse_both is not None:
            plain, stretched = self.fuse_both(pair, dataset)
            return plain, luminance(stretched)
        fused = self.fuse(pair, dataset)
        return fused, stretch(luminance(fused))

    @property
    def stretched(self) -> bool | None:
        """Whether each image is stretched to the full range; None: unknown."""
        rescale = self.details.get("rescale")
        return None if rescale is None else rescale == "minmax"


def luminance(image: Image.Image) -> np.ndarray:
    """`(H, W)` uint8: BT.601 full range, `floor(0.299 R + 0.587 G + 0.114 B + 0.5)`; one-channel images as they are.

    16-bit images are divided by 257 and rounded, so that 65535 becomes 255; floats in [0, 1] are multiplied by 255.

    Raises:
        ValueError: for modes on which the metrics are not defined (floats beyond [0, 1], CMYK ...).
    """
    if isinstance(image, DeepImage):
        gray = image.samples.shape[2] == 2  # and alpha
        pixels = image.samples[..., 0] if gray else image.samples[..., :3]
    else:
        pixels = from_pil(image, "the image").pixels
    if pixels.dtype.kind == "f":
        if not 0 <= pixels.min() <= pixels.max() <= 1:
            raise ValueError(
                "it holds float values beyond 0 to 1, or no numbers: the metrics are defined on 8-bit images, so save "
                "it with 8 bits, or as floats from 0 to 1"
            )
    elif not isinstance(image, DeepImage) and image.mode not in (
        "1",
        "L",
        "LA",
        "P",
        "RGB",
        "RGBA",
        "I;16",
        "I;16L",
        "I;16B",
    ):
        raise ValueError(
            f"it has the mode {image.mode}: the metrics are defined on gray or color images of 8 bits, so save it with "
            "8 bits, or with 16 over the full scale"
        )
    return quantize(luma(pixels.astype(np.float64)), white=full_scale(pixels.dtype))


def source_luminance(
    pair: Pair, infrared_range: Any = "auto", visible_range: Any = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """8-bit luminance of the visible and of the infrared picture, each `(H, W)` uint8.

    8-bit pictures as `luminance` reads them. Deeper ones, and all where a range is given, go through the image
    processor, with the rule by which the pipelines read them, so a method is measured against its actual input.
    """
    pictures = [_decoded(pair.visible_source, "visible"), _decoded(pair.infrared_source, "infrared")]
    plain = all(p.pixels.dtype == np.uint8 and p.white == 255 and p.valid is None for p in pictures)
    if plain and infrared_range == visible_range == "auto":
        visible, infrared = (luminance(Image.fromarray(picture.pixels)) for picture in pictures)
    else:
        processor = FusionImageProcessor(infrared_range=infrared_range)
        visible_unit, infrared_unit, _ = processor.preprocess(*pictures, visible_range=visible_range)
        visible, infrared = (quantize(unit[0, 0].numpy()) for unit in (visible_unit, infrared_unit))
    if visible.shape != infrared.shape:
        sizes = " and infrared ".join(f"{plane.shape[1]}x{plane.shape[0]}" for plane in (visible, infrared))
        raise ValueError(f"visible is {sizes} pixels: register and crop them to one size")
    return visible, infrared


def _decoded(source: ImageSource, role: Role) -> Picture:
    """A source as the reader of the pipelines sees it."""
    if isinstance(source, Path | Mapping):
        return read_picture(source, role, role=role)
    loaded = load_picture(source)
    return from_pil(loaded, role) if isinstance(loaded, Image.Image) else from_array(loaded, role)


def baseline_method(name: str, rescale: Rescale = "none", ranges: Mapping[str, Any] | None = None) -> Method:
    """A rule of `fusion_hub.evaluation.baselines` on the 8-bit luminance of both sources; ValueError for other names.

    `guided-filter` and `guided_filter` are one. `ranges` as in [`source_luminance`].
    """
    key = name.replace("-", "_")
    if key not in BASELINES:
        raise ValueError(f"{name!r} is not a baseline: choose among {', '.join(BASELINES)}")

    def fuse_both(pair: Pair, dataset: str) -> tuple[Image.Image, Image.Image]:
        plane = fuse_plane(key, *source_luminance(pair, **(ranges or {})))
        plain, stretched = (quantize(values, ties="even") for values in (plane, _to_unit(plane)))
        return Image.fromarray(plain), Image.fromarray(stretched)

    def fuse(pair: Pair, dataset: str) -> Image.Image:
        return fuse_both(pair, dataset)[rescale == "minmax"]

    label = key if rescale == "none" else f"{key}+minmax"
    details = {"rule": key, "rescale": rescale, "colour": "luminance only", "rounding": "halves to even"}
    both = fuse_both if rescale == "none" else None
    return Method(label, "baseline", fuse, details, _digest("baseline", details), both)


def stretch(gray: np.ndarray) -> np.ndarray:
    """`(H, W)` uint8 stretched so that its darkest level is 0 and its brightest 255; a constant image stays."""
    return quantize(_to_unit(gray / 255))


def _to_unit(plane: np.ndarray) -> np.ndarray:
    """`(H, W)` float64 in [0, 1] stretched to reach both ends; a constant image stays."""
    low, high = plane.min(), plane.max()
    return plane if low == high else (plane - low) / (high - low)


def pipeline_method(name: str, pipeline: "FusionPipeline", options: Mapping[str, Any] | None = None) -> Method:
    """A pipeline as `fusion-hub fuse` runs it, with `options` for its call (such as `rescale`)."""
    options = dict(options or {})

    def run(pair: Pair, **arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # `fusion-hub fuse` reports what is wrong with inputs
            return pipeline(pair.visible_source, pair.infrared_source, **(options | arguments)).images[0]

    def fuse(pair: Pair, dataset: str) -> Image.Image:
        return run(pair)

    def fuse_both(pair: Pair, dataset: str) -> tuple[Image.Image, Image.Image]:
        return run(pair, rescale="both")

    details = {**describe_checkpoint(pipeline), "dtype": str(pipeline.model.dtype).removeprefix("torch."), **options}
    both = fuse_both if options.get("rescale", "none") == "none" else None
    return Method(name, "model", fuse, details, _digest("model", details), both)


def describe_checkpoint(pipeline: "FusionPipeline") -> dict[str, Any]:
    """Class, settings, number of parameters, hash of the weights' files and of the values in memory."""
    folder = Path(pipeline.config.get("_name_or_path", ""))
    files = sorted(folder.glob("model/*.safetensors")) if folder.is_dir() else []
    values = hashlib.sha256()
    for key, tensor in sorted(pipeline.model.state_dict().items()):
        values.update(key.encode())
        values.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    settings = {
        key: value
        for config in (pipeline.model.config, pipeline.config)
        for key, value in config.items()
        if not key.startswith("_") and key not in pipeline.components
    }
    return {
        "class": type(pipeline).__name__,
        "settings": settings,
        "parameters": sum(parameter.numel() for parameter in pipeline.model.parameters()),
        "sha256": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "state_sha256": values.hexdigest(),
    }


def _pair_of(file: Path, pairs: set[str]) -> str:
    """The pair that a fused image belongs to: `a.png`, `a_vis.png` and `a_fused.png` belong to the pair `a`."""
    names = (file.stem, find_mark(file.stem).key, re.sub(r"[-_. ]fused$", "", file.stem, flags=re.IGNORECASE))
    return next((name for name in names if name in pairs), file.stem)


def folder_method(name: str, folder: Path, datasets: Mapping[str, list[str]]) -> Method:
    """Images that another program has fused, one for each pair, named after it or after one of its sources.

    Args:
        name: in tables.
        folder: holds the images; or, with several sets, one folder for each (`tno/test`, `tno_test` or `tno`).
        datasets: names of the pairs of each set.

    Raises:
        FileNotFoundError: no such folder, or images are missing: a method is never evaluated on only a part of a set.
        ValueError: one pair has several images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: there is no folder {str(folder)!r}")
    files = {}
    for dataset, pairs in datasets.items():
        candidates = [folder / dataset, folder / re.sub(r"[/\\]", "_", dataset), folder / dataset.split("/")[0]]
        own = next((path for path in candidates if path.is_dir()), None)
        if own is None and len(datasets) > 1:
            raise FileNotFoundError(
                f"{name}: {folder} has no folder for {dataset!r}; with several sets give one folder for each, such as "
                f"{candidates[1]}"
            )
        own = own or folder
        by_pair: dict[str, list[Path]] = {}
        for file in sorted(own.iterdir()):
            if file.suffix.lower() in EXTENSIONS:
                by_pair.setdefault(_pair_of(file, set(pairs)), []).append(file)
        if repeated := [files for files in map(by_pair.get, pairs) if files and len(files) > 1]:
            first, second = repeated[0][:2]
            raise ValueError(f"{name}: {first} and {second.name} are images of one pair: leave one of them")
        if missing := [pair for pair in pairs if pair not in by_pair]:
            shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
            others = [file.name for key, files in by_pair.items() if key not in pairs for file in files]
            raise FileNotFoundError(
                f"{name}: {own} has no image for {len(missing)} of the {len(pairs)} pairs of {dataset!r} ({shown}): "
                f"name each after its pair, such as {missing[0]}.png{f', in place of {others[0]}' if others else ''}"
            )
        files[dataset] = {pair: by_pair[pair][0] for pair in pairs}

    def fuse(pair: Pair, dataset: str) -> Image.Image:
        picture = read_picture(files[dataset][pair.name])
        most = int(picture.pixels.max()) if picture.pixels.dtype == np.uint16 else 0
        if 0 < most <= LOW_BITS:
            raise ValueError(
                f"it has 16 bits and no value above {most}, so it would be measured as nearly black: save it with 8 "
                "bits, or with 16 over the full scale of 65535"
            )
        return to_image(picture)

    content = hashlib.sha256()
    for dataset, own_files in sorted(files.items()):
        for stem, file in sorted(own_files.items()):
            content.update(f"{dataset} {stem} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    details = {"folder": folder.name, "content_sha256": content.hexdigest()}
    return Method(name, "folder", fuse, details, _digest("folder", details))


def _digest(kind: str, details: Mapping[str, Any]) -> str:
    text = repr((kind, sorted((key, repr(value)) for key, value in details.items())))
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
