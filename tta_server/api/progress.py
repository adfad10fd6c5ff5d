"""Partial answers, which server-sent events and the stream of the Open Inference Protocol share."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from tta_server.serving.answer import Answer
from tta_server.serving.ticket import Ticket


class Progress:
    """A job listener: wakes a task of the event loop when a slot's thread has merged further views.

    The task itself then asks for the partial answer, so that none is computed that is not read.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()

    def __call__(self) -> None:
        self._loop.call_soon_threadsafe(self._changed.set)

    async def wait(self) -> None:
        """Return when views have been merged since the last call returned."""
        await self._changed.wait()
        self._changed.clear()


async def partial_answers(
    ticket: Ticket, answer: asyncio.Future[Any], progress: Progress
) -> AsyncGenerator[Answer, None]:
    """The answers from the views merged so far, until `answer` is done; a slow reader misses those in between."""
    views = 0
    while not answer.done():
        change = asyncio.ensure_future(progress.wait())
        either: set[asyncio.Future[Any]] = {change, answer}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            change.cancel()
        if answer.done():
            return
        if (found := await asyncio.to_thread(ticket.partial, views)) is not None:
            views, partial = found
            yield partial


def ignore_exception(future: asyncio.Future[Any]) -> None:
    """Retrieve the exception of a future that is no longer awaited; otherwise asyncio logs it."""
    if not future.cancelled():
        future.exception()
