"""What all protocols share in handling a request: byte budget, submission, waiting, cancellation, records."""

import asyncio
import re
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from tta_server.api.bound import ApiBound, overloaded_loop
from tta_server.api.describe import describe_quote
from tta_server.application import Application
from tta_server.errors import BudgetTooSmall, Cancelled, Overloaded, TTAError
from tta_server.repository.model import Model
from tta_server.scheduling.costs import CostEstimate
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller, Listener
from tta_server.serving.image import Image
from tta_server.serving.layout import lays_out_quickly
from tta_server.serving.plan import Options, Plan, is_quick
from tta_server.serving.ticket import Ticket
from tta_server.telemetry.observer import AnswerSent, ErrorSent
from tta_server.telemetry.tracing import RequestTrace
from tta_server.views.geometry import Size

FIRST_SEND_SECONDS = 0.0005
"""Estimate of the seconds from an answer to its response, before any was measured."""
RESERVE_FACTOR = 3
LARGE_BYTES = 100_000
LARGE_JPEG_BYTES = 1_000_000
"""Total size of a request's JPEGs above which their headers are read in a thread."""

VALID_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

R = TypeVar("R")


def choose_request_id(proposed: str | None) -> str:
    """The client's id if it is valid, else a new one."""
    return proposed if proposed and VALID_ID.fullmatch(proposed) else uuid.uuid4().hex


async def offload_if_large(size: int, work: Callable[[], R]) -> R:
    """Run `work` in a thread if it reads more than LARGE_BYTES, so that it does not block the event loop."""
    return await asyncio.to_thread(work) if size > LARGE_BYTES else work()


def has_slow_header(images: Sequence[object]) -> bool:
    """Whether reading the images' headers may take over a millisecond.

    A JPEG's takes microseconds, that of a large one up to milliseconds; other formats may hold compressed text or
    frames before the size.
    """
    files = [image for image in images if isinstance(image, bytes)]
    return not all(file.startswith(b"\xff\xd8") for file in files) or sum(map(len, files)) > LARGE_JPEG_BYTES


def total_bytes(images: Sequence[Image]) -> int:
    """What hashing the images reads."""
    return sum(len(image) if isinstance(image, bytes) else image.nbytes for image in images)


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """Who asks for what, for log, trace and cache.

    `path` is the HTTP path or the gRPC method, `access` the digest of the client's key.
    """

    request_id: str
    path: str
    model: str = ""
    trace: RequestTrace | None = None
    access: bytes = b""


@dataclass(frozen=True, slots=True)
class PredictCommand:
    """A parsed request: predict each of `images` with `model`."""

    model: Model
    images: Sequence[Image]
    options: Options


class ByteBudget:
    """Limits the bytes of all requests that are being read; the scheduler counts those of admitted ones."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0

    @contextmanager
    def reserve(self) -> Iterator["Reservation"]:
        """A reservation for one request, released at the end."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            reservation.release(reservation.size)

    def add(self, size: int) -> None:
        """Raises Overloaded."""
        if size > 0 and self._used + size > self._limit:
            raise Overloaded("the server is receiving too many bytes at once; retry later", 1.0, "bytes")
        self._used += size


class Reservation:
    """The bytes of a ByteBudget that one request holds."""

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.size = 0

    def acquire(self, size: int) -> None:
        """Raises Overloaded."""
        self._budget.add(size)
        self.size += size

    def release(self, size: int) -> None:
        self._budget.add(-size)
        self.size -= size


class _Admission:
    """Admits a request in another thread; its caller may be cancelled meanwhile."""

    def __init__(self, admit: Callable[[], list[Ticket]], cancel: Callable[[Ticket], None]) -> None:
        self._admit = admit
        self._cancel = cancel
        self._lock = threading.Lock()
        self._tickets: list[Ticket] = []
        self._abandoned = False

    def run(self) -> list[Ticket]:
        """In the other thread: admit, and cancel the tickets if the caller was cancelled."""
        tickets = self._admit()
        with self._lock:
            self._tickets = tickets
            abandoned = self._abandoned
        if abandoned:
            for ticket in tickets:
                self._cancel(ticket)
        return tickets

    def abandon(self) -> list[Ticket]:
        """The caller was cancelled: the tickets to cancel, none if `run` is still to make them."""
        with self._lock:
            self._abandoned = True
            return self._tickets


