"""Frames of a video as pictures, and fused pictures as frames.

Of a YUV frame only the luma is fused: chroma, matrix (BT.601, 709, 2020) and range stay those of the visible video, so
that colors pass without a conversion. Limited luma, 16..235 of 8 bits, is expanded to the full scale on reading and
compressed on writing; a level that the fusion leaves alone comes back exactly.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING, cast

import numpy as np

from fusion_hub.image.luminance import quantize
from fusion_hub.image.picture import Depth, Picture

if TYPE_CHECKING:
    from av import VideoFrame

LIMITED, FULL = 1, 2  # AVColorRange
_BT601 = 5  # AVColorSpace; as a tag of YUV that was made from RGB it becomes 6, the same matrix
_GRAYS = {"ya8": "gray", "ya16le": "gray16le", "ya16be": "gray16le", "monow": "gray", "monob": "gray"}
_GRAYS |= {f"gray{bits}be": f"gray{bits}le" for bits in (9, 10, 12, 14, 16)}
_FALSE_COLORS = 0.08  # mean distance of the chroma from gray, of its full scale


@dataclass(frozen=True, eq=False)
class Colors:
    """What a YUV frame holds besides its luma.

    Attributes:
        chroma: the planes Cb and Cr as stored.
        layout: FFmpeg's name of the pixel format, planar, such as "yuv420p10le".
        bits: of a sample.
        full: whether luma is 0..255 (of 8 bits) and not 16..235.
        tags: AVColorSpace, AVColorPrimaries and AVColorTransferCharacteristic.
    """

    chroma: tuple[np.ndarray, np.ndarray]
    layout: str
    bits: int
    full: bool
    tags: tuple[int, int, int]

    @property
    def are_strong(self) -> bool:
        """Whether they are more than the traces that encoding leaves in a gray picture."""
        gray = 1 << (self.bits - 1)
        spreads = [np.abs(plane[::4, ::4].astype(np.float32) - gray).mean() for plane in self.chroma]
        return float(max(spreads)) > _FALSE_COLORS * 2 * gray


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame.

    Attributes:
        picture: the luma on its full scale where there are `colors`, else the whole picture.
        time: seconds.
        name: of its file in a folder of results, without suffix.
        colors: of a YUV frame.
    """

    picture: Picture
    time: Fraction
    name: str
    colors: Colors | None = None


def from_video_frame(frame: "VideoFrame", time: Fraction, name: str, turns: int = 0, keep_rgb: bool = False) -> Frame:
    """A frame that PyAV has decoded; the arrays share its memory.

    Args:
        frame: of any pixel format.
        time, name: see [`Frame`].
        turns: quarter turns counterclockwise that make it upright.
        keep_rgb: leave RGB as it is; otherwise it becomes YUV 4:4:4 of BT.601 and full range.
    """
    frame = _to_planes(frame, square=bool(turns % 2), keep_rgb=keep_rgb)
    kind = frame.format.name
    planes = [np.rot90(_plane(frame, index), turns) for index in range(len(frame.planes))]
    if kind == "rgb24":
        return Frame(Picture(planes[0], white=255.0), time, name)
    bits, pixels = frame.format.components[0].bits, planes[0]
    full = kind.startswith("yuvj") or frame.color_range == FULL
    if kind.startswith("gray"):  # full unless marked; samples of more than 8 bits are counts
        full = bits > 8 or frame.color_range != LIMITED
    if not full:
        pixels = _expansion(bits).take(pixels, mode="clip")  # a damaged stream may hold any code
    is_float = pixels.dtype.kind == "f"
    depth = cast(Depth, "float32" if is_float else "uint8" if bits == 8 else "uint16")
    picture = Picture(pixels, white=1.0 if is_float else float(2**bits - 1), depth=depth)
    if len(planes) == 1:
        return Frame(picture, time, name)
    tags = (int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc))
    return Frame(picture, time, name, Colors((planes[1], planes[2]), kind.replace("yuvj", "yuv"), bits, full, tags))


