"""The command line: `fusion-hub sample`, `fuse`, `calibrate`, `fuse-video`, `evaluate`, `leaderboard`, `downstream`,
`export-yolo`, `models`, `demo`, `train`, `publish`, `publish-dataset` and `publish-space`, each a module here.

Exit codes: 0 success; 1 a pair or the whole run failed; 2 wrong use of the command; 130 stopped by the user. Heavy
libraries are loaded on first use, so that `--help` answers at once.
"""

from itertools import pairwise
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from fusion_hub import __version__
from fusion_hub.cli import (
    calibrate,
    common,
    demo,
    downstream,
    evaluate,
    export_yolo,
    fuse,
    fuse_video,
    leaderboard,
    models,
    publish,
    sample,
    train,
)

app = typer.Typer(
    name="fusion-hub",
    help="Fuse registered infrared-visible and medical image pairs.",
    epilog="Start with: fusion-hub sample",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(short_help="Write drawn pairs to try the commands on.", epilog=sample.EXAMPLES)(sample.sample)
app.command(short_help="Fuse a pair of images, folders or a dataset.", epilog=fuse.EXAMPLES)(fuse.fuse)
app.command(short_help="Align two cameras that are fixed to each other.", epilog=calibrate.EXAMPLES)(
    calibrate.calibrate
)
app.command(short_help="Fuse two videos or streams.", epilog=fuse_video.EXAMPLES)(fuse_video.fuse_video)
app.command(short_help="Measure fused images, with 95% intervals.", epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(short_help="Merge evaluations into one page.", epilog=leaderboard.EXAMPLES)(leaderboard.leaderboard)
app.command(short_help="Compare detection and segmentation runs.", epilog=downstream.EXAMPLES)(downstream.downstream)
app.command(short_help="Write fused images and boxes for YOLO.", epilog=export_yolo.EXAMPLES)(export_yolo.export_yolo)
app.command(short_help="List the bundled checkpoints, or check one.", epilog=models.EXAMPLES)(models.models)
app.command(short_help="Serve the page in the browser.", epilog=demo.EXAMPLES)(demo.demo)
app.add_typer(train.app, name="train", short_help="Train a network on your pairs.", epilog=train.EXAMPLES)
app.command(short_help="Publish a checkpoint on the Hub.", epilog=publish.MODEL_EXAMPLES)(publish.publish)
app.command(short_help="Publish a folder of pairs.", epilog=publish.DATASET_EXAMPLES)(publish.publish_dataset)
app.command(short_help="Publish the page as a Space.", epilog=publish.SPACE_EXAMPLES)(publish.publish_space)

_KINDS = {"bool": "", "str": "TEXT", "path": "PATH", "Path": "PATH"}
_KINDS |= dict.fromkeys(("int", "float", "int range", "float range"), "NUMBER")
_KINDS |= {f"list[{name}]": f"{kind} ..." for name, kind in _KINDS.items()}


def _in_words(parameters: list[Any], context: Any) -> list[Any]:
    """Parameters whose help names kinds of values in words, where Typer prints Python's types."""
    for parameter in parameters:
        kind = parameter.display_type(context).strip("<>")
        kind = _KINDS.get(kind, kind)
        parameter.display_type = lambda _, kind=kind: kind
    return parameters


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _in_words(super().get_params(ctx), ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an option whose value is the name of another one: Click would take it, and the rest as arguments."""
        options = {name: option for option in self.get_params(ctx) for name in (*option.opts, *option.secondary_opts)}
        for word, following in pairwise(args):
            option = options.get(word)
            named = following.startswith("-") and following.split("=")[0] in options  # arguments have names too
            if named and not getattr(option, "is_flag", True):
                ctx.fail(f"{word} needs a value, but {following} follows it.")
        return super().parse_args(ctx, args)


class _Group(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _in_words(super().get_params(ctx), ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Of `fusion-hub train --data my`, say that the network is missing, not that there is no such option."""
        if ctx.info_name == "train" and args and args[0].startswith("--") and args[0] != "--help":
            names = list(self.commands)
            ctx.fail(f"name the network first, one of {', '.join(names)}: fusion-hub train {names[0]} {' '.join(args)}")
        return super().parse_args(ctx, args)


for command in app.registered_commands:
    command.cls = _Command
for group in (app.info, *app.registered_groups):
    group.cls = _Group


def main() -> None:
    """The console script."""
    common.show_warnings_in_words()
    app(prog_name="fusion-hub")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fusion-hub {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Fuse registered infrared-visible and medical image pairs."""
