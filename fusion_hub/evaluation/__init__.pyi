from . import baselines, leaderboard, methods, records, report, run, statistics
from .methods import (
    Method,
    baseline_method,
    describe_checkpoint,
    folder_method,
    luminance,
    pipeline_method,
    source_luminance,
)
from .records import EvaluationSet, Row, check_sizes, set_name
from .run import (
    CONVENTIONS,
    FORMAT,
    Evaluation,
    Failure,
    collect,
    evaluate,
    forget,
    measure_share,
    with_baselines,
    write,
)
from .statistics import Interval, Statistic, bootstrap_mean

__all__ = [
    "CONVENTIONS", "FORMAT", "Evaluation", "EvaluationSet", "Failure", "Interval", "Method", "Row", "Statistic",
    "baseline_method", "baselines", "bootstrap_mean", "check_sizes", "collect", "describe_checkpoint", "evaluate",
    "folder_method", "forget", "leaderboard", "luminance", "measure_share", "methods", "pipeline_method", "records",
    "report", "run", "set_name", "source_luminance", "statistics", "with_baselines", "write",
]  # fmt: skip
