"""The card of a paired dataset, from what its publisher says of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from fusion_hub.hub.cards.spec import LICENCES, TAGS, is_hub_id, size_category
from fusion_hub.hub.cards.templates import load_template

COLUMNS = {
    "visible": "the visible image; CT, PET or SPECT in medical sets",
    "infrared": "the infrared image of the same view and size; MRI in medical sets",
    "name": "of the pair, unique in its split",
    "label": "segmentation map",
}
"""What the usual columns of a paired set hold."""


def render_dataset_card(
    *,
    name: str,
    repo_id: str,
    splits: Mapping[str, int],
    columns: Mapping[str, str] | Sequence[str],
    licence: str,
    source: str,
    description: str,
    generated: bool = False,
    medical: bool = False,
    licence_name: str | None = None,
    licence_link: str | None = None,
    configs: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The card of a paired dataset.

    Args:
        name: for people.
        repo_id: `owner/name` under which it is published.
        splits: number of pairs of each split.
        columns: names, or names with what each holds.
        licence: id of the Hub's list, any case.
        source: where the pictures are from, a sentence.
        description: what they show, one or more sentences.
        generated: drawn by the package, no photographs.
        medical: MRI with CT, PET or SPECT.
        licence_name, licence_link: for the licence `other`.
        configs: the Hub's `configs`, which files make which split; None where names alone say so.

    Raises:
        ValueError: no splits, an empty one, an id or a licence in the wrong form.
    """
    from huggingface_hub import DatasetCardData

    if licence.lower() not in LICENCES:
        raise ValueError(f"the licence {licence!r} is none of the Hub's ids, such as cc-by-4.0, other or unknown")
    if not is_hub_id(repo_id):
        raise ValueError(f"repo_id is {repo_id!r}: give owner/name")
    if not splits or min(splits.values()) < 1:
        raise ValueError(f"splits are {dict(splits)}: a set needs at least one split, and each split a pair")
    described = columns if isinstance(columns, Mapping) else {column: COLUMNS.get(column, "") for column in columns}
    card_data = DatasetCardData(
        pretty_name=name,
        license=licence.lower(),
        license_name=licence_name,
        license_link=licence_link,
        task_categories=["image-to-image"],
        size_categories=[size_category(sum(splits.values()))],
        tags=[*TAGS, *(("medical-imaging",) if medical else ("infrared", "visible"))],
        configs=[dict(config) for config in configs] if configs else None,
    )
    return load_template("dataset_card.md.j2").render(
        card_data=card_data.to_yaml(original_order=["pretty_name", "license"]),
        name=name,
        repo_id=repo_id,
        splits=splits,
        columns=described,
        licence=licence_name or licence.lower(),
        licence_link=licence_link,
        source=source,
        description=description,
        generated=generated,
        medical=medical,
    )
