"""Server-sent events: `partial` after each batch of views, then `answer` or `error`."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tta_server.api.errors import error_body
from tta_server.api.http_request import wait_for_disconnect
from tta_server.api.progress import Progress, ignore_exception, partial_answers
from tta_server.errors import Cancelled, TTAError
from tta_server.serving.answer import Answer
from tta_server.serving.ticket import Ticket

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
"""Keep proxies from buffering events."""


class EventStream(StreamingResponse):
    """A response of the event `first`, then `events`.

    Calls `on_close` once when no more events will be sent, even if the client disconnected before the first, with the
    error that ended the events if there was one.
    """

    def __init__(
        self, first: bytes, events: AsyncGenerator[bytes, None], on_close: Callable[[TTAError | None], None]
    ) -> None:
        self._first = first
        self._events = events
        self._on_close = on_close
        self._error: TTAError | None = None
        self._body = self._all()
        super().__init__(self._body, media_type="text/event-stream", headers=HEADERS)

    async def _all(self) -> AsyncGenerator[bytes, None]:
        yield self._first
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
            self._on_close(self._error)


async def stream_answers(
    request: Request,
    ticket: Ticket,
    progress: Progress,
    cancel: Callable[[], None],
    record_answer: Callable[[Answer], None],
    record_error: Callable[[Request, TTAError], None],
) -> Response:
    """The events of a ticket as a response.

    An error before the first event is raised, so that it gets its own status. `cancel` is called, in a thread, if the
    client disconnects before the answer.
    """
    future = asyncio.wrap_future(ticket.future)
    future.add_done_callback(ignore_exception)
    events = _events(ticket, future, progress)

    def cancel_if_pending() -> None:
        if not future.done():
            asyncio.get_running_loop().run_in_executor(None, cancel)

    try:
        first = await _first_event(request, events)
    except BaseException:
        cancel_if_pending()
        raise

    def on_close(error: TTAError | None) -> None:
        cancel_if_pending()
        if error is not None:
            record_error(request, error)
        elif not future.done() or future.cancelled() or future.exception():
            record_error(request, Cancelled("the client disconnected"))
        else:
            record_answer(future.result())  # even if the client disconnected while it was sent

    return EventStream(first, events, on_close)


async def _first_event(request: Request, events: AsyncGenerator[bytes, None]) -> bytes:
    """Raises Cancelled if the client disconnects before the first event."""
    first = asyncio.ensure_future(anext(events))
    disconnect = asyncio.ensure_future(wait_for_disconnect(request))
    try:
        either: set[asyncio.Future[Any]] = {first, disconnect}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            raise Cancelled("the client disconnected")
        return first.result()
    finally:
        first.cancel()
        disconnect.cancel()


async def _events(ticket: Ticket, answer: asyncio.Future[Answer], progress: Progress) -> AsyncGenerator[bytes, None]:
    async with aclosing(partial_answers(ticket, answer, progress)) as partials:
        async for partial in partials:
            yield _event("partial", partial.to_dict())
    yield _event("answer", answer.result().to_dict())


def _event(name: str, data: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
