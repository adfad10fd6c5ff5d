"""Measures a model's costs on this machine, with the code of requests and all slots busy."""

import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from tta_server.backends import CPU
from tta_server.errors import BackendFailed, BackendUnavailable, ConfigError, OutOfDeviceMemory
from tta_server.imaging.decoding import Limits
from tta_server.repository.model import Model
from tta_server.scheduling.costs import Bucket, CostModel, sure_knee
from tta_server.scheduling.estimates import Estimates
from tta_server.scheduling.jobs import Job
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.caller import Caller
from tta_server.serving.cards import card_size, make_test_card
from tta_server.serving.deadline import Deadline
from tta_server.serving.graph_executor import ModelExecutor
from tta_server.serving.image import read_source
from tta_server.serving.job import ImageJob, make_job
from tta_server.serving.plan import Options, make_plan
from tta_server.serving.recorder import LockedRecorder
from tta_server.serving.runner import ImageRunner
from tta_server.serving.verification import verify
from tta_server.tasks.checks import Finding
from tta_server.telemetry.observer import Observers, ReceiptTimings

Clock = Callable[[], float]
Action = Callable[[], object]
Rounds = Sequence[Mapping[int, float]]
"""Seconds by batch size, of each round in which all sizes were measured."""
BATCHES = (1, 2, 4)
"""Batch sizes that are measured."""
LEAST_GAIN = 0.05
REPEATS = 5
ENOUGH_SECONDS = 0.15
"""Each measurement is the median of REPEATS runs, or of fewer, but at least 2, that take this long together."""


def warm_up(
    model: Model, costs: CostModel, slots: int, clock: Clock = time.monotonic, ladder: Sequence[int] = ()
) -> None:
    """Sets a model's costs: runs it at each input size of its policy, on as many threads as there are slots.

    `ladder` has the batch sizes of a device, in ascending order; they are measured as far as they make views cheaper.

    `clock` returns seconds. Raises ConfigError if the model can't run or its tta.yaml is refused, BackendUnavailable if
    a server elsewhere runs its test images but not this; `model.observed` has warnings.
    """
    observed = verify(model)
    model.observe(observed)
    requests = _TestRequests(model, clock)
    try:
        _measure(requests, costs, slots, ladder if model.can_batch else ())
    except BackendFailed as error:
        if model.backend.permits:  # it ran the test images just before
            sentence = "its Triton server failed while its costs were measured"
            device, permits = model.backend.device, model.backend.permits
            raise BackendUnavailable(sentence, device, permits) from (error.__cause__ or error)
        reason = (str(error.__cause__) or type(error.__cause__).__name__).splitlines()[0]
        raise ConfigError(f"model {model.name}: its file can't run views of {requests.size}: {reason}") from error
    model.observe(
        replace(observed, warnings=(*observed.warnings, *_slow(model, requests.seconds_on_idle_pool(costs, slots))))
    )


def _slow(model: Model, seconds: float) -> Iterator[Finding]:
    """A finding if a request that states no budget is refused: its mandatory work takes `seconds` on an idle pool."""
    budget = model.config.budget.default_ms
    if seconds * 1e3 > budget and model.is_checked("budget.default_ms"):
        fits = math.ceil(seconds * 4) * 500
        yield Finding(
            "budget.default_ms",
            f"a request takes up to {seconds * 1e3:.3g} ms here, over budget.default_ms of {budget:g}: requests that "
            f"state no budget are refused; set budget.default_ms: {fits}",
        )


def warm_up_beside_requests(model: Model, costs: CostModel, ladder: Sequence[int] = ()) -> None:
    """The same on one thread; on the CPU in CPU seconds, for slots that answer requests slow it down.

    With a server elsewhere, on one thread for each of its permits, for they share it.
    """
    backend = model.backend
    warm_up(model, costs, backend.permits or 1, time.thread_time if backend.device == CPU else time.monotonic, ladder)


def _measure(requests: "_TestRequests", costs: CostModel, slots: int, ladder: Sequence[int]) -> None:
    model, pixels = requests.model, requests.size.area
    costs.warm_stage("decode", model.name, pixels, _median_of(requests.decoding_seconds))
    with ThreadPoolExecutor(slots) as pool:
        for index, bucket in requests.buckets():

            def measured(sizes: Sequence[int], index: int = index) -> Rounds:
                actions = [requests.batch(index, n) for n in sizes]
                runs = [pool.submit(_rounds, actions, requests.seconds) for _ in range(slots)]
                return [dict(zip(sizes, seconds, strict=True)) for run in runs for seconds in run.result()]

            if ladder:
                costs.warm(bucket, _climb(_fitting(requests, index, ladder), measured))
            else:
                rounds = measured(_few(model))
                costs.warm(bucket, _medians(rounds), sure_knee(rounds))
    costs.warm_stage("finish", model.name, pixels, _median_of(requests.finishing_seconds))


