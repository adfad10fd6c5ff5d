"""What an actor does on its node: loads the model once, reads images, scores shards."""

import io
import platform
import tarfile
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tta_server.errors import BackendUnavailable, TTAError
from tta_server.imaging.decoding import Limits
from tta_server.imaging.inputs import unreadable
from tta_server.imaging.libraries import configure_libraries
from tta_server.scoring.batch_size import measure_batch
from tta_server.scoring.batches import BatchScorer, InputImage
from tta_server.scoring.formats import choose_format
from tta_server.scoring.inputs import Inputs
from tta_server.scoring.manifest import fingerprint
from tta_server.scoring.output import Shard
from tta_server.scoring.schema import Schema, schema_of
from tta_server.scoring.scorer import open_plan
from tta_server.scoring.shards import AHEAD, SHARD, Row, RowMaker, ShardScorer
from tta_server.serving.image import Image
from tta_server.serving.plan import Options

MOST_NAMED = 5
"""Failures of a shard that are reported beside its rows."""


def pack_folder(folder: Path) -> bytes:
    """The files of a model's folder, with those that links lead to, for nodes that do not have it. Raises OSError."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
        archive.add(folder, folder.absolute().name)
    return packed.getvalue()


@dataclass(frozen=True, slots=True)
class Setup:
    """How an actor scores.

    `batch` is None where it is to be measured; `model` is the name of the packed folder, `size` the images of a shard.
    """

    model: str
    options: Options
    limits: Limits
    format: str
    threads: int
    batch: int | None
    size: int = SHARD


@dataclass(frozen=True, slots=True)
class Opened:
    """A model that an actor has loaded, and what its results depend on."""

    node: str
    batch: int
    fingerprint: Mapping[str, Any]
    schema: Schema
    warnings: Sequence[str]


@dataclass(frozen=True, slots=True)
class ShardResult:
    """A shard, the first of its failures, and the numbers within it of images that could not be read on the node."""

    node: str
    shard: Shard
    failures: Sequence[Row]
    unread: Sequence[int]


@dataclass(frozen=True, slots=True)
class Refused:
    """Why this actor can't score, in one sentence; another on this node could not either."""

    sentence: str


class ShardWorker:
    """An actor. Its calls run one after the other."""

    def open(self, setup: Setup, model: bytes) -> Opened | Refused:
        """Load the model; its files are on this node only meanwhile."""
        configure_libraries()
        self._setup, self._node = setup, platform.node()
        with TemporaryDirectory(prefix="tta-server-") as place:
            with tarfile.open(fileobj=io.BytesIO(model)) as archive:
                archive.extractall(place, filter="data")
            try:
                return self._open(Path(place) / setup.model)
            except TTAError as error:
                reason = error.reason if isinstance(error, BackendUnavailable) else str(error)
                return Refused(f"node {self._node}: {reason.replace(place + '/', '')}")

    def _open(self, folder: Path) -> Opened:
        setup, form = self._setup, choose_format(self._setup.format)
        plan = open_plan(folder, setup.options)
        batch = setup.batch or measure_batch(plan)
        self._failures: list[Row] = []
        schema = schema_of(plan)
        maker = RowMaker(BatchScorer(plan, batch, setup.limits), form, schema)
        self._shards = ShardScorer(maker.rows, batch, form, schema, self._note, setup.size)
        self._threads = ThreadPoolExecutor(setup.threads, thread_name_prefix="score")
        made_of = fingerprint(plan, folder, batch, form.name, setup.limits)
        return Opened(self._node, batch, made_of, schema, [each.sentence for each in plan.model.observed.warnings])

    def score(self, number: int, part: Inputs) -> ShardResult | Refused:
        """Score the images of `part`, which are shard `number`."""
        self._failures = []
        unread: list[int] = []
        images = part.images(0, len(part), self._setup.limits)
        try:
            rows = self._rows(_watched(image, n, unread) for n, image in enumerate(images))
        except OSError as error:
            return Refused(f"node {self._node}: {error.filename or 'the images'}: {unreadable(error)}")
        return ShardResult(self._node, self._shards.shard(number, rows), self._failures[:MOST_NAMED], sorted(unread))

    def _rows(self, images: Iterable[InputImage]) -> Sequence[Row]:
        """The rows of a shard; images are opened a few chunks ahead of those that are scored."""
        works: deque[Future[Sequence[Row]]] = deque()
        rows: list[Row] = []
        for chunk in self._shards.chunks(images):
            works.append(self._threads.submit(self._shards.rows, chunk))
            if len(works) >= AHEAD * self._setup.threads:
                rows += works.popleft().result()
        return rows + [row for work in works for row in work.result()]

    def _note(self, row: Row) -> None:
        if row.error is not None:
            self._failures.append(row)


def _watched(image: InputImage, number: int, unread: list[int]) -> InputImage:
    """The same image, whose number is noted where it can't be read."""
    return replace(image, read=partial(_read, image, number, unread))


def _read(image: InputImage, number: int, unread: list[int]) -> Image:
    try:
        return image.read()
    except (OSError, TTAError):
        unread.append(number)
        raise
