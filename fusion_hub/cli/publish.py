"""`fusion-hub publish`, `publish-dataset`, `publish-space`: a model, a dataset or the demo page on the Hub."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from fusion_hub import files, hub
from fusion_hub.cli.common import WRONG_USE, CommandError, exit_codes, print_message

MODEL_EXAMPLES = """
\b
Examples:
  fusion-hub publish runs/street/pipeline --repo-id me/street --dry-run
  fusion-hub publish runs/street/pipeline --repo-id me/street --evaluation results --tag v1
  fusion-hub publish runs/harbor/pipeline --repo-id me/harbor --private --data-terms "harbor=our recordings, CC-BY-4.0"
"""
DATASET_EXAMPLES = """
\b
Examples:
  fusion-hub publish-dataset data/mine --repo-id me/mine --dry-run
  fusion-hub publish-dataset data/mine --repo-id me/mine --license cc-by-4.0 --source "FLIR E8, Leeds, 2026" --tag v1
  fusion-hub publish-dataset data/large --repo-id me/large --license cc0-1.0 --format parquet --private
"""
SPACE_EXAMPLES = """
\b
Examples:
  fusion-hub publish-space --repo-id me/fusion-hub --dry-run
  fusion-hub publish-space --repo-id me/fusion-hub --private --hardware cpu-upgrade
