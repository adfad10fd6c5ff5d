"""The score of candidates on images without labels, and when an option counts as settled."""

import numpy as np
import pytest

from tta_server.onboarding.measured.information import Scores, decide, information, totals

A, B = [0.9, 0.1], [0.1, 0.9]


def of(*rows, times: int = 25) -> np.ndarray:
    return np.array([*rows] * times)


def test_sure_of_each_and_diverse_over_all() -> None:
    """By hand: ln 2 less the doubt of 0.9 and 0.1, which is 0.3251; nothing where all answers are alike, or unsure."""
    doubt = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    found = information([of(A, B), of(A, A), of([0.5, 0.5])])
    np.testing.assert_allclose(found.all, [np.log(2) - doubt, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found.doubts, [doubt, doubt, np.log(2)])
    np.testing.assert_allclose(found.classes, [2, np.exp(doubt), 2])


def test_draws_are_those_of_all_images_again_and_paired() -> None:
    found = information([of(A, B), of(A, B), of(B, A)])
    np.testing.assert_array_equal(found.draws[0], found.draws[1])
    assert abs(found.draws[0].mean() - found.all[0]) < 0.02


def verdict(best: float, next_best: float, noise: float = 0.0, doubts=(0.0, 0.0)) -> bool:
    draws = np.array([[best] * 400, [next_best] * 400]) + np.random.default_rng(0).normal(0, noise, (2, 400))
    scores = Scores(np.array([best, next_best]), draws, np.array(doubts), np.zeros(2))
    found = decide(scores, {"a": [0], "b": [1]}, 1.03)
    assert [name for name, _ in found.ranked] == ["a", "b"]
    return found.is_settled


@pytest.mark.parametrize(
    ("settled", "given"),
    [
        (True, {"best": 1.12, "next_best": 1.05}),
        (False, {"best": 1.05, "next_best": 1.04}),
        (False, {"best": 1.12, "next_best": 1.05, "noise": 0.1}),
        (False, {"best": 1.12, "next_best": 1.05, "doubts": (0.5, 0.4)}),
        (True, {"best": 1.12, "next_best": 0.3, "doubts": (0.5, 0.1)}),
    ],
    ids=["ahead", "too close", "by chance", "less sure", "all alike"],
)
def test_an_option_must_be_ahead_in_most_draws_and_no_less_sure(settled: bool, given) -> None:
    assert verdict(**given) is settled


def test_an_option_counts_by_its_best_candidate() -> None:
    scores = Scores(np.array([1.0, 3.0, 2.0]), np.array([[1.0], [3.0], [2.0]]), np.zeros(3), np.zeros(3))
    found = decide(scores, {"first": [0, 1], "second": [2]}, 1.03)
    assert (found.ranked, found.is_settled) == ([("first", 3.0), ("second", 2.0)], True)


def test_sums_over_images() -> None:
    found = totals(np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 1.0]]))
    np.testing.assert_allclose(found.all, [6, 2])
    assert found.draws.shape == (2, 400)
    assert abs(found.draws[0].mean() - 6) < 0.3
