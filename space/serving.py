"""Options of the server. They are checked in a moment, before Gradio and torch are imported."""

import argparse
import errno
import os
import socket
import sys
from collections.abc import Sequence
from typing import NamedTuple

COMMAND = os.environ.get("FUSION_HUB_PORT_COMMAND", "python space/app.py --port ")
"""How the user chooses another port: the command that started this server, up to the number."""


class Options(NamedTuple):
    """Where to serve, and whether to open a browser there."""

    host: str
    port: int
    open: bool


def parse(argv: Sequence[str] | None = None) -> Options:
    """The options of the command line, or of Gradio's environment variables.

    Exits with one sentence where the port is not a number, is in use, or may not be used.
    """
    parser = argparse.ArgumentParser(description="Serve Fusion Hub in the browser.", allow_abbrev=False)
    host, port = os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"), os.environ.get("GRADIO_SERVER_PORT", "7860")
    parser.add_argument("--host", default=host, help="address to serve on; 0.0.0.0 for other machines (%(default)s)")
    parser.add_argument("--port", default=port, help="its port (%(default)s)")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    options = parser.parse_args(argv)
    if problem := _problem(options.host, options.port):
        sys.exit(f"error: {problem}")
    return Options(options.host, int(options.port), options.open)


def _problem(host: str, port: str) -> str | None:
    """Why this address cannot be served on, in one sentence."""
    number = int(port) if port.isdecimal() else 0
    try:
        if not 0 < number < 65536:
            free = _free_port(host, 7860)
            return f"port {port} is not a number from 1 to 65535: choose one, such as {COMMAND}{free}"
        _bind(host, number)
    except socket.gaierror:
        return f"the host {host} is not known: give an address of this machine, such as 127.0.0.1 or 0.0.0.0"
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine: use 127.0.0.1, or 0.0.0.0 for all of its addresses"
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
        return f"port {port} {reason}: choose another, such as {COMMAND}{_free_port(host, max(number + 1, 7860))}"
    return None


def _free_port(host: str, first: int) -> int:
    """The first free port from `first` on."""
    for port in range(first, 65536):
        try:
            return _bind(host, port)
        except OSError:
            continue
    return _bind(host, 0)


def _bind(host: str, port: int) -> int:
    """Take a port for a moment; returns its number. Raises an `OSError` if it is not free."""
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        if os.name == "posix":  # as the server does, so that a port is free at once after a server stopped
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])
