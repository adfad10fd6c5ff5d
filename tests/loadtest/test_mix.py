"""What the users of the load test send, and what counts as a failure."""

import random

import pytest

from loadtest.mix import BUDGETS, PRIORITIES, VIEWS, Ask, Reply, Views, draw, exit_status

ASK = Ask("clothing", "short", "batch", b"")


def test_the_mix_has_all_models_budgets_and_priorities_by_their_weights() -> None:
    random.seed(0)
    drawn = [draw({"clothing": [b"a"], "nuclei": [b"b"]}) for _ in range(7000)]
    assert {(each.model, each.image) for each in drawn} == {("clothing", b"a"), ("nuclei", b"b")}
    assert {each.budget for each in drawn} == set(BUDGETS)
    assert sum(each.model == "clothing" for each in drawn) == pytest.approx(6000, abs=200)
    assert sum(each.priority == "batch" for each in drawn) == pytest.approx(7000 / sum(PRIORITIES.values()), abs=200)


def test_the_row_of_a_request_names_model_and_budget() -> None:
    assert (ASK.budget_ms, ASK.name, ASK.refused) == (50.0, "predict clothing (short)", "predict clothing (refused)")


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Reply(8, 50.0), ""),
        (Reply(8, 50.1), "the receipt's elapsed_ms exceeds the budget of 50 ms"),
        (Reply(retry_after_ms=0.0), ""),
        (Reply(error="504: too late"), "504: too late"),
    ],
)
def test_late_answers_and_errors_are_failures_and_refusals_are_not(reply: Reply, failure: str) -> None:
    assert reply.failure(ASK) == failure


def test_views_are_counted_by_protocol_and_row() -> None:
    seen = Views()
    for count in (VIEWS, VIEWS, VIEWS - 4):
        seen.add("gRPC", ASK, Reply(count, 1.0))
    seen.add("POST", ASK, Reply(1, 1.0))
    seen.add("POST", ASK, Reply(retry_after_ms=1.0))
    head, *rows = (line.split() for line in seen.lines())
    assert head == ["Type", "Name", "answers", "mean", "K", "all", "views"]
    mean = f"{VIEWS - 4 / 3:.2f}"
    assert rows == [
        ["POST", "predict", "clothing", "(short)", "1", "1.00", "0%"],
        ["gRPC", "predict", "clothing", "(short)", "3", mean, "67%"],
    ]


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        ({"POST a": (95, 5), "gRPC a": (5, 0), "POST (refused)": (900, 0)}, 0),
        ({"POST a": (95, 5), "gRPC a": (4, 0), "POST (refused)": (900, 0)}, 1),
        ({"POST (refused)": (9, 0)}, 0),
        ({}, 1),
    ],
)
def test_the_exit_status_is_1_if_over_5_percent_of_the_admitted_failed_or_nothing_was_sent(
    counts: dict[str, tuple[int, int]], status: int
) -> None:
    assert exit_status(counts) == status
