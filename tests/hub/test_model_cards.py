"""The cards of the bundled checkpoints: valid, and in every number what their evaluation says."""

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
from huggingface_hub import ModelCard

from fusion_hub import pretrained
from fusion_hub.hub.cards import render_model_card, render_segmenter_card, validate_card
from fusion_hub.hub.cards.methods import METHODS
from fusion_hub.hub.cards.results import NOT_SHOWN
from fusion_hub.pipelines import checkpoints

CARDS = Path(__file__).parents[2] / "model_cards"
NAMES = sorted(pretrained.PRETRAINED)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("render", CARDS / "render.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_checkpoint_has_its_card_and_no_card_is_left_over() -> None:
    assert {path.stem for path in CARDS.glob("*.md")} == {*NAMES, *pretrained.SEGMENTERS}
    assert {info.model_class for info in pretrained.list_models()} <= set(METHODS)


def test_template_is_that_of_the_package() -> None:
    link = CARDS / "template.md.j2"
    assert link.is_symlink() and not link.readlink().is_absolute()
    assert link.resolve() == Path(pretrained.__file__).parents[1].resolve() / "templates" / "model_card.md.j2"


@pytest.mark.parametrize("name", NAMES)
def test_card_is_valid_beside_its_weights(name: str) -> None:
    info = pretrained.PRETRAINED[name]
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert validate_card(text, info.folder) == []
    assert (info.folder / "README.md").read_text(encoding="utf-8") == text
    fresh = render_model_card(info.folder, name=name, summary=info.summary, licence=info.license)
    assert fresh == text, "render the cards again: python model_cards/render.py"


@pytest.mark.parametrize("name", NAMES)
def test_every_number_is_that_of_the_evaluation(name: str) -> None:
    """Read here by other means than the validator's: plain text against the file."""
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    sets = json.loads((pretrained.PRETRAINED[name].folder / "metrics.json").read_text(encoding="utf-8"))["sets"]
    for dataset, content in sets.items():
        section = text.split(f"\n### {dataset} ({content['n']} pairs)\n")[1].split("\n#")[0]
        columns, _, *rows = [line.strip("|").split("|") for line in section.strip().split("\n\n")[0].splitlines()]
        expected = {f"**{name}**": content["metrics"], **content["baselines"]}
        assert [row[0].strip() for row in rows] == list(expected)
        for row in rows:
            cells = dict(zip((column.strip() for column in columns[1:]), map(float, row[1:]), strict=True))
            values = expected[row[0].strip()]
            assert cells.keys() == values.keys() - set(NOT_SHOWN)
            assert all(abs(cells[metric] - values[metric]) <= 0.00501 for metric in cells)
    data = ModelCard(text).data
    listed = {(r.dataset_type, r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
    assert listed == {
        (*dataset.split("/"), metric): value
        for dataset, content in sets.items()
        for metric, value in content["metrics"].items()
        if metric not in NOT_SHOWN
    }


@pytest.mark.parametrize("name", NAMES)
def test_what_must_not_get_lost(name: str) -> None:
    text = re.sub(r"\s+", " ", (CARDS / f"{name}.md").read_text(encoding="utf-8"))
    assert "independent implementation after the published description; not the authors' code or weights" in text
    assert "No pixel of" in text and "Registered pairs only" in text and "clinical use" in text
    watched = {
        "difffusenet-msrs": "are not a blind test",
        "red-small-msrs": "taken over from `difffusenet-msrs`",
        "difffusenet-medical": "one look at the numbers on `mri_ct/test`",
    }
    assert watched[name] in text


@pytest.mark.parametrize("name", sorted(pretrained.SEGMENTERS))
def test_card_of_a_segmenter(name: str, tmp_path: Path) -> None:
    info = pretrained.SEGMENTERS[name]
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert validate_card(text, info.folder, "segmenter") == []
    assert (info.folder / "README.md").read_text(encoding="utf-8") == text
    assert render_segmenter_card(info) == text, f"render the card again: python model_cards/render.py {name}"

    rows = json.loads((info.folder / "metrics.json").read_text(encoding="utf-8"))["inputs"]
    table = [line for line in text.split("\n## Results\n")[1].split("\n## ")[0].splitlines() if line.startswith("| ")]
    for input_name, row in rows.items():  # by other means than the template's
        own = [line.strip("|").split("|") for line in table if line.startswith(f"| {input_name} |")]
        assert [float(own[0][1]), float(own[0][3])] == [
            pytest.approx(100 * row["numbers"][key], abs=0.0501) for key in ("mIoU", "mIoU_foreground")
        ]
        assert len(own[1]) == 1 + info.classes

    shutil.copytree(info.folder, tmp_path / name)
    wrong = text.replace("value: 0.", "value: 0.9", 1)
    assert any("metrics.json says" in problem for problem in validate_card(wrong, tmp_path / name, "segmenter"))
    (tmp_path / name / "model.safetensors").write_bytes(b"other")
    assert any("other weights" in problem for problem in validate_card(text, tmp_path / name, "segmenter"))
    (tmp_path / name / "metrics.json").unlink()
    assert any("no metrics.json" in problem for problem in validate_card(text, tmp_path / name, "segmenter"))


def test_the_papers_numbers_are_apart_and_said_to_be_theirs() -> None:
    for name in NAMES:
        quoted = (
            (CARDS / f"{name}.md").read_text(encoding="utf-8").split("\n### The paper's numbers\n")[1].split("\n#")[0]
        )
        if pretrained.PRETRAINED[name].model_class == "REDModel":
            assert "the authors' own model" in quoted and "NOT comparable" in quoted and "other pairs" in quoted
            assert "| RED, as printed | 10.39 | 3.90 | 11.57 | 0.70 | 0.98 |" in quoted
        else:
            assert "not quoted" in quoted and "|" not in quoted


def test_script_writes_both_places_and_no_invalid_card(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = NAMES[0]
    shutil.copytree(pretrained.PRETRAINED[name].folder, tmp_path / name)
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path)
    (tmp_path / "cards").mkdir()
    assert script.main([name], tmp_path / "cards") == 0
    text = (tmp_path / "cards" / f"{name}.md").read_text(encoding="utf-8")
    assert text == (tmp_path / name / "README.md").read_text(encoding="utf-8")

    (tmp_path / name / "notes.md").write_text("- TODO\n")
    assert script.main([name], tmp_path / "cards") == 1
    assert "placeholder" in capsys.readouterr().err
    assert (tmp_path / "cards" / f"{name}.md").read_text(encoding="utf-8") == text
    with pytest.raises(SystemExit):
        script.main(["nothing"])
