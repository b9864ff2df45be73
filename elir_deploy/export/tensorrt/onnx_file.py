"""An ONNX file's nodes and types, read without the package onnx, which no Jetson needs to have.

Only what the types of convolutions follow from is read: of the protocol buffers of ``onnx.proto``,
whose field numbers never change, a few.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["FLOAT", "FLOAT16", "Node", "OnnxGraph", "read_onnx"]

#: Of TensorProto.DataType.
FLOAT, FLOAT16 = 1, 10


@dataclass(frozen=True)
class Node:
    """An operation.

    Attributes:
        op: its name, such as ``Conv``.
        inputs: names of tensors.
        outputs: names of tensors.
        casts_to: the type that a ``Cast`` gives; None for other operations.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    casts_to: int | None


@dataclass(frozen=True)
class OnnxGraph:
    """The graph of a model.

    Attributes:
        nodes: in the file's order, in which each comes after those that it reads.
        constants: type of each initializer, by name.
    """

    nodes: tuple[Node, ...]
    constants: dict[str, int]


def read_onnx(model: bytes) -> OnnxGraph:
    """The graph in an ONNX file, which a parser has accepted."""
    nodes, constants = [], {}
    for number, graph in _fields(memoryview(model)):
        if number != 7:  # ModelProto.graph
            continue
        for part, content in _fields(_message(graph)):
            if part == 1:  # GraphProto.node
                nodes.append(_node(_message(content)))
            elif part == 5:  # GraphProto.initializer
                name, kind = "", 0
                for field, value in _fields(_message(content)):
                    if field == 2:  # TensorProto.data_type
                        kind = _number(value)
                    elif field == 8:  # TensorProto.name
                        name = _text(value)
                constants[name] = kind
    return OnnxGraph(tuple(nodes), constants)


def _node(message: memoryview) -> Node:
    op, casts_to = "", None
    inputs, outputs = [], []
    for number, value in _fields(message):
        if number == 1:
            inputs.append(_text(value))
        elif number == 2:
            outputs.append(_text(value))
        elif number == 4:  # op_type
            op = _text(value)
        elif number == 5:  # attribute: its name is 1, its integer 3
            attribute = dict(_fields(_message(value)))
            if _text(attribute[1]) == "to":
                casts_to = _number(attribute[3])
    return Node(op, tuple(inputs), tuple(outputs), casts_to if op == "Cast" else None)


# Protocol buffers ---------------------------------------------------------------------------------


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire_type == 2:
            size, at = _varint(message, at)
        else:
            size = {1: 8, 5: 4}[wire_type]
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at a place, and the place behind it."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _message(value: int | memoryview) -> memoryview:
    assert isinstance(value, memoryview)
    return value


def _number(value: int | memoryview) -> int:
    assert isinstance(value, int)
    return value


def _text(value: int | memoryview) -> str:
    return str(_message(value), "utf-8")
