"""One image of one request as slots work on it: decode, write views, merge, answer."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from tta_server.backends import Tensor
from tta_server.errors import BackendFailed, TTAError
from tta_server.imaging.canvases import Canvases
from tta_server.imaging.decoding import Header, Pixels, decode_picture
from tta_server.imaging.samples import DROP, Levels, Picture, Rendering
from tta_server.repository.lifetime import Lifetime
from tta_server.scheduling.jobs import LOST, Failed, Merged, Outcome
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer
from tta_server.serving.answer_builder import AnswerBuilder, Snapshot
from tta_server.serving.deadline import Deadline
from tta_server.serving.plan import Layout, Plan
from tta_server.tasks import ImageFrame, Outputs
from tta_server.tasks.render.rendering import DRAWING
from tta_server.telemetry.prometheus import Metrics
from tta_server.telemetry.timings import StageTimes
from tta_server.views.geometry import Size
from tta_server.views.view import View

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """What the client sent: encoded bytes with their header, or upright RGB pixels (H, W, 3) uint8."""

    size: Size
    encoded: bytes = b""
    header: Header | None = None
    pixels: Pixels | None = None
    rendering: Rendering = DROP

    @property
    def nbytes(self) -> int:
        """What it may hold while it waits and is decoded: its bytes, its samples and its pixels."""
        return len(self.encoded) + 3 * self.size.area + (self.header.unpacked if self.header else 0)

    def open(self) -> Picture:
        """Its pixels and the levels applied. Raises InvalidInput, UnsupportedMedia or TooLarge."""
        if self.pixels is not None:
            return Picture(self.pixels)
        assert self.header is not None
        return decode_picture(self.encoded, self.header, self.rendering)


Listener = Callable[[], None]
"""Called on a slot's thread, which it must not hold, when `ImageJob.partial` has more to say."""


