"""Runs that a test ends by hand, in place of the scheduler behind shared answers."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from tta_server.errors import Overloaded, TTAError
from tta_server.repository.model import Model
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer, Receipt
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.image import Image
from tta_server.serving.plan import Options, Plan, make_plan
from tta_server.serving.sharing import AnswerSharing, SharedRequest, SharedTicket
from tta_server.serving.ticket import Ticket
from tta_server.tasks.render.rendering import Rendered
from tta_server.telemetry.observer import Event
from tta_server.telemetry.tracing import RequestTrace


def answer_of(model: Model, content: str, views: int = 8, reason: StopReason | None = StopReason.ALL_VIEWS) -> Answer:
    """An answer of `views` of 8 views, whose prediction and tensor hold the content."""
    receipt = Receipt(
        views=[{"name": f"view {number}", "weight": 1.0} for number in range(views)],
        planned=8,
        started=views,
        dropped=0,
        merge="vote",
        stop="all",
        stop_reason=reason,
        confidence=0.5,
        budget_ms=1.0,
        elapsed_ms=1.0,
        stages_ms={"infer": 1.0},
        policy=model.policy,
        request_id=content,
    )
    tensors = {"DATA": np.frombuffer(bytearray(content.encode()), np.uint8)}
    return Answer(model.name, model.version, "toy", receipt, Rendered({"content": content}, None, tensors))


@dataclass(eq=False)
class Run:
    """A run that was admitted; the test ends it."""

    model: Model
    image: Image
    caller: Caller
    future: Future[Answer] = field(default_factory=Future)

    def partial(self, seen: int) -> tuple[int, Answer] | None:
        return 1, answer_of(self.model, "partial", 1, None)

    def cancel(self) -> bool:
        return self.future.cancel()

    @property
    def content(self) -> str:
        """What the answer to this image and access is."""
        assert isinstance(self.image, bytes)
        return f"{self.image.decode()} for {self.caller.access.decode()}"

    def answer(self, views: int = 8, reason: StopReason = StopReason.ALL_VIEWS) -> None:
        self.future.set_result(answer_of(self.model, self.content, views, reason))


class Shared:
    """Shared answers over such runs. `refuses` makes admission fail, with this error if it is one.

    Takeovers wait in `takeovers`. Requests arrive at `start`, an hour from now, so that no deadline passes. Runs are of
    the model `admitted` if that is set.
    """

    def __init__(self, model: Model, capacity: int = 100_000) -> None:
        self.model = model
        self.runs: list[Run] = []
        self.events: list[Event] = []
        self.takeovers: list[Callable[[], None]] = []
        self.refuses: bool | TTAError = False
        self.admitted: Model | None = None
        self.start = time.monotonic() + 3600.0
        self.sharing = AnswerSharing(
            capacity, self._admit, self, lambda model: model is self.model, self.takeovers.append
        )

    def notify(self, event: Event) -> None:
        self.events.append(event)

    def _admit(self, plan: Plan, images: Sequence[Image], options: Options, caller: Caller) -> list[Run]:
        if isinstance(self.refuses, TTAError):
            raise self.refuses
        if self.refuses:
            raise Overloaded(f"no room for {caller.request_id}", 1.0)
        runs = [Run(self.admitted or self.model, image, caller) for image in images]
        self.runs += runs
        return runs

    def ask(
        self,
        *images: bytes,
        name: str = "one",
        budget_ms: float = 1000.0,
        access: str = "all",
        trace: RequestTrace | None = None,
        **options: object,
    ) -> list[Ticket]:
        """Tickets of a request at `start`."""
        asked = Options(budget_ms=budget_ms, **options)
        caller = Caller(name, received=self.start, trace=trace, access=access.encode())
        request = SharedRequest(make_plan(self.model, asked), asked, caller, Deadline(self.start, budget_ms))
        return self.sharing.submit(request, images)

    def one(self, name: str = "one", budget_ms: float = 1000.0, image: bytes = b"cat", **options: object) -> Ticket:
        (ticket,) = self.ask(image, name=name, budget_ms=budget_ms, **options)
        return ticket

    def take_over(self) -> None:
        """Do what was left to the other thread."""
        while self.takeovers:
            self.takeovers.pop(0)()


def waits(ticket: Ticket) -> bool:
    """Whether the ticket has no run of its own and no answer."""
    return isinstance(ticket, SharedTicket) and ticket.run is None and not ticket.future.done()
