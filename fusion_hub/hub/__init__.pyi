from . import card_checks, cards, dataset, model, space, upload
from .dataset import AboutDataset, DatasetInfo, publish_dataset
from .model import publish_model
from .space import publish_space
from .upload import Published, PublishError

__all__ = [
    "AboutDataset",
    "DatasetInfo",
    "PublishError",
    "Published",
    "card_checks",
    "cards",
    "dataset",
    "model",
    "publish_dataset",
    "publish_model",
    "publish_space",
    "space",
    "upload",
]