class ImageJob:
    """Settles `future` exactly once.

    Methods run on slots' threads and on readers' of partial answers, several at a time: `_lock` guards all that
    changes. Nothing is merged after `settle`.
    """

    def __init__(
        self,
        plan: Plan,
        layout: Layout,
        source: Source,
        deadline: Deadline,
        request_id: str,
        metrics: Metrics,
        listener: Listener | None = None,
    ) -> None:
        self.future: Future[Answer] = Future()
        self.model = model = plan.model
        self.plan = plan
        self.layout = layout
        self.times = StageTimes(deadline.start)
        self._source: Source | None = source
        self._scene = ImageFrame(source.size, layout.plain, layout.tiles)
        self._builder = AnswerBuilder(plan, layout, self._scene, deadline, request_id)
        self._metrics = metrics
        self._listener = listener
        self._lock = threading.Lock()
        self._picture: Pixels | None = None
        self._canvases = Canvases(model.preprocessing, (view.scale for view in plan.views))
        self._accumulator = model.task.accumulator(plan.merge, plan.wanted, self._scene)
        self._merged: list[tuple[int, Any]] = []
        self._furthest = -1
        self._waiting = set(range(len(layout.placements)))
        self._dropped = 0
        self._open: float | None = None
        self._stops = False
        self._levels: Levels | None = None
        self._settled = False
        self._has_logged = False
        self._held: Lifetime | None = None

    def hold(self) -> bool:
        """Keeps the model's backend open until the job is settled, or `release`; False where it is closed already."""
        lifetime = self.model.lifetime
        self._held = lifetime if lifetime.begin() else None
        return self._held is not None

    def release(self) -> None:
        """Once; then it does nothing."""
        with self._lock:
            held, self._held = self._held, None
        if held is not None:
            held.end()

    # ---- pixels ----

    def decode(self) -> None:
        """The image and the plain view's canvas; the other canvases wait until a view needs them. Raises TTAError."""
        start = self.times.dequeued()
        with self._lock:
            source, self._source = self._source, None
        if source is None:
            return
        picture = source.open()
        self._canvases.open(picture.pixels)
        with self._lock:
            self._levels = picture.levels
            self._picture = picture.pixels if DRAWING in self.plan.wanted.include and not self._settled else None
        self.times.decoded(start)

    def write(self, index: int, row: Tensor) -> None:
        """Writes a view into its row of a batch; nothing matters there if the job is settled already."""
        self.times.dequeued()
        view = self._view(index)
        canvas = self._canvases.get(view.scale)
        if canvas is None:
            row.fill(0)
        else:
            self.model.preprocessing.write(canvas, view, self.layout.placements[index], row)

    # ---- predictions ----

    def merge(self, index: int, outputs: Outputs, row: int) -> Outcome:
        """Moves a view's prediction back and merges it: LOST where it holds NaN, Failed where it can't be merged.
        Raises nothing, since others' views came back in the same batch."""
        task, view = self.model.task, self._view(index)
        try:
            prediction = task.decode(outputs, row, self.layout.placements[index], self._scene)
            is_sound = task.is_sound(prediction)
            own = task.view_result(prediction) if is_sound and self._builder.keeps_view_results else None
        except Exception as error:  # noqa: BLE001 - logged by `drop`
            return self.drop(index, error, "the model's output for a view could not be read")
        if not is_sound:
            log.warning("the output of %s for view %r holds NaN or infinity", self.model.name, view.name)
            self._drop(index)
            return LOST
        with self._lock:
            if self._settled:
                return Merged()
            try:
                self._accumulator.add(prediction, view.weight)
            except Exception as error:  # noqa: BLE001 - logged by `drop`
                unmerged = error
            else:
                self._merged.append((index, own))
                self._furthest = max(self._furthest, index)
                self._waiting.discard(index)
                return self._judged()
        return self.drop(index, unmerged, "the model's output for a view could not be merged")

    def _judged(self) -> Merged:
        """What the views so far say of those to come; a stop rule that raises stops nothing. Under the lock."""
        views, rest = divmod(len(self._merged), self.layout.tiles)
        if not self._waiting or rest or not views:
            return Merged()
        try:
            worth = self.plan.worth(self.margin(), views)
            stop = self.plan.rule.decide(self)
        except Exception as error:  # noqa: BLE001
            self._log_once("whether to stop could not be decided", error)
            return Merged()
        mandatory = range(self.plan.mandatory * self.layout.tiles)
        self._stops = stop is not None and self._waiting.isdisjoint(mandatory)
        return Merged(worth, stop)

    def drop(self, index: int, error: Exception, sentence: str) -> Failed:
        """A view that is not merged for an error of its own: counted, and logged with its traceback, once a job.
        `sentence` is the message to the client if the view was mandatory."""
        self._drop(index)
        with self._lock:
            self._log_once(sentence, error)
        if isinstance(error, BackendFailed):
            return Failed(error)
        failure = BackendFailed(sentence)
        failure.__cause__ = error
        return Failed(failure)

    def _drop(self, index: int) -> None:
        self._metrics.dropped(self.model.name)
        with self._lock:
            if not self._settled:
                self._dropped += 1
                self._waiting.discard(index)

    def _log_once(self, sentence: str, error: Exception) -> None:
        if not self._has_logged:
            log.error("%s: %s", self.model.name, sentence, exc_info=error)
        self._has_logged = True

    # ---- what stop rules may ask, under the lock ----

    def margin(self) -> float:
        return self._accumulator.margin()

    def views_in_order(self) -> int:
        views, rest = divmod(len(self._merged), self.layout.tiles)
        return views if not rest and len(self._merged) == self._furthest + 1 else 0

    def undecided(self) -> float:
        placements = self.layout.placements
        self._open = self._accumulator.undecided([(placements[i], self._view(i).weight) for i in self._waiting])
        return self._open

    def standard_error(self) -> float:
        return self._accumulator.standard_error()

    def _view(self, index: int) -> View:
        return self.plan.views[index // self.layout.tiles]

    # ---- answers ----

    def tell(self) -> None:
        """After each batch, from the plain view on: calls the listener, unless the answer follows. One that raises is
        not called again."""
        listener = self._listener
        if listener is None:
            return
        with self._lock:
            has_news = self._has_news()
        try:
            if has_news:
                listener()
        except Exception:
            log.exception("a listener to %s failed", self.model.name)
            self._listener = None

    def partial(self, seen: int) -> tuple[int, Answer] | None:
        """The answer so far, with how many entries of the layout are merged in it; None where these are no more than
        `seen`, where the answer itself follows, and where it can't be made, which is logged."""
        start = time.monotonic()
        try:
            with self._lock:
                if not self._has_news() or len(self._merged) <= seen:
                    return None
                snapshot = self._snapshot()
            answer = self._builder.answer(snapshot, None, start)
        except Exception:
            log.exception("a partial answer of %s could not be made", self.model.name)
            return None
        self.times.add(merge=time.monotonic() - start)
        return len(snapshot.views), answer

    def _has_news(self) -> bool:
        """Whether a partial answer may be given: the plain view is merged and the answer does not follow at once. Under
        the lock."""
        whole = self._waiting.isdisjoint(range(self.layout.tiles))
        return bool(self._merged and self._waiting and whole and not self._settled and not self._stops)

    def _snapshot(self) -> Snapshot:
        """Under the lock; or once settled, when nothing is merged any more and nobody has to wait for it."""
        views = sorted(self._merged, key=lambda entry: entry[0])
        merged = self._accumulator.result()
        times = self.times.so_far()
        return Snapshot(merged, views, self._dropped, self._open, times, self._levels, self._picture)

    def settle(self, outcome: StopReason | TTAError) -> None:
        """Answers with what is merged, or fails; a client that has left hears nothing."""
        with self._lock:
            self._settled, self._source = True, None
        self._canvases.close()
        try:
            result = self._answer(outcome) if isinstance(outcome, StopReason) else outcome
        except Exception:
            log.exception("an answer of %s could not be made", self.model.name)
            result = BackendFailed("the answer could not be made from the model's output")
        with self._lock:
            self._picture = None
        self.release()
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, Answer):
            self.future.set_result(result)
        else:
            self.future.set_exception(result)

    def _answer(self, reason: StopReason) -> Answer:
        start = time.monotonic()
        answer = self._builder.answer(self._snapshot(), reason, start)
        receipt = answer.receipt
        self._metrics.answer(answer.model, reason, len(receipt.views), receipt.elapsed_ms / 1e3, receipt.stages_ms)
        return answer
