"""Fitting a calibration: exact bounds, thresholds tested in a fixed order, flip rates by margin."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import times
from tta_server.calibration.fit import (
    CONFIDENCE,
    EDGES,
    THRESHOLDS,
    Run,
    Runs,
    apply_threshold,
    binomial_cdf,
    check_image_count,
    fit_calibration,
    flip_rates,
    mean_started_views,
    select_threshold,
    upper_bound,
)
from tta_server.errors import InvalidInput
from tta_server.repository.calibration import Calibration
from tta_server.scheduling.stopping import Confident

margins = st.one_of(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.3, 0.5, 0.99, 1.0]))
run_lists = st.integers(1, 6).flatmap(
    lambda views: st.lists(
        st.builds(
            Run,
            st.lists(margins, min_size=views, max_size=views),
            st.lists(st.integers(0, 2), min_size=views, max_size=views),
        ),
        min_size=1,
        max_size=40,
    )
)


def simulated(images: int, seed: int, views: int = 6) -> Runs:
    """Margins that tell how likely the first answers are wrong, as those of a well calibrated network do."""
    source = np.random.default_rng(seed)
    ease = source.beta(4, 0.5, images)
    found = np.clip(ease[:, None] + source.normal(0, 0.05, (images, views)), 0, 1)
    wrong = source.random((images, views)) < 0.5 * (1 - found) ** 1.5
    wrong[:, -1] = False
    return Runs(found / np.sqrt(np.arange(1, views + 1)), wrong.astype(np.int64))


# ---- the bound ----


@pytest.mark.parametrize(
    ("found", "of", "expected"),
    [
        (0, 1, 0.95),
        (0, 10, 0.2588656),
        (0, 299, 0.0099693),
        (0, 1000, 0.0029913),
        (1, 10, 0.3941633),
        (5, 10, 0.7775589),
        (10, 10, 1.0),
    ],
)
def test_the_bound_is_clopper_and_pearsons(found: int, of: int, expected: float) -> None:
    assert upper_bound(found, of) == pytest.approx(expected, abs=2e-7)


@given(st.integers(1, 60).flatmap(lambda of: st.tuples(st.integers(0, of), st.just(of))), st.integers(1, 99))
def test_the_binomial_tail_is_the_sum_of_exact_terms(counts: tuple[int, int], percent: int) -> None:
    (found, of), rate = counts, Fraction(percent, 100)
    exact = sum(math.comb(of, k) * rate**k * (1 - rate) ** (of - k) for k in range(found + 1))
    assert binomial_cdf(found, of, percent / 100) == pytest.approx(float(exact), rel=1e-9)


@given(st.integers(2, 20_000).flatmap(lambda of: st.tuples(st.integers(0, min(of - 1, 300)), st.just(of))))
def test_at_the_bound_at_most_that_many_have_a_probability_of_five_percent(counts: tuple[int, int]) -> None:
    found, of = counts
    bound = upper_bound(found, of)
    assert found / of < bound <= 1
    assert binomial_cdf(found, of, bound) == pytest.approx(1 - CONFIDENCE, rel=1e-5)


# ---- applying a threshold ----


@given(run_lists, st.sampled_from(THRESHOLDS))
def test_a_threshold_stops_where_the_rule_would(found: list[Run], threshold: float) -> None:
    class Evidence:
        def __init__(self, margin: float, views: int) -> None:
            self.margin = lambda: margin
            self.views_in_order = lambda: views

        def undecided(self) -> float:
            raise AssertionError("not asked for")

    rule, stops, changed = Confident(threshold), [], 0
    for run in found:
        reasons = [rule.decide(Evidence(margin, k)) for k, margin in enumerate(run.margins, 1)]
        stop = next((k for k, reason in enumerate(reasons, 1) if reason), len(reasons))
        stops.append(stop)
        changed += run.labels[stop - 1] != run.labels[-1]
    outcome = apply_threshold(Runs.of(found), threshold)
    assert outcome.mean_views == pytest.approx(np.mean(stops))
    assert outcome.disagreements == changed
    assert outcome.bound == upper_bound(changed, len(found))


def test_each_further_idle_slot_starts_one_more_view() -> None:
    """Margins reach 0.9 at the first, second and third of 5 views, and never."""
    margins = [[0.9, 1, 1, 1, 1], [0, 0.9, 1, 1, 1], [0, 0, 0.9, 1, 1], [0, 0, 0, 0, 0]]
    runs = Runs(np.array(margins), np.zeros((4, 5), np.int64))
    assert mean_started_views(runs, 0.9, 1) == (1 + 2 + 3 + 5) / 4
    assert mean_started_views(runs, 0.9, 2) == (2 + 3 + 4 + 5) / 4
    assert mean_started_views(runs, 0.9, 4) == (4 + 5 + 5 + 5) / 4


@given(st.integers(0, 2**32 - 1), st.floats(0, 3))
def test_one_slot_starts_what_the_fit_counts(seed: int, threshold: float) -> None:
    runs = simulated(50, seed)
    expected = apply_threshold(runs, threshold).mean_views  # summed in another order
    assert mean_started_views(runs, threshold, 1) == pytest.approx(expected)


def test_thresholds_go_from_never_to_always() -> None:
    assert list(THRESHOLDS) == sorted(set(THRESHOLDS), reverse=True)
    assert apply_threshold(simulated(50, 0), THRESHOLDS[0]).mean_views == 6
    assert apply_threshold(simulated(50, 0), THRESHOLDS[-1]).mean_views == 1


# ---- fixed-sequence testing ----


def runs_at(*groups: tuple[int, float, bool]) -> Runs:
    """Images, each group's count with the margin after the first of two views, and whether that view was wrong."""
    return Runs.of([Run([margin, 1.0], [int(wrong), 0]) for n, margin, wrong in groups for _ in range(n)])


