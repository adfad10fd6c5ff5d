"""Anytime answers: server-sent events, one after each batch of views, the last one the answer itself."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tta_server.api.errors import error_body
from tta_server.errors import Cancelled, TTAError
from tta_server.serving.answer import Answer
from tta_server.serving.predictor import Ticket

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""No proxy may keep events back."""


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


class EventStream(StreamingResponse):
    """Server-sent events: `opening`, then `events`. `closed` is called once, when no more will be sent, even if the
    client left before the first, with the error that ended them if there was one."""

    def __init__(
        self, opening: bytes, events: AsyncGenerator[bytes, None], closed: Callable[[TTAError | None], None]
    ) -> None:
        self._opening = opening
        self._events = events
        self._closed = closed
        self._error: TTAError | None = None
        self._body = self._all()
        super().__init__(self._body, media_type="text/event-stream", headers=HEADERS)

    async def _all(self) -> AsyncGenerator[bytes, None]:
        yield self._opening
        try:
            async for event in self._events:
                yield event
        except TTAError as error:
            self._error = error
            yield _event("error", error_body(error))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._events), aclosing(self._body):
                await super().__call__(scope, receive, send)
        finally:
            self._closed(self._error)


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

    def closed(error: TTAError | None) -> None:
        if not future.done():
            asyncio.get_running_loop().run_in_executor(None, leave)
        if error is not None:
            failed(request, error)
        elif not future.done() or future.cancelled() or future.exception():
            failed(request, Cancelled("the client has left"))
        else:
            answered(future.result())  # who leaves as soon as the answer is there is answered

    return EventStream(opening, events, closed)


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
        if (found := await asyncio.to_thread(ticket.partial, seen)) is not None:
            seen, partial = found
            yield partial


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


async def disconnected(request: Request) -> None:
    """Returns when the client has left; the body is read already."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
