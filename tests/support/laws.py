"""What must hold in every history, checked while a pool in virtual time (`simulator`) decides."""

import math
from collections.abc import Container, Iterable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tests.support.list_schedule import ROUNDED, lateness, schedule, slots_free
from tta_server.errors import BackendFailed, Cancelled, Overloaded, TTAError
from tta_server.scheduling.arrivals import GIVE_WAY_SECONDS, RECENT_SECONDS
from tta_server.scheduling.jobs import Batch, Decode, Finish, Finished, Job, Step
from tta_server.scheduling.queue import EXACT_LIMIT
from tta_server.scheduling.stopping import StopReason

if TYPE_CHECKING:
    from tests.support.simulator import Pool, Record, Run

TOLERANCE = 1e-6
EXACT = 1e-9
"""Between these two tolerances rounding decides whether a time is late."""
MOST_ROUNDS = 20_000


class Law(StrEnum):
    ANSWERED = "every admitted job is answered exactly once, by its deadline, with its mandatory views or an error"
    PROMISED = "with truthful costs no admitted job misses a mandatory view"
    MANDATORY_FIRST = "optional work never starts while interactive mandatory work waits"
    ORDER = "mandatory work starts interactive first, then in deadline order"
    BATCH_YIELDS = "a batch job starts before an optional view only if it would be late otherwise"
    ONCE_IN_ORDER = "no view runs twice, and views are dispatched in policy order, in batches of one bucket"
    ADMITTED = "a job is admitted if and only if a list schedule of all mandatory work makes no job late"
    RECOVERED = "after any slow spell an idle server admits again within 5 s"
    RISK = (
        "an optional view never costs the next plain view its budget, except on an idle pool, and then it is reported"
    )
    WORTH = "optional views: interactive first, then largest gain per second, fewest dispatched, earliest deadline"
    IN_TIME = "an optional view runs only if it ends in time"
    PROMPT = "a job is answered as soon as nothing more can arrive in time, and not before"
    WAKING = "asking at the stated time answers a job or moves the time, and asking before finds nothing"
    WORKING = "a slot stays idle only if nothing can run, or for a job ahead that is being decoded"
    BY_SLOTS = "with truthful costs answers are made by slots, each in its own time, and none by the clock"
    FAULTS = "a failed batch fails only the jobs that lack a mandatory view by it"
    RECORDED = "a job's progress names what was dispatched, what is running and what was merged, and is settled once"
    QUOTED = "a quote is what then happens on an idle pool, and changes nothing"


class Violation(AssertionError):
    def __init__(self, law: StrEnum, found: str) -> None:
        super().__init__(f"{law.name}: {law.value}; but {found}")
        self.law = law


def require(holds: bool, law: StrEnum, found: str) -> None:
    """Raises Violation unless it holds; `law` is a Law, or one of device pools."""
    if not holds:
        raise Violation(law, found)


# ---- admission ----


def fits(pool: "Pool", record: "Record") -> bool | None:
    """True if a list schedule serves it too; None where rounding decides, or in a long queue."""
    if not pool.truthful or is_long_queue(pool):
        return None
    late = [lateness(schedule(pool, slots_free(pool), record, nudge=nudge)) for nudge in ROUNDED]
    return True if max(late) <= EXACT else None if min(late) <= TOLERANCE else False


def is_long_queue(pool: "Pool") -> bool:
    """True if the queue may be so long that the scheduler bounds its schedule instead of computing it."""
    return sum(record.needs_mandatory or not record.running for record in pool.live) >= EXACT_LIMIT


def check_admission(record: "Record", fits: bool | None) -> None:
    refused = record.refused
    if refused is None:
        require(fits is not False, Law.ADMITTED, f"arrival {record.number} was admitted and makes a job late")
    elif isinstance(refused, Overloaded):
        require(refused.retry_after >= -TOLERANCE, Law.ADMITTED, "retry_after lies in the past")
        if refused.reason == "time":
            require(fits is not True, Law.ADMITTED, f"arrival {record.number} was refused and would have fitted")


