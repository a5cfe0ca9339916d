"""Cards: the README that a repository on the Hub shows, rendered from the files beside it and checked offline.

    text = render_model_card(folder, name="street", repo_id="me/street")
    problems = validate_card(text, folder)          # sentences; empty: valid

Every number on a card comes from a file: `training.json` of the run, `metrics.json` of the evaluation, `speed.json` of
the benchmark. None is typed.
"""

from fusion_hub.hub.cards.dataset_card import render_dataset_card
from fusion_hub.hub.cards.datasets import DATA_SOURCES, DataSource
from fusion_hub.hub.cards.render import render_model_card
from fusion_hub.hub.cards.segmenter_card import render_segmenter_card
from fusion_hub.hub.cards.validate import validate_card

__all__ = [
    "DATA_SOURCES",
    "DataSource",
    "render_dataset_card",
    "render_model_card",
    "render_segmenter_card",
    "validate_card",
]
