"""Cards: rendered from the files of a folder without gaps, checked one mistake at a time, and those of the package."""

import dataclasses
import importlib.util
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from fusion_hub.evaluation import CONVENTIONS
from fusion_hub.evaluation.methods import describe_checkpoint
from fusion_hub.hub.card_checks import LICENSES, NOT_SHOWN, SD15, Kind, read_measured
from fusion_hub.hub.cards import (
    DATA_SOURCES,
    METHODS,
    SETTINGS,
    count_parameters,
    describe_set,
    find_origin,
    find_trained,
    render_dataset_card,
    render_model_card,
    render_predictor_card,
    set_key,
    validate_card,
)
from fusion_hub.pipelines import FusionPipeline, checkpoints
from fusion_hub.training import TrainingConfig, save_config
from fusion_hub.training.config import resolved
from fusion_hub.training.difffusenet import DiffFuseNetConfig
from fusion_hub.training.red import REDConfig
from tests.support.tiny import tiny_pipeline

NAME, REPO = "street", "someone/street"
ROOT = Path(__file__).parents[2]
TRAINING = {
    **{"seed": 3, "steps": 1234, "samples": 9872, "seconds": 5400.0, "processes": 1, "device": "cpu"},
    "torch": "2.13.0",
    "datasets": [{"path": "${FUSION_HUB_DATA}/data/msrs", "split": "train", "pairs": 450}],
}
OWN = {"EN": 6.9, "SCD": 1.81256, "VIF": None, "SSIM_cddfuse": 0.9876, "Qabf_visible": 0.5}
BASELINE = {"EN": 6.81, "SCD": 1.6, "VIF": 0.92, "SSIM_cddfuse": 1.0, "Qabf_visible": 0.4}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that training and `benchmarks/quality.py --metrics-json` leave."""
    folder = tmp_path_factory.mktemp("cards") / NAME
    tiny_pipeline().save_pretrained(folder)
    save_config(resolved(TrainingConfig(max_steps=1234), DiffFuseNetConfig(variant="tiny")), folder / "config.yaml")
    write(folder, "training.json", TRAINING)
    details = describe_checkpoint(FusionPipeline.from_pretrained(folder)) | {"dtype": "float32", "rescale": "none"}
    sets = {"tno/test": {"n": 25, "metrics": OWN, "baselines": {"maximum": BASELINE}}}
    write(folder, "metrics.json", {"sets": sets, "provenance": provenance(details)})
    return folder


@pytest.fixture(scope="module")
def card(original: Path) -> str:
    return render(original)


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return shutil.copytree(original, tmp_path / NAME)


def from_evaluate(details: dict[str, Any], **own: Any) -> dict[str, Any]:
    """As `fusion-hub evaluate` writes it."""

    def row(method: str, kind: str, values: dict[str, float | None], **more: Any) -> dict[str, Any]:
        metrics = {name: {"mean": mean, "low": mean, "high": mean} for name, mean in values.items()}
        return {"method": method, "kind": kind, "dataset": "tno/test", "n": 25, "metrics": metrics, **more}

    rows = [row(NAME, "model", OWN, **own), row("maximum", "baseline", BASELINE)]
    return {"format": "fusion-hub-evaluation/1", "rows": rows, "provenance": provenance(details)}


def provenance(details: dict[str, Any]) -> dict[str, Any]:
    return {"conventions": CONVENTIONS, "methods": {NAME: details}, "versions": {"torch": "2.13.0"}}


def details_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())["provenance"]["methods"][NAME]


def write(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def configure(folder: Path, **values: Any) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **values}))


def trained_on(folder: Path, path: str, split: str | None = "train") -> None:
    write(folder, "training.json", {**TRAINING, "datasets": [{"path": path, "split": split, "pairs": 135}]})


def render(folder: Path, **settings: Any) -> str:
    return render_model_card(folder, **{"name": NAME, "repo_id": REPO, **settings})


# --- rendering -------------------------------------------------------------------------------------------------------


def test_front_matter_is_what_the_hub_reads(card: str) -> None:
    data = ModelCard(card).data
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "diffusers", "image-to-image")
    assert {"fusion_hub", "image-fusion", "infrared"} <= set(data.tags)
    assert data.datasets is None and data.base_model is None  # MSRS is not on the Hub
    assert data.metrics == ["EN", "SCD", "VIF", "SSIM_cddfuse"]
    found = {(r.dataset_name, r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
    expected = {"EN": 6.9, "SCD": 1.81256, "SSIM_cddfuse": 0.9876}  # without undefined and per-source ones
    assert found == {("TNO", "test", metric): value for metric, value in expected.items()}


def test_text_states_the_contents_of_the_files(card: str, original: Path) -> None:
    count = sum(parameter.numel() for parameter in tiny_pipeline().model.parameters())
    assert f"{count:,} parameters, variant `tiny`" in card
    assert "1,234 steps (9,872 crops) in 1.5 hours on 1 x cpu, seed 3" in card
    assert "| MSRS | train | 450 |" in card and "| max_steps | 1234 |" in card
    assert "### tno/test (25 pairs)" in card and "| **street** | 6.90 | 1.813 |  | 0.988 |" in card
    assert "| maximum | 6.81 | 1.600 | 0.920 | 1.000 |" in card
    assert "| SSIM_cddfuse | higher | 7x7 mean filter" in card and "- stretch: none" in card
    assert "not the authors' code or weights" in card and "not for clinical use" in card.lower()
    assert f'DiffFuseNetPipeline.from_pretrained("{REPO}")' in card
    assert validate_card(card, original) == [] and validate_card(card) == []


def test_card_from_fusion_hub_evaluate(card: str, folder: Path) -> None:
    options = {"rescale": "minmax", "num_inference_steps": 3}
    warning = "near the infrared source: 1.0 gray levels from it"
    write(folder, "metrics.json", from_evaluate({**details_of(folder), **options}, warnings=[warning]))
    text = render(folder)
    # `fusion-hub evaluate` has no column for a metric that is undefined on every pair.
    assert text.count("VIF") < card.count("VIF") and "| **street** | 6.90 | 1.813 | 0.988 |" in text
    assert warning in text and "each fused image, rescale=minmax" in text and "- num_inference_steps: 3" in text
    assert validate_card(text, folder) == []


def test_one_of_several_models_is_found_by_its_weights(folder: Path) -> None:
    content = from_evaluate(details_of(folder))
    content["rows"].insert(0, {**content["rows"][0], "method": "other", "metrics": {"EN": {"mean": 1.0}}})
    content["provenance"]["methods"]["other"] = {}
    write(folder, "metrics.json", content)
    measured = read_measured(folder, "another name")
    assert measured is not None and measured.results[0].metrics["EN"] == 6.9
    content["provenance"]["methods"] = {}
    write(folder, "metrics.json", content)
    with pytest.raises(ValueError, match="evaluate this checkpoint alone"):
        read_measured(folder, "another name")


def test_numbers_on_training_pairs_are_marked(card: str, folder: Path) -> None:
    assert "trained on pairs of this" not in card
    for split in ("test", None):
        trained_on(folder, "${FUSION_HUB_DATA}/data/tno", split)
        assert "trained on pairs of this dataset" in render(folder)
        assert find_trained(folder, NAME, {}) == ["tno/test"]
    trained_on(folder, "${FUSION_HUB_DATA}/data/tno/train", None)  # the split as a part of the path
    assert "trained on pairs of this dataset" not in render(folder) and find_trained(folder, NAME, {}) == []


def test_without_numbers_none_are_claimed(folder: Path) -> None:
    (folder / "metrics.json").unlink()
    text = render(folder)
    assert "Not measured yet" in text and "model-index" not in text and "metrics" not in ModelCard(text).data.to_dict()
    assert validate_card(text, folder) == []


def test_medical_card_warns(folder: Path) -> None:
    trained_on(folder, "${FUSION_HUB_DATA}/data/mri_pet")
    text = render(folder)
    assert "not for diagnosis" in text and 'infrared="mri.png"' in text and "street.png" not in text
    assert "21 PET pictures, each twice" in text
    assert validate_card(text, folder) == []


def test_optional_files_are_shown(card: str, folder: Path) -> None:
    (folder / "notes.md").write_text("- It was trained in the rain.\n")
    (folder / "sample.png").write_bytes(b"")
    (folder / "LICENSE").write_text("")
    weights = folder / "model" / "diffusion_pytorch_model.safetensors"
    before = count_parameters(folder)
    shutil.copy(weights, weights.with_name("diffusion_pytorch_model.fp16.safetensors"))
    task = {"dtype": "fp32", "compile": False, "width": 640, "height": 480, "whole": False}
    timing = {"median": 0.1234, "minimum": 0.1}
    row = {"task": task, "model": timing, "pipeline": timing, "flops": 28.4e9, "peak_mib": 850.3}
    write(folder, "speed.json", {"provenance": {"cpu": "a CPU", "threads": 2, "torch": "2.13.0"}, "rows": [row]})
    text = render(folder)
    for part in ("- It was trained in the rain.", "](sample.png)", "text is in `LICENSE`", 'variant="fp16"'):
        assert part in text and part not in card
    assert "| fp32 | 640x480 | 0.123 | 0.123 | 28.4 | 850 |" in text
    assert count_parameters(folder) == before
    assert validate_card(text, folder) == []


def test_missing_files_are_named(folder: Path) -> None:
    write(folder, "training.json", {name: value for name, value in TRAINING.items() if name != "seed"})
    with pytest.raises(ValueError, match="seed"):
        render(folder)
    (folder / "training.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"training\.json"):
        render(folder)
    (folder / "model" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="no weights"):
        render(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "JSON"), ("{}", "neither"), ('{"sets": {"a": {"metrics": {"EN": NaN}}}}', "EN is nan")],
)
def test_a_damaged_evaluation_is_refused(folder: Path, content: str, message: str) -> None:
    (folder / "metrics.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        render(folder)


def test_shown_settings_exist() -> None:
    for model, config in (("DiffFuseNetModel", DiffFuseNetConfig), ("REDModel", REDConfig)):
        known = {field.name for schema in (TrainingConfig, config) for field in dataclasses.fields(schema)}
        assert {*SETTINGS, *METHODS[model]["settings"]} <= known


# --- origin of weights and data --------------------------------------------------------------------------------------


def test_stable_diffusion_passes_its_restrictions_on(folder: Path) -> None:
    configure(folder, sd15="/home/me/models/sd15")
    text = render(folder)
    data = ModelCard(text).data
    assert (data.license, data.base_model, data.base_model_relation) == ("creativeml-openrail-m", SD15, "finetune")
    assert "use-based restrictions" in text and "/home/me" not in text
    assert validate_card(text, folder) == []
    with pytest.raises(ValueError, match=r"creativeml-openrail-m, not Apache-2\.0"):
        render(folder, licence="Apache-2.0")
    configure(folder, sd15=None, initial_weights="someone/red-sd15")  # a second fine-tuning
    text = render(folder, licence="creativeml-openrail-m")
    assert "use-based restrictions" in text and "Stable Diffusion" not in text
    assert validate_card(text, folder) == []


@pytest.mark.parametrize(
    ("start", "licence", "base_model"),
    [
        ("someone/street-base", "mit", "someone/street-base"),
        ("difffusenet-msrs", None, None),  # bundled: no Hub id
        ("runs/difffusenet-msrs/pipeline", "mit", None),
    ],
)
def test_base_model_of_a_fine_tuned_model(
    folder: Path, start: str, licence: str | None, base_model: str | None
) -> None:
    configure(folder, initial_weights=start)
    text = render(folder, licence=licence)
    assert ModelCard(text).data.base_model == base_model
    assert f"`{base_model or 'difffusenet-msrs'}`." in text
    assert validate_card(text, folder) == []


def test_origin_is_followed_through_earlier_runs(folder: Path, tmp_path: Path) -> None:
    earlier = shutil.copytree(folder, tmp_path / "first" / "pipeline")
    configure(folder, initial_weights=str(earlier))
    text = render(folder)
    assert "`first`." in text and ModelCard(text).data.license == "apache-2.0"
    configure(earlier, initial_weights=str(earlier))  # a folder that was trained again in place
    with pytest.raises(ValueError, match="'first', whose license is not known"):
        render(folder)
    configure(earlier, initial_weights=None, sd15=SD15)
    assert ModelCard(render(folder)).data.base_model == SD15


def test_licenses_that_are_unknown_or_lack_a_name(folder: Path) -> None:
    with pytest.raises(ValueError, match="give a license"):
        find_origin({"initial_weights": "someone/street-base"}, None, None)
    with pytest.raises(ValueError, match="'my-own' is not in"):
        find_origin({}, "my-own", None)
    with pytest.raises(ValueError, match="base_model is"):
        find_origin({}, None, "street")
    assert find_origin({}, "MIT", None).license == "mit"
    assert {"apache-2.0", "creativeml-openrail-m", "other", "llama3.1"} <= LICENSES and "Apache-2.0" not in LICENSES
    text = render(folder, licence="other", licence_name="mine", licence_link="https://example.org/mine")
    assert "under `mine` (https://example.org/mine)" in text and validate_card(text, folder) == []
    assert len(validate_card(render(folder, licence="other"), folder)) == 2


def test_training_sets_and_their_terms(folder: Path) -> None:
    trained_on(folder, "/home/me/pictures/roads/train", None)
    with pytest.raises(ValueError, match="terms of the training set 'roads'"):
        render(folder)
    text = render(folder, data_terms={"roads": "own pictures, CC-BY-4.0"})
    assert "| roads | train | 135 | own pictures, CC-BY-4.0 |" in text and "/home" not in text
    trained_on(folder, "someone/pairs")
    text = render(folder)
    assert ModelCard(text).data.datasets == ["someone/pairs"]
    assert validate_card(text, folder) == []
    paths = {"${FUSION_HUB_DATA}/data/msrs": "msrs", "data/tno/train": "tno", r"D:\pairs\llvip": "llvip"}
    for path, key in {**paths, "generated:64": "generated"}.items():
        assert set_key(path) == key
        assert describe_set({"path": path, "split": None, "pairs": 1}, {}).title == DATA_SOURCES[key].title


# --- a valid card with one mistake -----------------------------------------------------------------------------------

BASE = f"base_model: {SD15}\nbase_model_relation: finetune\ntags:\n"
MISTAKES = {
    "no metadata": ("---\n", "", "does not start with metadata"),
    "broken YAML": ("license: apache-2.0", "license: [apache-2.0", "metadata cannot be read"),
    "key twice": ("license: apache-2.0", "license: apache-2.0\nlicense: mit", "has 'license' twice"),
    "misspelled key": ("license: apache-2.0", "licence: apache-2.0", "'licence'; did you mean 'license'"),
    "unknown license": ("license: apache-2.0", "license: apache", "license is 'apache'"),
    "other without a name": ("license: apache-2.0", "license: other", "license_name must name it"),
    "name without other": ("license: apache-2.0", "license: mit\nlicense_name: mine", "only for the license 'other'"),
    "empty value": ("license: apache-2.0", "license:", "lacks 'license'"),
    "library": ("library_name: diffusers", "library_name: timm", "library_name is 'timm'"),
    "pipeline tag": ("pipeline_tag: image-to-image", "pipeline_tag: image-fusion", "pipeline_tag is"),
    "dataset that is no id": ("tags:\n", "datasets:\n- msrs\ntags:\n", "'msrs' is not a Hub id"),
    "relation without base": ("tags:\n", "base_model_relation: finetune\ntags:\n", "without base_model"),
    "base without relation": ("tags:\n", "base_model: a/b\ntags:\n", "base_model_relation is missing"),
    "unknown relation": ("tags:\n", "base_model: a/b\nbase_model_relation: child\ntags:\n", "relation is 'child'"),
    "base under another license": ("tags:\n", BASE, "is under creativeml-openrail-m"),
    "base in a list": ("tags:\n", BASE.replace(SD15, f"[{SD15}, a/b]"), "is under creativeml-openrail-m"),
    "restrictions not passed on": ("license: apache-2.0", "license: creativeml-openrail-m", "passing its use-based"),
    "entry without a split": ("      split: test\n", "", "says None for EN on tno"),
    "entry without a set": ("      type: tno\n", "", "metadata cannot be read"),
    "value not finite": ("value: 6.9\n", "value: .nan\n", "says nan for EN on tno"),
    "value as text": ("value: 6.9\n", "value: '6.9'\n", "says 6.9 for EN on tno"),
    "value of another evaluation": ("value: 6.9\n", "value: 6.91\n", "model-index says 6.91 for EN"),
    "value missing": ("    - type: EN\n      value: 6.9\n      name: EN\n", "", "says None for EN on tno"),
    "value twice": ("    - type: SCD\n", "    - type: EN\n", "a metric twice"),
    "value of nothing measured": ("    - type: EN\n", "    - type: EI\n", "for EI on tno .* says None"),
    "cell": ("| **street** | 6.90 |", "| **street** | 6.95 |", r"says '\| \*\*street\*\* \| 6.95 .* gives .* 6.90 "),
    "cell of a baseline": ("| maximum | 6.81 |", "| maximum | 6.18 |", "says .* 6.18 .* gives .* 6.81 "),
    "cell in few digits": ("| **street** | 6.90 |", "| **street** | 6.9 |", "table says"),
    "cell of an undefined value": ("| 1.813 |  |", "| 1.813 | 0.900 |", "table says"),
    "row missing": ("| maximum | 6.81 | 1.600 | 0.920 | 1.000 |\n", "", "says '', but .* maximum"),
    "row invented": ("| maximum | 6.81", "| ours | 9.99 | 2.0 | 2.0 | 2.0 |\n| maximum | 6.81", "says '| ours"),
    "column of another metric": ("| method | EN |", "| method | AG |", "table says"),
    "number of pairs": ("(25 pairs)", "(42 pairs)", r"42 pairs\): the table says"),
    "table missing": ("### tno/test (25 pairs)", "### Numbers", r"tno/test \(25 pairs\): the table says ''"),
    "placeholder": ("## Use\n", "## Use\n\nMore Information Needed\n", "placeholder text"),
    "to do": ("## Use\n", "## Use\n\nTODO\n", "placeholder text"),
    "template left": ("## Use\n", "## Use\n\n{{ name }}\n", "placeholder text"),
    "path": ("## Use\n", "## Use\n\nSee /home/someone/runs/street.\n", "path of this machine, '/home/someone"),
    "path in metadata": ("tags:\n", "thumbnail: /tmp/x/y.png\ntags:\n", "path of this machine"),
    "path of Windows": ("## Use\n", "## Use\n\nSee C:\\Users\\someone.\n", "path of this machine"),
    "home folder": ("## Use\n", "## Use\n\nSee ~/runs/street.\n", "path of this machine"),
    "undefined value": ("| max_steps | 1234 |", "| max_steps | None |", "a value is missing"),
    "empty section": ("## Use\n", "## Background\n\n## Use\n", "section 'Background' is empty"),
    "this machine": ("## Use\n", "## Use\n\nhttp://localhost:7860\n", "'localhost', which other people"),
    "private address": ("## Use\n", "## Use\n\nhttp://10.1.2.3/x\n", "'10.1.2.3', which other people"),
    "private name": ("## Use\n", "## Use\n\nhttps://git.firm.internal/x\n", "which other people"),
    "file address": ("## Use\n", "## Use\n\nfile:///srv\n", "give an https address"),
    "password": ("## Use\n", "## Use\n\nhttps://me:secret@huggingface.co\n", "user name or password"),
    "token": ("## Use\n", "## Use\n\nhf_abcdefghijklmnopqrstuvwxyz\n", "access token"),
    "dead link": ("## Use\n", "## Use\n\n![sample](sample.png)\n", "'sample.png', which is not beside it"),
    "import": ("import DiffFuseNetPipeline", "import DiffFusePipeline", "imports 'DiffFusePipeline'"),
    "module": ("from fusion_hub import", "from fusion_hub.nothing import", "imports fusion_hub.nothing"),
    "another class": ("import DiffFuseNetPipeline", "import REDPipeline", "holds a DiffFuseNetPipeline"),
    "broken code": ("pipe = ", "pipe == = ", "cannot be parsed"),
    "no code": ("```python\nfrom", "```\nfrom", "no Python block"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_each_mistake_is_found(card: str, original: Path, mistake: str) -> None:
    before, after, message = MISTAKES[mistake]
    assert before in card
    problems = validate_card(card.replace(before, after, 1), original)
    assert any(re.search(message, problem) for problem in problems), problems


def test_a_secret_is_not_repeated(card: str) -> None:
    problems = validate_card(card + "\nhf_abcdefghijklmnopqrstuvwxyz\nhttps://me:secret@huggingface.co\n")
    assert len(problems) == 2 and not any("klmnop" in problem or "secret" in problem for problem in problems)


CHANGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "other weights": (lambda folder: tiny_pipeline(num_coupling=2).save_pretrained(folder), "other weights"),
    "no evaluation": (lambda folder: (folder / "metrics.json").unlink(), "metrics.json says None"),
    "damaged evaluation": (lambda folder: write(folder, "metrics.json", {}), "neither"),
    "sd15": (lambda folder: configure(folder, sd15=SD15), "base_model must be"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_card_that_its_folder_contradicts(card: str, folder: Path, change: str) -> None:
    alter, message = CHANGES[change]
    alter(folder)
    problems = validate_card(card, folder)
    assert any(message in problem for problem in problems), problems


def test_ordinary_text_is_no_mistake(card: str, original: Path) -> None:
    text = """See https://huggingface.co/docs/hub and `train/configs/` and and/or. None of them is undefined.
    `${FUSION_HUB_DATA}/data/msrs`, 640x480/2, 1/2, a dict {'a': {}}"""
    assert validate_card(card.replace("## Use\n", f"## Use\n\n{text}\n"), original) == []


# --- the cards of the package ----------------------------------------------------------------------------------------

CARDS = ROOT / "model_cards"
NAMES = sorted(checkpoints.PRETRAINED)
WATCHED = {
    "difffusenet-msrs": "are not a blind test",
    "red-small-msrs": "taken over from `difffusenet-msrs`",
    "difffusenet-medical": "which was stopped after one look at",
    "red-small-medical": "stopped after one look at `mri_ct/test`",
}


def test_every_checkpoint_has_its_card_and_no_card_is_left_over() -> None:
    assert {path.stem for path in CARDS.glob("*.md")} == {*NAMES, *checkpoints.SEGMENTERS, *checkpoints.DETECTORS}
    assert {info.model_class for info in checkpoints.list_models()} <= set(METHODS)
    link = CARDS / "template.md.j2"
    assert link.is_symlink() and not link.readlink().is_absolute()
    assert link.resolve() == ROOT / "fusion_hub" / "templates" / "model_card.md.j2"


@pytest.mark.parametrize("name", NAMES)
def test_bundled_card(name: str) -> None:
    info = checkpoints.PRETRAINED[name]
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert validate_card(text, info.folder) == []
    assert (info.folder / "README.md").read_text(encoding="utf-8") == text
    fresh = render_model_card(info.folder, name=name, summary=info.summary, licence=info.license)
    assert fresh == text, "render the cards again: python model_cards/render.py"

    # Every number is that of the evaluation, compared by other means than the validator's.
    sets = json.loads((info.folder / "metrics.json").read_text(encoding="utf-8"))["sets"]
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
    found = {
        (r.dataset_type, r.dataset_split, r.metric_type): r.metric_value for r in ModelCard(text).data.eval_results
    }
    assert found == {
        (*dataset.split("/"), metric): value
        for dataset, content in sets.items()
        for metric, value in content["metrics"].items()
        if metric not in NOT_SHOWN
    }

    # What must not get lost.
    flat = re.sub(r"\s+", " ", text)
    assert "independent implementation of the published description; not the authors' code or weights" in flat
    assert "No pixel of" in flat and "Registered pairs only" in flat and "clinical use" in flat
    assert WATCHED[name] in flat
    quoted = text.split("\n### The paper's numbers\n")[1].split("\n#")[0]
    if info.model_class == "REDModel":
        assert "the authors' own model" in quoted and "NOT comparable" in quoted and "other pairs" in quoted
        medical = "20.24 | 7.67 | 26.14 | 0.71 | 0.69"
        printed = medical if "medical" in name else "10.39 | 3.90 | 11.57 | 0.70 | 0.98"
        assert f"| RED, as printed | {printed} |" in quoted and quoted.count("as printed |") == 1
    else:
        assert "not quoted" in quoted and "|" not in quoted


@pytest.mark.parametrize(
    "info", [*checkpoints.SEGMENTERS.values(), *checkpoints.DETECTORS.values()], ids=lambda info: info.name
)
def test_card_of_a_segmenter_or_detector(
    info: checkpoints.SegmenterInfo | checkpoints.DetectorInfo, tmp_path: Path
) -> None:
    name, segmenting = info.name, isinstance(info, checkpoints.SegmenterInfo)
    kind: Kind = "segmenter" if segmenting else "detector"
    weights = "model.safetensors" if segmenting else "model.onnx"
    keys = {1: "mIoU", 3: "mIoU_foreground"} if segmenting else {1: "mAP50"}  # by column
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert validate_card(text, info.folder, kind) == []
    assert (info.folder / "README.md").read_text(encoding="utf-8") == text
    assert render_predictor_card(info) == text, f"render the card again: python model_cards/render.py {name}"

    rows = json.loads((info.folder / "metrics.json").read_text(encoding="utf-8"))["inputs"]
    table = [line for line in text.split("\n## Results\n")[1].split("\n## ")[0].splitlines() if line.startswith("| ")]
    for input_name, row in rows.items():  # by other means than the template's
        own = [line.strip("|").split("|") for line in table if line.startswith(f"| {input_name} |")]
        for column, key in keys.items():
            assert float(own[0][column]) == pytest.approx(100 * row["numbers"][key], abs=0.0501)
        assert not segmenting or len(own[1]) == 1 + info.classes

    shutil.copytree(info.folder, tmp_path / name)
    wrong = text.replace("value: 0.", "value: 0.9", 1)
    assert any("metrics.json says" in problem for problem in validate_card(wrong, tmp_path / name, kind))
    (tmp_path / name / weights).write_bytes(b"other")
    assert any("other weights" in problem for problem in validate_card(text, tmp_path / name, kind))
    (tmp_path / name / "metrics.json").unlink()
    assert any("no metrics.json" in problem for problem in validate_card(text, tmp_path / name, kind))


def test_script_writes_both_copies_and_no_invalid_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("render", CARDS / "render.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    name = NAMES[0]
    shutil.copytree(checkpoints.PRETRAINED[name].folder, tmp_path / name)
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


# --- datasets and Spaces ---------------------------------------------------------------------------------------------


def dataset_card(**settings: Any) -> str:
    usual: dict[str, Any] = {
        **{"name": "Roads", "repo_id": "someone/roads", "splits": {"train": 1200, "test": 40}},
        **{"columns": ["visible", "infrared"], "licence": "CC-BY-4.0", "source": "Taken by the authors."},
        "description": "Roads at night.",
    }
    return render_dataset_card(**{**usual, **settings})


@pytest.mark.parametrize(
    "settings",
    [
        {"generated": True},
        {"medical": True, "description": ""},
        {"columns": {"visible": "a|b", "infrared": "c"}},
        {"configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}]},
        {"licence": "other", "licence_name": "mine", "licence_link": "LICENSE"},
    ],
)
def test_dataset_cards_are_valid(settings: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-00000.parquet").touch()
    text = dataset_card(**settings)
    assert validate_card(text, tmp_path, "dataset") == []
    assert "| train | 1200 |" in text and "1K<n<10K" in text and 'load_dataset("someone/roads"' in text


@pytest.mark.parametrize(
    "settings", [{"licence": "mine"}, {"repo_id": "roads"}, {"splits": {}}, {"splits": {"train": 0}}]
)
def test_dataset_cards_refuse_invalid_values(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings)).replace("licence", "license").replace("splits", "split")):
        dataset_card(**settings)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("task_categories", "task_category", "did you mean 'task_categories'"),
        ("- image-to-image", "- depth-estimation", "expected ['image-to-image']"),
        ("pretty_name: Roads\n", "", "lacks 'pretty_name'"),
        ("tags:\n", "configs:\n- data_files:\n  - path: no/*.csv\ntags:\n", "no file of the repository matches 'no/"),
        ("tags:\n", "configs:\n- data_files:\n  - path: ../x\ntags:\n", "no file of the repository matches '../x'"),
        ("tags:\n", "configs:\n- data_files: '*'\ntags:\n", "an entry has no config_name"),
        ("import PairedDataset", "import PairDataset", "imports 'PairDataset'"),
    ],
)
def test_mistakes_in_a_dataset_card(before: str, after: str, message: str, tmp_path: Path) -> None:
    text = dataset_card()
    assert before in text
    problems = validate_card(text.replace(before, after, 1), tmp_path, "dataset")
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("title:", "title:", None),
        ("sdk: gradio", "sdkk: gradio", "did you mean 'sdk'"),
        ("colorFrom: indigo", "colorFrom: orange", "colorFrom is 'orange'"),
        ('python_version: "3.12.12"', "python_version: 3.10", "put it in quotes"),
        ("short_description: ", f"short_description: {'x' * 60}", "longer than 60"),
        ("app_file: app.py", "app_file: main.py", "'main.py', which is not beside"),
        ("sdk_version: 6.31.0\n", "", "lacks 'sdk_version'"),
        ("# Fusion Hub\n", "# Fusion Hub\n\nhttp://127.0.0.1:7860\n", "which other people"),  # outside of code
    ],
)
def test_the_space_and_mistakes_in_its_card(before: str, after: str, message: str | None) -> None:
    text = (ROOT / "space" / "README.md").read_text()
    assert before in text
    problems = validate_card(text.replace(before, after, 1), ROOT / "space", "space")
    assert (problems == []) if message is None else any(message in problem for problem in problems), problems
