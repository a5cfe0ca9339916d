"""`fusion-hub publish`: a checkpoint becomes a model on the Hub."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion_hub.cli.common import WRONG_USE, CommandError, exit_codes

if TYPE_CHECKING:
    from fusion_hub.hub.upload import PlannedFile

EXAMPLES = """
Examples:

  fusion-hub publish runs/street/pipeline --repo-id me/street --dry-run

  fusion-hub publish runs/street/pipeline --repo-id me/street --evaluation results/summary.json --tag v1

  fusion-hub publish runs/mine/pipeline --repo-id me/mine --private --data-terms "mine=own pictures, CC-BY-4.0"
"""


def publish(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="The pipeline folder of a finished run, or a bundled name (see `fusion-hub models`).",
            show_default=False,
        ),
    ],
    *,
    repo_id: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Made if it does not exist.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="A new repository is for its owner only.")] = False,
    tag: Annotated[str | None, typer.Option(help="Name of this version, such as v1.", show_default="none")] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            metavar="SUMMARY.JSON",
            help="Numbers for the card, of `fusion-hub evaluate --output`.",
            show_default="metrics.json beside the weights, if there",
        ),
    ] = None,
    summary: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What the model is for.", show_default="by its training data")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Of the weights, an id of the Hub's list; its text is taken from LICENSE beside the weights.",
            show_default="apache-2.0; creativeml-openrail-m for weights from Stable Diffusion 1.5",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="Model that the weights come from.", show_default="as its configuration says"
        ),
    ] = None,
    data_terms: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET=TERMS",
            help="Source and licence of a training set of your own, in a few words. May be given several times.",
            show_default="needed for sets that are not known",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and show what would be uploaded.")] = False,
) -> None:
    """Publish a checkpoint in one commit: full and half weights, card, licence, configuration, numbers, a sample.

    Everything is checked before anything is uploaded. Afterwards the model is downloaded again and must give the same
    pixels, else its tag is removed. The token is that of `hf auth login` or of HF_TOKEN.
    """
    with exit_codes("the same command goes on from here"):
        terms = parse_terms(data_terms or [])
        from fusion_hub.hub.model import staged_model, upload_model
        from fusion_hub.hub.upload import PublishError, hub_url, plan

        try:
            with staged_model(
                checkpoint,
                repo_id,
                evaluation=evaluation,
                summary=summary,
                licence=licence,
                base_model=base_model,
                data_terms=terms,
            ) as staged:
                show_files(plan(staged.folder), f"model {repo_id}")
                if not (staged.folder / "metrics.json").is_file():
                    typer.echo("the card says that nothing was measured: --evaluation gives it numbers")
                if dry_run:
                    typer.echo(f"dry run: nothing was uploaded to {hub_url(repo_id)}")
                    return
                published = upload_model(staged, repo_id, private=private, tag=tag, progress=sys.stderr.isatty())
        except PublishError as error:
            raise CommandError(str(error)) from error
        version = published.tag or published.commit
        typer.echo(f"{published.url} at {version}: downloaded again, both precisions give the same pixels as here")
        typer.echo(f'FusionPipeline.from_pretrained("{repo_id}", revision="{version}")')


def parse_terms(texts: Sequence[str]) -> dict[str, str]:
    """`mine=own pictures, CC-BY-4.0` by name."""
    terms = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise CommandError(f'--data-terms {text}: give a name and terms, "mine=own pictures, CC-BY-4.0"', WRONG_USE)
        terms[name] = value
    return terms


def show_files(files: "Sequence[PlannedFile]", title: str, most: int | None = None) -> None:
    """What will be uploaded, as a table of at most so many files; its last row counts all."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_footer=True)
    table.add_column("file", f"{len(files)} files", overflow="fold")
    table.add_column("size", _readable(sum(file.size for file in files)), justify="right", no_wrap=True)
    for file in files[:most]:
        table.add_row(file.path, _readable(file.size))
    if most is not None and len(files) > most:
        table.add_row(f"and {len(files) - most} more", "")
    Console().print(table)


def _readable(size: int) -> str:
    if size < 2**10:
        return f"{size} bytes"
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB"
