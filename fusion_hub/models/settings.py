"""Checks of the arguments of a network, which come from the config.json of a checkpoint: type and bounds.

Without bounds a damaged file could ask for any amount of memory or time.
"""

import math
from collections.abc import Sequence
from reprlib import repr as shorten
from typing import Any

MAX_WIDTH = 8192  # channels
MAX_DEPTH = 64  # blocks or steps in a row


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Raise a `ValueError` unless `value` is one of the names in `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {shorten(value)}")


def check_flags(**values: Any) -> None:
    """Raise a `ValueError` unless all values are True or False."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise ValueError(f"{name} must be true or false, got {shorten(value)}")


def check_whole(name: str, value: Any, low: int, high: int) -> None:
    """Raise a `ValueError` unless `value` is an int from `low` to `high`."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {shorten(value)}")


def check_wholes(name: str, values: Any, count: int, low: int, high: int) -> None:
    """Raise a `ValueError` unless `values` holds `count` ints from `low` to `high`."""
    if not isinstance(values, list | tuple) or len(values) != count:
        raise ValueError(f"{name} must hold {count} numbers, got {shorten(values)}")
    for value in values:
        check_whole(f"each of {name}", value, low, high)


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Raise a `ValueError` unless `value` is a finite number from `low` to `high`."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low:g} to {high:g}, got {shorten(value)}")
