"""Of equal requests under way one leads, and whatever order they leave and fail in, none is forgotten."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.support.examples import times
from tta_server.scheduling.flights import Flights, Role


def test_the_first_leads_and_later_ones_follow() -> None:
    flights: Flights[str, str] = Flights()
    assert flights.enter("key", "first", 1.0) is Role.LEADS
    assert flights.enter("key", "second", 1.0) is Role.FOLLOWS
    assert flights.enter("other", "third", 1.0) is Role.LEADS
    assert flights.leader("key") == "first"
    assert flights.land("key") == ["second"]
    assert flights.enter("key", "fourth", 1.0) is Role.LEADS


@pytest.mark.parametrize(("deadline", "slack", "role"), [(9.0, 0.0, Role.ALONE), (9.0, 1.0, Role.FOLLOWS)])
def test_an_earlier_deadline_does_not_wait_for_a_later_one(deadline: float, slack: float, role: Role) -> None:
    flights: Flights[str, str] = Flights()
    flights.enter("key", "leader", 10.0)
    assert flights.enter("key", "urgent", deadline, slack) is role


def test_the_follower_with_the_earliest_deadline_leads_next() -> None:
    flights: Flights[str, str] = Flights()
    for name, deadline in (("leader", 1.0), ("late", 9.0), ("early", 2.0), ("gone", 1.5)):
        flights.enter("key", name, deadline)
    flights.leave("key", "gone")
    assert flights.pass_on("key") == "early"
    assert flights.leader("key") == "early"
    assert flights.followers("key") == ["late"]
    assert flights.enter("key", "urgent", 1.5) is Role.ALONE
    assert flights.pass_on("key") == "late"
    assert flights.pass_on("key") is None
    assert len(flights) == 0


class Member:
    def __init__(self, key: int, deadline: float) -> None:
        self.key, self.deadline = key, deadline


class Traffic(RuleBasedStateMachine):
    """Random requests of three keys; `waiting` and `leading` are what a caller of Flights knows."""

    def __init__(self) -> None:
        super().__init__()
        self.flights: Flights[int, Member] = Flights()
        self.leading: dict[int, Member] = {}
        self.waiting: list[Member] = []

    @rule(key=st.integers(0, 2), deadline=st.integers(0, 9))
    def enter(self, key: int, deadline: int) -> None:
        member = Member(key, deadline)
        role = self.flights.enter(key, member, deadline)
        leader = self.leading.get(key)
        if leader is None:
            assert role is Role.LEADS
            self.leading[key] = member
        elif role is Role.FOLLOWS:
            assert deadline >= leader.deadline
            self.waiting.append(member)
        else:
            assert role is Role.ALONE
            assert deadline < leader.deadline

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = data.draw(st.sampled_from(self.waiting))
        self.flights.leave(member.key, member)
        self.flights.leave(member.key, member)
        self.waiting.remove(member)

    @precondition(lambda self: self.leading)
    @rule(data=st.data(), is_answered=st.booleans())
    def end(self, data: st.DataObject, is_answered: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.leading)))
        del self.leading[key]
        if is_answered:
            landed = self.flights.land(key)
            assert landed == [member for member in self.waiting if member.key == key]
            self.waiting = [member for member in self.waiting if member.key != key]
        elif (heir := self.flights.pass_on(key)) is not None:
            self.waiting.remove(heir)
            self.leading[key] = heir

    @invariant()
    def every_follower_waits_for_a_leader_that_is_not_later(self) -> None:
        assert len(self.flights) == len(self.leading)
        for member in self.waiting:
            assert member in self.flights.followers(member.key)
            assert self.flights.leader(member.key) is self.leading[member.key]
            assert self.leading[member.key].deadline <= member.deadline


TestTraffic = Traffic.TestCase
TestTraffic.settings = settings(max_examples=times(200), stateful_step_count=40)
