"""Networks: tensors in, tensors out. They know no file, no color and no metric."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
