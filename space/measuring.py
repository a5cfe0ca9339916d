"""Measure: the metrics of one pair beside those of two rules that need no network, and the guard rails."""

import numpy as np
from fusing import LANE, fuse_pair
from gpu import on_gpu
from PIL import Image
from results import as_stored
from uploads import in_words, open_upload

from fusion_hub.evaluation.baselines import fuse_levels
from fusion_hub.evaluation.measuring import GUARD_METRICS, measure_pair
from fusion_hub.evaluation.methods import Method, luminance
from fusion_hub.evaluation.report import heading, number
from fusion_hub.evaluation.summary import Row, summarise, warnings_of
from fusion_hub.metrics import find_metric

MAX_PIXELS = 2_000_000  # the metrics of a larger pair take too long for a page
METRICS = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM")
RULES = ("average", "maximum")
HEADERS = ("Metric", "Fused", "Average", "Maximum", "What it says")


@on_gpu(seconds=20)
@in_words()
def measure(
    visible: str | None,
    infrared: str | None,
    model: str,
    infrared_range: str | None = "auto",
    visible_range: str | None = "auto",
) -> tuple[list[list[str]], str]:
    """Fuse a pair and measure the fused image with the metrics of the papers.

    Args:
        visible: the image that gives colour; the pair has at most 2 megapixels.
        infrared: the other image, of the same size.
        model: name of the bundled checkpoint that fuses.
        infrared_range: what becomes black and white in the infrared image: "auto", "dtype" (full scale), "minmax",
            "percentile", or two values of the file such as "2600,2800".
        visible_range: the same for the visible image.

    Returns:
        A row for each metric: name, its value for the fused image and for two simple rules, its meaning; and warnings.
    """
    for path, what in ((visible, "visible"), (infrared, "infrared")):
        open_upload(path, what, MAX_PIXELS)
    fusion, _ = fuse_pair(visible, infrared, model, "all", infrared_range, visible_range)
    sources = fusion.sources
    with LANE:
        rows = [_row(model, "model", luminance(as_stored(fusion.image)), sources)]
        rows += [_row(rule, "baseline", fuse_levels(rule, *sources), sources) for rule in RULES]
    return [_line(name, rows) for name in (*METRICS, *GUARD_METRICS)], _notes(*rows)


def _row(name: str, kind: str, fused: np.ndarray, sources: tuple[np.ndarray, np.ndarray]) -> Row:
    record = measure_pair(fused, *sources, METRICS)
    method = Method(name, kind, lambda pair, dataset: Image.fromarray(fused))  # type: ignore[arg-type]
    return summarise(method, "pair", {"pair": record}, METRICS)


def _line(name: str, rows: list[Row]) -> list[str]:
    metric = find_metric(name)
    better = "Higher" if metric.direction == "up" else "Lower"
    says = f"{better} is better: {metric.rewards}. Fooled by {metric.fooled_by}."
    return [heading(name).replace("_", ", "), *(number(name, row.metrics[name].mean) for row in rows), says]


def _notes(row: Row, average: Row, maximum: Row) -> str:
    vif = {band: [one.metrics[f"VIF_{band}"].mean for one in (row, average)] for band in ("visible", "infrared")}
    kept = ", ".join(f"{own:.2f} of the {band} image (the average {rule:.2f})" for band, (own, rule) in vif.items())
    apart = row.distances["sources"]
    warnings = [f"- **{text[:1].upper()}{text[1:]}.**" for text in warnings_of(row, average, maximum)]
    lines = [
        f"**Guard rails.** By VIF the fused image keeps {kept}. It lies {row.distances['visible']:.1f} grey levels "
        f"from the visible and {row.distances['infrared']:.1f} from the infrared image, which are {apart:.1f} apart.",
        "\n".join(warnings) or "No warning: it copies neither source, and no stretch explains its contrast.",
        "One pair says little about a method: papers give means over sets, and no metric is the truth.",
    ]
    return "\n\n".join(lines)
