"""Pictures of the intermediate results of a fusion network, each with a one-sentence caption.

    from fusion_hub import DiffFuseNetPipeline
    from fusion_hub.explain import explain

    pipe = DiffFuseNetPipeline.from_pretrained("difffusenet-msrs")
    for panel in explain(pipe("street.png", "street_ir.png", return_intermediates=True)):
        panel.image.save(f"{panel.title}.png")
        print(panel.stage, panel.title, panel.caption, sep=": ")

Numbers in the captions are those of the pair, not of the model in general.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
