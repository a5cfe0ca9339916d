"""Fusion Hub: two registered images in, one image out.

    from fusion_hub import DiffFuseNetPipeline

    pipe = DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")
    fused = pipe(visible="street.png", infrared="street_ir.png").images[0]

Public names are listed in `__init__.pyi` and imported on first use, so `import fusion_hub` is quick. Published
checkpoints import these names: they do not change.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
