"""Calls that nobody waits for: the network stops between two of its layers once a visitor has left or chosen otherwise.

Gradio cancels only the coroutine of such a call. Its thread would go on, and keep the network from the next visitor.
"""

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar, copy_context
from typing import Any

from anyio import to_thread
from gradio.context import LocalContext

_WANTED: ContextVar[Callable[[], bool] | None] = ContextVar("wanted", default=None)


class Stopped(BaseException):
    """Not an `Exception`, like `asyncio.CancelledError`: no handler of errors may take it for one."""


def stoppable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, or generator function, as a coroutine whose cancellation stops the networks that it runs."""
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        async def iterate(*values: Any, **named: Any) -> AsyncIterator[Any]:
            wanted, iterator, end = _Wanted(), function(*values, **named), object()
            while (value := await wanted.run(next, iterator, end)) is not end:
                yield value

        return iterate

    @functools.wraps(function)
    async def call(*values: Any, **named: Any) -> Any:
        return await _Wanted().run(functools.partial(function, *values, **named))

    return call


class _Wanted:
    """Whether somebody still waits for a call."""

    def __init__(self) -> None:
        self.canceled = threading.Event()
        page, name = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
        jobs = page._queue.active_jobs if page else []
        self.job = next((job for group in jobs for job in group or () if job._id == name), None)

    def __call__(self) -> bool:
        return not self.canceled.is_set() and (self.job is None or self.job.alive)  # not alive: the page was closed

    async def run(self, function: Callable[..., Any], *values: Any) -> Any:
        """Run in a thread, where `check` knows of this call."""
        context = copy_context()
        context.run(_WANTED.set, self)
        try:
            return await to_thread.run_sync(context.run, function, *values)
        except asyncio.CancelledError:
            self.canceled.set()
            raise
        except Stopped:  # with the page closed there is no one to tell
            raise asyncio.CancelledError from None


def check(*_: object) -> None:
    """Raise `Stopped` in a call that nobody waits for."""
    if (wanted := _WANTED.get()) is not None and not wanted():
        raise Stopped


def make_stoppable(pipeline: Any) -> None:
    """Check before each tile, and before each layer of networks that run layer by layer."""
    fuse = pipeline.fuse_luminance

    def fuse_if_wanted(*values: Any, **named: Any) -> Any:
        check()
        return fuse(*values, **named)

    pipeline.fuse_luminance = fuse_if_wanted
    for module in pipeline.model.modules():
        module.register_forward_pre_hook(check)
