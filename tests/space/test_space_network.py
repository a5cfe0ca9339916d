"""Large bodies of requests are cut off; images at web addresses are fetched within limits or not at all.

A server on 127.0.0.1 counts as public in these tests; other addresses of this machine are refused as usual.
"""

import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import network
import pytest
import safehttpx
from space_load import Page
from uploads import Refusal

MIB = 1 << 20
PICTURE = bytes(range(256)) * 100


class Public(BaseHTTPRequestHandler):
    """A server with a picture, one without an end, a slow one and redirects."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        moved = {"moved": "/picture/street.png", "inwards": "http://127.0.0.2/x.png", "away": "file:///etc/passwd"}
        moved["round"] = self.path
        self.send_response(302 if kind in moved else 200 if kind in ("picture", "endless", "slow") else 404)
        if kind in moved:
            self.send_header("Location", moved[kind])
        self.end_headers()
        try:
            if kind == "picture":
                self.wfile.write(PICTURE)
            while kind == "endless":
                self.wfile.write(bytes(MIB))
            if kind == "slow":
                time.sleep(3)
        except OSError:
            pass  # the page closed the connection

    def log_message(self, *_: object) -> None:
        """Keep the output of the tests clean."""


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of such a server; of this machine, only 127.0.0.1 counts as public."""
    validate = safehttpx.async_validate_url

    async def validate_or_trust(host: str) -> str:
        return host if host == "127.0.0.1" else await validate(host)

    monkeypatch.setattr(safehttpx, "async_validate_url", validate_or_trust)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Public)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def fetch(url: str, folder: Path) -> str:
    return asyncio.run(network.fetch(url, folder, limit=2 * MIB))


@pytest.mark.parametrize("path", ["picture/street.png", "moved/there.png", "picture/..%2f..%2fstreet.png", "picture/"])
def test_a_picture_is_fetched(public: str, tmp_path: Path, path: str) -> None:
    file = Path(fetch(f"{public}/{path}", tmp_path))
    assert file.read_bytes() == PICTURE
    assert file.resolve().parent.parent == tmp_path.resolve(), "in a folder of its own"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("endless/x.png", "too large: at most 2 MiB"),
        ("slow/x.png", "must be public and answer at once"),
        ("none/x.png", "must be public"),
        ("inwards/x.png", "must be public"),
        ("away/x.png", "must be public"),
        ("round/x.png", "must be public"),
    ],
)
def test_others_are_refused_and_leave_nothing(
    public: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, words: str
) -> None:
    monkeypatch.setattr(network, "SECONDS", 1.0 if path.startswith("slow") else 20)
    with pytest.raises(Refusal, match=words):
        fetch(f"{public}/{path}", tmp_path)
    assert not [*tmp_path.iterdir()]


def test_addresses_that_are_not_public(tmp_path: Path) -> None:
    for address in ("127.0.0.1:1/x.png", "169.254.169.254/latest", "[::1]/x", "", "a b/x"):
        with pytest.raises(Refusal, match="must be public"):
            fetch(f"http://{address}", tmp_path)
        assert not [*tmp_path.iterdir()]


def test_inputs_fetch_addresses_and_take_files(public: str, tmp_path: Path) -> None:
    with gr.Blocks():
        part = gr.Image(type="filepath")
    network.fetch_bounded(part)

    def move(source: Any) -> str | None:
        return asyncio.run(part.async_move_resource_to_block_cache(source))

    file = move(f"{public}/picture/street.png")
    assert file is not None and Path(file).read_bytes() == PICTURE and Path(file).name == "street.png"
    assert file in part.temp_files, "Gradio deletes it after its time"
    own = tmp_path / "own.png"
    own.write_bytes(PICTURE)
    kept = move(own)
    assert kept is not None and Path(kept).read_bytes() == PICTURE
    assert move(None) is None
    assert move(f"https://a.page/gradio_api/file={kept}") == kept, "the page names uploads this way"
    for outside in (own, f"{Path(kept).parent}/../../../etc/passwd", "/etc/passwd"):
        with pytest.raises(Refusal, match="must be public"):
            move(f"http://127.0.0.2/gradio_api/file={outside}")


@pytest.mark.parametrize("address", ["call/fuse", "queue/join", "no/such"])
def test_large_calls_are_cut_off(space_page: Page, address: str) -> None:
    url, size = f"{space_page.url}/gradio_api/{address}", network.MAX_CALL + 1
    answer = httpx.post(url, content=b" " * size, headers={"content-type": "application/json"})
    assert answer.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE and "16 MiB" in answer.text
    # A call that would be taken, with blanks, and without an announced length.
    pieces = (b'{"data": []}' + b" " * MIB if piece == 0 else b" " * MIB for piece in range(size // MIB + 2))
    try:
        answer = httpx.post(url, content=pieces, headers={"content-type": "application/json"}, timeout=30)
        assert answer.status_code >= httpx.codes.BAD_REQUEST
    except httpx.TransportError:
        pass  # cut off before an answer
    assert httpx.get(f"{space_page.url}/config").status_code == httpx.codes.OK