class RequestHandler:
    """Submits requests to the predictor and records their outcomes."""

    def __init__(self, application: Application) -> None:
        self.bound = ApiBound(application)
        self.byte_budget = ByteBudget(application.settings.max_waiting_mb * 1_000_000)
        self._application = application
        self._predictor = application.predictor
        self._send_seconds = CostEstimate(FIRST_SEND_SECONDS)
        # One thread each: with more, the event loop would wait for the GIL behind all of them.
        self.planner = ThreadPoolExecutor(1, "planner")
        self.quotes = ThreadPoolExecutor(1, "quotes")

    def reserve_seconds(self) -> float:
        """Seconds of a budget to keep for the response.

        The measured time from answer to response, as much again for the time before the request was seen, and as much
        for what is measured on neither way.
        """
        return RESERVE_FACTOR * self._send_seconds.estimate(time.monotonic())

    async def submit(
        self, command: PredictCommand, info: RequestInfo, received: float, listener: Listener | None = None
    ) -> list[Ticket]:
        """A ticket for each image; raises as `Predictor.submit_all` does.

        `received` is when the whole request had arrived, in seconds of the monotonic clock. The listener is only used
        for a request of one image.
        """
        behind = self.bound.behind()
        listener = listener if len(command.images) == 1 else None
        caller = Caller(info.request_id, listener, self.reserve_seconds(), received - behind, info.trace, info.access)
        if info.trace is not None:
            info.trace.add_event("tta.received", {}, received)
        plan = await self._plan(command.model, command.options)
        submit = partial(self._submit, command, caller, plan, behind)
        reads_long = has_slow_header(command.images) or (
            self._predictor.shares(command.options) and total_bytes(command.images) > LARGE_BYTES
        )
        if not reads_long and lays_out_quickly(plan):
            return submit()
        executor = None if reads_long else self.planner
        admission = _Admission(submit, self._predictor.cancel)
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, admission.run)
        except asyncio.CancelledError:  # before, during or after `run`
            self.cancel(admission.abandon())
            raise

    def _submit(self, command: PredictCommand, caller: Caller, plan: Plan, behind: float) -> list[Ticket]:
        """Raises Overloaded too if a budget is too small since `behind` seconds were taken off it."""
        try:
            return self._predictor.submit_all(command.model, command.images, command.options, caller, plan)
        except BudgetTooSmall:
            if not behind:
                raise
            raise overloaded_loop(behind) from None

    async def _plan(self, model: Model, options: Options) -> Plan:
        """In the planner's thread if a list of views has to be parsed, which takes up to 30 ms."""
        plan = partial(self._predictor.plan, model, options)
        if is_quick(model, options):
            return plan()
        return await asyncio.get_running_loop().run_in_executor(self.planner, plan)

    async def quote(self, name: str, size: Size, options: Options, request_id: str) -> dict[str, Any]:
        """`describe_quote` of `Predictor.quote`, in a thread of its own, so that quotes delay no request."""
        caller = Caller(request_id, reserve=self.reserve_seconds())

        def quote() -> dict[str, Any]:
            return describe_quote(size, *self._predictor.quote(name, size, options, caller))

        return await asyncio.get_running_loop().run_in_executor(self.quotes, quote)

    async def wait_for_answers(
        self, tickets: Sequence[Ticket], disconnected: Awaitable[None] | None = None
    ) -> list[Answer]:
        """The answers, or the first error.

        Cancels the tickets if the task is cancelled, or if `disconnected` returns first, which raises Cancelled.
        """
        waiting = asyncio.gather(*(asyncio.wrap_future(ticket.future) for ticket in tickets))
        watch = None
        if disconnected is not None:
            watch = asyncio.ensure_future(disconnected)
            watch.add_done_callback(lambda _: waiting.cancel())
        try:
            return await waiting
        except BaseException as error:
            self.cancel(tickets)
            if isinstance(error, asyncio.CancelledError) and watch and watch.done():
                raise Cancelled("the client disconnected") from None
            raise
        finally:
            if watch:
                watch.cancel()

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Cancel those that are not done, in a thread: it takes the scheduler's lock."""
        for ticket in tickets:
            if not ticket.future.done() or ticket.future.cancelled():
                asyncio.get_running_loop().run_in_executor(None, self._predictor.cancel, ticket)

    def record_sent(self, answers: Sequence[Answer], trace: RequestTrace | None) -> None:
        """Report the answers whose response has just been made, and measure how long that took."""
        now = time.monotonic()
        self._send_seconds.observe(now - max(answer.made_at for answer in answers), now)
        for answer in answers:
            self.record_answer(answer, trace)

    def record_answer(self, answer: Answer, trace: RequestTrace | None) -> None:
        receipt = answer.receipt
        self._application.observer.notify(
            AnswerSent(
                receipt.request_id,
                answer.model,
                len(receipt.views),
                receipt.planned,
                receipt.stop_reason,
                receipt.budget_ms,
                receipt.elapsed_ms,
                receipt.stages_ms,
                trace,
                receipt.cached,
            )
        )

    def record_error(self, info: RequestInfo, error: TTAError, status: int | str) -> None:
        """Report an error that was answered; `status` is that of the protocol."""
        known = info.model if self._application.knows(info.model) else ""
        self._notify(info, known, status, error.code, str(error))

    def record_refusal(self, info: RequestInfo, status: int | str, code: str, sentence: str) -> None:
        """Report an error that concerns no model."""
        self._notify(info, None, status, code, sentence)

    def _notify(self, info: RequestInfo, model: str | None, status: int | str, code: str, sentence: str) -> None:
        event = ErrorSent(info.request_id, info.path, model, status, code, sentence, info.trace)
        self._application.observer.notify(event)
