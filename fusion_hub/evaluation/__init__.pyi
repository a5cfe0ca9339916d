from . import baselines, contributions, leaderboard, methods, parts, records, report, run, statistics
from .contributions import Contributions, measure_parts
from .methods import (
    Method,
    baseline_method,
    describe_checkpoint,
    folder_method,
    luminance,
    pipeline_method,
    source_luminance,
)
from .parts import parts_of, without
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
    "CONVENTIONS", "FORMAT", "Contributions", "Evaluation", "EvaluationSet", "Failure", "Interval", "Method", "Row",
    "Statistic", "baseline_method", "baselines", "bootstrap_mean", "check_sizes", "collect", "contributions",
    "describe_checkpoint", "evaluate", "folder_method", "forget", "leaderboard", "luminance", "measure_parts",
    "measure_share", "methods", "parts", "parts_of", "pipeline_method", "records", "report", "run", "set_name",
    "source_luminance", "statistics", "with_baselines", "without", "write",
]  # fmt: skip
