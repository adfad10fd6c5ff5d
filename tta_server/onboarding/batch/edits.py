"""Changes of nodes that state one image in a constant, and what a run has to show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tta_server.onboarding.batch.step import Added, Known

if TYPE_CHECKING:
    from onnx import NodeProto


@dataclass(frozen=True, slots=True)
class Watch:
    """No change: a run of several images shows whether the output's shape is as expected."""

    def apply(self, node: "NodeProto", known: Known, added: Added) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class SetShape:
    """Another shape of a Reshape."""

    shape: Sequence[int]

    def apply(self, node: "NodeProto", known: Known, added: Added) -> None:
        """Replace the shape by a list of its own: others may use the same one."""
        if len(node.input) > 1:
            node.input[1] = added.tensor(self.shape)
        else:
            next(each for each in node.attribute if each.name == "shape").ints[:] = self.shape


@dataclass(frozen=True, slots=True)
class SetSizes:
    """The sizes of a Resize at an input, the first of which is the number of images."""

    index: int

    def apply(self, node: "NodeProto", known: Known, added: Added) -> None:
        """Take the number from the data."""
        rest = [int(size) for size in known.values[node.input[self.index]].ravel()[1:]]
        node.input[self.index] = added.node("Concat", [_size(node.input[0], 0, added), added.tensor(rest)], axis=0)


@dataclass(frozen=True, slots=True)
class ExpandInput:
    """An input of `rank` axes that must be there for each image of the tensor `like`, along the same axis."""

    index: int
    axis: int
    rank: int
    like: str

    def apply(self, node: "NodeProto", known: Known, added: Added) -> None:
        """Repeat it as often as there are images."""
        ones = [added.tensor([1] * n) if n else "" for n in (self.axis, self.rank - self.axis - 1)]
        sizes = [name for name in (ones[0], _size(self.like, self.axis, added), ones[1]) if name]
        shape = added.node("Concat", sizes, axis=0)
        node.input[self.index] = added.node("Expand", [node.input[self.index], shape])


def _size(name: str, axis: int, added: Added) -> str:
    """The size of an axis, as a list of one number."""
    return added.node("Gather", [added.node("Shape", [name]), added.tensor([axis])], axis=0)
