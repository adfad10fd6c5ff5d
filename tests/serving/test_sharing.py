"""Equal requests share one run; a complete answer is stored, no other is; each follower is answered exactly once."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.support.examples import times
from tests.support.shared_runs import Run, Shared, waits
from tests.support.toys import faulty_model
from tta_server.errors import (
    BackendFailed,
    BudgetTooSmall,
    DeadlineExceeded,
    InvalidInput,
    Overloaded,
    TooLarge,
    TTAError,
    UnsupportedMedia,
)
from tta_server.repository.loader import load_model
from tta_server.repository.model import Model
from tta_server.scheduling.jobs import Priority
from tta_server.scheduling.stopping import StopReason
from tta_server.serving.sharing import digest_of
from tta_server.serving.ticket import Ticket
from tta_server.telemetry.observer import CacheEvicted, CacheHit, CacheMiss, ImageAnswered
from tta_server.telemetry.tracing import ClientTrace

CUT = StopReason.DEADLINE


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(faulty_model(tmp_path_factory.mktemp("models") / "toy"))


@pytest.fixture
def shared(toy: Model) -> Shared:
    return Shared(toy)


# ---- what is equal ----


@pytest.mark.parametrize(
    "other",
    [
        {"image": b"dog"},
        {"access": "another key"},
        {"policy": "plain"},
        {"max_views": 1},
        {"min_views": 2},
        {"merge": "vote"},
        {"stop": "certain"},
        {"top_k": 2},
        {"include": frozenset({"views"})},
        {"tensors": frozenset({"PROBABILITIES"})},
    ],
)
def test_a_request_that_differs_in_anything_runs(shared: Shared, other: dict[str, object]) -> None:
    shared.one("first")
    shared.runs[0].answer()
    assert not shared.one("second", **other).future.done()
    assert len(shared.runs) == 2


def test_a_stored_answer_is_for_any_budget_and_priority(shared: Shared) -> None:
    shared.one("first")
    shared.runs[0].answer()
    for budget_ms in (0.001, 9000.0):
        answer = shared.one("second", budget_ms, priority=Priority.BATCH).future.result(0)
        assert (answer.receipt.request_id, answer.receipt.budget_ms) == ("second", budget_ms)
        assert answer.receipt.cached
        assert set(answer.receipt.stages_ms.values()) == {0.0}
    assert len(shared.runs) == 1


def test_pixels_of_another_shape_are_another_image() -> None:
    pixels = np.arange(24, dtype=np.uint8)
    assert digest_of(pixels.reshape(2, 4, 3)) != digest_of(pixels.reshape(4, 2, 3))
    assert digest_of(pixels.reshape(2, 4, 3)) == digest_of(pixels.reshape(2, 4, 3).copy())
    strided = np.arange(48, dtype=np.uint8).reshape(2, 8, 3)[:, ::2]
    assert digest_of(strided) == digest_of(strided.copy())


# ---- what is stored ----


@pytest.mark.parametrize("reason", [StopReason.DEADLINE, StopReason.CAPACITY, StopReason.BACKEND_FAILED])
def test_an_answer_that_was_cut_short_is_not_stored(shared: Shared, reason: StopReason) -> None:
    shared.one()
    shared.runs[0].answer(5, reason)
    assert shared.sharing.nbytes == 0
    shared.one()
    assert len(shared.runs) == 2


def test_an_answer_of_a_replaced_model_is_not_stored(shared: Shared, toy: Model, tmp_path: Path) -> None:
    ticket, follower = shared.one(), shared.one("follower")
    shared.model = load_model(faulty_model(tmp_path / "toy"))
    shared.sharing.forget(toy)
    shared.runs[0].answer()
    assert follower.future.result(0).prediction == ticket.future.result(0).prediction
    assert shared.sharing.nbytes == 0


def test_forgetting_a_model_drops_its_answers(shared: Shared, toy: Model) -> None:
    shared.one()
    shared.runs[0].answer()
    assert shared.sharing.nbytes > 0
    shared.sharing.forget(toy)
    assert shared.sharing.nbytes == 0
    assert not shared.one().future.done()


def test_a_stored_answer_has_arrays_of_its_own(shared: Shared) -> None:
    ticket = shared.one()
    shared.runs[0].answer()
    own, hit = ticket.future.result(0), shared.one().future.result(0)
    assert own.tensors["DATA"].tobytes() == hit.tensors["DATA"].tobytes() == b"cat for all"
    own.tensors["DATA"][:] = 0
    assert shared.one().future.result(0).tensors["DATA"].tobytes() == b"cat for all"
    with pytest.raises(ValueError, match="read-only"):
        hit.tensors["DATA"][:] = 0


def test_answers_are_dropped_beyond_the_capacity(toy: Model) -> None:
    shared = Shared(toy, capacity=20_000)
    for number in range(20):
        shared.one(image=str(number).encode())
        shared.runs[-1].answer()
        assert 0 < shared.sharing.nbytes <= 20_000
    evicted = sum(event.answers for event in shared.events if isinstance(event, CacheEvicted))
    assert 0 < evicted < 20
    assert shared.one(image=b"19").future.done()
    assert not shared.one(image=b"0").future.done()


# ---- one run for requests under way ----


def test_equal_requests_under_way_are_one_run(shared: Shared) -> None:
    tickets = [shared.one(f"request {number}") for number in range(64)]
    assert len(shared.runs) == 1
    shared.runs[0].answer()
    answers = [ticket.future.result(0) for ticket in tickets]
    assert [answer.receipt.request_id for answer in answers[1:]] == [f"request {number}" for number in range(1, 64)]
    assert [answer.receipt.cached for answer in answers] == [False] + [True] * 63
    hits = [event for event in shared.events if isinstance(event, CacheHit)]
    assert (len(hits), all(hit.is_shared for hit in hits)) == (63, True)
    assert sum(isinstance(event, CacheMiss) for event in shared.events) == 1


def test_an_image_that_a_request_holds_twice_runs_once(shared: Shared) -> None:
    tickets = shared.ask(b"cat", b"dog", b"cat")
    assert [run.image for run in shared.runs] == [b"cat", b"dog"]
    for run in shared.runs:
        run.answer()
    contents = [ticket.future.result(0).prediction["content"] for ticket in tickets]
    assert contents == ["cat for all", "dog for all", "cat for all"]


def test_a_shorter_budget_does_not_wait_for_a_longer_one(shared: Shared) -> None:
    shared.one("patient", 1000.0)
    shared.one("urgent", 900.0)
    assert [run.caller.request_id for run in shared.runs] == ["patient", "urgent"]
    assert waits(shared.one("about the same", 999.0))


def test_an_interactive_request_does_not_wait_for_batch_work(shared: Shared) -> None:
    shared.one("batch", priority=Priority.BATCH)
    shared.one("interactive")
    assert len(shared.runs) == 2


def test_followers_hold_no_image_of_their_own(shared: Shared) -> None:
    image = b"a large image"
    shared.one(image=image)
    follower = shared.one(image=bytes(bytearray(image)))
    assert follower.image is image  # type: ignore[attr-defined]


def test_a_follower_has_no_partial_answers(shared: Shared) -> None:
    shared.one()
    follower = shared.one()
    assert follower.partial(0) is None
    shared.runs[0].cancel()
    shared.take_over()
    assert follower.partial(0) is not None


# ---- leaders without an answer for the others ----


@pytest.mark.parametrize("how", ["leaves", "fails"])
def test_the_next_follower_runs_in_place_of_a_leader_without_answer(shared: Shared, how: str) -> None:
    leader, second, third = shared.one("first"), shared.one("second", 1100.0), shared.one("third", 1050.0)
    if how == "leaves":
        assert leader.cancel()
    else:
        shared.runs[0].future.set_exception(BackendFailed("one bad batch"))
    shared.take_over()
    assert [run.caller.request_id for run in shared.runs] == ["first", "third"]
    shared.runs[1].answer()
    assert not third.future.result(0).receipt.cached
    assert second.future.result(0).receipt.cached


def test_a_refused_leader_refuses_no_follower(shared: Shared) -> None:
    shared.one("first")
    tickets = [shared.one(name) for name in ("second", "third")]
    shared.refuses = True
    shared.runs[0].cancel()
    shared.takeovers.pop(0)()
    with pytest.raises(Overloaded, match="no room for second"):
        tickets[0].future.result(0)
    shared.refuses = False
    shared.take_over()
    shared.runs[1].answer()
    assert tickets[1].future.result(0).prediction["content"] == "cat for all"


def test_a_refused_request_leaves_nothing_behind(shared: Shared) -> None:
    first = shared.one("first")
    shared.refuses = True
    with pytest.raises(Overloaded, match="no room for second"):
        shared.ask(b"cat", b"dog", b"dog", name="second")
    shared.refuses = False
    assert not shared.takeovers
    shared.one("third", image=b"dog")
    assert [run.caller.request_id for run in shared.runs] == ["first", "third"]
    shared.runs[0].answer()
    assert first.future.done()


@pytest.mark.parametrize("kind", [InvalidInput, UnsupportedMedia, TooLarge])
def test_what_is_wrong_with_the_image_is_so_for_all(shared: Shared, kind: type[TTAError]) -> None:
    tickets = [shared.one() for _ in range(3)]
    shared.runs[0].future.set_exception(kind("not an image"))
    errors = [ticket.future.exception(0) for ticket in tickets]
    assert [str(error) for error in errors] == ["not an image"] * 3
    assert {type(error) for error in errors} == {kind}
    assert len({id(error) for error in errors}) == 3
    assert len(shared.runs) == 1


def test_an_answer_cut_short_is_for_those_who_get_no_better(shared: Shared) -> None:
    shared.one("first", 1000.0)
    refused, fewer, more = shared.one("refused", 1000.0), shared.one("fewer", 1100.0), shared.one("more", 1200.0)
    shared.runs[0].answer(5, CUT)
    shared.refuses = True
    shared.takeovers.pop(0)()
    shared.refuses = False
    assert len(refused.future.result(0).receipt.views) == 5
    assert refused.future.result(0).receipt.stop_reason == CUT
    shared.take_over()
    shared.runs[1].answer(2, CUT)
    assert len(fewer.future.result(0).receipt.views) == 5
    shared.take_over()
    shared.runs[2].answer(6, CUT)
    assert (len(more.future.result(0).receipt.views), more.future.result(0).receipt.cached) == (6, False)
    assert shared.sharing.nbytes == 0


def test_of_answers_cut_short_the_one_of_most_views_is_kept(shared: Shared) -> None:
    shared.one("first")
    shared.one("second", 1100.0)
    last = shared.one("third", 1200.0)
    for run, views in enumerate((5, 2)):
        shared.runs[run].answer(views, CUT)
        shared.take_over()
    shared.runs[2].future.set_exception(BackendFailed("one bad batch"))
    assert len(last.future.result(0).receipt.views) == 5


def test_a_complete_answer_of_fewer_views_is_better_than_one_cut_short(shared: Shared) -> None:
    shared.one("first")
    heir, last = shared.one("second"), shared.one("third")
    shared.runs[0].answer(5, CUT)
    shared.take_over()
    shared.runs[1].answer(3, StopReason.CERTAIN)
    for ticket in (heir, last):
        assert ticket.future.result(0).receipt.stop_reason == StopReason.CERTAIN


def test_too_little_time_for_a_run_of_its_own_is_no_small_budget(shared: Shared) -> None:
    leader, follower = shared.one("first"), shared.one("second")
    leader.cancel()
    shared.refuses = BudgetTooSmall("give a larger budget")
    shared.take_over()
    with pytest.raises(DeadlineExceeded, match="the budget ended"):
        follower.future.result(0)


def test_after_their_deadline_followers_are_not_run(shared: Shared) -> None:
    shared.start = 0.0
    leader, follower, last = shared.one("first"), shared.one("second"), shared.one("third")
    leader.cancel()
    shared.take_over()
    assert len(shared.runs) == 1
    for ticket in (follower, last):
        with pytest.raises(DeadlineExceeded, match="the budget ended"):
            ticket.future.result(0)


def test_a_follower_that_leaves_is_not_run(shared: Shared) -> None:
    leader, follower = shared.one("first"), shared.one("second")
    assert follower.cancel()
    assert not follower.cancel()
    leader.cancel()
    assert not shared.takeovers


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_follower_that_leaves_as_it_takes_over_ends_its_run(shared: Shared, when: str) -> None:
    leader, follower, last = shared.one("first"), shared.one("second"), shared.one("third")
    leader.cancel()
    if when == "before":
        follower.cancel()
    shared.takeovers.pop(0)()
    if when == "after":
        assert follower.cancel()
    assert shared.runs[1].future.cancelled()
    shared.take_over()
    shared.runs[2].answer()
    assert last.future.done()


# ---- events for observers ----


def answered(shared: Shared) -> list[ImageAnswered]:
    """Of answers that other requests' runs have made: runs of these tests report none."""
    return [event for event in shared.events if isinstance(event, ImageAnswered)]


