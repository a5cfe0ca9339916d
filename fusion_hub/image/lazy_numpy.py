"""NumPy, imported at its first use: `from fusion_hub.image.lazy_numpy import np`.

For the modules that `fusion-hub fuse` imports before it knows whether there is a picture to fuse: NumPy would take a
quarter of the time in which a folder is found to be fused already. Not `lazy_loader.load`, whose module loads without
a lock: another thread could see it half loaded.

Modules that use it need `from __future__ import annotations`, since an annotation that is evaluated imports NumPy.
"""

from typing import TYPE_CHECKING, Any

__all__ = ["np"]

if TYPE_CHECKING:
    import numpy as np
else:

    class _NumPy:
        """Stands for the module `numpy`; keeps what it was asked for."""

        def __getattr__(self, name: str) -> Any:
            import numpy

            value = getattr(numpy, name)
            setattr(self, name, value)
            return value

    np = _NumPy()
