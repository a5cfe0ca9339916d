"""A call that nobody waits for gives the network back to the others."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import fuse
import pytest
import stopping
import torch
from fuse import LANE, MEDICAL
from gradio.context import LocalContext

from fusion_hub.pipelines import checkpoints
from tests.support.tiny import tiny_pipeline


class Endless:
    """Runs a network in the lane until it is stopped."""

    def __init__(self) -> None:
        self.network, self.begun, self.ended = torch.nn.Identity(), threading.Event(), threading.Event()
        stopping.make_stoppable(SimpleNamespace(model=self.network, fuse_luminance=None))

    def run(self) -> None:
        try:
            with LANE:
                self.begun.set()
                while True:
                    self.network(torch.zeros(1))
        finally:
            self.ended.set()

    def iterate(self) -> Iterator[int]:
        yield 1
        self.run()


@pytest.mark.parametrize("kind", ["function", "generator"])
def test_a_canceled_call_frees_the_network(kind: str) -> None:
    work = Endless()

    async def scenario() -> None:
        call = asyncio.create_task(_ask(work.run if kind == "function" else work.iterate))
        await asyncio.to_thread(work.begun.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(scenario())
    assert work.ended.wait(60) and LANE.acquire(timeout=60)
    LANE.release()


async def _ask(function: Callable[[], Any]) -> None:
    answer = stopping.stoppable(function)()
    if hasattr(answer, "__aiter__"):
        assert [value async for value in answer] == [1]
    else:
        await answer


def test_a_closed_page_frees_the_network() -> None:
    work, job = Endless(), SimpleNamespace(_id="call", alive=True)
    page: Any = SimpleNamespace(_queue=SimpleNamespace(active_jobs=[None, [job]]))

    async def scenario() -> None:
        LocalContext.blocks.set(page)
        LocalContext.event_id.set("call")
        call = asyncio.create_task(stopping.stoppable(work.run)())
        await asyncio.to_thread(work.begun.wait)
        job.alive = False
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(scenario())
    assert work.ended.is_set()


def test_values_errors_and_names_pass_through() -> None:
    def double(value: int, fail: bool = False) -> int:
        """Twice the value."""
        if fail:
            raise ValueError("no")
        return 2 * value

    call = stopping.stoppable(double)
    assert call.__doc__ == double.__doc__ and asyncio.run(call(4)) == 8
    with pytest.raises(ValueError, match="no"):
        asyncio.run(call(4, fail=True))
    stopping.check()  # outside of a call nothing is stopped


def test_every_pipeline_of_the_page_can_be_stopped(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pipeline().save_pretrained(tmp_path / MEDICAL)
    monkeypatch.setattr(checkpoints, "ROOT", tmp_path)
    fuse.load_once.cache_clear()
    pipeline = fuse.load_pipeline(MEDICAL)
    fuse.load_once.cache_clear()
    monkeypatch.setattr(stopping, "_WANTED", SimpleNamespace(get=lambda: lambda: False))
    image = torch.rand(1, 32, 32)
    with pytest.raises(stopping.Stopped):
        pipeline(image, image)