# ---- what a slot does next ----


def check_step(pool: "Pool", step: "Step[Record]") -> None:
    if isinstance(step, Finish):
        _check_finish(pool, step)
        return
    if isinstance(step, Decode):
        head = step.job.payload
        require(head.live, Law.ANSWERED, f"arrival {head.number} is answered and gets decoded")
        require(not head.decode_started, Law.ONCE_IN_ORDER, f"arrival {head.number} is decoded twice")
    else:
        _check_views(pool, step)
        head = step.items[0][0].payload
    if isinstance(step, Batch) and not head.needs_mandatory:
        _check_optional(pool, step)
    else:
        _check_mandatory(pool, head)
        risky = isinstance(step, Batch) and step.is_risky
        require(not risky, Law.RISK, "mandatory work is called a risk")


def _check_finish(pool: "Pool", step: "Finish[Record]") -> None:
    """Require a reason for an answer without a view that could still end in time.

    It is that some other work would make this answer, or one that waits, late.
    """
    record = step.job.payload
    complete = record.merged_mandatory == record.arrival.mandatory
    require(record.live and complete, Law.ANSWERED, f"arrival {record.number} is answered twice or too early")
    if not pool.truthful or is_long_queue(pool) or record not in in_time(pool):
        return
    waiting = [pool.lead(other) for other in pool.live if other.has_mandatory_work]
    leads = [*waiting, *(pool.lead(other) for other in in_time(pool, TOLERANCE))]
    late = (lateness(schedule(pool, slots_free(pool, lead))) for lead in leads)
    require(any(seconds > -TOLERANCE for seconds in late), Law.PROMPT, f"arrival {record.number} is cut short")


def _check_views(pool: "Pool", batch: "Batch[Record]") -> None:
    given: dict[Record, list[int]] = {}
    for job, view in batch.items:
        require(job.payload.live, Law.ANSWERED, f"arrival {job.payload.number} is answered and gets more views")
        require(job.payload.decoded, Law.ONCE_IN_ORDER, f"arrival {job.payload.number} runs before it is decoded")
        require(job.buckets[view] == batch.bucket, Law.ONCE_IN_ORDER, "a batch has views of two buckets")
        given.setdefault(job.payload, []).append(view)
    for record, views in given.items():
        first = len(record.dispatched)
        expected = list(range(first, first + len(views)))
        require(views == expected, Law.ONCE_IN_ORDER, f"arrival {record.number} runs {views}, not {expected}")
    _check_in_time(pool, batch)


def _check_in_time(pool: "Pool", batch: "Batch[Record]") -> None:
    if not pool.truthful:
        return
    seconds = pool.view_seconds(batch.bucket, len(batch.items))
    for job, view in batch.items:
        end = pool.now + seconds + pool.stage_seconds(job.finish, job)
        late = view >= job.mandatory and end > job.deadline + TOLERANCE
        require(not late, Law.IN_TIME, f"view {view} of arrival {job.payload.number} ends too late")


def _check_mandatory(pool: "Pool", head: "Record") -> None:
    waiting = [record for record in pool.live if record.has_mandatory_work]
    first = min(waiting, key=lambda record: (record.is_batch, record.job.deadline))
    ahead = (head.is_batch, head.job.deadline) <= (first.is_batch, first.job.deadline)
    require(ahead, Law.ORDER, f"arrival {head.number} starts while {first.number} waits")
    if head.is_batch and pool.truthful and not is_long_queue(pool):
        _check_batch_yields(pool, head)


