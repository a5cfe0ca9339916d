"""The command line: `fusion-hub sample`, `fuse`, `calibrate`, `fuse-video`, `fuse-volume`, `evaluate`, `leaderboard`,
`downstream`, `export`, `export-yolo`, `models`, `demo`, `train`, `publish`, `publish-dataset`, `publish-space`, each a
module here.

Exit codes: 0 success; 1 a pair or the whole run failed; 2 wrong use of the command; 130 stopped by the user. Only the
module of the command that runs is imported, and heavy libraries on first use, so that `--help` answers at once.
"""

from importlib import import_module
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from fusion_hub import __version__
from fusion_hub.cli import common


class CommandInfo(NamedTuple):
    """A command: its module here, a line for the list of commands, and the name of its examples in the module."""

    module: str
    about: str
    examples: str = "EXAMPLES"


COMMANDS = {
    "sample": CommandInfo("sample", "Write drawn pairs to try the commands on."),
    "fuse": CommandInfo("fuse", "Fuse a pair of images, folders or a dataset."),
    "calibrate": CommandInfo("calibrate", "Align two cameras that are fixed to each other."),
    "fuse-video": CommandInfo("fuse_video", "Fuse two videos or streams."),
    "fuse-volume": CommandInfo("fuse_volume", "Fuse two volumes: CT, MR, PET, SPECT."),
    "evaluate": CommandInfo("evaluate", "Measure fused images, with 95% intervals."),
    "leaderboard": CommandInfo("leaderboard", "Merge evaluations into one page."),
    "downstream": CommandInfo("downstream", "Compare detection and segmentation runs."),
    "export": CommandInfo("export", "Write a network as an ONNX or OpenVINO file."),
    "export-yolo": CommandInfo("export_yolo", "Write fused images and boxes for YOLO."),
    "models": CommandInfo("models", "List the bundled checkpoints, or check one."),
    "demo": CommandInfo("demo", "Serve the page in the browser."),
    "publish": CommandInfo("publish", "Publish a checkpoint on the Hub.", "MODEL_EXAMPLES"),
    "publish-dataset": CommandInfo("publish", "Publish a folder of pairs.", "DATASET_EXAMPLES"),
    "publish-space": CommandInfo("publish", "Publish the page as a Space.", "SPACE_EXAMPLES"),
    "train": CommandInfo("train", "Train a network on your pairs."),
}
"""By name. The function has the name of the command; `train` is a group of commands, `app` in its module."""

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


class _Commands(_Group):
    """The commands of the table, each imported when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # for "Did you mean"

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        info = COMMANDS[cmd_name]
        module = import_module(f"fusion_hub.cli.{info.module}")
        shown: dict[str, Any] = {"short_help": info.about, "epilog": getattr(module, info.examples)}
        alone = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
        if hasattr(module, "app"):
            alone.add_typer(module.app, name=cmd_name, cls=_Group, **shown)
        else:
            alone.command(cmd_name, cls=_Command, **shown)(getattr(module, cmd_name.replace("-", "_")))
        return typer.main.get_group(alone).commands[cmd_name]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, info.about) for name, info in COMMANDS.items()])


app = typer.Typer(
    name="fusion-hub",
    cls=_Commands,
    help="Fuse registered infrared-visible and medical image pairs.",
    epilog="Start with: fusion-hub sample",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
