"""Where the networks run: on the processor, on a GPU of this machine, or on ZeroGPU, which lends one for each call.

On ZeroGPU the package `spaces` runs each function marked here in a process of its own, forked when it is called, and
only there is a GPU; in the server itself CUDA merely seems to be there. Arguments, results and refusals travel between
the two by pickle. Without that package nothing is changed.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, TypeVar

ON_ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")

# It changes torch, and must be there before anything asks for CUDA.
_spaces: Any = importlib.import_module("spaces") if importlib.util.find_spec("spaces") else None

import torch  # noqa: E402

if ON_ZERO_GPU:
    torch.set_num_threads(1)  # a process that is forked from one with OpenMP threads can wait for them for ever

_SERVER = os.getpid()

Function = TypeVar("Function", bound=Callable[..., object])


def on_gpu(seconds: int) -> Callable[[Function], Function]:
    """Mark a function that runs networks: on ZeroGPU it gets a GPU for at most so many seconds."""
    return (lambda function: function) if _spaces is None else _spaces.GPU(duration=seconds)


def current_device() -> str:
    """`cuda` where this process has a GPU, else `cpu`."""
    lent = not ON_ZERO_GPU or os.getpid() != _SERVER
    return "cuda" if lent and torch.cuda.is_available() else "cpu"
