"""The device that runs the networks: the CPU, a GPU of this machine, or ZeroGPU, which lends a GPU for each call.

On ZeroGPU the package `spaces` runs each marked function in a forked process, the only place with a real GPU; in the
server itself CUDA only appears to be available. Arguments, results and errors are pickled. Without that package the
decorator does nothing.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, TypeVar

ON_ZERO_GPU = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true")

# It patches torch and must be imported before anything uses CUDA.
_spaces: Any = importlib.import_module("spaces") if importlib.util.find_spec("spaces") else None

import torch  # noqa: E402

if ON_ZERO_GPU:
    torch.set_num_threads(1)  # a process forked from one with OpenMP threads can deadlock

_SERVER = os.getpid()

Function = TypeVar("Function", bound=Callable[..., object])


def on_gpu(seconds: int) -> Callable[[Function], Function]:
    """Mark a function that runs networks: on ZeroGPU it gets a GPU for at most that many seconds."""
    return (lambda function: function) if _spaces is None else _spaces.GPU(duration=seconds)


def current_device() -> str:
    """`cuda` where this process has a GPU, else `cpu`."""
    in_zero_gpu_server = ON_ZERO_GPU and os.getpid() == _SERVER
    return "cuda" if not in_zero_gpu_server and torch.cuda.is_available() else "cpu"
