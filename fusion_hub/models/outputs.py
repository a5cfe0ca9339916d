"""What the output classes of the networks have in common."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from torch import Tensor


def map_tensors(output: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a dataclass with `fn` of each tensor in its fields, in lists and tuples too."""

    def apply(value: Any) -> Any:
        if isinstance(value, Tensor):
            return fn(value)
        return type(value)(map(apply, value)) if isinstance(value, list | tuple) else value

    return replace(output, **{field.name: apply(getattr(output, field.name)) for field in fields(output)})
