"""The use case of every protocol: images and options in, answers out."""

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace

from tta_server.errors import BudgetTooSmall, InvalidInput, NotReady, Overloaded, TTAError, UnknownModel
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import check_area
from tta_server.repository.model import Model
from tta_server.scheduling.jobs import Job, Priority, Quote
from tta_server.serving.answer import Answer
from tta_server.serving.caller import Caller
from tta_server.serving.deadline import Deadline
from tta_server.serving.health import Health, failed_message, unhealthy_message
from tta_server.serving.image import Image, Source, read_source
from tta_server.serving.job import ImageJob, make_job
from tta_server.serving.plan import Options, Plan, budget_ms, make_plan
from tta_server.serving.pools import Pools
from tta_server.serving.sharing import AnswerSharing, SharedRequest
from tta_server.serving.ticket import RunTicket, Ticket
from tta_server.tasks import ResponseFormat
from tta_server.telemetry.observer import (
    ClientLeft,
    Observer,
    Observers,
    Refused,
    RequestAnswered,
    RequestFailed,
)
from tta_server.views.geometry import Size


class Predictor:
    """Plans, checks and submits requests to the pools, and reports how they end to the observer."""

    def __init__(
        self,
        models: Mapping[str, Model],
        pools: Pools,
        limits: Limits,
        observer: Observer,
        health: Health,
        cache_bytes: int = 0,
    ) -> None:
        """Of `cache_bytes` the answers are stored that equal requests get; 0: each request runs."""
        self.models = models
        self.limits = limits
        self._pools = pools
        self._observer = observer
        self._health = health
        self._sharing = AnswerSharing(cache_bytes, self._run_shared, observer, self._is_loaded) if cache_bytes else None

    def model(self, name: str) -> Model:
        """The model of that name. Raises NotReady if it failed to load, UnknownModel, which names the loaded ones."""
        if (model := self.models.get(name)) is not None:
            return model
        if failure := self._health.load_failures.get(name):
            raise NotReady(failed_message(name, failure))
        raise UnknownModel(f"unknown model {name[:64]!r}; known: {', '.join(self.models)}")

    def submit(self, name: str, image: Image, options: Options, caller: Caller) -> Ticket:
        """Submits a request of one image, as `submit_all` does. Raises UnknownModel too."""
        (ticket,) = self.submit_all(self.model(name), [image], options, caller)
        return ticket

    def plan(self, model: Model, options: Options) -> Plan:
        """The plan of these options. Raises InvalidInput or NotReady, which counts as a failed request."""
        started = time.monotonic()
        try:
            self._check_healthy(model.name)
            return make_plan(model, options)
        except TTAError:
            self._observer.notify(RequestFailed(model.key, time.monotonic() - started))
            raise

    def submit_all(
        self, model: Model, images: Sequence[Image], options: Options, caller: Caller, plan: Plan | None = None
    ) -> list[Ticket]:
        """Submits a request: one job an image, with one deadline, all admitted or none. Images are decoded later.

        `plan` is that of these options, if the caller has made it. Raises InvalidInput, UnsupportedMedia, TooLarge,
        Overloaded or NotReady.
        """
        self._pools.check()
        started = time.monotonic()
        try:
            self._check_healthy(model.name)
            submit = self._share if self.shares(options) else self._run
            tickets = submit(plan or make_plan(model, options), images, options, caller)
        except BudgetTooSmall as error:
            self._observer.notify(Refused(model.name, "budget"))
            self._observer.notify(RequestFailed(model.key, time.monotonic() - started))
            self._health.request_reprice(model.name)
            raise _with_default(error, model, options) from None
        except TTAError:
            self._observer.notify(RequestFailed(model.key, time.monotonic() - started))
            raise
        _RequestReporter(self._observer, model, [ticket.future for ticket in tickets], started)
        return tickets

    def shares(self, options: Options) -> bool:
        """Whether equal requests with these options share answers, for which their images are hashed."""
        return self._sharing is not None and options.format is not ResponseFormat.ARRAYS

    @property
    def cached_bytes(self) -> int:
        """Memory of the stored answers."""
        return self._sharing.nbytes if self._sharing else 0

    def retire(self, model: Model) -> None:
        """Retires a model that is not among `models` any more, and drops its stored answers."""
        model.retire()
        if self._sharing:
            self._sharing.forget(model)

    def _is_loaded(self, model: Model) -> bool:
        return self.models.get(model.name) is model

    def _share(self, plan: Plan, images: Sequence[Image], options: Options, caller: Caller) -> list[Ticket]:
        """Raises as `_run` does, for sizes that do not fit together whether or not there are answers."""
        assert self._sharing is not None
        deadline = self._deadline(plan, options, caller)
        if len(images) > 1:
            self._sources(plan, images)
        caller = replace(caller, received=deadline.start)  # a run that starts later has the same deadline
        return self._sharing.submit(SharedRequest(plan, options, caller, deadline), images)

    def _run_shared(self, plan: Plan, images: Sequence[Image], options: Options, caller: Caller) -> list[Ticket]:
        """Raises NotReady too if the model became unhealthy while the request waited for the run of another."""
        self._check_healthy(plan.model.name)
        return self._run(plan, images, options, caller)

    def _run(self, plan: Plan, images: Sequence[Image], options: Options, caller: Caller) -> list[Ticket]:
        """Admits a job for each image."""
        jobs = self._jobs_on_open_model(plan, images, options, caller)
        self._admit(plan.model.name, jobs)
        return [RunTicket(job.payload.future, job, self._pools) for job in jobs]

    def _jobs_on_open_model(
        self, plan: Plan, images: Sequence[Image], options: Options, caller: Caller
    ) -> list[Job[ImageJob]]:
        """Makes the jobs, each of which keeps its model's backend open.

        If the plan's model was replaced and closed since, the jobs are of the new model. Raises UnknownModel if there
        is none, NotReady if it has another version or the server is shutting down.
        """
        while True:
            jobs = self._jobs(plan, images, options, caller)
            if all(job.payload.hold_backend() for job in jobs):
                return jobs
            _release_backends(jobs)
            model = self.model(plan.model.name)
            if model is plan.model:
                raise NotReady("the server is shutting down")
            if model.version != plan.model.version:
                raise NotReady(f"{model.name} was reloaded as version {model.version}; send this request again")
            plan = make_plan(model, options)

    def _jobs(self, plan: Plan, images: Sequence[Image], options: Options, caller: Caller) -> list[Job[ImageJob]]:
        deadline = self._deadline(plan, options, caller)
        sources = self._sources(plan, images)
        return [make_job(plan, source, deadline, caller, self._observer, options.priority) for source in sources]

    def _deadline(self, plan: Plan, options: Options, caller: Caller) -> Deadline:
        """Raises InvalidInput for a budget that is none."""
        return Deadline.after(budget_ms(plan.model, options.budget_ms), caller.reserve, caller.received)

    def _sources(self, plan: Plan, images: Sequence[Image]) -> list[Source]:
        """The images, with their headers checked. Raises InvalidInput, UnsupportedMedia or TooLarge."""
        sources = [read_source(image, self.limits, plan.model.preprocessing.rendering) for image in images]
        for source in sources:
            plan.model.preprocessing.check(plan.views, source.size, self.limits)
        _check_sizes(plan, sources)
        return sources

    def _admit(self, name: str, jobs: Sequence[Job[ImageJob]]) -> None:
        try:
            self._pools.submit(jobs)
        except TTAError as error:
            _release_backends(jobs)
            if isinstance(error, Overloaded):
                self._observer.notify(Refused(name, error.reason))
            raise

    def _check_healthy(self, name: str) -> None:
        """Raises NotReady for an unhealthy model."""
        if name in self._health.unhealthy:
            raise NotReady(unhealthy_message(name))

    def quote(self, name: str, size: Size, options: Options, caller: Caller) -> tuple[Plan, Deadline, Quote]:
        """What an image of this size would get now; nothing is admitted. Raises as `submit`, except Overloaded."""
        model = self.model(name)
        self._check_healthy(name)
        plan = make_plan(model, options)
        deadline = Deadline.after(budget_ms(model, options.budget_ms), caller.reserve)
        check_area(size, self.limits)
        model.preprocessing.check(plan.views, size, self.limits)
        job = make_job(plan, Source(size), deadline, caller, self._observer, options.priority)
        try:
            return plan, deadline, self._pools.quote(job)
        except BudgetTooSmall as error:
            raise _with_default(error, model, options) from None

    def probe(self, name: str, image: bytes) -> None:
        """Runs the plain view of a model, even an unhealthy one, when no interactive work waits.

        It is not counted as a request. Raises TTAError if it fails.
        """
        model = self.model(name)
        plan = make_plan(model, Options(max_views=1, stop="all"))
        deadline = Deadline.after(model.config.budget.max_ms)
        job = make_job(plan, read_source(image, self.limits), deadline, Caller("probe"), Observers(), Priority.BATCH)
        if not job.payload.hold_backend():
            raise NotReady(f"{name} was reloaded")
        try:
            self._pools.submit([job])
        except TTAError:
            job.payload.release_backend()
            raise
        job.payload.future.result()

    def cancel(self, ticket: Ticket) -> None:
        """Cancels the work for a client that has left."""
        if ticket.cancel():
            self._observer.notify(ClientLeft(ticket.model.name))


