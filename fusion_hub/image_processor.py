"""Former home of `fusion_hub.image.processor`; kept for code written against version 0.1."""

from fusion_hub.image.processor import *  # noqa: F403
from fusion_hub.image.processor import __all__ as __all__
