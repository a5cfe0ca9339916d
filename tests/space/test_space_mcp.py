"""The page as a set of tools for assistants, asked by the protocol's own client."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from mcp.types import CallToolResult
from PIL import Image
from space_load import Page

from fusion_hub import FusionPipeline
from fusion_hub.data import generate_scene

MODEL = "difffusenet-msrs"


def asked(page: Page, ask: Callable[[ClientSession], Awaitable[Any]]) -> Any:
    """What a session with the page's tools gives."""

    async def session() -> Any:
        async with (
            streamablehttp_client(f"{page.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as opened,
        ):
            await opened.initialize()
            return await ask(opened)

    return asyncio.run(session())


def text_of(answer: CallToolResult) -> str:
    return "\n".join(getattr(part, "text", "") for part in answer.content)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    scene = generate_scene(5, 96, 128)
    paths = tmp_path / "street.png", tmp_path / "street_ir.png"
    for path, pixels in zip(paths, (scene.visible, scene.infrared), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def uploaded(page: Page, path: Path) -> str:
    """The address of an uploaded file, as assistants get it."""
    answer = httpx.post(f"{page.url}/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
    return f"{page.url}/gradio_api/file={answer.json()[0]}"


def test_tools_say_what_they_take(space_page: Page) -> None:
    tools = {tool.name: tool for tool in asked(space_page, lambda session: session.list_tools()).tools}
    assert set(tools) == {"fuse", "detect", "measure", "explain"}
    for name, tool in tools.items():
        assert tool.description and len(tool.description) > 40, name
        for parameter, schema in tool.inputSchema["properties"].items():
            assert schema.get("description"), f"{name}: {parameter}"


def test_an_assistant_fuses_a_pair(space_page: Page, pair: tuple[Path, Path]) -> None:
    places = [uploaded(space_page, path) for path in pair]
    answer = asked(space_page, lambda session: session.call_tool("fuse", {"visible": places[0], "infrared": places[1]}))
    assert not answer.isError, text_of(answer)
    address = text_of(answer).partition("'url': '")[2].partition("'")[0]
    fused = np.asarray(Image.open(io.BytesIO(httpx.get(address).content)))
    expected = FusionPipeline.from_pretrained(MODEL)(*pair).images[0]
    np.testing.assert_array_equal(fused, np.asarray(expected))


@pytest.mark.parametrize(("tool", "words"), [("measure", "Qabf"), ("detect", "fused"), ("explain", "Shared")])
def test_the_other_tools_answer(space_page: Page, pair: tuple[Path, Path], tool: str, words: str) -> None:
    places = [uploaded(space_page, path) for path in pair]
    answer = asked(space_page, lambda session: session.call_tool(tool, {"visible": places[0], "infrared": places[1]}))
    assert not answer.isError and words in text_of(answer), text_of(answer)


def test_refusals_reach_the_assistant_in_words(space_page: Page, pair: tuple[Path, Path]) -> None:
    good = uploaded(space_page, pair[0])
    for bad, words in (
        ("http://127.0.0.1:1/x.png", "must be public"),
        ("/etc/passwd", "http"),
        (good.replace("street.png", "other.png"), "must be public"),
    ):
        arguments = {"visible": bad, "infrared": good, "model": MODEL}
        answer = asked(space_page, lambda session, sent=arguments: session.call_tool("fuse", sent))
        assert answer.isError and words in text_of(answer), json.dumps(arguments)
