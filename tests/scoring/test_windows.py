"""How many rows run together, how many images are open at once, and failures that are of no image."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.scoring import BROKEN, color_image, rows_of, toy, write_images
from tests.support.toys import trap_image, trap_model
from tta_server.backends import Backend, Outputs, Tensor
from tta_server.backends.cancel import Abort
from tta_server.errors import BackendFailed, DeviceLost
from tta_server.imaging.decoding import Limits
from tta_server.scoring.batches import BatchScorer, InputImage
from tta_server.scoring.formats import FORMATS
from tta_server.scoring.inputs import open_inputs
from tta_server.scoring.output import OutputFolder
from tta_server.scoring.run import Run, Task
from tta_server.scoring.scorer import Scorer, open_plan, read_scoring_options
from tta_server.serving.answer import Answer
from tta_server.serving.plan import Plan


class NotedBackend:
    """A real backend that notes the rows of each run; from the run of number `fails_at` on it fails with `error`."""

    def __init__(self, real: Backend) -> None:
        self.signature, self.device, self.ladder = real.signature, real.device, real.ladder
        self.permits, self.where = real.permits, real.where
        self._real = real
        self.runs: list[int] = []
        self.error: Exception | None = None
        self.fails_at = 0

    def infer(self, batch: Tensor, abort: Abort | None = None) -> Outputs:
        self.runs.append(len(batch))
        if self.error and len(self.runs) > self.fails_at:
            raise self.error
        return self._real.infer(batch)

    def close(self) -> None:
        self._real.close()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plan]:
    """Each image plain and mirrored."""
    found = open_plan(toy(tmp_path_factory.mktemp("models")), read_scoring_options({"min_views": "all"}))
    yield found
    found.model.retire()


@pytest.fixture
def backend(loaded: Plan) -> NotedBackend:
    return NotedBackend(loaded.model.backend)


@pytest.fixture
def plan(loaded: Plan, backend: NotedBackend) -> Plan:
    return replace(loaded, model=replace(loaded.model, backend=backend))


class Opened:
    """Images of which it is noted which were read."""

    def __init__(self, contents: Sequence[bytes]) -> None:
        self._contents = contents
        self.read: list[int] = []

    def __iter__(self) -> Iterator[InputImage]:
        for number in range(len(self._contents)):
            yield InputImage(str(number), lambda number=number: self._read(number))

    def _read(self, number: int) -> bytes:
        self.read.append(number)
        return self._contents[number]


GREY = color_image((90, 80, 70))


@pytest.mark.parametrize(
    ("images", "batch", "runs"),
    [(4, 3, [3, 3, 2]), (3, 2, [2, 2, 2]), (2, 5, [4]), (5, 1, [1] * 10), (0, 3, [])],
)
def test_rows_of_as_many_images_as_a_batch_has_rows_run_together(
    plan: Plan, backend: NotedBackend, images: int, batch: int, runs: list[int]
) -> None:
    found = list(BatchScorer(plan, batch, Limits()).score(Opened([GREY] * images)))
    assert len(found) == images
    assert backend.runs == runs


def test_a_model_of_one_row_runs_row_by_row(tmp_path: Path) -> None:
    """The plain view of each of 3 images, that are open together."""
    made = open_plan(trap_model(tmp_path / "traps", 1), read_scoring_options({"max_views": 1}))
    backend, images = NotedBackend(made.model.backend), Opened([trap_image()] * 3)
    found = BatchScorer(replace(made, model=replace(made.model, backend=backend)), 3, Limits()).score(images)
    assert [next(found).id, images.read] == ["0", [0, 1, 2]]
    assert all(isinstance(each.outcome, Answer) for each in found)
    assert backend.runs == [1, 1, 1]
    made.model.retire()


def test_images_that_can_not_be_decoded_take_no_place_in_a_batch(plan: Plan, backend: NotedBackend) -> None:
    list(BatchScorer(plan, 4, Limits()).score(Opened([GREY, BROKEN, GREY, BROKEN, GREY, GREY])))
    assert backend.runs == [4, 4]


@pytest.mark.parametrize("batch", [1, 2])
def test_a_scorer_takes_as_many_images_as_its_batch_and_can_be_opened_again(tmp_path: Path, batch: int) -> None:
    taken = iter([GREY] * 5)
    with Scorer(toy(tmp_path), batch=batch) as scorer:
        next(scorer.scored(taken))
        assert len(list(taken)) == 5 - batch
        scorer.close()
        (again,) = scorer([GREY])
    assert isinstance(again.outcome, Answer)


def test_no_more_images_are_open_than_a_batch_has_rows(plan: Plan) -> None:
    images = Opened([GREY] * 7)
    for number, _ in enumerate(BatchScorer(plan, 3, Limits()).score(images)):
        assert len(images.read) == min(7, (number // 3 + 1) * 3)


def test_large_images_are_open_one_at_a_time(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tta_server.scoring.batches.WINDOW_BYTES", 1)
    images = Opened([GREY] * 3)
    for number, _ in enumerate(BatchScorer(plan, 3, Limits()).score(images)):
        assert len(images.read) == number + 1


def test_a_device_that_is_lost_ends_the_run(plan: Plan, backend: NotedBackend) -> None:
    """It is no failure of the images, which another run may score."""
    backend.error, backend.fails_at = DeviceLost("the context is gone"), 2
    found = BatchScorer(plan, 2, Limits()).score(Opened([GREY] * 4))
    assert [next(found).id, next(found).id] == ["0", "1"]
    with pytest.raises(DeviceLost, match="the context is gone"):
        next(found)
    assert backend.runs == [2, 2, 2]


def test_of_a_batch_that_fails_each_row_runs_alone(plan: Plan, backend: NotedBackend) -> None:
    backend.error = BackendFailed("no")
    found = list(BatchScorer(plan, 2, Limits()).score(Opened([GREY] * 2)))
    assert [each.outcome for each in found] == ["no"] * 2
    assert backend.runs == [2, 1, 1, 2, 1, 1]


@pytest.mark.parametrize(("images", "shards"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3)])
def test_a_run_has_batches_of_one_shard_each(
    plan: Plan, backend: NotedBackend, tmp_path: Path, images: int, shards: int
) -> None:
    """Of each 4 images first 3 with 6 rows, then 1 with 2 rows."""
    listed = open_inputs(str(write_images(tmp_path / "photos", images)))
    task = Task(plan, listed, Limits(), OutputFolder(tmp_path / "out"), FORMATS["jsonl"], 4)
    assert task.shards.count == shards
    with task.output.locked():
        Run(task, 3, 1, {}, lambda scored: None).run()
    full, rest = divmod(images, 4)
    assert backend.runs == [3, 3, 2] * full + {0: [], 1: [2]}[rest]
    assert [row["id"] for row in rows_of(tmp_path / "out")] == [f"{number:03d}.png" for number in range(images)]
    assert list(task.output.entries()) == list(range(shards))
