"""A picture to check a rig by: the edges of the infrared over the visible picture, before and after alignment."""

import lazy_loader
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fusion_hub.image.luminance import quantize
from fusion_hub.rigs.features import Array, center_fit, shrink
from fusion_hub.rigs.rig import Rig
from fusion_hub.rigs.warp import Warp

cv2 = lazy_loader.load("cv2")

EDGE_COLOR = (255, 140, 0)
SIDE = 800  # longer side of one panel
_DIMMED = 0.75  # brightness of the visible picture below the edges


def edges_over(visible: Array, infrared: Array, warp: Warp) -> np.ndarray:
    """Edges of an infrared picture, in orange, over a visible one in gray.

    Args:
        visible: `(H, W)` luminance in [0, 1].
        infrared: `(h, w)` luminance in [0, 1].
        warp: the registration of these sizes.

    Returns:
        `(H, W, 3)` uint8.
    """
    warped = cv2.GaussianBlur(warp.apply(np.ascontiguousarray(infrared, dtype=np.float32)), (0, 0), 1.0)
    strength = cv2.magnitude(cv2.Sobel(warped, cv2.CV_32F, 1, 0), cv2.Sobel(warped, cv2.CV_32F, 0, 1))
    strength[cv2.erode(warp.mask.astype(np.uint8), np.ones((5, 5), np.uint8)) == 0] = 0
    top = np.percentile(strength[warp.mask], 97) if warp.mask.any() else 0.0
    alpha = np.clip((strength / max(top, 1e-6) - 0.25) / 0.75, 0, 1)[..., None]
    gray = np.repeat(_DIMMED * visible[..., None], 3, axis=2)
    return quantize(gray + alpha * (np.array(EDGE_COLOR) / 255 - gray))


def draw_check(visible: Array, infrared: Array, rig: Rig) -> Image.Image:
    """Both panels, before (the infrared fitted into the middle) and after, side by side, at most 800 pixels each.

    Shapes and ranges as for [`edges_over`].
    """
    factor = min(1.0, SIDE / max(visible.shape))
    size = (max(1, round(visible.shape[0] * factor)), max(1, round(visible.shape[1] * factor)))
    visible = shrink(np.ascontiguousarray(visible, dtype=np.float32), size)
    sizes = size, (infrared.shape[0], infrared.shape[1])
    panels = [("before", Warp(center_fit(*sizes), *sizes)), ("after", rig.at(*sizes))]
    gap, font = 8, ImageFont.load_default(18)
    picture = Image.new("RGB", (2 * size[1] + gap, size[0]), "white")
    draw = ImageDraw.Draw(picture)
    for number, (label, warp) in enumerate(panels):
        left = number * (size[1] + gap)
        picture.paste(Image.fromarray(edges_over(visible, infrared, warp)), (left, 0))
        text = f"{label}: edges of the infrared over the visible" if size[1] > 480 else label
        draw.rectangle(draw.textbbox((left + 10, 8), text, font=font), fill="black")
        draw.text((left + 10, 8), text, fill="white", font=font)
    return picture
