"""Anytime answers: server-sent events, one after each batch of views, the last one the answer itself."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tta_server.answer import Answer
from tta_server.api.errors import error_body
from tta_server.errors import Cancelled, TTAError
from tta_server.predictor import Ticket
from tta_server.work import Snapshot

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""No proxy may keep events back."""


class Progress:
    """The latest snapshot, from a slot's thread to the event loop; a slow reader misses those between."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._latest: Snapshot | None = None

    def __call__(self, snapshot: Snapshot) -> None:
        self._loop.call_soon_threadsafe(self._put, snapshot)

    def _put(self, snapshot: Snapshot) -> None:
        self._latest = snapshot
        self._arrived.set()

    async def wait(self) -> None:
        await self._arrived.wait()

    def take(self) -> Snapshot | None:
        self._arrived.clear()
        latest, self._latest = self._latest, None
        return latest


async def stream(
    request: Request,
    ticket: Ticket,
    progress: Progress,
    leave: Callable[[], None],
    answered: Callable[[Answer], None],
    failed: Callable[[Request, TTAError], None],
) -> Response:
    """The events as a response. What fails before the first event is raised; `leave` is called if the client does."""
    future = asyncio.wrap_future(ticket.future)
    future.add_done_callback(retrieved)
    events = _events(ticket, future, progress)
    first = asyncio.ensure_future(anext(events))
    gone = asyncio.ensure_future(disconnected(request))
    try:
        either: set[asyncio.Future[Any]] = {first, gone}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            raise Cancelled("the client has left")
        opening = first.result()
    except BaseException:
        first.cancel()
        if not future.done():
            asyncio.get_running_loop().run_in_executor(None, leave)
        raise
    finally:
        gone.cancel()

    async def body() -> AsyncIterator[bytes]:
        try:
            yield opening
            async for event in events:
                yield event
            answered(future.result())
        except TTAError as error:
            failed(request, error)
            yield _event("error", error_body(error))
        except (asyncio.CancelledError, GeneratorExit):
            if future.done() and not future.cancelled() and not future.exception():
                answered(future.result())  # he left as soon as he had it
            else:
                failed(request, Cancelled("the client has left"))
            raise
        finally:
            if not future.done():
                asyncio.get_running_loop().run_in_executor(None, leave)

    return StreamingResponse(body(), media_type="text/event-stream", headers=HEADERS)


def retrieved(future: asyncio.Future[Any]) -> None:
    """Looks at an error that nobody waits for any more, or asyncio would log it."""
    if not future.cancelled():
        future.exception()


async def _events(ticket: Ticket, answer: asyncio.Future[Answer], progress: Progress) -> AsyncGenerator[bytes, None]:
    async with aclosing(partials(ticket, answer, progress)) as so_far:
        async for partial in so_far:
            yield _event("partial", partial.to_dict())
    yield _event("answer", answer.result().to_dict())


async def partials(ticket: Ticket, answer: asyncio.Future[Any], progress: Progress) -> AsyncGenerator[Answer, None]:
    """What the views so far come to, until the answer is there."""
    while not answer.done():
        arrival = asyncio.ensure_future(progress.wait())
        either: set[asyncio.Future[Any]] = {arrival, answer}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        finally:
            arrival.cancel()
        if (snapshot := progress.take()) is not None:
            yield await asyncio.to_thread(ticket.job.work.answer, snapshot, None, time.monotonic())


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


async def disconnected(request: Request) -> None:
    """Returns when the client has left; the body is read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
