"""`fusion-hub publish-space`: the demo page as a Space."""

import sys
from typing import Annotated

import typer

from fusion_hub.cli.common import CommandError, exit_codes
from fusion_hub.cli.publish import show_files

EXAMPLES = """
Examples:

  fusion-hub publish-space --repo-id me/fusion-hub --dry-run

  fusion-hub publish-space --repo-id me/fusion-hub --private --hardware cpu-upgrade
"""


def publish_space(
    *,
    repo_id: Annotated[str, typer.Option(metavar="OWNER/NAME", help="Made if it does not exist.", show_default=False)],
    private: Annotated[bool, typer.Option("--private", help="A new Space is for its owner only.")] = False,
    hardware: Annotated[
        str | None,
        typer.Option(
            help="cpu-basic, cpu-upgrade, t4-small ...; the owner is billed for what costs money.",
            show_default="as it is; cpu-basic for a new Space",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and show what would be uploaded.")] = False,
) -> None:
    """Publish the demo page in one commit: space/ at its root, the package and its checkpoints beside it.

    Run it from a checkout of the repository: an installed package has no space/.
    """
    with exit_codes("nothing is half published: the same command goes on from here"):
        from fusion_hub.hub.space import check_hardware, staged_space, upload_space
        from fusion_hub.hub.upload import PublishError, check_repo_id, hub_url, plan

        try:
            check_repo_id(repo_id)
            if hardware is not None:
                check_hardware(hardware)
            with staged_space() as staged:
                show_files(plan(staged), f"Space {repo_id}")
                if dry_run:
                    typer.echo(f"dry run: nothing was uploaded to {hub_url(repo_id, 'space')}")
                    return
                published = upload_space(
                    staged, repo_id, private=private, hardware=hardware, progress=sys.stderr.isatty()
                )
        except PublishError as error:
            raise CommandError(str(error)) from error
        typer.echo(f"{published.url} at {published.commit}")
