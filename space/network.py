"""How much a request may bring: bodies of a bounded size, and images behind an address no larger than uploads.

Gradio bounds what is uploaded file by file. It reads other bodies whole, and fetches an image that a program names by
its address into memory whatever its size; that it asks public addresses alone is kept here.
"""

import asyncio
import secrets
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import gradio as gr
import httpx
import safehttpx
from gradio.processing_utils import PUBLIC_HOSTNAME_WHITELIST
from gradio.utils import is_in_or_equal
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uploads import MAX_BYTES, Refusal

from fusion_hub.data.layouts import safe_name

MAX_CALL = 16 << 20  # bytes of a call; pictures in it are paths, from some assistants base64
MAX_UPLOAD = 512 << 20  # bytes of all files of an upload
SECONDS = 20  # to fetch an image
REDIRECTS = 5
FAILURES = (ValueError, OSError, asyncio.TimeoutError, httpx.HTTPError, httpx.InvalidURL)


class BodyLimit:
    """Refuses requests with a larger body than this page has a use for: 413, or an end while it is read."""

    def __init__(self, app: ASGIApp, call: int = MAX_CALL, upload: int = MAX_UPLOAD) -> None:
        self.app, self.call, self.upload = app, call, upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self.upload if scope.get("path", "").rstrip("/").endswith("/upload") else self.call
        announced = dict(scope.get("headers", ())).get(b"content-length", b"0")
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            # More than that came in pieces, without an announcement.
            return message if read <= limit else {"type": "http.disconnect"}

        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif announced.isdigit() and int(announced) <= limit:
            await self.app(scope, bounded, send)
        else:
            await PlainTextResponse(f"At most {limit >> 20} MiB are taken at a time.", 413)(scope, receive, send)


def fetch_bounded(part: gr.Image | gr.File) -> None:
    """Let this input take what is named by an address from `fetch`, or from its own uploads; files as before."""
    move = part.async_move_resource_to_block_cache

    async def bounded(place: str | Path | None) -> str | None:
        if not str(place).lower().startswith(("http://", "https://")):
            return await move(place)
        # Assistants upload a file first, and name it by the address at which this page shows it.
        uploaded = unquote(str(place).partition("/gradio_api/file=")[2])
        if uploaded and is_in_or_equal(uploaded, part.GRADIO_CACHE) and Path(uploaded).is_file():
            return await move(uploaded)
        file = await fetch(str(place), Path(part.GRADIO_CACHE))
        part.temp_files.add(file)
        return file

    part.async_move_resource_to_block_cache = bounded  # type: ignore[method-assign, assignment]


async def fetch(url: str, folder: Path, limit: int = MAX_BYTES) -> str:
    """The file behind a public address, saved below `folder`.

    Raises:
        Refusal: the address is not public or does not answer in time, or the file has more than `limit` bytes.
    """
    name = safe_name(unquote(urlsplit(url).path).rsplit("/")[-1])[-80:]
    target = folder / secrets.token_urlsafe(18) / name
    target.parent.mkdir(parents=True)
    try:
        await asyncio.wait_for(_fetch(url, target, limit), SECONDS)
    except BaseException as error:
        shutil.rmtree(target.parent)
        if isinstance(error, Refusal) or not isinstance(error, FAILURES):
            raise
        text = "No image came from that address: it must be public and answer at once. Upload the file instead."
        raise Refusal("Not fetched", text) from error
    return str(target)


async def _fetch(url: str, target: Path, limit: int) -> None:
    for _ in range(REDIRECTS + 1):
        transport = await _public_transport(url)
        async with httpx.AsyncClient(transport=transport) as client, client.stream("GET", url) as answer:
            if answer.has_redirect_location:
                url = urljoin(url, answer.headers["Location"])
                continue
            answer.raise_for_status()
            read = 0
            with target.open("wb") as file:
                async for piece in answer.aiter_bytes(1 << 16):
                    read += len(piece)
                    if read > limit:
                        text = f"The file behind that address is too large: at most {limit >> 20} MiB are taken."
                        raise Refusal("Image too large", text)
                    file.write(piece)
            return
    raise ValueError(f"more than {REDIRECTS} redirects")


async def _public_transport(url: str) -> Any:
    """To the address that was judged, whatever the name resolves to a moment later; None for hosts Gradio trusts."""
    host = urlsplit(url).hostname
    if urlsplit(url).scheme not in ("http", "https") or not host:
        raise ValueError("no address of a file")
    if safehttpx.matches_domain_whitelist(host, PUBLIC_HOSTNAME_WHITELIST):
        return None
    return safehttpx.AsyncSecureTransport(await safehttpx.async_validate_url(host))
