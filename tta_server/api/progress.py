"""Answers so far: what server-sent events and the stream of the Open Inference Protocol share."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from tta_server.serving.answer import Answer
from tta_server.serving.predictor import Ticket


class Progress:
    """Tells a reader on the event loop, from slots' threads, that the answer so far has changed; it is then read by
    whoever waits, so that what nobody reads is never made."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()

    def __call__(self) -> None:
        self._loop.call_soon_threadsafe(self._arrived.set)

    async def wait(self) -> None:
        """Until something has changed since the last call returned."""
        await self._arrived.wait()
        self._arrived.clear()


async def partials(ticket: Ticket, answer: asyncio.Future[Any], progress: Progress) -> AsyncGenerator[Answer, None]:
    """What the views so far come to, until the answer is there; a slow reader misses those between."""
    seen = 0
    while not answer.done():
        arrival = asyncio.ensure_future(progress.wait())
        either: set[asyncio.Future[Any]] = {arrival, answer}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
        if answer.done():
            return
        if (found := await asyncio.to_thread(ticket.job.work.partial, seen)) is not None:
            seen, partial = found
            yield partial


def retrieved(future: asyncio.Future[Any]) -> None:
    """Looks at an error that nobody waits for any more, or asyncio would log it."""
    if not future.cancelled():
        future.exception()
