"""What lies on disk: trained and evaluated networks, and detectors that were evaluated as they are.

A training run is a folder of `train/segformer.py` or `train/detector.py`. Its `pipeline/` holds what was measured
(`evaluation.json`, `detection.json`), what it was trained with (`config.yaml`), how long it took (`training.json`), and
what its pictures were made by. A zero-shot result is one JSON file for each input.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fusion_hub.downstream.segmentation_scores import SegmentationResult

if TYPE_CHECKING:
    from fusion_hub.downstream.detection_scores import DetectionResult

Task = Literal["segmentation", "detection", "zero-shot"]
Kind = Literal["source", "rule", "method"]
TASKS: tuple[Task, ...] = ("segmentation", "detection", "zero-shot")
SOURCES = ("visible", "infrared")

_MEASURED: Mapping[str, Task] = {"evaluation.json": "segmentation", "detection.json": "detection"}
_OF_THE_RUN = {"seed", "input"}
"""Fields of a configuration that tell the runs of one table apart."""
_INPUTS = ("segmentation.json", "inputs.json")
"""Where a run says what made its pictures."""


@dataclass(frozen=True)
class Cost:
    """What a training run took.

    Attributes:
        steps: of the optimiser.
        seconds: from start to end, all parts of a resumed run together.
        hardware: what the run says of it: kind of device and number of processes.
    """

    steps: int
    seconds: float
    hardware: str


@dataclass(frozen=True, eq=False)
class Run:
    """One network on one set.

    Attributes:
        task: what it does.
        input: what it looks at: `visible`, `average`, `difffusenet-msrs`, a folder.
        kind: of the input: one of both pictures, a rule without a network, or something that fuses.
        seed: of the training; None for a detector that was not trained here.
        result: what it did on each picture.
        settings: what has to be equal in all runs of one table, by name; None stands for a field that is empty.
        pictures_by: digest of what made its pictures; empty where nothing says.
        cost: None without training.
        detector: of a zero-shot result, its name; else empty.
        origin: a short name of its file, for messages.
    """

    task: Task
    input: str
    kind: Kind
    seed: int | None
    result: "SegmentationResult | DetectionResult"
    settings: Mapping[str, Any] = field(default_factory=dict)
    pictures_by: str = ""
    cost: Cost | None = None
    detector: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Found:
    """Runs, and what was left out of the folders that hold them, each with the reason."""

    runs: tuple[Run, ...]
    left_out: tuple[str, ...] = ()


def find_runs(places: Sequence[Path]) -> Found:
    """Everything that was measured in `places`, each file once, whichever way it was named.

    Args:
        places: run folders, their `pipeline/` folders, JSON files of zero-shot results, or folders that hold any of
            them. In a folder of runs, those without a measurement of one input are left out: they are still being
            trained, or were trained on several inputs as a start for others.

    Raises:
        FileNotFoundError: a place does not exist.
        ValueError: a place holds nothing that was measured, or a file cannot be read.
    """
    files: dict[Path, None] = {}
    left_out: dict[str, None] = {}
    for place in places:
        if not place.exists():
            raise FileNotFoundError(f"{place} does not exist: give a run folder, a folder of runs, or a zero-shot JSON")
        found, reasons = _measured_files(place)
        if not found:
            why = "; ".join(reasons) or "no run of train/segformer.py or train/detector.py, no zero-shot JSON"
            raise ValueError(f"{place} holds nothing that was measured ({why}): give finished runs of one input each")
        files |= dict.fromkeys(file.resolve() for file in found)
        left_out |= dict.fromkeys(reasons)
    return Found(tuple(_read(file) for file in sorted(files)), tuple(sorted(left_out)))


def _measured_files(place: Path) -> tuple[list[Path], list[str]]:
    """Files with results, and of each run without one the reason."""
    if place.is_file():
        return [place], []
    if (place / "pipeline").is_dir() or (place / "config.yaml").is_file():
        return _measured_in(place)
    files: list[Path] = []
    reasons: list[str] = []
    for inside in sorted(place.iterdir()):
        if (inside / "pipeline").is_dir() or (inside / "config.yaml").is_file():
            found, why = _measured_in(inside)
            files, reasons = files + found, reasons + why
        elif inside.suffix == ".json" and not inside.name.startswith("."):
            files.append(inside)
    return files, reasons


def _measured_in(run: Path) -> tuple[list[Path], list[str]]:
    """Of a run folder, or of its `pipeline/`."""
    pipeline = run if run.name == "pipeline" else run / "pipeline"
    found = [pipeline / name for name in _MEASURED if (pipeline / name).is_file()]
    if found:
        return found, []
    if not pipeline.is_dir():
        return [], [f"{_short(run)} is not finished"]
    if any(pipeline.glob("evaluation-*.json")) or any(pipeline.glob("detection-*.json")):
        return [], [f"{_short(pipeline)} was trained on several inputs at once"]
    return [], [f"{_short(pipeline)} was not evaluated: it was trained without a set for it"]


def _read(file: Path) -> Run:
    try:
        run = _read_run(file, _MEASURED[file.name]) if file.name in _MEASURED else _read_zero_shot(file)
    except (OSError, KeyError, TypeError, ValueError) as error:
        text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file} cannot be read as a result: {text}") from error
    if not run.result.pictures:
        raise ValueError(f"{file} is over no picture at all: evaluate on a set with some")
    return run


def _read_run(file: Path, task: Task) -> Run:
    from fusion_hub.training.config import NEUTRAL_FIELDS, load_config

    folder = file.parent
    measured, config = _read_json(file), load_config(folder / "config.yaml")
    training = _read_json(folder / "training.json")
    settings = {key: value for key, value in config.items() if key not in NEUTRAL_FIELDS | _OF_THE_RUN}
    result = _load(file, task)
    settings |= {
        "pairs of the training sets": [one["pairs"] for one in training["datasets"]],
        "sets of the evaluation": measured.get("sources"),
        "classes": list(result.classes),
    }
    processes = training["processes"]
    hardware = f"{training['device']}, {processes} process{'es' if processes > 1 else ''}"
    name = measured["input"]
    about = _about_input(folder, name)
    return Run(
        task,
        input=name,
        kind=_kind(name, about.get("details", {})),
        seed=int(measured["seed"]),
        result=result,
        settings=settings,
        pictures_by=about.get("fingerprint", ""),
        cost=Cost(int(training["steps"]), float(training["seconds"]), hardware),
        origin=_short(folder),
    )


def _about_input(folder: Path, name: str) -> Mapping[str, Any]:
    """What a run says of an input: what made its pictures; empty if it says nothing."""
    for file in (folder / one for one in _INPUTS):
        for one in _read_json(file)["inputs"] if file.is_file() else ():
            if one["name"] == name:
                return one
    return {}


def _kind(name: str, details: Mapping[str, Any]) -> Kind:
    return "source" if name in SOURCES else "rule" if "rule" in details else "method"


def _read_zero_shot(file: Path) -> Run:
    measured = _read_json(file)
    detector, name = measured["detector"], measured["input"]
    result = _load(file, "zero-shot")
    return Run(
        "zero-shot",
        input=name,
        kind=_kind(name, measured.get("details", {})),
        seed=None,
        result=result,
        settings={
            "sets of the evaluation": measured.get("sources"),
            "annotations": measured.get("annotations"),
            "classes": list(result.classes),
        },
        pictures_by=measured.get("fingerprint", ""),
        detector=detector,
        origin=_short(file),
    )


def _load(file: Path, task: Task) -> "SegmentationResult | DetectionResult":
    """The result, pictures in the order of their names: runs are compared picture by picture."""
    if task == "segmentation":
        matrices = SegmentationResult.load(file)
        order = _by_name(matrices.pictures)
        names = tuple(matrices.pictures[index] for index in order)
        return dataclasses.replace(matrices, pictures=names, confusions=matrices.confusions[order])
    from fusion_hub.downstream.detection_scores import DetectionResult

    boxes = DetectionResult.load(file)
    order = _by_name(boxes.pictures)
    columns = {name: tuple(getattr(boxes, name)[i] for i in order) for name in ("pictures", "truth", "found")}
    return dataclasses.replace(boxes, **columns)


def _by_name(pictures: Sequence[str]) -> list[int]:
    if len(set(pictures)) < len(pictures):
        raise ValueError("two of its pictures have the same name, so runs cannot be compared picture by picture")
    return sorted(range(len(pictures)), key=pictures.__getitem__)


def _read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _short(path: Path) -> str:
    """The last two parts that tell something; no place of one machine."""
    parts = path.parent.parts if path.name == "pipeline" else path.parts
    return "/".join(parts[-2:]).lstrip("/")


_FIRST = (*SOURCES, "average", "maximum")
_KINDS: tuple[Kind, ...] = ("source", "rule", "method")


def order(name: str, kind: Kind) -> tuple[int, int, str]:
    """A key that sorts inputs as tables have them: the sources, the rules, and what fuses, by name."""
    return (_FIRST.index(name) if name in _FIRST else len(_FIRST), _KINDS.index(kind), name)
