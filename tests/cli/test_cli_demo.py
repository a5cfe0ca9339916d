"""`fusion-hub demo`: refusals are one sentence with a free port. tests/project/test_readme.py serves the page."""

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fusion_hub import cli


def refused(*options: str, **environment: str) -> str:
    command = [sys.executable, "-m", "fusion_hub.cli", "demo", *options]
    names = ("GRADIO_SERVER_NAME", "GRADIO_SERVER_PORT", "FUSION_HUB_PORT_COMMAND")
    kept = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("command", ["fusion-hub demo --port ", "make demo PORT="])
def test_a_port_in_use(command: str) -> None:
    environment = {"FUSION_HUB_PORT_COMMAND": command} if command.startswith("make") else {}
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused("--port", str(port), **environment)
        suggested = re.fullmatch(rf"error: port {port} is in use: choose another, such as {command}(\d+)\n", message)
        assert suggested, message
        with socket.socket() as free:
            free.bind(("127.0.0.1", int(suggested[1])))


@pytest.mark.parametrize("port", ["abc", "70000", "0", "-5", "7860.5"])
def test_no_port(port: str) -> None:
    message = refused("--port", port)
    assert re.fullmatch(rf"error: port {port} is not a number from 1 to 65535: .* --port 7\d+\n", message), message


def test_an_address_of_another_machine() -> None:
    assert "192.0.2.1 is not an address of this machine: use 127.0.0.1" in refused("--host", "192.0.2.1")


def test_without_gradio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    result = CliRunner().invoke(cli.app, ["demo"])
    assert result.exit_code == 1 and "pip install 'fusion-hub[demo]'" in result.stderr


def test_it_prints_one_line_and_ends_with_control_c() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "fusion_hub", "demo", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == f"Fusion Hub is at http://127.0.0.1:{port}/ (Ctrl-C stops it)\n"
        server.send_signal(signal.SIGINT)
        rest = server.stdout.read()
    assert (server.returncode, rest) == (0, "")
