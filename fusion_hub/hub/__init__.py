"""Publish a trained model, a dataset of pairs or the demo page on the Hub.

    from fusion_hub.hub import publish_model

    publish_model("runs/street/pipeline", "me/street", tag="v1")

Each is one commit, which is compared with the local files before its tag is made. A failure leaves no tag, and the same
call resumes. Names are listed in `__init__.pyi` and imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