def _check_batch_yields(pool: "Pool", head: "Record") -> None:
    if not (candidates := in_time(pool)):
        return
    best = min(candidates, key=lambda record: rank(pool, record))
    lead = pool.view_seconds(best.next_bucket) + pool.stage_seconds(best.job.finish, best.job)
    late = (lateness(schedule(pool, slots_free(pool, lead), served={best}, nudge=nudge)) for nudge in ROUNDED)
    needed = any(seconds > EXACT for seconds in late)
    decoding = any(record.decode_started and not record.decoded for record in pool.live)
    risky = not _is_safe(pool) and (
        _is_crowded(pool) or decoding or not pool.knee_is_one or not all(_expected_arrivals(pool, lead, {best}))
    )
    found = f"batch arrival {head.number} starts before an optional view of {best.number}"
    require(needed or risky, Law.BATCH_YIELDS, found)


def in_time(pool: "Pool", rounding: float = 0.0) -> "list[Record]":
    """Return the records whose next optional view ends in time by the scheduler's own estimates."""
    costs, now = pool.scheduler.costs, pool.now
    return [
        record
        for record in pool.live
        if record.open
        and now
        + costs.seconds(record.next_bucket, 1, now)
        + costs.stage_seconds(record.job.finish, record.job.model, record.job.pixels, now)
        <= record.job.deadline + rounding
    ]


def rank(pool: "Pool", record: "Record") -> tuple[bool, float, int, float]:
    rate = record.gain / pool.scheduler.costs.seconds(record.next_bucket, 1, pool.now)
    return record.is_batch, -rate, len(record.dispatched), record.job.deadline


def _check_optional(pool: "Pool", batch: "Batch[Record]") -> None:
    head = batch.items[0][0].payload
    for record in pool.live:
        has_mandatory_work = record.has_mandatory_work and not record.is_batch
        found = f"a view of arrival {head.number} starts while {record.number} waits"
        require(not has_mandatory_work, Law.MANDATORY_FIRST, found)
    mine = rank(pool, head)
    for record in in_time(pool):
        other = rank(pool, record)
        rounded = mine[1] != other[1] and math.isclose(mine[1], other[1], rel_tol=EXACT)
        require(rounded or mine <= other, Law.WORTH, f"arrival {head.number} comes before {record.number}")
    if pool.truthful:
        _check_risk(pool, batch)


# ---- the next plain view ----


def _check_risk(pool: "Pool", batch: "Batch[Record]") -> None:
    if is_long_queue(pool):
        return
    answered = [job for job, last in dict(batch.items).items() if last + 1 >= job.mandatory]
    lead = pool.view_seconds(batch.bucket, len(batch.items)) + pool.answer_seconds(answered)
    spared = list(_expected_arrivals(pool, lead, {job.payload for job, _ in batch.items}))
    if None in spared:
        return
    alone = not pool.runs and all(end <= pool.now + EXACT for end in pool.finishing.values())
    safe = all(spared) and not _is_crowded(pool)
    require(alone or safe, Law.RISK, "a plain view that arrives now is made late, or may be")
    require(batch.is_risky == (not safe), Law.RISK, f"risky is {batch.is_risky}")


def _expected_arrivals(pool: "Pool", lead: float, served: "Container[Record]") -> Iterable[bool | None]:
    """Yield for each model with a recent arrival whether a slot may be busy for `lead` seconds.

    True if one more plain view still meets its default budget then, or misses it anyway; None where rounding decides.
    `lead` includes the answers of `served`.
    """
    for seen, job in pool.recent.values():
        if pool.now - seen > RECENT_SECONDS or job.default_budget == math.inf:
            continue
        expected = _expected_record(pool, job)
        before, after = (
            schedule(pool, slots_free(pool, busy), expected, served=served)[expected] - expected.job.deadline
            for busy in (0.0, lead)
        )
        near = min(abs(before), abs(after)) <= TOLERANCE
        yield None if near else before > 0 or after < 0


