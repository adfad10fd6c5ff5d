"""What every door does with a request, whatever its protocol: count its bytes, submit, wait, let go, keep the books."""

import asyncio
import json
import logging
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

from tta_server.api.describe import describe_quote
from tta_server.api.oip.semantics import PredictCommand
from tta_server.application import Application
from tta_server.errors import Cancelled, Overloaded, TTAError
from tta_server.repository.model import Model
from tta_server.scheduling.costs import CostEstimate
from tta_server.serving.answer import Answer
from tta_server.serving.job import Caller, Listener
from tta_server.serving.layout import lays_out_quickly
from tta_server.serving.plan import Options, Plan, is_quick
from tta_server.serving.predictor import Ticket
from tta_server.views.geometry import Size

log = logging.getLogger("tta_server.requests")

HANDING_OUT = 0.0005
"""Seconds from an answer made to its bytes written, until enough has been seen."""
RESERVE = 3
LARGE = 100_000
LARGE_JPEGS = 1_000_000
"""Bytes from which on the headers of JPEGs are read in a thread."""

SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

R = TypeVar("R")


def new_id(given: str | None) -> str:
    """The client's own if it is sane, else a new one."""
    return given if given and SANE_ID.fullmatch(given) else uuid.uuid4().hex


async def offload_if_large(size: int, work: Callable[[], R]) -> R:
    """In a thread where there are that many bytes to go through: the event loop is others' too."""
    return await asyncio.to_thread(work) if size > LARGE else work()


def has_slow_header(images: Sequence[object]) -> bool:
    """A JPEG's header takes microseconds, those of LARGE_JPEGS bytes up to milliseconds; the headers of others may hold
    compressed text or frames."""
    files = [image for image in images if isinstance(image, bytes)]
    return not all(file.startswith(b"\xff\xd8") for file in files) or sum(map(len, files)) > LARGE_JPEGS


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """One request at some door: what the log says of it."""

    request_id: str
    path: str
    model: str = ""


