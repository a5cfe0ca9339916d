"""The page as a set of tools for assistants, called by the protocol's own client."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from PIL import Image
from space_load import Page

from fusion_hub import FusionPipeline
from fusion_hub.data import generate_scene

MODEL = "difffusenet-msrs"


def in_session(page: Page, ask: Callable[[ClientSession], Awaitable[Any]]) -> Any:
    """The result of `ask` in a session with the page's tools."""

    async def session() -> Any:
        async with (
            streamablehttp_client(f"{page.url}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as opened,
        ):
            await opened.initialize()
            return await ask(opened)

    return asyncio.run(session())


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


def test_tools_describe_their_parameters(space_page: Page) -> None:
    tools = {tool.name: tool for tool in in_session(space_page, lambda session: session.list_tools()).tools}
    assert set(tools) == {"fuse", "align", "temperatures", "fuse_clip", "fuse_volume", "detect", "measure", "explain"}
    for name, tool in tools.items():
        assert tool.description and len(tool.description) > 40, name
        for parameter, schema in tool.inputSchema["properties"].items():
            assert schema.get("description"), f"{name}: {parameter}"


def call_tool(page: Page, tool: str, visible: str, infrared: str) -> tuple[str, bool]:
    """The text of the answer, and whether it is an error."""
    images = {"visible": visible, "infrared": infrared}
    answer = in_session(page, lambda session: session.call_tool(tool, images))
    return "\n".join(getattr(part, "text", "") for part in answer.content), bool(answer.isError)


def test_assistants_use_the_tools(space_page: Page, pair: tuple[Path, Path]) -> None:
    places = [uploaded(space_page, path) for path in pair]
    text, failed = call_tool(space_page, "fuse", *places)
    assert not failed, text
    address = text.partition("'url': '")[2].partition("'")[0]
    fused = np.asarray(Image.open(io.BytesIO(httpx.get(address).content)))
    expected = FusionPipeline.from_pretrained(MODEL)(*pair).images[0]
    np.testing.assert_array_equal(fused, np.asarray(expected))
    for tool, word in (("measure", "Qabf"), ("detect", "fused"), ("explain", "Shared")):
        text, failed = call_tool(space_page, tool, *places)
        assert not failed and word in text, text


def test_refusals_reach_the_assistant(space_page: Page, pair: tuple[Path, Path]) -> None:
    good = uploaded(space_page, pair[0])
    for bad, message in (
        ("http://127.0.0.1:1/x.png", "must be public"),
        ("/etc/passwd", "http"),
        (good.replace("street.png", "other.png"), "must be public"),
    ):
        text, failed = call_tool(space_page, "fuse", bad, good)
        assert failed and message in text, bad
