"""The calls of Ray that a run makes, in this process: actors run in turns and die on demand."""

import pickle
from collections import deque
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any


class Lost(Exception):
    """As Ray's errors: an actor is lost, or `cause` was raised by it."""

    cause: Exception | None = None


class FakeRay:
    """`choose(n)` gives the number, below n, of the actor that runs next.

    `fails(name, arguments)` gives what a call raises, or Lost if it ends its actor. `room` is the number of actors that
    may be there at a time; further ones wait.
    """

    exceptions = SimpleNamespace(RayError=Lost)

    def __init__(
        self,
        choose: Callable[[int], int] = lambda count: 0,
        fails: Callable[[str, Sequence[Any]], Exception | None] = lambda name, arguments: None,
        room: int = 1000,
    ) -> None:
        self.choose, self.fails, self.room = choose, fails, room
        self.actors: list[Actor] = []
        self.most_waiting = 0

    def put(self, value: Any) -> Any:
        return value

    def remote(self, kind: type) -> Any:
        def make() -> Actor:
            self.actors.append(Actor(kind))
            return self.actors[-1]

        return SimpleNamespace(options=lambda **how: SimpleNamespace(remote=make))

    def get(self, ref: "Ref") -> Any:
        assert ref.done, "it would wait"
        if isinstance(ref.value, Exception):
            raise ref.value
        return pickle.loads(ref.value)

    def wait(self, refs: Sequence["Ref"], timeout: float) -> tuple[list["Ref"], list["Ref"]]:
        assert refs
        self.most_waiting = max(self.most_waiting, len(refs))
        if not any(ref.done for ref in refs):
            self._run_one()
        done = [ref for ref in refs if ref.done][:1]
        return done, [ref for ref in refs if ref not in done]

    def kill(self, actor: "Actor") -> None:
        actor.die()
        self.actors = [each for each in self.actors if each is not actor]

    def cancel(self, ref: "Ref") -> None:
        for actor in self.actors:
            actor.calls = deque(call for call in actor.calls if call[0] is not ref)

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": float(self.room)}

    def _run_one(self) -> None:
        placed = [actor for actor in self.actors[: self.room] if actor.calls]
        if placed:
            actor = placed[self.choose(len(placed))]
            _, name, arguments = actor.calls[0]
            error = self.fails(name, pickle.loads(arguments))
            if isinstance(error, Lost):
                self.kill(actor)
            else:
                actor.run(error)


class Ref:
    """What a call returns, or raises."""

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None

    def settle(self, value: Any) -> None:
        self.done, self.value = True, value


class Actor:
    """An object whose calls run one after the other; arguments and results are pickled."""

    def __init__(self, kind: type) -> None:
        self._object = kind()
        self.calls: deque[tuple[Ref, str, bytes]] = deque()
        self._is_dead = False

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Ref:
            ref = Ref()
            self.calls.append((ref, name, pickle.dumps(arguments)))
            if self._is_dead:
                self.die()
            return ref

        return SimpleNamespace(remote=call)

    def run(self, error: Exception | None) -> None:
        ref, name, arguments = self.calls.popleft()
        try:
            if error is not None:
                raise error
            ref.settle(pickle.dumps(getattr(self._object, name)(*pickle.loads(arguments))))
        except Exception as raised:  # noqa: BLE001 - Ray hands on what an actor raises
            lost = Lost(f"ray::{name}()\nTraceback")
            lost.cause = raised
            ref.settle(lost)

    def die(self) -> None:
        self._is_dead = True
        while self.calls:
            self.calls.popleft()[0].settle(Lost("The actor died unexpectedly before finishing this task.\nmore"))
