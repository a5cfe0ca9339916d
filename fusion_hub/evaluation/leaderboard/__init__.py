"""One page from many evaluations: who is ahead on which set, by how much, and whether the images can tell.

    board = build([Path("ours/summary.json"), Path("theirs/summary.json")], Path("leaderboard"))

`build` merges the `summary.json` files of `fusion-hub evaluate` with the numbers that other methods have published on
the same pairs (`published.json`), ranks, compares by a paired bootstrap, and writes `leaderboard.md` and one static
`index.html`. Rows over other images are shown, but neither ranked nor marked.
"""

from fusion_hub.evaluation.leaderboard.board import Board, Entry, Leaderboard, assemble, build
from fusion_hub.evaluation.leaderboard.comparing import Comparison, compare, holm, paired_bootstrap
from fusion_hub.evaluation.leaderboard.reading import (
    PUBLISHED,
    PrintedTable,
    Published,
    read_evaluation,
    read_published,
)
from fusion_hub.evaluation.leaderboard.rows import RANK_METRICS, TABLE_METRICS, Estimate, Row, mean_ranks, merge

__all__ = [
    "PUBLISHED",
    "RANK_METRICS",
    "TABLE_METRICS",
    "Board",
    "Comparison",
    "Entry",
    "Estimate",
    "Leaderboard",
    "PrintedTable",
    "Published",
    "Row",
    "assemble",
    "build",
    "compare",
    "holm",
    "mean_ranks",
    "merge",
    "paired_bootstrap",
    "read_evaluation",
    "read_published",
]
