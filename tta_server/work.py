"""One image of one request as slots work on it: decode, write views, merge, answer."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from tta_server.abort import Abort
from tta_server.answer import Answer, Receipt, view_entry
from tta_server.backends import Tensor
from tta_server.deadline import Deadline
from tta_server.errors import BackendFailed, TTAError
from tta_server.geometry import Size
from tta_server.imaging.decoding import Header, Pixels, decode_picture
from tta_server.imaging.samples import DROP, Levels, Picture, Rendering
from tta_server.jobs import LOST, Merged, Outcome
from tta_server.metrics import STAGES, Metrics
from tta_server.plan import Layout, Plan
from tta_server.preprocessing import Canvas
from tta_server.statistics import Statistics
from tta_server.stopping import StopReason
from tta_server.tasks import Answered, Outputs, Scene
from tta_server.tasks.palette import encoded, png
from tta_server.views import View

log = logging.getLogger(__name__)

DRAWING = "drawing"
"""What a request includes to get the answer painted on its image."""


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What some views come to: the merged prediction, and each view's index with what is kept of it."""

    merged: Any
    views: Sequence[tuple[int, Any]]


Listener = Callable[[Snapshot], None]
"""Called on a slot's thread, which it must not hold."""


class ImageWork:
    """Settles `future` exactly once. Methods run on slots' threads, several at a time."""

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
        self._source: Source | None = source
        self._scene = Scene(source.size, layout.plain, layout.tiles)
        self._deadline = deadline
        self._request_id = request_id
        self._metrics = metrics
        self._listener = listener
        self._lock = threading.Lock()
        self._pixels: Pixels | None = None
        self._picture: Pixels | None = None
        self._canvases: dict[float, Canvas] = {}
        self._accumulator = model.task.accumulator(plan.merge, plan.wanted, self._scene)
        self._merged: list[tuple[int, Any]] = []
        self._waiting = set(range(len(layout.placements)))
        self._dropped = 0
        self._open: float | None = None
        self._levels: Levels | None = None
        self._stop: StopReason | None = None
        self._settled = False
        self._stages = dict.fromkeys(STAGES, 0.0)
        self._queued_since = deadline.start

    def decode(self) -> None:
        """The image and the plain view's canvas; the other canvases wait until a view needs them."""
        start = self._dequeued()
        source, self._source = self._source, None
        if source is None:
            return
        picture = source.open()
        self._pixels, self._levels = picture.pixels, picture.levels
        self._canvas(1.0)
        if self._draws:
            self._picture = self._pixels
        if all(view.scale == 1 for view in self.plan.views):
            self._pixels = None
        self._queued_since = time.monotonic()
        self._stages["decode"] += self._queued_since - start

    def _dequeued(self) -> float:
        """Ends a spell of waiting for a slot, of which there are two: for decoding, and for the first view."""
        now = time.monotonic()
        if self._queued_since:
            self._stages["queue"] += now - self._queued_since
            self._queued_since = 0.0
        return now

    def _canvas(self, scale: float) -> Canvas | None:
        """The canvas for one content size, straight from the image, made once; None if the job is settled."""
        with self._lock:
            if scale not in self._canvases and self._pixels is not None:
                self._canvases[scale] = self.model.preprocessing.canvas(self._pixels, scale)
            return self._canvases.get(scale)

    def write(self, index: int, row: Tensor) -> None:
        """Writes a view into its row of a batch; nothing matters there if the job is settled already."""
        self._dequeued()
        view = self._view(index)
        canvas = self._canvas(view.scale)
        if canvas is None:
            row.fill(0)
        else:
            self.model.preprocessing.write(canvas, view, self.layout.placements[index], row)

    def merge(self, index: int, outputs: Outputs, row: int) -> Outcome:
        """Moves a view's prediction back and merges it; LOST where it holds NaN."""
        task, view = self.model.task, self._view(index)
        prediction = task.decode(outputs, row, self.layout.placements[index], self._scene)
        if not task.is_sound(prediction):
            log.warning("the output of %s for view %r holds NaN or infinity", self.model.name, view.name)
            self._metrics.dropped(self.model.name)
            with self._lock:
                self._dropped += 1
                self._waiting.discard(index)
            return LOST
        remark = task.remark(prediction) if self._keeps_remarks else None
        with self._lock:
            if self._settled:
                return Merged()
            self._accumulator.add(prediction, view.weight)
            self._merged.append((index, remark))
            self._waiting.discard(index)
            if not self._waiting:
                return Merged()
            views, rest = divmod(len(self._merged), self.layout.tiles)
            if rest or not views:
                return Merged()
            worth = self.plan.worth(self.margin(), views)
            self._stop = self.plan.rule.decide(self)
            return Merged(worth, self._stop)

    def tell(self) -> None:
        """After each batch, from the plain view on: what the views so far come to, for a client that listens; not if
        the answer follows."""
        if self._listener is None:
            return
        with self._lock:
            whole = self._waiting.isdisjoint(range(self.layout.tiles))
            if self._settled or self._stop or not self._merged or not whole or not self._waiting:
                return
            snapshot = self._snapshot()
        self._listener(snapshot)

    def _snapshot(self) -> Snapshot:
        return Snapshot(self._accumulator.result(), sorted(self._merged, key=lambda entry: entry[0]))

    def margin(self) -> float:
        return self._accumulator.margin()

    def views_in_order(self) -> int:
        items, tiles = len(self.layout.placements), self.layout.tiles
        first = min(self._waiting, default=items)
        return len(self._merged) // tiles if first == items - len(self._waiting) else 0

    def undecided(self) -> float:
        placements = self.layout.placements
        self._open = self._accumulator.undecided([(placements[i], self._view(i).weight) for i in self._waiting])
        return self._open

    def standard_error(self) -> float:
        return self._accumulator.standard_error()

    def _view(self, index: int) -> View:
        """The view of an entry of the layout."""
        return self.plan.views[index // self.layout.tiles]

    @property
    def _draws(self) -> bool:
        return DRAWING in self.plan.wanted.include

    @property
    def _keeps_remarks(self) -> bool:
        """An image looked at in tiles has none: each view's own answer would be as many parts."""
        return self.plan.keeps_remarks and self.layout.tiles == 1

    def spent(self, prepare: float = 0.0, infer: float = 0.0, merge: float = 0.0) -> None:
        """Its share of a batch's seconds."""
        with self._lock:
            self._stages["prepare"] += prepare
            self._stages["infer"] += infer
            self._stages["merge"] += merge

    def settle(self, outcome: StopReason | TTAError) -> None:
        """Answers with what is merged, or fails; a client that has left hears nothing."""
        with self._lock:
            self._settled = True
            self._pixels, self._source = None, None
            self._canvases.clear()
        try:
            result = self._answer(outcome) if isinstance(outcome, StopReason) else outcome
        except Exception:
            log.exception("an answer of %s could not be made", self.model.name)
            result = BackendFailed("the answer could not be made from the model's output")
        self._picture = None
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, Answer):
            self.future.set_result(result)
        else:
            self.future.set_exception(result)

    def _answer(self, reason: StopReason) -> Answer:
        start = time.monotonic()
        answer = self.answer(self._snapshot(), reason, start)
        receipt = answer.receipt
        self._metrics.answer(answer.model, reason, len(receipt.views), receipt.elapsed_ms / 1e3, receipt.stages_ms)
        return answer

    def answer(self, snapshot: Snapshot, reason: StopReason | None, start: float) -> Answer:
        """What a snapshot answers; with no reason yet, others may follow. `start` is when making it began."""
        model, plan = self.model, self.plan
        remarks = [remark for _, remark in snapshot.views] if self._keeps_remarks else []
        answered = self._answered(snapshot.merged, remarks)
        if self._draws and self._picture is not None:
            painted = model.task.paint(self._picture, answered.prediction)
            answered.prediction[DRAWING] = encoded(png(Image.fromarray(painted)))
        views = self._entries([index for index, _ in snapshot.views])
        if remarks and "views" in plan.wanted.include:
            views = [v | own for v, own in zip(views, answered.views, strict=True)]
        confidence = model.task.confidence(snapshot.merged)
        now = time.monotonic()
        self.spent(merge=now - start)
        receipt = Receipt(
            views=views,
            planned=len(plan.views),
            dropped=self._dropped,
            merge=plan.merge,
            stop=plan.stop.to_json(),
            stop_reason=reason,
            confidence=None if confidence is None else round(confidence, 6),
            budget_ms=self._deadline.budget_ms,
            elapsed_ms=round((now - self._deadline.start) * 1e3, 3),
            stages_ms={stage: round(seconds * 1e3, 3) for stage, seconds in self._stages.items()},
            policy=plan.policy,
            request_id=self._request_id,
            open=self._open if reason is StopReason.SETTLED else None,
            tiles=self.layout.tiles,
            uncertainty=answered.uncertainty,
            levels=self._levels,
        )
        return Answer(
            model.name,
            model.version,
            model.task.name,
            answered.prediction,
            receipt,
            answered.picture,
            now,
            answered.tensors,
        )

    def _answered(self, merged: Any, remarks: Sequence[Any]) -> Answered:
        task, wanted = self.model.task, self.plan.wanted
        if not wanted.tensors:
            return task.answer(merged, remarks, self._scene, wanted)
        tensors = task.tensors(merged, self._scene, wanted.tensors)
        own = task.answer(merged, remarks, self._scene, wanted) if wanted.include else Answered({})
        return replace(own, prediction={}, picture=None, tensors={name: tensors[name] for name in wanted.tensors})

    def _entries(self, merged: Sequence[int]) -> list[dict[str, Any]]:
        """The views that these entries of the layout belong to; of one that lacks some, how many tiles it has."""
        tiles = self.layout.tiles
        counts = Counter(index // tiles for index in merged)
        return [
            view_entry(self.plan.views[view]) | ({} if count == tiles else {"tiles": count})
            for view, count in sorted(counts.items())
        ]


class ModelRunner:
    """Runs views: write, infer, merge."""

    def __init__(self, statistics: Statistics | None = None) -> None:
        self._statistics = statistics or Statistics()

    def run(self, items: Sequence[tuple[ImageWork, int]], abort: Abort | None = None) -> list[Outcome]:
        """All items have the same input size and one model's name: where that model has just been loaded anew, some
        are still of the old one. Raises BackendFailed."""
        models = dict.fromkeys(work.model for work, _ in items)
        if len(models) == 1:
            return self._run(items, abort)
        outcomes: dict[int, Outcome] = {}
        for model in models:
            own = [i for i, (work, _) in enumerate(items) if work.model is model]
            outcomes |= zip(own, self._run([items[i] for i in own], abort), strict=True)
        return [outcomes[i] for i in range(len(items))]

    def _run(self, items: Sequence[tuple[ImageWork, int]], abort: Abort | None) -> list[Outcome]:
        start = time.monotonic()
        batch = self._written(items)
        written = time.monotonic()
        model = items[0][0].model
        outputs = model.backend.infer(batch, abort)
        inferred = time.monotonic()
        outcomes = [work.merge(view, outputs, i) for i, (work, view) in enumerate(items)]
        merged = time.monotonic()
        self._statistics.batch(model.key, len(items), written - start, inferred - written, merged - inferred)
        for work, _ in items:
            work.spent(
                (written - start) / len(items), (inferred - written) / len(items), (merged - inferred) / len(items)
            )
            work.tell()
        return outcomes

    def infer(self, items: Sequence[tuple[ImageWork, int]]) -> Outputs:
        """The model's raw outputs for these views, merged nowhere."""
        return items[0][0].model.backend.infer(self._written(items))

    def _written(self, items: Sequence[tuple[ImageWork, int]]) -> Tensor:
        work, index = items[0]
        batch = work.model.preprocessing.empty(len(items), work.layout.placements[index].tensor)
        for row, (work, index) in zip(batch, items, strict=True):
            work.write(index, row)
        return batch
