"""Writes ONNX graphs: arithmetic on values adds nodes."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from tta_server.errors import ConfigError

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto, ValueInfoProto

OPSET, IR_VERSION = 17, 8
"""Of 17 is the latest GridSample that TensorRT's importer reads right; 8 is the format that came with it."""

Shape = Sequence[int | str]
"""Sizes of axes, or the names of free ones."""


def require_onnx() -> None:
    """Raise ConfigError, with the command that installs it, if the `onnx` package is missing."""
    try:
        import onnx  # noqa: F401
    except ImportError:
        raise ConfigError(
            "backend.views is graph, which needs the onnx package: run `pip install 'tta-server[compile]'`, or set "
            "backend.views: local"
        ) from None


class Value:
    """A tensor of a graph, by name; axes of operands are broadcast."""

    __slots__ = ("_graph", "name")

    def __init__(self, graph: "Graph", name: str) -> None:
        self._graph = graph
        self.name = name

    def __add__(self, other: Any) -> "Value":
        return self._graph.add("Add", self, other)

    def __sub__(self, other: Any) -> "Value":
        return self._graph.add("Sub", self, other)

    def __rsub__(self, other: Any) -> "Value":
        return self._graph.add("Sub", other, self)

    def __mul__(self, other: Any) -> "Value":
        return self._graph.add("Mul", self, other)

    def __truediv__(self, other: Any) -> "Value":
        return self._graph.add("Div", self, other)

    def __and__(self, other: Any) -> "Value":
        return self._graph.add("And", self, other)

    def __or__(self, other: Any) -> "Value":
        return self._graph.add("Or", self, other)

    def __ge__(self, other: Any) -> "Value":
        return self._graph.add("GreaterOrEqual", self, other)

    def __gt__(self, other: Any) -> "Value":
        return self._graph.add("Greater", self, other)

    def __le__(self, other: Any) -> "Value":
        return self._graph.add("LessOrEqual", self, other)

    def __lt__(self, other: Any) -> "Value":
        return self._graph.add("Less", self, other)


class Graph:
    """A graph being written. It has no Shape node: on a GPU these run on the CPU."""

    def __init__(self, name: str) -> None:
        from onnx import helper, numpy_helper  # in an extra

        self._helper = helper
        self._from_array: Callable[..., TensorProto] = numpy_helper.from_array
        self._name = name
        self._nodes: list[NodeProto] = []
        self._constants: list[TensorProto] = []
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []

    def _info(self, name: str, dtype: DTypeLike, shape: Shape) -> "ValueInfoProto":
        kind = self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self._helper.make_tensor_value_info(name, kind, list(shape))

    def input(self, name: str, dtype: DTypeLike, shape: Shape) -> Value:
        """Declare an input."""
        self._inputs.append(self._info(name, dtype, shape))
        return Value(self, name)

    def output(self, name: str, value: Value, dtype: DTypeLike, shape: Shape) -> None:
        """Declare an output, which has that value."""
        self._nodes.append(self._helper.make_node("Identity", [value.name], [name]))
        self._outputs.append(self._info(name, dtype, shape))

    def constant(self, value: Any, dtype: DTypeLike = np.float32) -> Value:
        """Return a constant."""
        name = f"constant_{len(self._constants)}"
        self._constants.append(self._from_array(np.array(value, dtype), name))
        return Value(self, name)

    def add(self, operator: str, *inputs: Any, **attributes: Any) -> Value:
        """Add a node and return its only output. Inputs that are no values become constants: numbers float32."""
        names = [self._as_value(operand).name for operand in inputs]
        name = f"{operator}_{len(self._nodes)}"
        self._nodes.append(self._helper.make_node(operator, names, [name], name=name, **attributes))
        return Value(self, name)

    def _as_value(self, operand: Any) -> Value:
        if isinstance(operand, Value):
            return operand
        return self.constant(operand, operand.dtype if isinstance(operand, np.ndarray | np.generic) else np.float32)

    def cast(self, value: Value, dtype: DTypeLike) -> Value:
        """Convert to a type."""
        return self.add("Cast", value, to=self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def reshape(self, value: Value, *shape: int) -> Value:
        """Reshape; -1 is the rest, 0 the axis as it is."""
        return self.add("Reshape", value, np.array(shape, np.int64))

    def take(self, value: Value, index: int | Sequence[int], axis: int) -> Value:
        """Take one position of an axis, which goes, or several."""
        return self.add("Gather", value, np.array(index, np.int64), axis=axis)

    def unsqueeze(self, value: Value, axis: int) -> Value:
        """Insert an axis of 1."""
        return self.add("Unsqueeze", value, np.array([axis], np.int64))

    def where(self, condition: Value, then: Any, otherwise: Any) -> Value:
        """Choose elementwise."""
        return self.add("Where", condition, then, otherwise)

    def limit(self, value: Value, least: Any, most: Any) -> Value:
        """Clip elementwise between two operands."""
        return self.add("Min", self.add("Max", value, least), most)

    def total(self, value: Value, axes: Sequence[int], keep: bool = False) -> Value:
        """Sum over axes, which go unless they are kept."""
        return self.add("ReduceSum", value, np.array(axes, np.int64), keepdims=int(keep))

    def any(self, condition: Value, axes: Sequence[int]) -> Value:
        """Whether a condition holds anywhere along axes, which go."""
        return self.add("ReduceMax", self.cast(condition, np.float32), axes=list(axes), keepdims=0) > 0.5

    def to_bytes(self) -> bytes:
        """Return the model file's content."""
        made = self._helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._constants)
        opset = [self._helper.make_opsetid("", OPSET)]
        model = self._helper.make_model(made, opset_imports=opset, ir_version=IR_VERSION, producer_name="tta-server")
        content: bytes = model.SerializeToString()
        return content
