"""One node of a graph whose batch axis is freed: where its inputs hold the images, and what is known of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnx import NodeProto

Shape = tuple[int, ...]


class Mixed(Exception):
    """Why a node does not keep images apart, as a sentence that names it."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A tensor of which an axis has `outer` groups of all images one behind another, each with `times` entries."""

    axis: int
    times: int = 1
    outer: int = 1

    def moved(self, axis: int) -> "Rows":
        """The same along another axis."""
        return replace(self, axis=axis)


@dataclass(slots=True)
class Known:
    """What is known of the tensors of a graph by name: from a run of one image, and of the nodes so far.

    `shapes` and `values` are those of one image; `rows` has the tensors that hold images, `sizes` those whose values
    depend on their number. All others are the same for any number. `is_fixed` is true if only the batch axis is freed,
    so that all sizes of one image are those of any.
    """

    shapes: Mapping[str, Shape]
    values: Mapping[str, NDArray[Any]]
    opset: int
    is_fixed: bool
    rows: dict[str, Rows] = field(default_factory=dict)
    sizes: set[str] = field(default_factory=set)


class Edit(Protocol):
    """A change of a node, without which it takes one image only."""

    def apply(self, node: "NodeProto", known: "Known", added: "Added") -> None:
        """Change the node, and add what it needs."""


class Added(Protocol):
    """What edits add to a graph in front of a node."""

    def tensor(self, values: Sequence[int]) -> str:
        """Add a list of whole numbers; return its name."""

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; return the name of its output."""


@dataclass(slots=True)
class Step:
    """A node and what is known before it; rules note in `edits` how it must change, and what a run has to show.

    Where a rule has several ways, it takes that of number `choice`, and notes the number of ways in `choices`.
    """

    node: "NodeProto"
    known: Known
    choice: int = 0
    choices: int = 1
    edits: list[Edit] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The node, as an error names it."""
        name = self.node.name or f"that gives {self.node.output[0]}"
        return f"node {name} ({self.node.op_type})"

    def refuse(self, reason: str) -> NoReturn:
        raise Mixed(f"{self.label} {reason}")

    def attribute(self, name: str, default: Any = None) -> Any:
        from onnx import helper

        found = next((each for each in self.node.attribute if each.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    @property
    def inputs(self) -> Sequence[str]:
        """Names of the inputs that are given."""
        return [name for name in self.node.input if name]

    def input(self, index: int) -> str:
        """Name of an input; empty if it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def shape(self, name: str) -> Shape:
        """The shape of a tensor for one image."""
        if name not in self.known.shapes:
            self.refuse(f"has {name}, whose shape is not known")
        return self.known.shapes[name]

    @property
    def made(self) -> Shape:
        """Shape of the first output for one image."""
        return self.shape(self.node.output[0])

    def rows(self, name: str) -> Rows | None:
        return self.known.rows.get(name)

    @property
    def first(self) -> Rows:
        """Where the first input holds the images; refuses a node whose first input holds none."""
        found = self.rows(self.input(0))
        if found is None:
            self.refuse("takes images beside its first input")
        return found

    def alone(self) -> Rows:
        """The same, of a node of which no other input holds images."""
        if any(self.rows(name) for name in self.inputs[1:]):
            self.refuse("takes images beside its first input")
        return self.first

    def constant(self, name: str) -> list[int] | None:
        """The numbers of an input that are the same for any number of images; None if they depend on it."""
        if name in self.known.sizes or name in self.known.rows:
            return None
        if name not in self.known.values:
            self.refuse(f"has {name}, whose values are not known")
        return [int(value) for value in self.known.values[name].ravel()]

    def axes(self, rank: int, index: int = 1) -> list[int] | None:
        """The attribute `axes`, or the input at `index`, from 0 up; None if neither is given."""
        found = self.attribute("axes")
        if found is None and self.input(index):
            found = self.constant(self.input(index))
            if found is None:
                self.refuse("has axes that depend on the number of images")
        return None if found is None else [axis % rank for axis in found]


def before(shape: Shape, axis: int) -> int:
    """Entries before an axis: the product of the sizes."""
    return prod(shape[:axis])


Rule = Callable[[Step], Rows]
"""Returns where a node's outputs hold the images; raises Mixed."""
