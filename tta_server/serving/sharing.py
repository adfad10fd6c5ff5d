"""Equal requests share answers: complete ones are stored, and those under way wait for one run."""

import hashlib
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from tta_server.errors import BudgetTooSmall, DeadlineExceeded, InvalidInput, TooLarge, UnsupportedMedia
from tta_server.repository.cache import ByteCache
from tta_server.repository.model import Model
from tta_server.scheduling.flights import Flights, Role
from tta_server.serving.answer import Answer
from tta_server.serving.answer_copies import frozen, is_better, is_complete, readdressed, size_of
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.image import Image
from tta_server.serving.plan import Options, Plan
from tta_server.serving.ticket import Ticket
from tta_server.telemetry.observer import CacheEvicted, CacheHit, CacheMiss, ImageAnswered, Observer

EARLIER_SHARE = 0.05
"""The largest share of its budget by which a request's deadline may be before that of the run it waits for.

When requests arrived, and what sending takes, is not known better: of equal requests at once each would run alone.
"""
RUNS = (Role.LEADS, Role.ALONE)
"""Roles of requests that run at once."""
OWN_FAULTS = (InvalidInput, UnsupportedMedia, TooLarge)
"""Errors that equal images with equal options always get."""
TOO_LATE = "the budget ended: this request waited for the run of an equal one, which got no answer"
"""When too little time is left to run it."""


@dataclass(frozen=True, slots=True)
class SharedRequest:
    """What is asked, whatever the image."""

    plan: Plan
    options: Options
    caller: Caller
    deadline: Deadline

    def key(self, image: Image) -> Hashable:
        """Equal for requests that may get the same answer: by image, loaded model, plan and the client's access."""
        return self.plan.model, self.plan.answer_key, self.caller.access, digest_of(image)


def digest_of(image: Image) -> bytes:
    """The SHA-256 of an encoded image, or of pixels with their shape."""
    if isinstance(image, bytes):
        return hashlib.sha256(image).digest()
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


