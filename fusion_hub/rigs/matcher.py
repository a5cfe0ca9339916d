"""A matching network of `transformers` in place of the search: EfficientLoFTR, LightGlue, SuperGlue.

    calibrator = RigCalibrator(matcher="owner/name")

The matches of all frames give one homography, which [`align`] refines and judges. So its confidence means the same.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lazy_loader
import numpy as np

from fusion_hub.image.luminance import quantize
from fusion_hub.repositories import check_hub_id, download, first_line
from fusion_hub.rigs.alignment import REFINED, Alignment, align, spread
from fusion_hub.rigs.features import Array, Matrix, center_fit, scaling, shrink

cv2 = lazy_loader.load("cv2")

FEWEST = 12  # matches that agree with the homography
NEAR = 3.0  # pixels of the network's input within which a match agrees
_PARTS = 256  # of a pixel: `transformers` returns whole numbers


class KeypointMatcher:
    """A network that finds corresponding points in two pictures.

    Args:
        name: a folder that `save_pretrained` wrote, with `preprocessor_config.json`, or a Hub id `"owner/name"`.
            Safetensors only; no code of it is run.

    Raises:
        ImportError: transformers is not installed.
        OSError, ValueError: the network cannot be found or loaded.
    """

    def __init__(self, name: str | os.PathLike[str]) -> None:
        try:
            import torch
            import transformers
        except ImportError as error:
            raise ImportError("a matcher needs transformers: pip install 'fusion-hub[downstream]'") from error
        name = os.fspath(name)
        folder = Path(name)
        if not folder.is_dir():
            try:
                check_hub_id(name, "matcher", "a Hub id 'owner/name', or a folder that save_pretrained wrote")
            except OSError as error:  # a wrong name is a wrong value here, as a wrong network is
                raise ValueError(str(error)) from error
        try:
            if not folder.is_dir():
                folder = download(name, ["*.json", "model*.safetensors"], ["*/*", "model.*.safetensors"])
            self.processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
            model, report = transformers.AutoModelForKeypointMatching.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
        except Exception as error:  # damaged files raise anything: safetensors, JSON, configuration checks, HTTP
            raise ValueError(
                f"cannot load the matcher {name!r} ({first_line(error)[:300].rstrip('.')}): give a folder or a Hub id "
                "with config.json, preprocessor_config.json and safetensors weights of EfficientLoFTR, LightGlue or "
                "SuperGlue"
            ) from error
        if missing := [*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])]:
            raise ValueError(
                f"in the weights of {name!r}, {len(missing)} tensors are missing or have another shape (first: "
                f"{min(missing)}): use config.json and weights of the same checkpoint"
            )
        self.model = model.eval()
        self.size = int(self.processor.size["height"]), int(self.processor.size["width"])

    def match(self, visible: Array, infrared: Array) -> tuple[Matrix, Matrix]:
        """Corresponding points `(N, 2)`, (x, y), of two pictures of `size`, `(H, W)` in [0, 1]."""
        import torch

        pictures: list[Any] = [np.repeat(quantize(one)[..., None], 3, axis=2) for one in (visible, infrared)]
        with torch.no_grad():
            outputs = self.model(**self.processor([pictures], return_tensors="pt"))
        parts = tuple(_PARTS * side for side in self.size)
        (found,) = self.processor.post_process_keypoint_matching(outputs, [[parts, parts]])
        seen, warm = (found[name].numpy().astype(np.float64) / _PARTS for name in ("keypoints0", "keypoints1"))
        return seen, warm

    def __call__(
        self,
        frames: Sequence[tuple[Array, Array]],
        *,
        start: Matrix | None = None,
        fov_ratio: float | None = None,
        progress: Callable[[float], None] | None = None,
    ) -> Alignment:
        """As [`align`]; `start` and `fov_ratio` are not needed and have no influence."""
        chosen = spread(len(frames), REFINED)
        seen: list[Matrix] = []
        warm: list[Matrix] = []
        for number, index in enumerate(chosen):
            pair = [shrink(np.ascontiguousarray(one, dtype=np.float32), self.size) for one in frames[index]]
            for points, matched in zip((seen, warm), self.match(*pair), strict=True):
                points.append(matched)
            if progress is not None:
                progress(0.5 * (number + 1) / len(chosen))
        visible, infrared = frames[0]
        found, agree = _fit(np.concatenate(warm), np.concatenate(seen))
        if found is None:
            place = center_fit(_size(visible), _size(infrared))
            return Alignment(place, 0.0, 0.0, 0.0, float("inf"), 0.0, False, f"the matcher found {agree} common points")
        to_seen, to_warm = (scaling(self.size[1] / w, self.size[0] / h) for h, w in (_size(visible), _size(infrared)))
        place = np.linalg.inv(to_seen) @ found @ to_warm
        later = None if progress is None else lambda share: progress(0.5 + share / 2)
        return align(frames, start=place / place[2, 2], progress=later)


def _fit(points: Matrix, found: Matrix) -> tuple[Matrix | None, int]:
    """The homography between points `(N, 2)` of which some are wrong, None if too few agree, and how many do."""
    if len(points) < FEWEST:
        return None, len(points)
    homography, kept = cv2.findHomography(points, found, cv2.USAC_MAGSAC, NEAR)
    agree = 0 if homography is None else int(kept.sum())
    return (homography if agree >= FEWEST else None), agree


def _size(picture: Array) -> tuple[int, int]:
    return picture.shape[0], picture.shape[1]
