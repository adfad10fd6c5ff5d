"""Measures what a model costs here, through the very code that requests run, with all slots busy."""

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import simplejpeg

from tta_server.errors import BackendFailed, ConfigError
from tta_server.imaging.decoding import Limits
from tta_server.repository.loader import WARM_SIZE, Model
from tta_server.scheduling.costs import Bucket, CostModel
from tta_server.scheduling.jobs import Failed, Job
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.deadline import Deadline
from tta_server.serving.engine import LockedRecorder
from tta_server.serving.executor import Executor, infer
from tta_server.serving.image import read_source
from tta_server.serving.job import Caller, ImageJob, make_job
from tta_server.serving.plan import Options, make_plan
from tta_server.tasks import Outputs
from tta_server.telemetry.observer import Observers, ReceiptTimings
from tta_server.views.geometry import Size

Clock = Callable[[], float]
Action = Callable[[], object]
BATCHES = (1, 2, 4)
REPEATS = 5
ENOUGH_SECONDS = 0.15
"""Each thing is timed REPEATS times, or for so long, but at least twice."""


def warm_up(model: Model, costs: CostModel, slots: int, clock: Clock = time.monotonic) -> None:
    """Runs the model at each input size of its policy on as many threads as there are slots; raises ConfigError if it
    can't, or if its outputs don't fit its task."""
    probe = _Probe(model, clock)
    try:
        _check_outputs(model, probe)
        _measure(model, probe, costs, slots)
    except BackendFailed as error:
        reason = (str(error.__cause__) or type(error.__cause__).__name__).splitlines()[0]
        raise ConfigError(f"model {model.name}: its file can't run views of {probe.size}: {reason}") from error


def warm_up_beside_requests(model: Model, costs: CostModel) -> None:
    """The same on this thread alone, in time of the processor: slots that answer requests meanwhile make it wait, which
    is no cost of the model's."""
    warm_up(model, costs, 1, time.thread_time)


def _measure(model: Model, probe: "_Probe", costs: CostModel, slots: int) -> None:
    pixels = probe.size.area
    costs.warm_stage("decode", model.name, pixels, _median_of(probe.decoding_seconds))
    with ThreadPoolExecutor(slots) as pool:
        for index, bucket in probe.buckets():
            sizes = (1,) if model.backend.signature.shape[0] == 1 else BATCHES
            runs = [pool.submit(_medians, [probe.batch(index, n) for n in sizes], probe.seconds) for _ in range(slots)]
            by_size = zip(*(run.result() for run in runs), strict=True)
            costs.warm(bucket, dict(zip(sizes, map(statistics.median, by_size), strict=True)))
    costs.warm_stage("finish", model.name, pixels, _median_of(probe.finishing_seconds))


class _Probe:
    """Requests of a test card: a JPEG of about the size that the model's input comes from."""

    def __init__(self, model: Model, clock: Clock) -> None:
        self._model = model
        self.clock = clock
        self._plan = make_plan(model, Options(min_views="all", stop="all"))
        self.size = _card_size(model)
        self._card = card_for(model)
        self._executor = Executor(ReceiptTimings())

    def job(self) -> Job[ImageJob]:
        source = read_source(self._card, Limits())
        deadline = Deadline.after(self._model.config.budget.max_ms)
        return make_job(self._plan, source, deadline, Caller("warm-up"), Observers())

    def buckets(self) -> list[tuple[int, Bucket]]:
        """Each bucket of the policy with the index of a view in it."""
        first = {bucket: index for index, bucket in reversed(list(enumerate(self.job().buckets)))}
        return [(index, bucket) for bucket, index in first.items()]

    def batch(self, index: int, n: int) -> Callable[[], object]:
        """Something that runs one view n times as a batch."""
        job = self.decoded()
        return lambda: self._run([(job, index)] * n)

    def _run(self, items: Sequence[tuple[Job[ImageJob], int]]) -> None:
        """Raises BackendFailed for a view that fails, as for a batch that does."""
        for outcome in self._executor.run(items, LockedRecorder(threading.Lock())):
            if isinstance(outcome, Failed):
                raise outcome.error

    def decoded(self) -> Job[ImageJob]:
        job = self.job()
        job.payload.decode()
        return job

    def outputs(self) -> tuple[Outputs, Size]:
        """The model's outputs for the plain view, and the size of the input that it was given."""
        views = self.decoded().payload.views
        return infer([(views, 0)]), views.input_size(0)

    def finishing_seconds(self) -> float:
        """Of two views where there are as many: one alone has nothing to be fused with."""
        job = self.decoded()
        for index in range(min(2, len(job.buckets))):
            self._run([(job, index)])
        return self.seconds(lambda: job.payload.settle(StopReason.ALL_VIEWS, job.progress))

    def decoding_seconds(self) -> float:
        return self.seconds(self.job().payload.decode)

    def seconds(self, action: Callable[[], object]) -> float:
        start = self.clock()
        action()
        return self.clock() - start


def _card_size(model: Model) -> Size:
    prep = model.preprocessing
    return Size(2 * prep.size.width, 2 * prep.size.height) if prep.size else WARM_SIZE


def card_for(model: Model) -> bytes:
    """A JPEG of gradients and grain, neither flat nor noise, so that it decodes like a photo."""
    size = _card_size(model)
    x, y = np.meshgrid(np.linspace(0, 200, size.width), np.linspace(0, 200, size.height))
    grain = np.random.default_rng(0).normal(0, 8, (size.height, size.width))
    card = np.stack([x, y, (x + y) / 2], axis=2) + grain[..., None]
    return bytes(simplejpeg.encode_jpeg(np.clip(card, 0, 255).astype(np.uint8), 90))


def _check_outputs(model: Model, probe: _Probe) -> None:
    try:
        model.task.check(*probe.outputs())
    except ConfigError as mistake:
        raise ConfigError(f"model {model.name}: {mistake}") from None


def _medians(actions: Sequence[Action], seconds: Callable[[Action], float]) -> list[float]:
    """In turns, so that what else keeps the machine busy bears on all alike: their ratio decides on the knee."""
    for action in actions:
        action()  # pays for what is lazy
    rounds: list[list[float]] = []
    while len(rounds) < 2 or (len(rounds) < REPEATS and sum(map(sum, rounds)) < ENOUGH_SECONDS * len(actions)):
        rounds.append([seconds(action) for action in actions])
    return [statistics.median(column) for column in zip(*rounds, strict=True)]


def _median_of(seconds: Callable[[], float]) -> float:
    """The first run, which pays for what is lazy, does not count."""
    seconds()
    seen: list[float] = []
    while len(seen) < 2 or (len(seen) < REPEATS and sum(seen) < ENOUGH_SECONDS):
        seen.append(seconds())
    return statistics.median(seen)
