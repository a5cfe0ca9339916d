"""What a stored model refuses, by its configuration alone: without torch, so that a wrong option is refused at once."""

import json
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any


def is_whole_number(value: Any) -> bool:
    """Whether a value is an int, also of numpy, and not a bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_steps(steps: Any, config: Mapping[str, Any]) -> None:
    """Raise a `ValueError` that names the value and the limits if a model of this configuration cannot run them."""
    automatic = "num_steps" in config  # RED
    if steps is None or (automatic and steps == "auto"):
        return
    last = config["num_steps"] if automatic else max(config["inference_timestep"], 1)
    if not (is_whole_number(steps) and 1 <= steps <= last):
        meaning = (
            "the num_steps that the model was trained with, or 'auto'"
            if automatic
            else ("the inference_timestep of the model")
        )
        raise ValueError(f"num_inference_steps={steps!r} must be a whole number from 1 to {last}, {meaning}")


def check_noise(strength: Any, uses_noise: bool) -> None:
    """Raise a `ValueError` for a `noise_strength` outside of [0, 1], or above 0 where the model draws no noise."""
    if isinstance(strength, bool) or not 0 <= strength <= 1:
        raise ValueError(f"noise_strength={strength!r} must be from 0 (deterministic) to 1")
    if strength > 0 and not uses_noise:
        raise ValueError(f"noise_strength={strength!r} was given, but this model draws no noise: leave it at 0")


def check_stored(folder: Path, steps: Any, strength: Any) -> None:
    """Both checks for a checkpoint; files that cannot be understood are left to the loading, which reports them."""
    try:
        config = json.loads((folder / "model" / "config.json").read_bytes())
        name = config["_class_name"]
        known = isinstance(config[{"REDModel": "num_steps", "DiffFuseNetModel": "inference_timestep"}[name]], int)
    except (OSError, ValueError, KeyError, TypeError):
        return
    if known:
        check_steps(steps, config)
        check_noise(strength, name != "REDModel")
