"""Cross-layer equalization: hidden channels that share bytes more evenly.

All channels of a layer are rounded with one scale, so a channel of small values has few
of the bytes. A positive factor for a channel goes through ReLU, pooling and joining as
it is: the convolution before multiplies, those behind divide, and the graph's function
stays (Nagel et al., arXiv 1906.04721).
"""

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, numpy_helper

KEEPS_FACTORS = {"AveragePool", "Concat", "Resize"}
"""Operators whose result has the factors of what they read."""

_LARGEST_FACTOR = 4.0
_SHARE = 0.5
"""Exponent: 1 would let all channels reach as far. An anomaly may drive a channel
further than normal images do, so channels with small values keep room above."""

Channels = NDArray[np.float64]


def equalized(
    model: ModelProto, largest: Mapping[str, Channels]
) -> tuple[ModelProto, dict[str, Channels]]:
    """Return the same function with scaled hidden channels, and the largest values.

    Each value that is never negative has its largest on normal images, (channels,).
    Convolutions have a kernel, and perhaps a bias, of their own.
    """
    factors = _factors(model, largest)
    constants = {
        tensor.name: numpy_helper.to_array(tensor).astype(np.float64)
        for tensor in model.graph.initializer
    }
    changed = set()
    relu_of = {n.input[0]: n.output[0] for n in model.graph.node if n.op_type == "Relu"}
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        kernel, *bias = node.input[1:]
        read = factors.get(node.input[0])
        if read is not None:
            constants[kernel] /= read[:, np.newaxis, np.newaxis]
            changed.add(kernel)
        written = factors.get(relu_of.get(node.output[0], ""))
        if written is not None:
            constants[kernel] *= written[:, np.newaxis, np.newaxis, np.newaxis]
            changed.add(kernel)
            for name in bias:
                constants[name] *= written
                changed.add(name)
    found = copy.deepcopy(model)
    for tensor in found.graph.initializer:
        if tensor.name in changed:
            value = constants[tensor.name].astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    return found, {name: each * factors.get(name, 1) for name, each in largest.items()}


def _factors(model: ModelProto, largest: Mapping[str, Channels]) -> dict[str, Channels]:
    """Return the factors of each value that has them, (channels,)."""
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    convolved = {n.output[0] for n in model.graph.node if n.op_type == "Conv"}
    found: dict[str, Channels] = {}
    for node in model.graph.node:
        name, read = node.output[0], node.input
        if name not in largest:
            continue
        if node.op_type == "Relu":
            together = _together(readers, largest, name)
            if together and read[0] in convolved and len(readers[read[0]]) == 1:
                limit = max(largest[each].max() for each in together)
                found[name] = _shared(largest[name], limit)
        elif node.op_type == "Concat":
            parts = [found.get(part, np.ones(len(largest[part]))) for part in read]
            found[name] = np.concatenate(parts)
        elif read[0] in found:
            found[name] = found[read[0]]
    return found


def _together(
    readers: Mapping[str, Sequence[NodeProto]],
    largest: Mapping[str, Channels],
    name: str,
) -> list[str]:
    """List a value and what is made of it; none where something forbids factors.

    A convolution can take factors out again, and nothing else can.
    """
    found = [name]
    for node in readers.get(name, ()):
        if node.op_type in KEEPS_FACTORS and node.output[0] in largest:
            behind = _together(readers, largest, node.output[0])
            if not behind:
                return []
            found += behind
        elif node.op_type not in {"Shape", "Conv"}:
            return []
    return found


def _shared(largest: Channels, limit: float) -> Channels:
    """Return factors for channels with a common scale, which ends at a limit."""
    if limit <= 0:
        return np.ones(len(largest))
    least = limit / _LARGEST_FACTOR ** (1 / _SHARE)
    factors: Channels = (limit / np.maximum(largest, least)) ** _SHARE
    return factors
