"""What the Hub documents of a card's metadata, as a table: licence ids, keys, relations.

From huggingface/hub-docs of August 2026: `docs/hub/repositories-licenses.md`, `modelcard.md`, `datasetcard.md`,
`docs/hub/model-cards.md` and `docs/hub/spaces-config-reference.md`. The Hub keeps unknown keys in silence, so a
misspelt one is only found by a list.
"""

import re

TAGS = ("fusion_hub", "image-fusion")
"""Of everything that this package publishes."""
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD15_LICENCE = "creativeml-openrail-m"

LICENCES = {
    *("afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m"),
    *("bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause"),
    *("bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0"),
    *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0"),
    *("cdla-permissive-1.0", "cdla-permissive-2.0", "cdla-sharing-1.0", "creativeml-openrail-m"),
    *("deepfloyd-if-license", "ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2"),
    *("fair-noncommercial-research-license", "gemma", "gfdl", "gpl", "gpl-2.0", "gpl-3.0", "grok2-community"),
    *("h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3"),
    *("llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl"),
    *("odc-by", "ofl-1.1", "openmdw-1.0", "openmdw-1.1", "openrail", "openrail++", "osl-3.0", "other", "pddl"),
    *("postgresql", "unknown", "unlicense", "wtfpl", "zlib"),
}
"""Ids for `license`; any other licence is `other` with `license_name` and `license_link`."""

_LICENCE_KEYS = {"license", "license_name", "license_link"}
MODEL_KEYS = _LICENCE_KEYS | {
    *("language", "library_name", "pipeline_tag", "tags", "datasets", "metrics", "model-index"),
    *("base_model", "base_model_relation", "new_version", "thumbnail", "inference", "co2_eq_emissions"),
    *("extra_gated_fields", "extra_gated_prompt"),
}
DATASET_KEYS = _LICENCE_KEYS | {
    *("language", "tags", "pretty_name", "size_categories", "source_datasets", "task_categories", "task_ids"),
    *("annotations_creators", "language_creators", "configs", "dataset_info", "viewer", "thumbnail"),
    *("extra_gated_fields", "extra_gated_prompt"),
}
SPACE_KEYS = {
    *("title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "app_port"),
    *("app_build_command", "base_path", "fullWidth", "header", "short_description", "models", "datasets", "tags"),
    *("thumbnail", "pinned", "license", "suggested_hardware", "suggested_storage", "disable_embedding"),
    *("startup_duration_timeout", "custom_headers", "preload_from_hub"),
    *("hf_oauth", "hf_oauth_scopes", "hf_oauth_expiration_minutes", "hf_oauth_authorized_org"),
}
RELATIONS = {"adapter", "merge", "quantized", "finetune"}
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
SHORT_DESCRIPTION = 60
"""Characters that the Hub allows for a Space's `short_description`."""

_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
SIZE_CATEGORIES = {category for _, category in _SIZES} | {
    *("1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B", "10B<n<100B", "100B<n<1T", "n>1T")
}

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_hub_id(text: str) -> bool:
    """Whether `text` has the form `owner/name`; a relative path of two parts has it too."""
    return _HUB_ID.fullmatch(text) is not None and ".." not in text and "--" not in text


def size_category(examples: int) -> str:
    """The Hub's word for a number of examples, such as `1K<n<10K`."""
    return next((category for limit, category in _SIZES if examples < limit), "1M<n<10M")