def test_an_answer_without_a_run_has_the_trace_of_its_request(shared: Shared) -> None:
    traces = [ClientTrace(letter * 32) for letter in "abc"]
    tickets = [shared.one(name, trace=trace) for name, trace in zip(("leader", "follower"), traces, strict=False)]
    shared.runs[0].answer()
    tickets.append(shared.one("later", trace=traces[2]))
    assert all(ticket.future.done() for ticket in tickets)
    assert [event.trace for event in answered(shared)] == traces[1:]


def test_a_refused_request_counts_no_answer_of_its_stored_images(shared: Shared) -> None:
    shared.one(image=b"cat")
    shared.runs[0].answer()
    shared.refuses = True
    with pytest.raises(Overloaded):
        shared.ask(b"cat", b"dog")
    assert not answered(shared)
    assert not [event for event in shared.events if isinstance(event, CacheHit)]


def test_a_follower_that_has_left_counts_no_answer(shared: Shared) -> None:
    """Its client has left, but the thread that cancels the ticket has not run yet."""
    shared.one()
    follower = shared.one()
    follower.future.cancel()
    shared.runs[0].answer()
    assert not answered(shared)


def test_an_image_whose_own_run_was_answered_is_counted_once(shared: Shared) -> None:
    """By that run, also if it gets an earlier answer that was cut short less."""
    shared.one("first")
    heir = shared.one("second")
    shared.runs[0].answer(5, CUT)
    shared.take_over()
    shared.runs[1].answer(2, CUT)
    assert len(heir.future.result(0).receipt.views) == 5
    assert heir.future.result(0).receipt.request_id == "second"
    assert not answered(shared)


