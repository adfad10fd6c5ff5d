"""Follows images through an ONNX graph, node by node: where each tensor holds them, and what must change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tta_server.onboarding.batch.edits import Watch
from tta_server.onboarding.batch.rules import RULES
from tta_server.onboarding.batch.step import Edit, Known, Mixed, Rows, Step

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

DOMAINS = ("", "ai.onnx")
MOST_TRIES = 2000
"""Ways that are tried."""


@dataclass(slots=True)
class Plan:
    """What must change: the edits of each node by its place; `watched` tensors, whose shapes a run has to show."""

    edits: dict[int, Sequence[Edit]] = field(default_factory=dict)
    watched: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Fork:
    """A node that has another way: what was known before it, and the way's number."""

    place: int
    choice: int
    rows: Mapping[str, Rows]
    sizes: frozenset[str]


def plan_edits(model: "ModelProto", known: Known, image: str) -> Plan:
    """Follow the images from the input on; fill in `known.rows` and `known.sizes`. Raises Mixed.

    Where a node has several ways and the first leads to one that is refused, the next is tried.
    """
    known.rows[image] = Rows(0)
    walk, problem = _Walk(model.graph, known), None
    for _ in range(MOST_TRIES):
        try:
            walk.go_on()
            return walk.plan()
        except Mixed as found:
            problem = problem or found
            if not walk.backtrack():
                break
    assert problem is not None
    raise problem


class _Walk:
    """From node to node, with the ways that were not taken."""

    def __init__(self, graph: "GraphProto", known: Known) -> None:
        self._graph, self._known = graph, known
        self._place = self._choice = 0
        self._forks = list[_Fork]()
        self._edits = dict[int, Sequence[Edit]]()

    def go_on(self) -> None:
        """Follow the rest of the nodes, and check the outputs. Raises Mixed."""
        known = self._known
        while self._place < len(self._graph.node):
            step = Step(self._graph.node[self._place], known, self._choice)
            rows, sizes = (dict(known.rows), frozenset(known.sizes)) if _is_fork(step.node) else ({}, frozenset[str]())
            if _follow(step):
                self._edits[self._place] = step.edits
            if step.choices > self._choice + 1:
                self._forks.append(_Fork(self._place, self._choice + 1, rows, sizes))
            self._place, self._choice = self._place + 1, 0
        for output in self._graph.output:
            if known.rows.get(output.name) != Rows(0):
                found = f"[{', '.join(map(str, known.shapes.get(output.name, ())))}]"
                raise Mixed(f"output {output.name} is {found} for one image: its first axis is not that of images")

    def backtrack(self) -> bool:
        """Go back to the last node that has another way, and take that; return False if there is none."""
        if not self._forks:
            return False
        fork = self._forks.pop()
        self._place, self._choice = fork.place, fork.choice
        self._known.rows, self._known.sizes = dict(fork.rows), set(fork.sizes)
        self._edits = {place: edits for place, edits in self._edits.items() if place < fork.place}
        return True

    def plan(self) -> Plan:
        watched = [
            self._graph.node[place].output[0]
            for place, edits in self._edits.items()
            if any(isinstance(edit, Watch) for edit in edits)
        ]
        return Plan(self._edits, watched)


def _is_fork(node: "NodeProto") -> bool:
    """Whether a node may have several ways."""
    return node.op_type in ("Reshape", "Flatten")


def _follow(step: Step) -> bool:
    """Note what a node's outputs hold; return whether they are images."""
    node, known = step.node, step.known
    has_rows = any(known.rows.get(name) for name in step.inputs)
    depends = has_rows or any(name in known.sizes for name in step.inputs)
    if any(each.g.node or each.graphs for each in node.attribute):
        step.refuse("holds a graph of its own, which is not looked at")
    if not depends:
        return False
    if not has_rows or (node.op_type in ("Shape", "Size") and node.domain in DOMAINS):
        known.sizes.update(name for name in node.output if name)
        return False
    if node.op_type not in RULES or node.domain not in DOMAINS:
        step.refuse("is of a kind that may mix images")
    rows = RULES[node.op_type](step)
    known.rows.update((name, rows) for name in node.output if name)
    return True
