"""`fusion-hub leaderboard`: evaluations and published rows on one page."""

from pathlib import Path
from typing import Annotated

import typer

from fusion_hub import evaluation
from fusion_hub.cli.common import CommandError, check_exists, exit_codes, message_of, refuse_file
from fusion_hub.cli.evaluate import parse_metrics

EXAMPLES = """
\b
Examples:
  fusion-hub leaderboard results/ --output board/
  fusion-hub leaderboard ours/summary.json theirs/summary.json --rank-metrics SCD,VIF,Qabf --output board/
"""


def leaderboard(
    evaluations: Annotated[
        list[Path],
        typer.Argument(
            metavar="EVALUATION...",
            help="summary.json files of `fusion-hub evaluate`, or the folders that hold them.",
        ),
    ],
    *,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for index.html and leaderboard.md.")] = Path(
        "leaderboard"
    ),
    published: Annotated[
        bool, typer.Option(help="Add the rows that other methods have published on the same pairs, marked as such.")
    ] = True,
    metrics: Annotated[
        str | None, typer.Option(help="Columns, as in `fusion-hub evaluate`.", show_default="the usual ones")
    ] = None,
    rank_metrics: Annotated[
        str | None, typer.Option(help="Metrics of the mean rank.", show_default="EN,SD,SF,SCD,VIF,Qabf,SSIM_cddfuse")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
) -> None:
    """Merge evaluations into one page: tables, mean ranks, paired bootstrap, plots.

    Clamped images and images that are stretched from their minimum to their maximum have a table each.

    Writes one HTML file that needs nothing from the network, and the same as Markdown.
    """
    with exit_codes("nothing was written"):
        refuse_file(output)
        check_exists(evaluations, "a summary.json of `fusion-hub evaluate`, or its folder")
        ranked = evaluation.statistics.RANK_METRICS if rank_metrics is None else parse_metrics(rank_metrics)
        shown = None if metrics is None else parse_metrics(metrics)
        build = evaluation.leaderboard.build
        try:
            build(evaluations, output, published=published, rank_metrics=ranked, metrics=shown, seed=seed)
        except (OSError, ValueError) as error:
            raise CommandError(message_of(error)) from error
        typer.echo(f"{output / 'index.html'}, {output / 'leaderboard.md'}")
