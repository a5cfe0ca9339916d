"""The inference form of a pipeline's network, kept for as long as the network stays as it is."""

from typing import Any

import torch


class InferenceForm:
    """Builds `model.fuse_for_inference()` at first use and again after the weights, the dtype or the device changed."""

    def __init__(self) -> None:
        self._built: tuple[list[Any], Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Of copies and pickles: they build their own, since oneDNN's weights can be neither copied nor stored."""
        return {"_built": None}

    def of(self, model: Any) -> Any | None:
        """None where the model is compiled, hooked, of a class derived from ours, or has no such form.

        Nor under autocast: it chooses dtypes layer by layer, and the operators of oneDNN in the form do not take part.
        """
        changed = model._compiled_call_impl is not None or model._forward_hooks or hasattr(model, "_hf_hook")
        if changed or torch.is_autocast_enabled(model.device.type) or "fuse_for_inference" not in vars(type(model)):
            return None
        # In-place changes of a tensor raise its version; moves and new weights change its address or type.
        state = [(p.data_ptr(), p._version, p.dtype, p.device) for p in model.parameters()]
        built = self._built
        if built is None or built[0] != state:
            self._built = built = (state, model.fuse_for_inference())
        return built[1]