class SharedTicket:
    """An image whose answer is stored, or is made by the run of an equal request; without either it gets its own run.

    `best` is the answer of a run that was cut short, for an image that gets no better one.
    """

    def __init__(self, request: SharedRequest, image: Image, leave: Callable[["SharedTicket"], bool]) -> None:
        self.since = time.monotonic()
        self.future: Future[Answer] = Future()
        self.request = request
        self.image = image
        self.key = request.key(image)
        self.flight = self.key, request.options.priority
        self.best: Answer | None = None
        self.run: Ticket | None = None
        self.has_left = False
        self.model = request.plan.model
        """The loaded model that the answer is of; another one if the plan's was replaced before its run."""
        self._leave = leave

    def partial(self, seen: int) -> tuple[int, Answer] | None:
        return None if self.run is None else self.run.partial(seen)

    def cancel(self) -> bool:
        return self._leave(self)

    def offer(self, answer: Answer) -> None:
        """An answer that was cut short, of a run of an equal request."""
        if self.best is None or is_better(answer, self.best):
            self.best = answer

    def own(self, answer: Answer, is_shared: bool = True) -> Answer:
        """The answer of another request's run, with the id, budget and times of this one."""
        waited = time.monotonic() - self.since if is_shared else 0.0
        return readdressed(answer, self.request.caller.request_id, self.request.deadline, waited)

    def settle(self, outcome: Answer | BaseException) -> None:
        """Resolves the future, unless the client has left."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Answer):
            self.future.set_result(outcome)
        else:
            self.future.set_exception(outcome)


Admit = Callable[[Plan, Sequence[Image], Options, Caller], Sequence[Ticket]]
"""Starts a run for each image, all or none; raises TTAError."""
Start = Callable[[Callable[[], None]], object]
"""Calls a function in another thread."""


class AnswerSharing:
    """Stores complete answers in at most `capacity` bytes, and lets one run answer equal requests under way.

    Thread-safe. `is_loaded` is False for a model that was replaced, whose answers are not stored. By `start` a follower
    is admitted whose leader has left, failed or been cut short.
    """

    def __init__(
        self,
        capacity: int,
        admit: Admit,
        observer: Observer,
        is_loaded: Callable[[Model], bool],
        start: Start | None = None,
    ) -> None:
        self._answers = ByteCache(capacity)
        self._flights: Flights[Hashable, SharedTicket] = Flights()
        self._lock = threading.Lock()
        self._admit = admit
        self._observer = observer
        self._is_loaded = is_loaded
        self._start: Start = start or ThreadPoolExecutor(1, "followers").submit

    @property
    def nbytes(self) -> int:
        """Bytes of the stored answers."""
        return self._answers.nbytes

    def submit(self, request: SharedRequest, images: Sequence[Image]) -> list[Ticket]:
        """A ticket for each image. Raises as `admit` does; then no image is accepted."""
        entered = [self._enter(SharedTicket(request, image, self._leave)) for image in images]
        try:
            runs = iter(self._run(request, [ticket for ticket, found in entered if found in RUNS]))
        except BaseException:
            self._withdraw(entered)
            raise
        tickets: list[Ticket] = []
        for ticket, found in entered:
            if found in RUNS:
                run = next(runs)
                self._watch(ticket, run, found is Role.LEADS)
                tickets.append(run)
            else:
                tickets.append(ticket)
            if isinstance(found, Answer):
                self._answer(ticket, found, is_shared=False)
        return tickets

    def forget(self, model: Model) -> None:
        """Drops the answers of a model that is not loaded any more."""
        with self._lock:
            self._answers.discard(lambda key: key[0] is model)

    # ---- entering and leaving ----

    def _enter(self, ticket: SharedTicket) -> tuple[SharedTicket, Answer | Role]:
        """The ticket, and its stored answer or else its role."""
        deadline = ticket.request.deadline
        slack = EARLIER_SHARE * deadline.budget_ms / 1e3
        with self._lock:
            answer: Answer | None = self._answers.find(ticket.key)
            if answer is not None:
                return ticket, answer
            role = self._flights.enter(ticket.flight, ticket, deadline.at, slack)
            if role is Role.FOLLOWS:  # equal by digest: no second copy is held
                ticket.image = self._flights.leader(ticket.flight).image
        return ticket, role

    def _run(self, request: SharedRequest, tickets: Sequence[SharedTicket]) -> Sequence[Ticket]:
        if not tickets:
            return ()
        return self._admit(request.plan, [ticket.image for ticket in tickets], request.options, request.caller)

    def _withdraw(self, entered: Sequence[tuple[SharedTicket, Answer | Role]]) -> None:
        """The request was refused: none of its images waits any more, and others lead where it led."""
        for ticket, found in entered:
            if found is Role.FOLLOWS:
                self._leave(ticket)
        for ticket, found in entered:
            if found is Role.LEADS:
                self._pass_on(ticket)

    def _leave(self, ticket: SharedTicket) -> bool:
        """The client has left. False if the ticket was answered, or had left, before."""
        with self._lock:
            self._flights.leave(ticket.flight, ticket)
            first, ticket.has_left = not ticket.has_left, True
            run = ticket.run
        is_cancelled = ticket.future.cancel()  # before its run's, which would settle it
        if run is not None:
            run.cancel()
        return is_cancelled and first

    # ---- the end of a run ----

    def _watch(self, ticket: SharedTicket, run: Ticket, leads: bool) -> None:
        self._observer.notify(CacheMiss(run.model.key, time.monotonic() - ticket.since))
        run.future.add_done_callback(partial(self._ended, ticket, run, leads))

    def _ended(self, ticket: SharedTicket, run: Ticket, leads: bool, future: Future[Answer]) -> None:
        """Stores the answer of a run if it is complete, and answers the followers, or lets another one lead."""
        outcome = _outcome_of(future)
        if isinstance(outcome, Answer) and is_complete(outcome):
            outcome = frozen(outcome)
            for follower in self._land(ticket, outcome, leads):
                follower.model = run.model
                self._answer(follower, outcome)
        elif isinstance(outcome, OWN_FAULTS):
            for follower in self._land(ticket, None, leads):
                follower.settle(type(outcome)(str(outcome)))  # a client's own: raising it writes its traceback
        elif leads:
            self._pass_on(ticket, outcome)

    def _land(self, ticket: SharedTicket, answer: Answer | None, leads: bool) -> Sequence[SharedTicket]:
        """Stores the answer, if any, and returns those who waited for it.

        Under one lock, so that no equal request finds neither, and `forget` misses no answer of a replaced model.
        """
        nbytes, evicted = size_of(answer) if answer else 0, 0
        with self._lock:
            if answer and self._is_loaded(ticket.request.plan.model):
                evicted = self._answers.put(ticket.key, answer, nbytes)
            followers = self._flights.land(ticket.flight) if leads else ()
        if evicted:
            self._observer.notify(CacheEvicted(evicted))
        return followers

    def _pass_on(self, leader: SharedTicket, outcome: Answer | BaseException | None = None) -> None:
        """Lets the next follower lead, if any; an answer that was cut short is for those who get no better one."""
        cut_short = frozen(outcome) if isinstance(outcome, Answer) else None
        with self._lock:
            if cut_short is not None:
                for follower in self._flights.followers(leader.flight):
                    follower.offer(cut_short)
            heir = self._flights.pass_on(leader.flight)
        if heir is not None:
            self._start(partial(self._take_over, heir))

    def _take_over(self, heir: SharedTicket) -> None:
        """Runs a follower's own request, for itself and those that wait with it."""
        try:
            run = self._run_late(heir)
        except Exception as error:  # noqa: BLE001 - raised to the client that waits
            self._conclude(heir, error)
            self._pass_on(heir)
            return
        with self._lock:
            heir.run, heir.model, has_left = run, run.model, heir.has_left
        self._watch(heir, run, leads=True)
        run.future.add_done_callback(lambda future: self._conclude(heir, _outcome_of(future)))
        if has_left:
            run.cancel()

    def _run_late(self, heir: SharedTicket) -> Ticket:
        """Raises DeadlineExceeded, at once after the deadline, for many others may wait; else as `admit` does."""
        if heir.request.deadline.at <= time.monotonic():
            raise DeadlineExceeded(TOO_LATE)
        try:
            (run,) = self._run(heir.request, [heir])
        except BudgetTooSmall:
            raise DeadlineExceeded(TOO_LATE) from None
        return run

    def _conclude(self, heir: SharedTicket, outcome: Answer | BaseException) -> None:
        """Settles a ticket with its own run's outcome, or with the answer that was cut short before, if better."""
        best = heir.best
        if isinstance(outcome, Answer):  # the run has counted the image
            heir.settle(outcome if best is None or not is_better(best, outcome) else heir.own(best))
        elif best is None:
            heir.settle(outcome)
        else:
            self._answer(heir, best)

    def _answer(self, ticket: SharedTicket, answer: Answer, is_shared: bool = True) -> None:
        """Settles a ticket with an answer that another request's run has made, unless its client has left."""
        if ticket.future.cancelled():
            return
        own = ticket.own(answer, is_shared)
        receipt, views = own.receipt, len(own.receipt.views)
        reason, seconds, trace = str(receipt.stop_reason), receipt.elapsed_ms / 1e3, ticket.request.caller.trace
        self._observer.notify(CacheHit(ticket.model.key, time.monotonic() - ticket.since, is_shared))
        self._observer.notify(ImageAnswered(own.model, reason, views, seconds, {}, views, trace))
        ticket.settle(own)


def _outcome_of(future: Future[Answer]) -> Answer | BaseException:
    if future.cancelled():
        return CancelledError()
    return future.exception() or future.result()
