"""Writes small ONNX graphs, without the onnx library: Protocol Buffers as in onnx.proto, IR version 8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

OPSET = 16
_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int64): 7, np.dtype(np.bool_): 9}
_VARINT, _BYTES = 0, 2

Array = NDArray[np.float32] | NDArray[np.int64] | NDArray[np.bool_]
Shape = Sequence[int | str]


@dataclass(frozen=True)
class Tensor:
    """An input or output; a size that is a word may be any."""

    name: str
    shape: Shape
    kind: type = np.float32


@dataclass(frozen=True)
class Node:
    """An operator with its inputs, outputs and attributes."""

    operator: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, int | Sequence[int] | Array | Graph] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of computing, between inputs and outputs, and constants by name."""

    nodes: Sequence[Node]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]
    constants: Mapping[str, Array] = field(default_factory=dict)

    def model(self) -> bytes:
        """The file."""
        opset = _integer(2, OPSET)
        return _integer(1, 8) + _message(7, _graph(self)) + _message(8, opset)


def _graph(graph: Graph) -> bytes:
    parts = [_message(1, _node(node)) for node in graph.nodes]
    parts.append(_message(2, b"graph"))
    parts += [_message(5, _array(array, name)) for name, array in graph.constants.items()]
    parts += [_message(11, _value_info(tensor)) for tensor in graph.inputs]
    parts += [_message(12, _value_info(tensor)) for tensor in graph.outputs]
    return b"".join(parts)


def _node(node: Node) -> bytes:
    parts = [_message(1, name.encode()) for name in node.inputs]
    parts += [_message(2, name.encode()) for name in node.outputs]
    parts.append(_message(4, node.operator.encode()))
    parts += [_message(5, _attribute(name, value)) for name, value in node.attributes.items()]
    return b"".join(parts)


def _attribute(name: str, value: int | Sequence[int] | Array | Graph) -> bytes:
    start = _message(1, name.encode())
    match value:
        case Graph():
            return start + _message(6, _graph(value)) + _integer(20, 5)
        case np.ndarray():
            return start + _message(5, _array(value, "")) + _integer(20, 4)
        case int():
            return start + _integer(3, value) + _integer(20, 2)
        case _:
            return start + b"".join(_integer(8, one) for one in value) + _integer(20, 7)


def _array(array: Array, name: str) -> bytes:
    dimensions = b"".join(_integer(1, size) for size in array.shape)
    content = np.ascontiguousarray(array).tobytes()
    return dimensions + _integer(2, _TYPES[array.dtype]) + _message(8, name.encode()) + _message(9, content)


def _value_info(tensor: Tensor) -> bytes:
    sizes = [
        _message(2, size.encode()) if isinstance(size, str) else _integer(1, size) for size in tensor.shape
    ]
    shape = b"".join(_message(1, size) for size in sizes)
    kind = _integer(1, _TYPES[np.dtype(tensor.kind)]) + _message(2, shape)
    return _message(1, tensor.name.encode()) + _message(2, _message(1, kind))


def _integer(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value & (1 << 64) - 1)


def _message(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
