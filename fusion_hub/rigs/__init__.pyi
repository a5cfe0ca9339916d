from .alignment import Alignment, align

__all__ = ["Alignment", "align"]
