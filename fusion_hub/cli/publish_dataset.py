"""`fusion-hub publish-dataset`: a folder of pairs becomes a dataset on the Hub that streams."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fusion_hub.cli.common import WRONG_USE, CommandError, exit_codes, print_message
from fusion_hub.cli.publish import show_files

if TYPE_CHECKING:
    from fusion_hub.hub.dataset_check import CheckedDataset

EXAMPLES = """
Examples:

  fusion-hub publish-dataset data/mine --repo-id me/mine --dry-run

  fusion-hub publish-dataset data/mine --repo-id me/mine --licence cc-by-4.0 --source "FLIR E8, Leeds, 2026" --tag v1

  fusion-hub publish-dataset data/large --repo-id me/large --licence cc0-1.0 --format parquet --private
"""
MOST_ROWS = 12  # of the table of files


def publish_dataset(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder with vis/ and ir/ (and other common names) or metadata.csv, for each split or for one.",
            show_default=False,
        ),
    ],
    *,
    repo_id: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Made if it does not exist.", show_default=False)],
    licence: Annotated[
        str | None,
        typer.Option(
            metavar="ID",
            help="Terms of the pictures, an id of the Hub's list: cc-by-4.0, cc0-1.0 ..., other, unknown.",
            show_default="none; needed to publish",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Where the pictures come from, for the card.", show_default="not stated"),
    ] = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What they show, for the card.", show_default="none")
    ] = None,
    file_format: Annotated[
        Literal["folder", "parquet"],
        typer.Option("--format", help="folder: the files with metadata.csv. parquet: shards, for large sets."),
    ] = "folder",
    licence_name: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Name of the licence 'other'.", show_default="none")
    ] = None,
    licence_link: Annotated[
        str | None, typer.Option(metavar="URL", help="Text of the licence 'other'.", show_default="none")
    ] = None,
    medical: Annotated[bool, typer.Option("--medical", help="MRI with CT, PET or SPECT: the card says so.")] = False,
    private: Annotated[bool, typer.Option("--private", help="A new repository is for its owner only.")] = False,
    tag: Annotated[str | None, typer.Option(help="Name of this version, such as v1.", show_default="none")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and show what would be uploaded.")] = False,
) -> None:
    """Publish a folder of pairs in one commit: two image columns, splits, a card.

    Every picture is decoded first. A missing partner, unequal sizes, a damaged file or a picture that two splits share
    stops the command before anything is uploaded. Files are published as they are: 16-bit infrared stays 16-bit.
    """
    with exit_codes("nothing is half published: the same command goes on from here"):
        from fusion_hub.hub.dataset import AboutDataset, check_card, staged_dataset, upload_dataset
        from fusion_hub.hub.dataset_check import check_dataset
        from fusion_hub.hub.upload import PublishError, hub_url, plan

        if licence is None and not dry_run:
            raise CommandError(
                "--licence is missing: under which terms may the pictures be used? For example --licence cc-by-4.0; "
                "--licence unknown if their owner has not said",
                WRONG_USE,
            )
        about = AboutDataset(
            licence=licence or "unknown",
            source=source or AboutDataset.source,
            description=description or AboutDataset.description,
            licence_name=licence_name,
            licence_link=licence_link,
            medical=medical,
        )
        try:
            check_card(repo_id, about)
            print_message(f"looking at every picture in {folder}")
            checked = check_dataset(folder)
            _quiet_datasets()
            with staged_dataset(checked, repo_id, about, file_format) as staged:
                _describe(checked)
                show_files(plan(staged), f"dataset {repo_id}", MOST_ROWS)
                if dry_run:
                    needed = "" if licence is not None else "; --licence is needed to publish"
                    typer.echo(f"dry run: nothing was uploaded to {hub_url(repo_id, 'dataset')}{needed}")
                    return
                published = upload_dataset(
                    checked, staged, repo_id, private=private, tag=tag, progress=sys.stderr.isatty()
                )
        except PublishError as error:
            raise CommandError(str(error)) from error
        version = published.tag or published.commit
        typer.echo(f"{published.url} at {version}: the first pair of each split was streamed and is the same as here")
        typer.echo(f'PairedDataset.open("{repo_id}", split="{next(iter(checked.splits))}", streaming=True)')


def _describe(checked: "CheckedDataset") -> None:
    for note in checked.notes:
        print_message(f"note: {note}")
    for split, count in checked.sizes.items():
        typer.echo(f"{split}: {count} pairs")
    for band, modes in checked.modes.items():
        typer.echo(f"{band}: {', '.join(f'{count} {mode}' for mode, count in modes.items())}")


def _quiet_datasets() -> None:
    """A bar for each of many shards says nothing."""
    from datasets import disable_progress_bars

    disable_progress_bars()