def to_video_frame(frame: Frame, layout: str) -> "VideoFrame":
    """A fused frame for an encoder.

    Args:
        frame: with its luma as float32 in [0, 1] where it has colors.
        layout: the pixel format, of 8 or 10 bits for YUV; with halved chroma an odd side grows by one, a copy of the
            last row or column.
    """
    import av

    pixels = frame.picture.pixels
    if pixels.ndim == 3 and pixels.shape[2] in (2, 4):  # a video has no alpha
        pixels = pixels[..., 0] if pixels.shape[2] == 2 else pixels[..., :3]
    if layout == "gray16le":
        return av.VideoFrame.from_ndarray(quantize(pixels, np.uint16), format=layout)
    if frame.colors is not None:
        colors = frame.colors
    elif pixels.ndim == 2:
        gray = np.full([-(-side // 2) for side in pixels.shape], 128, np.uint8)
        colors = Colors((gray, gray), "yuv420p", 8, True, (6, 2, 2))
        pixels = quantize(pixels)
    else:
        made = av.VideoFrame.from_ndarray(quantize(pixels), format="rgb24")
        return _even(made.reformat(format="yuv444p", dst_colorspace=_BT601, dst_color_range=FULL), layout)
    bits = 10 if layout.endswith("10le") else 8
    kind = re.sub(r"\d+le$", "", colors.layout) + ("10le" if bits == 10 else "")
    out = av.VideoFrame(pixels.shape[1], pixels.shape[0], kind)
    black, span = _luma_scale(bits, colors.full)
    _plane(out, 0)[...] = pixels * np.float32(span) + np.float32(black + 0.5) if pixels.dtype.kind == "f" else pixels
    for index, plane in enumerate(colors.chroma, 1):
        fewer = colors.bits - bits
        _plane(out, index)[...] = plane if fewer <= 0 else np.minimum((plane + (1 << fewer >> 1)) >> fewer, 2**bits - 1)
    out.color_range = FULL if colors.full else LIMITED
    out.colorspace, out.color_primaries, out.color_trc = colors.tags
    return _even(out, layout)


def to_rgb(frame: Frame) -> np.ndarray:
    """The colors of a fused YUV frame, `(H, W, 3)` uint8, by its own matrix and range."""
    from av.video.reformatter import Interpolation

    assert frame.colors is not None
    made = to_video_frame(frame, frame.colors.layout)
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    return made.reformat(format="rgb24", interpolation=exact).to_ndarray()


def _to_planes(frame: "VideoFrame", square: bool, keep_rgb: bool) -> "VideoFrame":
    """The frame as gray, packed RGB, or three planes of YUV in the byte order of this machine."""
    kind = frame.format
    if kind.name.startswith("gray") and kind.name not in _GRAYS:
        return frame
    if kind.name in _GRAYS:
        return frame.reformat(format=_GRAYS[kind.name])
    luma, *others = kind.components
    if kind.has_palette or kind.is_rgb or not luma.is_luma or len(others) < 2:
        frame = frame.reformat(format="rgb24")
        return frame if keep_rgb else frame.reformat(format="yuv444p", dst_colorspace=_BT601, dst_color_range=FULL)
    halves = [-(-whole // part) for whole, part in ((kind.width, others[0].width), (kind.height, others[0].height))]
    plain = [part.plane for part in kind.components] == [0, 1, 2] and not kind.is_big_endian
    if plain and not (square and halves[0] != halves[1]):
        return frame
    sampling = "444" if halves == [1, 1] or square else "422" if halves[1] == 1 else "420"
    return frame.reformat(format=f"yuv{sampling}p{'10le' if luma.bits > 8 else ''}")


def _plane(frame: "VideoFrame", index: int) -> np.ndarray:
    """A view of one plane, `(h, w)` or `(h, w, 3)`."""
    plane, kind = frame.planes[index], frame.format
    packed = 3 if kind.name == "rgb24" else 1
    bits = kind.components[0].bits
    dtype = np.dtype(np.uint8 if bits <= 8 else np.float32 if bits == 32 else np.uint16)
    rows = np.frombuffer(memoryview(plane), dtype)[: plane.height * plane.line_size // dtype.itemsize].reshape(
        plane.height, -1
    )
    view = rows[:, : plane.width * packed]
    return view.reshape(plane.height, plane.width, 3) if packed == 3 else view


def _luma_scale(bits: int, full: bool) -> tuple[int, int]:
    """The codes of black, and from black to white."""
    return (0, 2**bits - 1) if full else (16 << (bits - 8), 219 << (bits - 8))


@cache
def _expansion(bits: int) -> np.ndarray:
    """The full-scale level of each code of limited luma."""
    black, span = _luma_scale(bits, full=False)
    levels = (np.arange(2**bits) - black) / span * (2**bits - 1)
    return np.clip(np.rint(levels), 0, 2**bits - 1).astype(np.uint8 if bits == 8 else np.uint16)


def _even(frame: "VideoFrame", layout: str) -> "VideoFrame":
    """The frame in a layout of YUV, without odd sides where its chroma is halved."""
    import av

    if frame.format.name != layout:
        frame = frame.reformat(format=layout)
    height, width = frame.height + frame.height % 2, frame.width + frame.width % 2
    if "444" in layout or (height, width) == (frame.height, frame.width):
        return frame
    out = av.VideoFrame(width, height, layout)
    for index in range(3):
        source, target = _plane(frame, index), _plane(out, index)
        target[...] = np.pad(source, [(0, b - a) for a, b in zip(source.shape, target.shape, strict=True)], "edge")
    out.color_range, out.colorspace = frame.color_range, frame.colorspace
    out.color_primaries, out.color_trc = frame.color_primaries, frame.color_trc
    return out