def _expected_record(pool: "Pool", job: "Job[Record]") -> "Record":
    arrival = job.payload.arrival
    expected = type(job.payload)(
        type(arrival)(
            pool.now * 1e3, job.default_budget * 1e3, arrival.buckets[:1], default_budget_ms=arrival.default_budget_ms
        )
    )
    expected.job = expected.arrival.job(expected, pool.now)
    return expected


# ---- a slot that finds nothing ----


def check_idle(pool: "Pool") -> None:
    waiting = [record for record in pool.live if record.has_mandatory_work]
    decoding = [record for record in pool.live if record.decode_started and not record.decoded]
    for record in waiting:
        mine = (record.is_batch, record.job.deadline)
        ahead = any((other.is_batch, other.job.deadline) <= mine for other in decoding)
        require(ahead, Law.WORKING, f"arrival {record.number} waits beside an idle slot")
    if not waiting and not decoding and _is_safe(pool):
        for record in in_time(pool):
            require(False, Law.WORKING, f"an optional view of arrival {record.number} waits beside an idle slot")


def _is_safe(pool: "Pool") -> bool:
    """True if no optional view can be a risk: the pool is idle, or not crowded and without recent default budgets."""
    if not (pool.runs or pool.finishing):
        return True
    return not _is_crowded(pool) and all(job.default_budget == math.inf for _, job in pool.recent.values())


def _is_crowded(pool: "Pool") -> bool:
    """True if a job was refused for lack of time a short while ago."""
    return pool.now - pool.refused_at < GIVE_WAY_SECONDS


# ---- answers ----


def check_answer(pool: "Pool", done: "Finished[Record]") -> None:
    record = done.job.payload
    require(record.live, Law.ANSWERED, f"arrival {record.number} is answered twice")
    in_time = pool.now <= record.job.deadline + TOLERANCE
    require(in_time, Law.ANSWERED, f"arrival {record.number} is answered after its deadline")
    progress = record.job.progress
    seen = (progress.dispatched, progress.running, progress.merged_count, progress.settled)
    happened = (len(record.dispatched), record.running, record.merged, True)
    require(seen == happened, Law.RECORDED, f"arrival {record.number}: {seen} is recorded, {happened} is seen")
    if isinstance(done.outcome, StopReason):
        complete = record.merged > 0 and record.merged_mandatory == record.arrival.mandatory
        require(complete, Law.ANSWERED, f"arrival {record.number} is answered without a mandatory view")
        _check_reason(pool, record, done.outcome)
    else:
        expected = _expected_errors(record)
        found = f"arrival {record.number} fails: {done.outcome!r}"
        require(not pool.truthful or isinstance(done.outcome, expected), Law.PROMISED, found)


def _expected_errors(record: "Record") -> tuple[type[TTAError], ...]:
    """Return the errors that are no mistake of the scheduler."""
    if record.left:
        return (Cancelled,)
    return (BackendFailed,) if record.may_fail else ()


def _check_reason(pool: "Pool", record: "Record", reason: StopReason) -> None:
    views = len(record.arrival.buckets)
    if reason is StopReason.ALL_VIEWS:
        require(len(record.dispatched) == views and not record.running, Law.PROMPT, "all views are not done")
    if reason is StopReason.DEADLINE and pool.truthful and not record.running:
        end = pool.now + _one_more(pool, record)
        require(end >= record.job.deadline - TOLERANCE, Law.PROMPT, f"arrival {record.number} is cut short")


def _one_more(pool: "Pool", record: "Record") -> float:
    return pool.view_seconds(record.next_bucket) + pool.stage_seconds(record.job.finish, record.job)


def check_answer_time(pool: "Pool", job: "Job[Record]", end: float) -> None:
    """Require that an answer, made on a slot until `end`, is in time."""
    late = pool.truthful and end > job.deadline + TOLERANCE
    require(not late, Law.PROMISED, f"the answer of arrival {job.payload.number} is made too late")


