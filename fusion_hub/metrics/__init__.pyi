from .evaluate import evaluate_batch, evaluate_pair
from .registry import LEGACY_METRICS, METRICS, Metric, find_metric
from .tables import CDDFUSE_EVALUATOR, CDDFUSE_METRICS, LEGACY_NAMES, METRIC_NAMES, TABLES

__all__ = [
    "CDDFUSE_EVALUATOR",
    "CDDFUSE_METRICS",
    "LEGACY_METRICS",
    "LEGACY_NAMES",
    "METRICS",
    "METRIC_NAMES",
    "TABLES",
    "Metric",
    "evaluate_batch",
    "evaluate_pair",
    "find_metric",
]
