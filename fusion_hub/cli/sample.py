"""`fusion-hub sample`: a folder of drawn pairs for first steps."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from fusion_hub import data
from fusion_hub.cli.common import WRONG_USE, CommandError, exit_codes, message_of
from fusion_hub.files import check_writable, disk_trouble

EXAMPLES = """
\b
Examples:
  fusion-hub sample
  fusion-hub sample pictures/first
"""


def sample(
    folder: Annotated[Path, typer.Argument(help="Where to write; created if it does not exist.")] = Path("sample"),
) -> None:
    """Write the sample pairs that the documentation uses: streets, medical scans, a clip, a data set.

    All pictures are drawn, so you may use them for anything. Existing files are never overwritten.
    """
    with exit_codes("run the same command again to write the rest"):
        if folder.is_file():
            raise CommandError(f"{folder} is a file: give a folder", WRONG_USE)
        try:
            check_writable(folder)
            data.write_samples(folder)
        except OSError as error:
            raise CommandError(disk_trouble(error, folder) or message_of(error)) from error
        places = {str(folder / name): content for name, content in data.SAMPLE_FOLDERS.items()}
        for place, content in places.items():
            typer.echo(f"{place:<{max(map(len, places))}}  {content}")
        visible, infrared = (shlex.quote(str(folder / "street" / file)) for file in ("night.jpg", "night_ir.png"))
        typer.echo(f"Next: fusion-hub fuse {visible} {infrared} --output fused.png")