class ByteBudget:
    """How many bytes are being read at all doors together, until they are admitted: then the scheduler counts them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    @contextmanager
    def visit(self) -> Iterator["Reservation"]:
        """For one request; gives back all that it has taken."""
        held = Reservation(self)
        try:
            yield held
        finally:
            held.give_back(held.size)

    def add(self, size: int) -> None:
        """Raises Overloaded."""
        if size > 0 and self._held + size > self._most:
            raise Overloaded("too many bytes are being received at once; come back later", 1.0, "bytes")
        self._held += size


class Reservation:
    """What one request holds of an Intake."""

    def __init__(self, intake: ByteBudget) -> None:
        self._intake = intake
        self.size = 0

    def take(self, size: int) -> None:
        """Raises Overloaded."""
        self._intake.add(size)
        self.size += size

    def give_back(self, size: int) -> None:
        self._intake.add(-size)
        self.size -= size


class _Admission:
    """A request that is being admitted in another thread, for a caller who may leave meanwhile."""

    def __init__(self, admit: Callable[[], list[Ticket]], cancel: Callable[[Ticket], None]) -> None:
        self._admit = admit
        self._cancel = cancel
        self._lock = threading.Lock()
        self._tickets: list[Ticket] = []
        self._abandoned = False

    def run(self) -> list[Ticket]:
        """In the other thread: cancels the tickets at once if the caller has left."""
        tickets = self._admit()
        with self._lock:
            self._tickets = tickets
            abandoned = self._abandoned
        if abandoned:
            for ticket in tickets:
                self._cancel(ticket)
        return tickets

    def abandon(self) -> list[Ticket]:
        """The caller has left: returns the tickets that it never got, none while they are still to come."""
        with self._lock:
            self._abandoned = True
            return self._tickets


class RequestHandler:
    def __init__(self, application: Application) -> None:
        self.intake = ByteBudget(application.settings.max_waiting_mb * 1_000_000)
        self._application = application
        self._predictor = application.predictor
        self._handing_out = CostEstimate(HANDING_OUT)
        # One thread each: more would only take turns, and the event loop would wait for the turns of all.
        self.planner = ThreadPoolExecutor(1, "planner")
        self.quotes = ThreadPoolExecutor(1, "quotes")

    def reserve(self) -> float:
        """Seconds from an answer made to its bytes written, as many before the request was seen, and as many for what
        is seen on neither way."""
        return RESERVE * self._handing_out.estimate(time.monotonic())

    async def submit(
        self, asked: PredictCommand, request_id: str, received: float, listener: Listener | None = None
    ) -> list[Ticket]:
        """A ticket for each image; raises as `Predictor.submit_all` does. `received` is when the request had arrived
        whole, in seconds of the monotonic clock. There are answers so far of one image only."""
        caller = Caller(request_id, listener if len(asked.images) == 1 else None, self.reserve(), received)
        plan = await self._planned(asked.model, asked.options)
        submit = partial(self._predictor.submit_all, asked.model, asked.images, asked.options, caller, plan)
        header_is_slow = has_slow_header(asked.images)
        if not header_is_slow and lays_out_quickly(plan):
            return submit()
        executor = None if header_is_slow else self.planner
        admission = _Admission(submit, self._predictor.cancel)
        try:
            return await asyncio.get_running_loop().run_in_executor(executor, admission.run)
        except asyncio.CancelledError:  # the thread may be done, or not, or never have begun
            self.leave(admission.abandon())
            raise

    async def _planned(self, model: Model, options: Options) -> Plan:
        """Off the event loop, in one thread for all, where a list of views has to be read: that takes up to 30 ms."""
        plan = partial(self._predictor.plan, model, options)
        if is_quick(model, options):
            return plan()
        return await asyncio.get_running_loop().run_in_executor(self.planner, plan)

    async def quote(self, name: str, size: Size, options: Options, request_id: str) -> dict[str, Any]:
        """What `GET /v1/models/{name}/quote` answers; raises as `Predictor.quote` does. In one thread for all, so
        that quotes delay no request."""
        caller = Caller(request_id, reserve=self.reserve())

        def quote() -> dict[str, Any]:
            return describe_quote(size, *self._predictor.quote(name, size, options, caller))

        return await asyncio.get_running_loop().run_in_executor(self.quotes, quote)

    async def answers(self, tickets: Sequence[Ticket], gone: Awaitable[None] | None = None) -> list[Answer]:
        """The answers, or the first error; unless the client leaves first, as `gone` tells or by the task's being
        cancelled: then its views make room."""
        waiting = asyncio.gather(*(asyncio.wrap_future(ticket.future) for ticket in tickets))
        watch = None
        if gone is not None:
            watch = asyncio.ensure_future(gone)
            watch.add_done_callback(lambda _: waiting.cancel())
        try:
            return await waiting
        except BaseException as reason:
            self.leave(tickets)
            if isinstance(reason, asyncio.CancelledError) and watch and watch.done():
                raise Cancelled("the client has left") from None
            raise
        finally:
            if watch:
                watch.cancel()

    def leave(self, tickets: Sequence[Ticket]) -> None:
        """Nobody waits for these any more."""
        for ticket in tickets:
            if not ticket.future.done() or ticket.future.cancelled():
                asyncio.get_running_loop().run_in_executor(None, self._predictor.cancel, ticket)

    def handed_out(self, answers: Sequence[Answer]) -> None:
        """Their bytes are on their way."""
        now = time.monotonic()
        self._handing_out.observe(now - max(answer.made_at for answer in answers), now)
        for answer in answers:
            self.answered(answer)

    def answered(self, answer: Answer) -> None:
        receipt = answer.receipt
        _log(
            event="answer",
            request_id=receipt.request_id,
            model=answer.model,
            views=len(receipt.views),
            planned=receipt.planned,
            stop_reason=receipt.stop_reason,
            budget_ms=receipt.budget_ms,
            elapsed_ms=receipt.elapsed_ms,
            stages_ms=receipt.stages_ms,
        )

    def failed(self, visit: RequestInfo, error: TTAError, status: int | str) -> None:
        known = visit.model if visit.model in self._predictor.models else ""
        self._application.metrics.error(known, error.code)
        self.refused(visit, status, error.code, str(error))

    def refused(self, visit: RequestInfo, status: int | str, code: str, sentence: str) -> None:
        """Only logged: what no model has to do with."""
        _log(
            event="error",
            request_id=visit.request_id,
            path=visit.path[:128],
            status=status,
            code=code,
            error=sentence,
        )


def _log(**entry: Any) -> None:
    """One line of JSON, the time first."""
    log.info(json.dumps({"time": round(time.time(), 3), **entry}))
