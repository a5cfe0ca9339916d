"""Whether runs may stand in one table: all was equal but the input and the seed."""

from collections.abc import Sequence
from typing import Any

from fusion_hub.data.report import some
from fusion_hub.evaluation.downstream_results.runs import Run


def check_alike(runs: Sequence[Run]) -> None:
    """Refuse runs of one task that cannot be compared.

    Raises:
        ValueError: two runs differ in their configuration, in the pictures that they were evaluated on or, on the same
            input, in what made its pictures; or two have the same input and seed. The sentence says which and in what.
    """
    first = runs[0]
    for other in runs[1:]:
        if wrong := _differing(first, other):
            raise ValueError(
                f"{first.origin} and {other.origin} differ in {wrong}, so they do not belong in one table: give runs "
                "that differ in input and seed only"
            )
    seen: dict[tuple[str, int | None], Run] = {}
    made: dict[str, Run] = {}
    for run in runs:
        if (twin := seen.setdefault((run.input, run.seed), run)) is not run:
            seed = "" if run.seed is None else f", seed {run.seed}"
            raise ValueError(f"{twin.origin} and {run.origin} are both of {run.input}{seed}: give each run once")
        if (same := made.setdefault(run.input, run)).pictures_by != run.pictures_by:
            raise ValueError(
                f"{same.origin} and {run.origin} are both called {run.input}, but their pictures were made by "
                "different checkpoints or options: give runs on pictures of one making"
            )


def _differing(first: Run, other: Run) -> str:
    """In what they differ, in words; empty if in nothing that counts."""
    found = [
        f"{name} ({_said(first.settings.get(name))} and {_said(other.settings.get(name))})"
        for name in dict.fromkeys([*first.settings, *other.settings])
        if first.settings.get(name) != other.settings.get(name)
    ]
    ours, theirs = set(first.result.pictures), set(other.result.pictures)
    if ours != theirs:
        apart = sorted(ours ^ theirs)
        found.append(f"the pictures of the evaluation ({len(ours)} and {len(theirs)}, not in both: {some(apart)})")
    return ", ".join(found)


def _said(value: Any) -> str:
    text = "nothing" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
