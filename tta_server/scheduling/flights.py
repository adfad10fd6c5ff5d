"""Which of several equal requests under way runs, and which wait for its answer. Pure."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
M = TypeVar("M")


class Role(Enum):
    """What a request does: run for itself and its followers, wait for the leader's answer, or run for itself."""

    LEADS = "leads"
    FOLLOWS = "follows"
    ALONE = "alone"


@dataclass(slots=True)
class _Flight(Generic[M]):
    leader: M
    deadline: float
    followers: list[tuple[float, M]] = field(default_factory=list)


class Flights(Generic[K, M]):
    """The requests under way by key: of each key one leads, and only requests with no earlier deadline follow it.

    So a leader that is answered by its deadline makes no follower late. Members are compared by identity.
    """

    def __init__(self) -> None:
        self._flights: dict[K, _Flight[M]] = {}

    def enter(self, key: K, member: M, deadline: float, slack: float = 0.0) -> Role:
        """The role of a new request; it follows if its deadline is at most `slack` before the leader's."""
        flight = self._flights.get(key)
        if flight is None:
            self._flights[key] = _Flight(member, deadline)
            return Role.LEADS
        if deadline + slack < flight.deadline:
            return Role.ALONE
        flight.followers.append((deadline, member))
        return Role.FOLLOWS

    def leave(self, key: K, follower: M) -> None:
        """A request does not wait any more; does nothing for one that does not follow."""
        if (flight := self._flights.get(key)) is not None:
            flight.followers = [each for each in flight.followers if each[1] is not follower]

    def leader(self, key: K) -> M:
        """The request that runs for this key."""
        return self._flights[key].leader

    def followers(self, key: K) -> list[M]:
        """Those that wait for the leader of this key, in the order of their arrival."""
        return [follower for _, follower in self._flights[key].followers]

    def land(self, key: K) -> list[M]:
        """The leader has the answer of all: ends the flight, and returns its followers."""
        followers = self.followers(key)
        del self._flights[key]
        return followers

    def pass_on(self, key: K) -> M | None:
        """The leader has no answer for the others: the follower with the earliest deadline leads now.

        None, and the flight ends, if there is no follower.
        """
        flight = self._flights[key]
        if not flight.followers:
            del self._flights[key]
            return None
        first = min(flight.followers, key=lambda each: each[0])
        flight.followers.remove(first)
        flight.deadline, flight.leader = first
        return flight.leader

    def __len__(self) -> int:
        return len(self._flights)
