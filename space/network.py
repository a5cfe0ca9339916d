"""Limits of requests: the size of their bodies, and the images that they name by a web address.

Gradio limits uploads file by file, but reads other bodies whole, and fetches an image from a web address into memory
whatever its size. Like Gradio, this module fetches from public addresses only.
"""

import asyncio
import secrets
import shutil
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit

import gradio as gr
import gradio.queueing
import gradio.routes
import httpx
import safehttpx
from anyio import to_thread
from diffusers.utils.logging import disable_progress_bar
from gradio.processing_utils import PUBLIC_HOSTNAME_WHITELIST
from gradio.utils import is_in_or_equal
from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from storage import MAX_UPLOAD, NoRoom, Room
from uploads import LOG, MAX_BYTES, Refusal

from fusion_hub.data.layouts import safe_name

MAX_CALL = 16 << 20  # bytes of a call; pictures in it are paths, from some assistants base64
SMALL = 64 << 10  # bytes of a call that reserves no disk space: it writes nothing
SECONDS = 20  # to fetch an image
REDIRECTS = 5
FAILURES = (ValueError, OSError, asyncio.TimeoutError, httpx.HTTPError, httpx.InvalidURL)


class BodyLimit:
    """Refuse requests with a body above the limit (413), or without room for it on the disk (507)."""

    def __init__(self, app: ASGIApp, call: int = MAX_CALL, upload: int = MAX_UPLOAD) -> None:
        self.app, self.call, self.upload = app, call, upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.upload if scope.get("path", "").rstrip("/").endswith("/upload") else self.call
        headers = dict(scope.get("headers", ()))
        # A chunked body has no announced size.
        announced = headers.get(b"content-length", str(limit).encode() if b"transfer-encoding" in headers else b"0")
        size = int(announced) if announced.isdigit() else limit + 1
        too_large = PlainTextResponse(f"At most {limit >> 20} MiB are allowed at a time.", 413)
        if size > limit:
            await too_large(scope, receive, send)
            return
        try:
            room = await to_thread.run_sync(Room, size if size > SMALL else 0)
        except NoRoom as error:
            await PlainTextResponse(str(error), 507)(scope, receive, send)
            return
        read, whole, answered = 0, False, False

        async def bounded() -> Message:
            nonlocal read, whole
            message = await receive()
            size = len(message.get("body", b""))
            read += size
            room.written(size)
            if read > limit or (message["type"] == "http.disconnect" and not whole):
                raise MultiPartException("cut off")  # makes Gradio delete the partial upload
            whole = not message.get("more_body", False)
            return message

        async def answer(message: Message) -> None:
            nonlocal answered
            if read <= limit:
                answered = True
                await send(message)

        with room:
            try:
                await self.app(scope, bounded, answer)
            except MultiPartException:
                pass
            except Exception as error:
                log_refusal(error)
            if not answered:
                refusal = too_large if read > limit else PlainTextResponse("This request cannot be served.", 500)
                await refusal(scope, receive, send)


def fetch_bounded(part: gr.Image | gr.File) -> None:
    """Make an input get web addresses through `fetch`, or from its own uploads; files as before."""
    move = part.async_move_resource_to_block_cache

    async def bounded(place: str | Path | None) -> str | None:
        if not str(place).lower().startswith(("http://", "https://")):
            return await move(place)
        # Assistants upload a file first, and name it by its address on this page.
        uploaded = unquote(str(place).partition("/gradio_api/file=")[2])
        if uploaded and is_in_or_equal(uploaded, part.GRADIO_CACHE) and Path(uploaded).is_file():
            return await move(uploaded)
        file = await fetch(str(place), Path(part.GRADIO_CACHE))
        part.temp_files.add(file)
        return file

    part.async_move_resource_to_block_cache = bounded  # type: ignore[method-assign, assignment]


async def fetch(url: str, folder: Path, limit: int = MAX_BYTES) -> str:
    """Save the file of a public web address below `folder`.

    Raises:
        Refusal: the address is not public or does not answer in time, the file has more than `limit` bytes, or there
            is no room for it.
    """
    try:
        room = await to_thread.run_sync(Room, limit)
    except NoRoom as error:
        raise Refusal("No room", str(error)) from error
    name = safe_name(unquote(urlsplit(url).path).rsplit("/")[-1])[-80:]
    target = folder / secrets.token_urlsafe(18) / name
    with room:
        target.parent.mkdir(parents=True)
        try:
            await asyncio.wait_for(_download(url, target, limit), SECONDS)
        except BaseException as error:
            shutil.rmtree(target.parent)
            if isinstance(error, Refusal) or not isinstance(error, FAILURES):
                raise
            text = "No image could be fetched from that address: it must be public and answer at once. Upload the file."
            raise Refusal("Not fetched", text) from error
    return str(target)


async def _download(url: str, target: Path, limit: int) -> None:
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
                        text = f"The file at that address is too large: at most {limit >> 20} MiB are allowed."
                        raise Refusal("Image too large", text)
                    file.write(piece)
            return
    raise ValueError(f"more than {REDIRECTS} redirects")


async def _public_transport(url: str) -> Any:
    """A connection to the address that was checked, whatever the name resolves to later; None for trusted hosts."""
    host = urlsplit(url).hostname
    if urlsplit(url).scheme not in ("http", "https") or not host:
        raise ValueError("no address of a file")
    if safehttpx.matches_domain_whitelist(host, PUBLIC_HOSTNAME_WHITELIST):
        return None
    return safehttpx.AsyncSecureTransport(await safehttpx.async_validate_url(host))


def fill_in(app: gr.Blocks) -> None:
    """Let HTTP calls leave the last arguments out, as callers of an earlier version of the API do.

    Choices are checked by our functions, with messages for visitors: Gradio's own are for programmers.
    """
    for part in app.blocks.values():
        if isinstance(part, gr.Radio):
            part.preprocess = lambda payload: payload  # type: ignore[method-assign]
    validate = app.validate_inputs

    def filled(block_fn: Any, inputs: list[Any]) -> None:
        inputs += [getattr(part, "value", None) for part in block_fn.inputs[len(inputs) :]]
        validate(block_fn, inputs)

    app.validate_inputs = filled  # type: ignore[method-assign]


def log_refusals_in_one_line() -> None:
    """Log one line instead of a traceback for each call that Gradio refuses, such as one with a forged file.

    `uploads.error_messages` logs errors of the page in full before they reach Gradio.
    """
    disable_progress_bar()  # of loading checkpoints
    replaced = SimpleNamespace(**vars(traceback) | {"print_exc": lambda: log_refusal(sys.exception())})
    for module in (gradio.queueing, gradio.routes):
        module.traceback = replaced  # type: ignore[attr-defined]


def log_refusal(error: BaseException | None) -> None:
    """Log the type of an error, its place and the start of its message."""
    if error is not None:
        place = traceback.extract_tb(error.__traceback__)[-1]
        name = f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}"
        LOG.warning("a call was refused: %s: %.200r", name, str(error))
