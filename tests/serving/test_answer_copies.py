"""Which answers may be shared, what they take, and the copy that a request gets."""

from dataclasses import replace

import numpy as np
import pytest

from tests.support.shared_runs import answer_of
from tests.support.toys import faulty_model
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.answer import Answer
from tta_server.serving.answer_copies import is_complete, readdressed, size_of
from tta_server.serving.deadline import Deadline
from tta_server.tasks.render.rendering import Rendered


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(faulty_model(tmp_path_factory.mktemp("models") / "toy"))


COMPLETE = {
    StopReason.ALL_VIEWS: True,
    StopReason.CERTAIN: True,
    StopReason.CONFIDENT: True,
    StopReason.SETTLED: True,
    StopReason.PRECISE: True,
    StopReason.DEADLINE: False,
    StopReason.CAPACITY: False,
    StopReason.BACKEND_FAILED: False,
}


@pytest.mark.parametrize("reason", StopReason)
def test_every_stop_reason_is_complete_or_not(toy: Model, reason: StopReason) -> None:
    assert is_complete(answer_of(toy, "content", 8, reason)) is COMPLETE[reason]


def test_a_stop_rule_needs_no_further_view_but_all_views_are_all(toy: Model) -> None:
    assert is_complete(answer_of(toy, "content", 3, StopReason.CERTAIN))
    assert not is_complete(answer_of(toy, "content", 3, StopReason.ALL_VIEWS))
    assert not is_complete(answer_of(toy, "content", 3, None))


def test_an_answer_that_lacks_a_dropped_view_is_not_complete(toy: Model) -> None:
    answer = answer_of(toy, "content", 8, StopReason.CERTAIN)
    assert not is_complete(replace(answer, receipt=replace(answer.receipt, dropped=1)))


def rendered(toy: Model, rendering: Rendered) -> Answer:
    return replace(answer_of(toy, ""), rendering=rendering)


def test_each_part_counts_in_the_size(toy: Model) -> None:
    empty = size_of(rendered(toy, Rendered()))
    assert size_of(rendered(toy, Rendered(picture=bytes(10_000)))) == empty + 10_000
    assert size_of(rendered(toy, Rendered(tensors={"A": np.zeros(10_000, np.float32)}))) >= empty + 40_000
    assert size_of(rendered(toy, Rendered({"boxes": [[float(n)] * 4 for n in range(100)]}))) >= empty + 400 * 24


def test_a_copy_has_its_own_receipt_and_the_same_content(toy: Model) -> None:
    answer = answer_of(toy, "content", 5, StopReason.CERTAIN)
    copy = readdressed(answer, "mine", Deadline(0.0, 250.0), waited=0.5)
    assert copy.prediction is answer.prediction
    assert (copy.receipt.request_id, copy.receipt.budget_ms, copy.receipt.cached) == ("mine", 250.0, True)
    assert copy.receipt.stages_ms["queue"] == 500.0
    assert copy.receipt.stop_reason is StopReason.CERTAIN
    assert copy.made_at > answer.made_at
    assert (answer.receipt.request_id, answer.receipt.cached) == ("content", False)
