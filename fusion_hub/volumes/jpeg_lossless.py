"""JPEG Lossless, the usual compression of CT and MR, for pydicom: decoded by imagecodecs."""

from pydicom.pixels.decoders import JPEGLosslessDecoder, JPEGLosslessSV1Decoder
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import JPEGLossless, JPEGLosslessSV1

_NAME = "imagecodecs"
DECODER_DEPENDENCIES = dict.fromkeys((JPEGLossless, JPEGLosslessSV1), ("numpy", _NAME))  # pydicom looks for this name


def register() -> None:
    """Add the decoder to pydicom's; once."""
    for decoder in (JPEGLosslessDecoder, JPEGLosslessSV1Decoder):
        if _NAME not in decoder.available_plugins:
            decoder.add_plugin(_NAME, (__name__, "decode_frame"))


def is_available(uid: str) -> bool:
    """Whether the decoder can be used; pydicom asks."""
    return True


def decode_frame(source: bytes, runner: DecodeRunner) -> bytearray:
    """The samples of one frame."""
    import imagecodecs

    samples = imagecodecs.ljpeg_decode(source)
    runner.set_option("bits_allocated", 8 * samples.dtype.itemsize)
    return bytearray(samples.tobytes())
