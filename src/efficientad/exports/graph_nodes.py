"""ONNX operators, and the parts of the graph that depend on an image's size.

Resizing and placement are two matrix products each. The graph makes the matrices from
height and width at run time. Resizing gives the same bits as `images.resize_image`:
columns first, then rows, both rounded, with weights in Pillow's fixed point. Weights
and products are whole numbers that single precision holds exactly. So are their sums up
to 4000 pixels a side; in larger images a sum may be rounded, and a few pixels in a
million come out one level off.
"""

import copy
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from onnx import ModelProto, helper, numpy_helper

from efficientad.images.rgb import INPUT_SIZE
from efficientad.method.placement import FIRST_CENTER
from efficientad.method.sizes import GRID_SIZE, PATCH_STRIDE

# Element types as the format numbers them.
FLOAT, INT64, BOOL = 1, 7, 9
# Pillow's weights are multiples of one over 2^22. Each is split into two halves of 11
# bits, whose products with pixels are exact in single precision. The four digits below
# are divided out one by one, so that no numerator exceeds the 31 bits of some engines
# up to `MAX_SIDE` pixels a side.
_HALF = 2**11
_DIGITS = (2**6, 2**5, 2**6, 2**5)


class Nodes:
    """Nodes and constants of a graph.

    Names have a prefix: a branch and the graph around it must not share any.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.nodes: list[Any] = []
        self.constants: dict[str, NDArray[Any]] = {}

    def op(self, kind: str, *inputs: str, name: str | None = None, **how: Any) -> str:
        """Add an operator and return the name of its result."""
        result = name or f"{self._prefix}{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [result], name=result, **how)
        )
        return result

    def constant(self, value: Any, dtype: DTypeLike = np.float32) -> str:
        """Add a constant and return its name."""
        name = f"{self._prefix}constant_{len(self.constants)}"
        self.constants[name] = np.asarray(value, dtype)
        return name

    def integer(self, value: Any) -> str:
        """Add a constant of whole numbers and return its name."""
        return self.constant(value, np.int64)

    def initializers(self) -> list[Any]:
        """Return the constants as tensors of the format."""
        return [numpy_helper.from_array(v, name) for name, v in self.constants.items()]

    def in_place_of(self, model: ModelProto) -> ModelProto:
        """Return a model with these nodes only, and with the constants they read."""
        found = copy.deepcopy(model)
        del found.graph.node[:], found.graph.initializer[:]
        found.graph.node.extend(self.nodes)
        read = {name for node in self.nodes for name in node.input}
        read -= {name for node in self.nodes for name in node.output}
        given = (tensor for tensor in model.graph.initializer if tensor.name in read)
        found.graph.initializer.extend([*given, *self.initializers()])
        return found


def resized(graph: Nodes, images: str, *, name: str) -> str:
    """Resize images, (batch, height, width, 3), uint8, unless they are 256 x 256.

    The result is (batch, 3, 256, 256), whole numbers from 0 to 255, float32.
    """
    has_size = graph.op(
        "Equal",
        graph.op("Shape", images, start=1, end=3),
        graph.integer([INPUT_SIZE, INPUT_SIZE]),
    )
    both = graph.op("ReduceMin", _as(graph, has_size, INT64), keepdims=0)
    as_given, resizing = Nodes("as_given_"), Nodes("resizing_")
    shape = as_given.integer([-1, 3, INPUT_SIZE, INPUT_SIZE])
    as_given.op("Reshape", _channels_first(as_given, images), shape)
    _resize(resizing, images)
    return graph.op(
        "If",
        _as(graph, both, BOOL),
        name=name,
        then_branch=_branch(as_given),
        else_branch=_branch(resizing),
    )


def _branch(graph: Nodes) -> Any:
    """Return the nodes as a branch of an `If`; the last node is its result."""
    last = graph.nodes[-1].output[0]
    shape: list[str | int] = ["batch", 3, INPUT_SIZE, INPUT_SIZE]
    result = helper.make_tensor_value_info(last, FLOAT, shape)
    return helper.make_graph(graph.nodes, last, [], [result], graph.initializers())


def _channels_first(graph: Nodes, images: str) -> str:
    return graph.op("Transpose", _as(graph, images, FLOAT), perm=[0, 3, 1, 2])


def _resize(graph: Nodes, images: str) -> None:
    size = graph.op("Shape", images)
    height, width = (graph.op("Gather", size, graph.integer(axis)) for axis in (1, 2))
    columns = graph.op("Transpose", _averaging(graph, width), perm=[1, 0])
    pixels = graph.op("MatMul", _channels_first(graph, images), columns)
    pixels = _rounded(graph, pixels, axis=3)
    rows = _averaging(graph, height)
    _rounded(graph, graph.op("MatMul", rows, pixels), axis=2)


def placement(graph: Nodes, length: str) -> str:
    """Write the matrix of `place_map` along an axis, (length, 56), at run time."""
    pixels = graph.op("Range", graph.integer(0), length, graph.integer(1))
    # (pixel + 1/2) * 256 / length - 1/2, from the first center, in cells: a fraction.
    doubled = graph.op("Add", graph.op("Add", pixels, pixels), graph.integer(1))
    first = graph.op("Mul", length, graph.integer(2 * FIRST_CENTER + 1))
    cell = graph.op("Sub", graph.op("Mul", doubled, graph.integer(INPUT_SIZE)), first)
    whole = graph.op("Mul", length, graph.integer(2 * PATCH_STRIDE))
    cell = graph.op("Max", cell, graph.integer(0))
    last = graph.op("Mul", whole, graph.integer(GRID_SIZE - 1))
    left, behind = _divided(graph, graph.op("Min", cell, last), whole)
    # Only the remainder becomes a fraction, so that single precision is enough.
    share = graph.op("Div", _as(graph, behind, FLOAT), _as(graph, whole, FLOAT))
    cells = graph.integer(np.arange(GRID_SIZE)[None])
    steps = graph.op("Sub", graph.op("Unsqueeze", left, graph.integer([1])), cells)
    distance = graph.op(
        "Add",
        _as(graph, steps, FLOAT),
        graph.op("Unsqueeze", share, graph.integer([1])),
    )
    weights = graph.op("Sub", graph.constant(1), graph.op("Abs", distance))
    return graph.op("Max", weights, graph.constant(0))


def _averaging(graph: Nodes, length: str) -> str:
    """Write the weights of the bilinear filter, which is wider where it shrinks.

    They are in fixed point, upper halves above lower ones, (512, length), float32.
    """
    ours = graph.integer(2 * np.arange(INPUT_SIZE)[:, None] + 1)
    theirs = graph.op("Range", graph.integer(0), length, graph.integer(1))
    theirs = graph.op("Add", graph.op("Add", theirs, theirs), graph.integer(1))
    # Distances of pixel centers and the filter's half width, both times 2 * 256.
    distance = graph.op(
        "Sub",
        graph.op("Mul", theirs, graph.integer(INPUT_SIZE)),
        graph.op("Mul", ours, length),
    )
    reach = graph.op("Max", length, graph.integer(INPUT_SIZE))
    reach = graph.op("Mul", reach, graph.integer(2))
    hat = graph.op("Sub", reach, graph.op("Abs", distance))
    hat = graph.op("Max", hat, graph.integer(0))
    total = graph.op("ReduceSum", hat, graph.integer([1]))
    digits = []
    for base in _DIGITS:
        digit, hat = _divided(graph, graph.op("Mul", hat, graph.integer(base)), total)
        digits.append(digit)
    is_up = graph.op("GreaterOrEqual", graph.op("Add", hat, hat), total)
    digits[-1] = graph.op("Add", digits[-1], _as(graph, is_up, INT64))
    upper, lower = (
        graph.op("Add", graph.op("Mul", first, graph.integer(_DIGITS[1])), second)
        for first, second in (digits[:2], digits[2:])
    )
    return _as(graph, graph.op("Concat", upper, lower, axis=0), FLOAT)


def _divided(graph: Nodes, value: str, by: str) -> tuple[str, str]:
    """Write quotient and remainder of whole numbers.

    Both are exact even if an engine divides whole numbers in single precision and its
    quotient is one too high or too low.
    """
    quotient = graph.op("Div", value, by)
    remainder = graph.op("Sub", value, graph.op("Mul", quotient, by))
    is_low = _as(graph, graph.op("GreaterOrEqual", remainder, by), INT64)
    is_high = _as(graph, graph.op("Less", remainder, graph.integer(0)), INT64)
    quotient = graph.op("Add", quotient, graph.op("Sub", is_low, is_high))
    return quotient, graph.op("Sub", value, graph.op("Mul", quotient, by))


def _rounded(graph: Nodes, sums: str, *, axis: int) -> str:
    """Join upper and lower sums, stacked along an axis, to whole gray levels."""
    upper, lower = (
        graph.op(
            "Slice",
            sums,
            *(graph.integer([v]) for v in (start, start + INPUT_SIZE, axis)),
        )
        for start in (0, INPUT_SIZE)
    )
    half = graph.constant(1 / _HALF)
    carried = graph.op("Floor", graph.op("Mul", lower, half))
    value = graph.op("Add", upper, carried)
    value = graph.op("Add", value, graph.constant(_HALF / 2))
    return graph.op("Floor", graph.op("Mul", value, half))


def _as(graph: Nodes, value: str, kind: int) -> str:
    return graph.op("Cast", value, to=kind)
