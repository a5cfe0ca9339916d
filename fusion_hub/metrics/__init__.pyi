from .evaluate import evaluate_batch, evaluate_pair
from .registry import CDDFUSE_EVALUATOR, CDDFUSE_METRICS, LEGACY_METRICS, METRICS, TABLES, Metric, find_metric

__all__ = [
    "CDDFUSE_EVALUATOR",
    "CDDFUSE_METRICS",
    "LEGACY_METRICS",
    "METRICS",
    "TABLES",
    "Metric",
    "evaluate_batch",
    "evaluate_pair",
    "find_metric",
]
