"""Cards: rendered from the files beside the weights, valid for the Hub, never with a hole in them."""

import dataclasses
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from huggingface_hub import ModelCard
from jinja2 import UndefinedError
from tiny import tiny_pipeline

from fusion_hub import pretrained
from fusion_hub.training import TrainingConfig, save_config
from fusion_hub.training.config import resolved
from fusion_hub.training.difffusenet import DiffFuseNetConfig
from fusion_hub.training.red import REDConfig

RENDER = Path(__file__).parents[1] / "model_cards" / "render.py"
TRAINING = {
    "seed": 3,
    "steps": 1234,
    "samples": 9872,
    "seconds": 5400.0,
    "processes": 1,
    "device": "cpu",
    "torch": "2.13.0",
    "datasets": [{"path": "${FUSION_HUB_DATA}/data/msrs", "split": "train", "pairs": 450}],
}
PROVENANCE = {"methods": {"difffusenet-msrs": {"rescale": "none", "dtype": "float32"}}}
MEASURED = {"EN": 6.9, "SCD": 1.8125, "VIF": None}


@pytest.fixture(scope="module")
def cards() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", RENDER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundled folder with all that training and measuring leave there."""
    monkeypatch.setattr(pretrained, "ROOT", tmp_path)
    folder = tmp_path / "difffusenet-msrs"
    tiny_pipeline().save_pretrained(folder)
    save_config(resolved(TrainingConfig(max_steps=1234), DiffFuseNetConfig(variant="tiny")), folder / "config.yaml")
    change(folder, "training.json", TRAINING)
    change(
        folder,
        "metrics.json",
        {"sets": {"tno/test": {"n": 25, "metrics": MEASURED}}, "provenance": PROVENANCE},
    )
    return folder


def change(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def render(cards: ModuleType, folder: Path) -> str:
    return cards.render(folder, pretrained.PRETRAINED["difffusenet-msrs"])


def test_front_matter_is_what_the_hub_reads(cards: ModuleType, checkpoint: Path) -> None:
    data = ModelCard(render(cards, checkpoint)).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "diffusers", "image-to-image")
    assert {"fusion_hub", "image-fusion", "infrared"} <= set(data.tags)
    assert (data.datasets, data.metrics) == (["msrs"], ["EN", "SCD", "VIF"])


def test_says_what_the_files_say(cards: ModuleType, checkpoint: Path) -> None:
    text = render(cards, checkpoint)
    count = sum(parameter.numel() for parameter in tiny_pipeline().model.parameters())
    assert f"{count:,} parameters, variant `tiny`" in text
    assert "1,234 steps (9,872 crops) in 1.5 hours on 1 x cpu, seed 3" in text
    assert "| MSRS | train | 450 |" in text and "| max_steps | 1234 |" in text
    assert "| **difffusenet-msrs** | 6.90 | 1.812 |  |" in text
    assert "not the authors' code or weights" in text
    assert "{{" not in text and "{%" not in text


def test_baselines_and_counts_are_shown_where_they_are_given(cards: ModuleType, checkpoint: Path) -> None:
    sets = {"tno/test": {"n": 25, "metrics": {"EN": 6.9}, "baselines": {"maximum": {"EN": 6.81}}}}
    change(checkpoint, "metrics.json", {"sets": sets, "provenance": PROVENANCE})
    text = render(cards, checkpoint)
    assert "### tno/test (25 pairs)" in text and "| maximum | 6.81 |" in text


def test_without_numbers_none_are_claimed(cards: ModuleType, checkpoint: Path) -> None:
    (checkpoint / "metrics.json").unlink()
    assert "Not measured yet." in render(cards, checkpoint)


def test_medical_card_warns(cards: ModuleType, checkpoint: Path) -> None:
    sets = [{"path": "${FUSION_HUB_DATA}/data/mri_pet", "split": "train", "pairs": 135}]
    change(checkpoint, "training.json", {**TRAINING, "datasets": sets})
    text = render(cards, checkpoint)
    assert "not for diagnosis" in text and 'infrared="mri.png"' in text and "street.png" not in text


def test_a_missing_value_or_an_unknown_licence_is_an_error(cards: ModuleType, checkpoint: Path) -> None:
    change(checkpoint, "training.json", {name: value for name, value in TRAINING.items() if name != "seed"})
    with pytest.raises(UndefinedError, match="seed"):
        render(cards, checkpoint)
    change(checkpoint, "training.json", {**TRAINING, "datasets": [{"path": "x/new", "split": None, "pairs": 1}]})
    with pytest.raises(KeyError, match="'new'"):
        render(cards, checkpoint)
    (checkpoint / "model" / "diffusion_pytorch_model.safetensors").unlink()
    change(checkpoint, "training.json", TRAINING)
    with pytest.raises(FileNotFoundError, match="no weights"):
        render(cards, checkpoint)


def test_shown_settings_exist(cards: ModuleType) -> None:
    for model, config in (("DiffFuseNetModel", DiffFuseNetConfig), ("REDModel", REDConfig)):
        known = {field.name for schema in (TrainingConfig, config) for field in dataclasses.fields(schema)}
        assert {*cards.SETTINGS, *cards.ARCHITECTURES[model].settings} <= known
    assert {info.model_class for info in pretrained.list_models()} <= set(cards.ARCHITECTURES)


def test_command_writes_both_places(
    cards: ModuleType, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = (RENDER.parent / "template.md.j2").read_text()
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "template.md.j2").write_text(template)
    monkeypatch.setattr(cards, "HERE", tmp_path / "cards")
    cards.main(["difffusenet-msrs"])
    assert (checkpoint / "README.md").read_text() == (tmp_path / "cards" / "difffusenet-msrs.md").read_text()
