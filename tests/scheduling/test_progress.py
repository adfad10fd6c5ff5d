"""A job's progress against sets that are kept beside it."""

from hypothesis import given
from hypothesis import strategies as st

from tta_server.scheduling.progress import Progress, entries
from tta_server.scheduling.stopping import StopReason

COUNT = 12
MERGED, LOST, FAILED = "merged", "lost", "failed"


@given(st.permutations(range(COUNT)), st.lists(st.sampled_from([MERGED, LOST, FAILED]), min_size=COUNT, max_size=COUNT))
def test_every_question_is_answered_as_sets_answer_it(order: list[int], fates: list[str]) -> None:
    progress = Progress().dispatch(COUNT)
    known: dict[str, set[int]] = {MERGED: set(), LOST: set(), FAILED: set()}
    for back, entry in enumerate(order, 1):
        fate = fates[entry]
        step = {MERGED: progress.merge, LOST: progress.lose, FAILED: progress.fail}[fate]
        progress = step(1 << entry).end_run()
        known[fate].add(entry)
        returned = set().union(*known.values())
        merged = known[MERGED]
        assert progress.running == COUNT - back
        assert list(entries(progress.merged)) == sorted(merged)
        assert progress.merged_count == len(merged)
        assert list(entries(progress.returned)) == sorted(returned)
        assert progress.waiting(COUNT) == sorted(set(range(COUNT)) - returned)
        assert progress.returned_in_order == next((k for k in range(COUNT) if k not in returned), COUNT)
        for first in range(COUNT + 1):
            assert progress.has_merged_first(first) == merged.issuperset(range(first))
            assert progress.has_returned_first(first) == returned.issuperset(range(first))
        for tiles in (1, 2, 3):
            is_prefix = merged == set(range(len(merged)))
            whole = 0 if len(merged) % tiles else len(merged) // tiles
            assert progress.whole_views(tiles) == whole
            assert progress.views_in_order(tiles) == (whole if is_prefix else 0)


def test_a_value_stays_as_it_was() -> None:
    first = Progress()
    second = first.dispatch(2).merge(0b1)
    third = second.lose(0b1).close(StopReason.CAPACITY).set_open_share(0.5).settle()
    assert first == Progress()
    assert (second.merged, second.lost, second.stop, second.settled) == (1, 0, None, False)
    assert (third.merged, third.lost, third.stop, third.open_share, third.settled) == (
        0,
        1,
        StopReason.CAPACITY,
        0.5,
        True,
    )


def test_recording_a_merge_twice_changes_nothing() -> None:
    """A slot records it when it merges, and the scheduler again when the batch is back."""
    once = Progress().dispatch(1).merge(0b1)
    assert once.merge(0b1) == once