def test_testing_ends_at_the_first_failure_whatever_would_pass_later() -> None:
    """Twelve images are right after one view, at a margin of 0.5, and after all three, but wrong in between at 0.95."""
    early = [Run([0.5, 0.95, 1.0], [0, 1, 0])] * 12
    runs = Runs.of([*early, *[Run([0.99, 1.0, 1.0], [0, 0, 0])] * 488])
    passing = [t for t in THRESHOLDS if apply_threshold(runs, t).bound <= 0.01]
    kept = select_threshold(runs, 0.01)
    assert min(passing) == 0.0, "stopping at once is right for every image"
    assert kept.threshold > 0.95, "but testing ends at a threshold before it that fails"
    following = THRESHOLDS[THRESHOLDS.index(kept.threshold) + 1]
    assert apply_threshold(runs, following).bound > 0.01


@given(st.integers(0, 1000), st.sampled_from([0.01, 0.02, 0.05, 0.3]))
def test_every_threshold_up_to_the_one_kept_passes_and_the_next_fails(seed: int, epsilon: float) -> None:
    runs = simulated(400, seed)
    kept = select_threshold(runs, epsilon)
    upto = THRESHOLDS.index(kept.threshold) + 1
    assert all(apply_threshold(runs, t).bound <= epsilon for t in THRESHOLDS[:upto])
    assert upto == len(THRESHOLDS) or apply_threshold(runs, THRESHOLDS[upto]).bound > epsilon


def test_a_smaller_epsilon_never_stops_earlier() -> None:
    runs = simulated(5000, 3)
    found = [select_threshold(runs, epsilon) for epsilon in (0.002, 0.01, 0.05)]
    assert sorted((r.mean_views for r in found), reverse=True) == [r.mean_views for r in found]
    assert found[0].mean_views > found[2].mean_views