def test_followers_name_the_model_that_answered(shared: Shared, toy: Model, tmp_path: Path) -> None:
    """The plan's was replaced, and closed, before the leader's run."""
    shared.admitted = load_model(faulty_model(tmp_path / "toy"))
    shared.one("leader")
    followers = [shared.one("follower"), shared.one("heir")]
    shared.runs[0].answer(5, CUT)
    shared.model = shared.admitted
    shared.take_over()
    shared.runs[1].answer()
    assert shared.sharing.nbytes == 0
    assert [follower.model is shared.admitted for follower in followers] == [True, True]


# ---- whatever comes in whatever order ----


class History(RuleBasedStateMachine):
    """Requests for three images with two keys; runs end, clients leave, models are replaced, at random."""

    CAPACITY = 15_000
    toy: Model

    def __init__(self) -> None:
        super().__init__()
        self.shared = Shared(replace(self.toy), self.CAPACITY)
        self.tickets: list[tuple[Ticket, str, str]] = []
        self.left: set[int] = set()
        self.number = 0
        self.complete: set[str] = set()

    @rule(
        image=st.sampled_from([b"cat", b"dog", b"cow"]),
        access=st.sampled_from("ab"),
        budget_ms=st.sampled_from([500.0, 1000.0, 2000.0]),
        is_refused=st.booleans(),
    )
    def ask(self, image: bytes, access: str, budget_ms: float, is_refused: bool) -> None:
        self.number += 1
        name, before = f"request {self.number}", len(self.shared.runs)
        self.shared.refuses = is_refused
        try:
            ticket = self.shared.one(name, budget_ms, image, access=access)
        except Overloaded:
            return
        finally:
            self.shared.refuses = False
        content = f"{image.decode()} for {access}"
        if len(self.shared.runs) == before and ticket.future.done():
            assert content in self.complete
        self.tickets.append((ticket, name, content))

    def under_way(self) -> list[Run]:
        return [run for run in self.shared.runs if not run.future.done()]

    @precondition(lambda self: self.under_way())
    @rule(data=st.data(), how=st.sampled_from(["complete", "cut", "fails", "invalid"]))
    def end(self, data: st.DataObject, how: str) -> None:
        run = data.draw(st.sampled_from(self.under_way()))
        if how == "complete":
            self.complete.add(run.content)
            run.answer()
        elif how == "cut":
            run.answer(data.draw(st.integers(1, 7)), CUT)
        elif how == "fails":
            run.future.set_exception(BackendFailed(run.caller.request_id))
        else:
            run.future.set_exception(InvalidInput(run.content))

    @precondition(lambda self: self.shared.takeovers)
    @rule(is_refused=st.booleans())
    def take_over(self, is_refused: bool) -> None:
        self.shared.refuses = is_refused
        self.shared.takeovers.pop(0)()
        self.shared.refuses = False

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), is_first_cancelled=st.booleans())
    def leave(self, data: st.DataObject, is_first_cancelled: bool) -> None:
        ticket, _, _ = data.draw(st.sampled_from(self.tickets))
        if is_first_cancelled:
            ticket.future.cancel()
        ticket.cancel()
        self.left.add(id(ticket))

    @rule()
    def reload(self) -> None:
        old, self.shared.model = self.shared.model, replace(self.toy)
        self.shared.sharing.forget(old)
        self.complete.clear()
        assert self.shared.sharing.nbytes == 0

    @invariant()
    def bytes_are_bounded(self) -> None:
        assert self.shared.sharing.nbytes <= self.CAPACITY

    @invariant()
    def every_outcome_is_the_requests_own(self) -> None:
        for ticket, name, content in self.tickets:
            if not ticket.future.done() or ticket.future.cancelled():
                continue
            error = ticket.future.exception(0)
            if error is None:
                answer = ticket.future.result(0)
                assert answer.prediction["content"] == content
                assert answer.receipt.request_id == (name if answer.receipt.cached else content)
            else:
                assert str(error) in (name, f"no room for {name}", content)

    def teardown(self) -> None:
        while self.under_way() or self.shared.takeovers:
            self.shared.take_over()
            for run in self.under_way():
                run.future.set_exception(BackendFailed(run.caller.request_id))
        assert all(ticket.future.done() for ticket, _, _ in self.tickets)
        assert {id(ticket) for ticket, _, _ in self.tickets if ticket.future.cancelled()} <= self.left
        assert len(self.shared.sharing._flights) == 0


def test_any_history(toy: Model, caplog: pytest.LogCaptureFixture) -> None:
    """What a future's callback raises is only logged, such as that it was settled before."""
    History.toy = toy
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        run_state_machine_as_test(
            History, settings=settings(max_examples=times(400), stateful_step_count=30, deadline=None)
        )
    assert not [record for record in caplog.records if record.name == "concurrent.futures"]
