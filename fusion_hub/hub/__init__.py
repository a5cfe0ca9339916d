"""Publishing on the Hub: a trained model, a set of pairs, the demo page.

    from fusion_hub.hub import publish_model

    publish_model("runs/street/pipeline", "me/street", tag="v1")

Each is one commit, checked against the files here before its tag is made; what fails leaves no tag, and the same call
goes on from there. Names are imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

_MODULES = {
    "AboutDataset": "dataset",
    "PublishError": "upload",
    "publish_dataset": "dataset",
    "publish_model": "model",
    "publish_space": "space",
}

__all__ = ["AboutDataset", "PublishError", "publish_dataset", "publish_model", "publish_space"]

if TYPE_CHECKING:
    from fusion_hub.hub.dataset import AboutDataset, publish_dataset
    from fusion_hub.hub.model import publish_model
    from fusion_hub.hub.space import publish_space
    from fusion_hub.hub.upload import PublishError


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