"""
MOST_ROWS = 12  # in the table of a dataset's files

RepoId = Annotated[
    str, typer.Option(metavar="OWNER/NAME", help="Repository; created if it does not exist.", show_default=False)
]
Private = Annotated[bool, typer.Option("--private", help="Create a private repository.")]
Tag = Annotated[str | None, typer.Option(help="Name of this version, such as v1.", show_default="none")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything and list the files, but upload nothing.")]


def publish(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT",
            help="Pipeline folder of a finished run, or a bundled name (see `fusion-hub models`).",
            show_default=False,
        ),
    ],
    *,
    repo_id: RepoId,
    private: Private = False,
    tag: Tag = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Numbers for the card: the folder that `fusion-hub evaluate --output` wrote, or its summary.json.",
            show_default="metrics.json beside the weights, if it exists",
        ),
    ] = None,
    summary: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Purpose of the model.", show_default="by its training data")
    ] = None,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            "--licence",
            metavar="ID",
            help="License of the weights, an id in the Hub's list; its text is read from LICENSE beside the weights.",
            show_default="apache-2.0; creativeml-openrail-m for weights from Stable Diffusion 1.5",
        ),
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME", help="Model that the weights come from.", show_default="from the configuration"
        ),
    ] = None,
    data_terms: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET=TERMS",
            help="Source and license of your own training set, in a few words. Repeat it for several sets.",
            show_default="required for unknown sets",
        ),
    ] = None,
    card_file: Annotated[
        Path | None,
        typer.Option("--save-card", metavar="FILE", help="Write the model card here too.", show_default="none"),
    ] = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Export the network to model.onnx, which runs without PyTorch, too.")
    ] = False,
    dry_run: DryRun = False,
) -> None:
    """Publish a checkpoint in one commit: full and half weights, card, license, configuration, numbers, a sample.

    Everything is checked before the upload. Afterwards the model is downloaded again and must give the same pixels,
    otherwise its tag is removed. Log in with `hf auth login`, or set HF_TOKEN.
    """
    with _publish_errors():
        terms = parse_terms(data_terms or [])
        hub.upload.check_repo_id(repo_id)  # these two before torch is imported, which takes seconds
        hub.upload.find_checkpoint(checkpoint)
        if card_file is not None and card_file.is_dir():
            raise CommandError(f"--save-card {card_file} is a folder: give a file, such as card.md", WRONG_USE)
        card: dict[str, Any] = {"licence": licence, "base_model": base_model, "data_terms": terms}
        with hub.model.staged_model(
            checkpoint, repo_id, evaluation=evaluation, summary=summary, onnx=onnx, **card
        ) as staged:
            show_files(staged.folder, f"model {repo_id}")
            if card_file is not None:
                with files.write_aside(card_file) as aside:
                    shutil.copyfile(staged.folder / "README.md", aside)
                typer.echo(f"{card_file}: the model card")
            if not (staged.folder / "metrics.json").is_file():
                typer.echo("the card says that nothing was measured: --evaluation adds numbers")
            for trained in staged.trained_on:
                print_message(f"warning: the numbers on {trained} come from the training set, and the card says so")
            if dry_run:
                typer.echo(f"dry run: nothing was uploaded to {hub.upload.hub_url(repo_id)}")
                return
            published = hub.model.upload_model(staged, repo_id, private=private, tag=tag, progress=sys.stderr.isatty())
        version = published.tag or published.commit
        typer.echo(f"{published.url} at {version}: downloaded again, both precisions give the same pixels")
        typer.echo(f'FusionPipeline.from_pretrained("{repo_id}", revision="{version}")')


def publish_dataset(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Folder with vis/ and ir/ (and other common names) or metadata.csv, with or without splits.",
            show_default=False,
        ),
    ],
    *,
    repo_id: RepoId,
    licence: Annotated[
        str | None,
        typer.Option(
            "--license",
            "--licence",
            metavar="ID",
            help="Terms of the pictures, an id in the Hub's list: cc-by-4.0, cc0-1.0 ..., other, unknown.",
            show_default="none; required to publish",
        ),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Origin of the pictures, for the card.", show_default="not stated"),
    ] = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Content of the pictures, for the card.", show_default="none")
    ] = None,
    file_format: Annotated[
        Literal["folder", "parquet"],
        typer.Option("--format", help="folder: the files with metadata.csv. parquet: shards, for large datasets."),
    ] = "folder",
    licence_name: Annotated[
        str | None,
        typer.Option(
            "--license-name", "--licence-name", metavar="TEXT", help="Name of the license 'other'.", show_default="none"
        ),
    ] = None,
    licence_link: Annotated[
        str | None,
        typer.Option(
            "--license-link", "--licence-link", metavar="URL", help="Text of the license 'other'.", show_default="none"
        ),
    ] = None,
    medical: Annotated[bool, typer.Option("--medical", help="State on the card: MRI with CT, PET or SPECT.")] = False,
    private: Private = False,
    tag: Tag = None,
    dry_run: DryRun = False,
) -> None:
    """Publish a folder of pairs in one commit: two image columns, splits, a card.

    Every picture is decoded first. A missing partner, unequal sizes, a damaged file or a picture that two splits share
    stops the command before the upload. Files are published unchanged: 16-bit infrared stays 16-bit.
    """
    with _publish_errors():
        if licence is None and not dry_run:
            raise CommandError(
                "--license is missing: under which terms may the pictures be used? For example --license cc-by-4.0, or "
                "--license unknown if their owner has not stated any",
                WRONG_USE,
            )
        hub.upload.check_repo_id(repo_id)
        if not folder.is_dir():
            raise CommandError(f"there is no folder {str(folder)!r}: give the folder of the pairs", WRONG_USE)
        about = hub.DatasetInfo(
            licence=licence or "unknown",
            source=source or hub.DatasetInfo.source,
            description=description or hub.DatasetInfo.description,
            licence_name=licence_name,
            licence_link=licence_link,
            medical=medical,
        )
        hub.dataset.check_card(repo_id, about)
        print_message(f"decoding every picture in {folder}")
        checked = hub.dataset.check_dataset(folder)
        with hub.dataset.staged_dataset(checked, repo_id, about, file_format) as staged:
            for note in checked.notes:
                print_message(f"note: {note}")
            for split, count in checked.sizes.items():
                typer.echo(f"{split}: {count} pairs")
            for band, modes in checked.modes.items():
                typer.echo(f"{band}: {', '.join(f'{count} {mode}' for mode, count in modes.items())}")
            show_files(staged, f"dataset {repo_id}", MOST_ROWS)
            if dry_run:
                required = "" if licence is not None else "; --license is required to publish"
                typer.echo(f"dry run: nothing was uploaded to {hub.upload.hub_url(repo_id, 'dataset')}{required}")
                return
            published = hub.dataset.upload_dataset(
                checked, staged, repo_id, private=private, tag=tag, progress=sys.stderr.isatty()
            )
        version = published.tag or published.commit
        typer.echo(f"{published.url} at {version}: the first pair of each split was streamed and equals the local one")
        typer.echo(f'PairedDataset.open("{repo_id}", split="{next(iter(checked.splits))}", streaming=True)')


def publish_space(
    *,
    repo_id: RepoId,
    private: Private = False,
    hardware: Annotated[
        str | None,
        typer.Option(
            help="cpu-basic, cpu-upgrade, t4-small ...; the owner pays for what is not free.",
            show_default="unchanged; cpu-basic for a new Space",
        ),
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Publish the demo page in one commit: the files of the page, the package and its checkpoints."""
    with _publish_errors():
        hub.upload.check_repo_id(repo_id)
        if hardware is not None:
            hub.space.check_hardware(hardware)
        with hub.space.staged_space() as staged:
            show_files(staged, f"Space {repo_id}")
            if dry_run:
                typer.echo(f"dry run: nothing was uploaded to {hub.upload.hub_url(repo_id, 'space')}")
                return
            published = hub.space.upload_space(
                staged, repo_id, private=private, hardware=hardware, progress=sys.stderr.isatty()
            )
        typer.echo(f"{published.url} at {published.commit}")


@contextmanager
def _publish_errors() -> Iterator[None]:
    with exit_codes("run the same command again to resume"):
        try:
            yield
        except hub.PublishError as error:
            raise CommandError(str(error)) from error


def parse_terms(texts: Sequence[str]) -> dict[str, str]:
    """Terms by data set, from texts such as `mine=own pictures, CC-BY-4.0`."""
    terms = {}
    for text in texts:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise CommandError(
                f'--data-terms {text}: give a name and terms, "harbor=our recordings, CC-BY-4.0"', WRONG_USE
            )
        terms[name] = value
    return terms


def show_files(folder: Path, title: str, most: int | None = None) -> None:
    """Print the files that will be uploaded, `most` of them at the most, and their total size."""
    files = hub.upload.plan(folder)
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
