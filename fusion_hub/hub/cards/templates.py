"""The templates of the cards: package data, an undefined variable in them is an error."""

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template


def load_template(name: str) -> "Template":
    """A template of `fusion_hub/templates`, with the filters `cell`, `number`, `percent` and `duration`."""
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    environment.filters |= {"cell": _cell, "number": _number, "percent": _percent, "duration": _duration}
    return environment.from_string((files("fusion_hub") / "templates" / name).read_text(encoding="utf-8"))


def _cell(text: object) -> str:
    """One line that does not end the cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def _number(value: float | None, metric: str) -> str:
    """With as many digits as tables of the field print; nothing for an undefined value."""
    from fusion_hub.evaluation.statistics import format_value

    return "" if value is None else format_value(metric, value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