def _release_backends(jobs: Sequence[Job[ImageJob]]) -> None:
    """Releases the backends of jobs that were not admitted; settled jobs have released theirs."""
    for job in jobs:
        job.payload.release_backend()


def _with_default(error: BudgetTooSmall, model: Model, options: Options) -> BudgetTooSmall:
    """The error with the model's default budget in its sentence, if the request states no budget."""
    if options.budget_ms is not None:
        return error
    budget = model.config.budget
    return BudgetTooSmall(
        f"{error}; this request states none, so {model.name}'s budget.default_ms of {budget.default_ms:g} counts (its "
        f"longest, budget.max_ms, is {budget.max_ms:g})"
    )


class _RequestReporter:
    """Notifies the observer once the last image of a request is settled."""

    def __init__(self, observer: Observer, model: Model, futures: Sequence[Future[Answer]], started: float) -> None:
        self._observer = observer
        self._key = model.key
        self._started = started
        self._lock = threading.Lock()
        self._unsettled = len(futures)
        self._stages = dict[str, float]()
        self._failed = False
        for future in futures:
            future.add_done_callback(self._settled)

    def _settled(self, future: Future[Answer]) -> None:
        with self._lock:
            self._unsettled -= 1
            if future.cancelled() or future.exception():
                self._failed = True
            elif not (receipt := future.result().receipt).cached:
                for stage, spent in receipt.stages_ms.items():
                    self._stages[stage] = self._stages.get(stage, 0.0) + spent
            if self._unsettled:
                return
        seconds = time.monotonic() - self._started
        if self._failed:
            self._observer.notify(RequestFailed(self._key, seconds))
        else:
            self._observer.notify(RequestAnswered(self._key, seconds, self._stages))


def _check_sizes(plan: Plan, sources: Sequence[Source]) -> None:
    """Raises InvalidInput for per-pixel tensors of images of different sizes, which can't be stacked."""
    per_pixel = [s.name for s in plan.model.task.tensor_specs if s.per_pixel and s.name in plan.wanted.tensors]
    sizes = list(dict.fromkeys(source.size for source in sources))
    if per_pixel and len(sizes) > 1:
        raise InvalidInput(
            f"{per_pixel[0]} has a value for every pixel, so the images of one request must have one size, but they "
            f"are {sizes[0]} and {sizes[1]}; send them one by one"
        )
