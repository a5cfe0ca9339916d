from .panels import explain
from .pictures import Panel

__all__ = ["Panel", "explain"]