def _fitting(requests: "_TestRequests", index: int, ladder: Sequence[int]) -> Sequence[int]:
    """The sizes for which a device has memory. The largest runs first: see `Rungs`, and it leaves fewer gaps.

    A remote server has its own order. Raises OutOfDeviceMemory if there is none.
    """
    if requests.model.backend.permits:
        return ladder
    fits = list(ladder)
    for n in reversed(ladder):
        try:
            requests.batch(index, n)()
        except OutOfDeviceMemory:
            fits.remove(n)
            if not fits:
                raise
    return fits


def _few(model: Model) -> Sequence[int]:
    """The batch sizes to measure of a pool that runs few views at a time."""
    largest = max(model.backend.ladder, default=max(BATCHES)) if model.can_batch else 1
    return [n for n in BATCHES if n <= largest]


def _medians(rounds: Rounds) -> dict[int, float]:
    """The median of each batch size."""
    return {n: statistics.median(seconds[n] for seconds in rounds) for n in rounds[0]}


def _climb(ladder: Sequence[int], measured: Callable[[Sequence[int]], Rounds]) -> dict[int, float]:
    """Seconds by batch size, up to the first that makes a view less than LEAST_GAIN cheaper."""
    found: dict[int, float] = {}
    for n in ladder:
        found |= _medians(measured([n]))
        below = max((size for size in found if size < n), default=0)
        if below and found[n] / n > found[below] / below * (1 - LEAST_GAIN):
            break
    return found


class _TestRequests:
    """Makes and times jobs of a test card, with all views of the model's policy; times in seconds of `clock`."""

    def __init__(self, model: Model, clock: Clock) -> None:
        self.model = model
        self.clock = clock
        self._plan = make_plan(model, Options(min_views="all", stop="all"))
        self.size = card_size(model)
        self._card = make_test_card(model)
        self._runner = ImageRunner(ModelExecutor(), ReceiptTimings())

    def job(self) -> Job[ImageJob]:
        """A job that is not decoded."""
        source = read_source(self._card, Limits())
        deadline = Deadline.after(self.model.config.budget.max_ms)
        return make_job(self._plan, source, deadline, Caller("warm-up"), Observers())

    def buckets(self) -> list[tuple[int, Bucket]]:
        """Each bucket of the policy, after the index of a view in it."""
        first = {bucket: index for index, bucket in reversed(list(enumerate(self.job().buckets)))}
        return [(index, bucket) for bucket, index in first.items()]

    def batch(self, index: int, n: int) -> Callable[[], object]:
        """An action that runs one view n times as a batch."""
        job = self.decoded()
        return lambda: self._run([(job, index)] * n)

    def _run(self, items: Sequence[tuple[Job[ImageJob], int]]) -> None:
        """Raises BackendFailed if the batch or any view fails."""
        for outcome in self._runner.run(items, LockedRecorder(threading.Lock())).values():
            if outcome.error:
                raise outcome.error

    def decoded(self) -> Job[ImageJob]:
        """A decoded job."""
        job = self.job()
        job.payload.decode()
        return job

    def finishing_seconds(self) -> float:
        """The time to make an answer of two views, if the policy has two: a single view has nothing to fuse."""
        job = self.decoded()
        for index in range(min(2, len(job.buckets))):
            self._run([(job, index)])
        return self.seconds(lambda: job.payload.settle(StopReason.ALL_VIEWS, job))

    def decoding_seconds(self) -> float:
        """The time to decode the test card."""
        return self.seconds(self.job().payload.decode)

    def seconds_on_idle_pool(self, costs: CostModel, slots: int) -> float:
        """The time that a request of the model's own defaults takes at most, as the scheduler estimates it."""
        plan = make_plan(self.model, Options())
        deadline = Deadline.after(self.model.config.budget.max_ms)
        job = make_job(plan, read_source(self._card, Limits()), deadline, Caller("warm-up"), Observers())
        return Estimates(costs).on_idle_pool(job, slots)

    def seconds(self, action: Callable[[], object]) -> float:
        start = self.clock()
        action()
        return self.clock() - start


def _rounds(actions: Sequence[Action], seconds: Callable[[Action], float]) -> list[list[float]]:
    """The times of each action. They run in turns, so that other load slows all alike: the knee depends on ratios."""
    for action in actions:
        action()  # does lazy initialisation
    rounds: list[list[float]] = []
    while len(rounds) < 2 or (len(rounds) < REPEATS and sum(map(sum, rounds)) < ENOUGH_SECONDS * len(actions)):
        rounds.append([seconds(action) for action in actions])
    return rounds


def _median_of(seconds: Callable[[], float]) -> float:
    """The median without the first run, which does lazy initialisation."""
    seconds()
    runs: list[float] = []
    while len(runs) < 2 or (len(runs) < REPEATS and sum(runs) < ENOUGH_SECONDS):
        runs.append(seconds())
    return statistics.median(runs)