def check_failed(hit: "Sequence[Record]", finished: "Sequence[Finished[Record]]") -> None:
    """Require that jobs with all mandatory views are answered, those that now lack one fail, and others go on."""
    outcomes = {done.job.payload: done.outcome for done in finished}
    for record in hit:
        outcome = outcomes.pop(record, None)
        if record.merged_mandatory == record.arrival.mandatory:
            expected: type | tuple[type, ...] = StopReason
        else:
            expected = BackendFailed if record.hit_by_failure else type(None)
        require(isinstance(outcome, expected), Law.FAULTS, f"arrival {record.number} ends as {outcome!r}")
    require(not outcomes, Law.FAULTS, "a job ends that had no view in it")


def check_cancelled(record: "Record", finished: "Sequence[Finished[Record]]") -> None:
    require(bool(finished) == record.live, Law.ANSWERED, "who is answered can't be cancelled, and who is not can")


# ---- time ----


def check_between(pool: "Pool") -> None:
    """Check after all idle slots have requested work."""
    for record in pool.live if pool.truthful else ():
        if record.needs_mandatory or record.merged_mandatory < record.arrival.mandatory or record.running:
            continue
        if record.job.progress.stop and not pool.idle:
            continue  # its answer waits for a slot
        enough = record.arrival.stops_after is not None and record.merged >= record.arrival.stops_after
        require(record.open and not enough, Law.PROMPT, f"arrival {record.number} has all it needs and no answer")
        late = pool.now + _one_more(pool, record) > record.job.deadline + TOLERANCE
        require(not late, Law.PROMPT, f"arrival {record.number} can get no more views, and no answer")


def check_counts(pool: "Pool", step: "Step[Record] | None") -> None:
    live = len(pool.live) - isinstance(step, Finish)
    wake = pool.scheduler.wake_at()
    require((wake is not None) == bool(live), Law.WAKING, f"wake_at() is {wake}, {live} are live")
    count = len(pool.scheduler)
    require(count == live, Law.ANSWERED, f"{count} count as live, not {live}")


def check_progress(before: float, after: float | None, is_reported: bool) -> None:
    require(
        is_reported or after is None or after > before, Law.WAKING, "asking at the stated time did nothing: a busy loop"
    )


def check_due(pool: "Pool", finished: "Sequence[Finished[Record]]") -> None:
    """Require that the clock makes no answer."""
    for done in finished if pool.truthful else ():
        made = isinstance(done.outcome, StopReason)
        require(not made, Law.BY_SLOTS, f"the clock makes the answer of arrival {done.job.payload.number}")


def check_not_early(pool: "Pool", wake: float | None, finished: "Sequence[Finished[Record]]") -> None:
    early = bool(finished) and (wake is None or wake > pool.now)
    require(not early, Law.WAKING, f"a job is answered at {pool.now}, before wake_at() = {wake}")


def check_poll(pool: "Pool", slot: int, at: float) -> None:
    """Require that a slot that requests again without an event gets nothing."""
    if pool.truthful and _is_safe(pool):
        step: Any = pool.scheduler.next_batch(slot, at)
        require(step is None, Law.WAKING, f"an idle slot that asks again at {at} finds {step}")


def check_overdue(pool: "Pool", run: "Run") -> None:
    ran = pool.now - run.started
    require(ran >= max(1.0, 10 * run.step.estimate) - TOLERANCE, Law.WAKING, f"a step is overdue after {ran} s")


def check_rounds(rounds: int) -> None:
    require(rounds < MOST_ROUNDS, Law.WAKING, "a short history does not come to its end: a spin")


def check_end(pool: "Pool") -> None:
    for record in pool.records:
        times = 0 if record.refused is not None else 1
        require(len(record.answers) == times, Law.ANSWERED, f"arrival {record.number}: {len(record.answers)} answers")
    idle = pool.scheduler.wake_at() is None and pool.scheduler.watch_at() is None and len(pool.scheduler) == 0
    require(idle, Law.WAKING, "no job is live, and the scheduler waits for something")