def test_the_promise_is_broken_no_more_often_than_its_confidence_allows() -> None:
    """At most 5 % of the calibrations may promise too much; by 3 standard deviations of that count."""
    calibrations = max(75, times(300))  # of fewer none might promise too much
    world, source = simulated(40_000, 1), np.random.default_rng(2)
    rates = {t: apply_threshold(world, t).disagreements / world.images for t in THRESHOLDS}
    broken = 0
    for _ in range(calibrations):
        drawn = source.integers(0, world.images, 600)
        broken += rates[select_threshold(Runs(world.margins[drawn], world.labels[drawn]), 0.02).threshold] > 0.02
    assert broken <= calibrations * 0.05 + 3 * math.sqrt(calibrations * 0.05 * 0.95)
    assert broken > 0, "a bound that never fails would be far too wide"


@pytest.mark.parametrize(("epsilon", "needed"), [(0.05, 59), (0.01, 299), (0.002, 1497), (0.001, 2995)])
def test_too_few_images_are_refused_with_the_number_that_would_do(epsilon: float, needed: int) -> None:
    with pytest.raises(
        InvalidInput, match=f"epsilon {epsilon:g} takes at least {needed} images.* there are {needed - 1}"
    ):
        select_threshold(runs_at((needed - 1, 0.9, False)), epsilon)
    assert select_threshold(runs_at((needed, 0.9, False)), epsilon).threshold == 0
    with pytest.raises(InvalidInput, match="there are 0"):
        check_image_count(0, epsilon)


def test_it_never_stops_early_where_only_all_views_are_safe() -> None:
    kept = select_threshold(runs_at((300, 1.0, False), (10, 1.0, True)), 0.01)
    assert kept.threshold > 1
    assert kept.mean_views == 2


# ---- flip rates ----


@given(run_lists)
def test_flip_rates_never_rise_with_the_margin_and_are_zero_after_all_views(found: list[Run]) -> None:
    runs = Runs.of(found)
    rows = flip_rates(runs)
    assert [len(row) for row in rows] == [len(EDGES) + 1] * runs.views
    for row in rows:
        assert all(0 <= rate <= 1 for rate in row)
        assert all(before >= after - 1e-12 for before, after in pairwise(row))
    assert set(rows[-1]) == {0.0}


def test_flip_rates_are_the_rates_of_full_bins() -> None:
    row = flip_rates(runs_at((1000, 0.15, True), (1000, 0.15, False), (5000, 0.97, False), (50, 0.97, True)))[0]
    assert row[2] == row[3] == pytest.approx(0.5, abs=0.01), "the bin below it, without an image, gets no less"
    assert row[12] == pytest.approx(0.01, abs=0.001)


def test_one_bin_for_all_gives_the_rate_everywhere() -> None:
    assert flip_rates(runs_at((90, 0.5, False), (10, 0.5, True)))[0] == pytest.approx([0.1] * 17, abs=0.006)


# ---- the result ----


def test_the_result_is_a_calibration() -> None:
    runs = simulated(2000, 5)
    found = fit_calibration(runs, [0.05, 0.01, 0.05], model="sha256:m", policy="sha256:p", merge="vote")
    assert (found.images, found.views, found.confidence) == (2000, 6, 0.95)
    assert (found.model, found.policy, found.merge) == ("sha256:m", "sha256:p", "vote")
    assert [t.epsilon for t in found.thresholds] == [0.01, 0.05]
    for kept in found.thresholds:
        assert kept.threshold in THRESHOLDS
        assert kept.bound <= kept.epsilon
        assert apply_threshold(runs, kept.threshold).disagreements == kept.disagreements
    assert found.disagreement == pytest.approx(runs.changed.mean(axis=0), rel=1e-5)
    assert Calibration.model_validate_json(found.model_dump_json()) == found


def test_the_table_is_read_as_it_was_fitted() -> None:
    runs = simulated(2000, 6)
    found, rows = fit_calibration(runs, [0.05], model="m", policy="p", merge="vote"), flip_rates(runs)
    for margin in (0.0, 0.019, 0.02, 0.55, 0.999, 1.0):
        bin_of = int(np.searchsorted(EDGES, margin, side="right"))
        assert found.expected_gain(margin, 2) == pytest.approx(rows[1][bin_of] / 4, rel=1e-5)
    assert found.expected_gain(0.1, 6) == 0
