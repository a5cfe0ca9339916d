"""`fusion-hub demo`: the page in the browser, from the installed package or from a checkout."""

import importlib.util
import os
import runpy
import sys
from typing import Annotated

import typer

from fusion_hub.cli.common import CommandError, exit_codes
from fusion_hub.files import page_folder

EXAMPLES = """
\b
Examples:
  fusion-hub demo
  fusion-hub demo --host 0.0.0.0 --port 8000
"""


def demo(
    *,
    host: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS", help="Address to serve on; 0.0.0.0 lets other machines in.", show_default="127.0.0.1"
        ),
    ] = None,
    port: Annotated[str | None, typer.Option(metavar="NUMBER", help="Its port.", show_default="7860")] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve the page: fuse pairs in the browser, measure them, look inside the network. Ctrl-C stops it.

    It needs the extra packages of pip install 'fusion-hub[demo]', and no connection to the internet.
    """
    with exit_codes("the page is closed"):
        if importlib.util.find_spec("gradio") is None:
            raise CommandError("the page needs Gradio, which is not installed: pip install 'fusion-hub[demo]'")
        folder = page_folder()
        options = {"--host": host, "--port": port}
        sys.argv[1:] = [part for name, value in options.items() if value is not None for part in (name, value)]
        sys.argv[1:] += ["--open"] if open_browser else []
        os.environ.setdefault("FUSION_HUB_PORT_COMMAND", "fusion-hub demo --port ")
        sys.path.insert(0, str(folder))  # its modules import each other by name
        runpy.run_path(str(folder / "app.py"), run_name="__main__")
