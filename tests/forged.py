"""Graphs that no export makes: with things no runtime may do, with damage, and with mistakes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

__all__ = ["FORGED", "another_size", "endless_loop", "memory_tag", "mutated", "unreadable"]


# As ours are, for all that can be seen without computing them -----------------------------------


def unreadable(bundle: Path) -> bytes:
    """The fused graph, but a node reads what nobody makes."""
    model = onnx.load(bundle / "fused.fp32.onnx")
    model.graph.node[1].input[0] = "nothing"
    return model.SerializeToString()


def another_size(bundle: Path) -> bytes:
    """The fused graph, which gives its picture twice, one below the other, and does not say so."""
    model = onnx.load(bundle / "fused.fp32.onnx")
    (last,) = [node for node in model.graph.node if "restored" in node.output]
    last.output[0] = "half"
    model.graph.node.append(helper.make_node("Concat", ["half", "half"], ["restored"], axis=1))
    return model.SerializeToString()


# What libraries would do because a graph says so -------------------------------------------------


def memory_tag(model: ModelProto, place: str = "*/_ORT_MEM_ADDR_/*") -> None:
    """Weights from ``place``: ONNX Runtime reads memory at the offset where it is its own tag."""
    _outside(model.graph.initializer[0], place)


def endless_loop(model: ModelProto) -> None:
    """A loop that counts to 2^62, or for ever."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["again"], ["again_too"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", TensorProto.FLOAT, []),
        ],
        [
            helper.make_tensor_value_info("again_too", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, []),
        ],
    )
    graph = model.graph
    graph.initializer.append(numpy_helper.from_array(np.asarray(2**62), "count"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(True), "yes"))
    loop = helper.make_node("Loop", ["count", "yes", "bias"], ["looped"], body=body)
    for node in graph.node:
        node.input[:] = ["looped" if name == "bias" else name for name in node.input]
    graph.node.insert(0, loop)


def _outside(tensor: TensorProto, place: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", place), ("offset", "4096"), ("length", "4")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _weight(name: str = "w", place: str | None = None) -> TensorProto:
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), name)
    if place is not None:
        _outside(tensor, place)
    return tensor


def _constant(**value: Any) -> Callable[[ModelProto], None]:
    def forge(model: ModelProto) -> None:
        model.graph.node.append(helper.make_node("Constant", [], ["c"], **value))

    return forge


def _attribute(**value: Any) -> Callable[[ModelProto], None]:
    def forge(model: ModelProto) -> None:
        model.graph.node[0].attribute.extend(
            helper.make_attribute(name, given) for name, given in value.items()
        )

    return forge


def _operator(op: str, domain: str = "", **graphs: Any) -> Callable[[ModelProto], None]:
    def forge(model: ModelProto) -> None:
        model.graph.node.append(helper.make_node(op, ["image"], ["o"], domain=domain, **graphs))

    return forge


def _sparse() -> Any:
    values, indices = _weight(), numpy_helper.from_array(np.zeros(1, np.int64), "i")
    return helper.make_sparse_tensor(values, indices, [4])


def _local_function(model: ModelProto) -> None:
    opset = helper.make_opsetid("", 17)
    node = helper.make_node("Relu", ["x"], ["y"])
    model.functions.append(helper.make_function("here", "Relu", ["x"], ["y"], [node], [opset]))


def _set(*path: str | int, **fields: Any) -> Callable[[ModelProto], None]:
    """Set fields of the message at ``path``; one more of a repeated one where it ends."""

    def forge(model: ModelProto) -> None:
        place: Any = model
        for step in path:
            place = place[step] if isinstance(step, int) else getattr(place, step)
        if hasattr(place, "add"):
            place = place.add()
        for name, value in fields.items():
            if isinstance(value, list):
                getattr(place, name).extend(value)
            else:
                setattr(place, name, value)

    return forge


_EMPTY = GraphProto(name="empty")
_WEIGHT = ("graph", "initializer", 0)
_INPUT = ("graph", "input", 0)

#: By what is wrong with it: how to make a good model such, and what is said.
FORGED: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "memory tag": (memory_tag, "TensorProto.external_data"),
    "file outside": (lambda m: memory_tag(m, "../../etc/passwd"), "TensorProto.external_data"),
    "file beside": (lambda m: memory_tag(m, "weights.bin"), "TensorProto.external_data"),
    "location alone": (_set(*_WEIGHT, data_location=1), "TensorProto.data_location"),
    "outside in a constant": (_constant(value=_weight(place="a")), "the operator Constant"),
    "outside in an attribute": (_attribute(a=_weight(place="a")), "AttributeProto.t "),
    "tensors in an attribute": (_attribute(a=[_weight()]), "AttributeProto.field 10"),
    "sparse attribute": (_attribute(a=_sparse()), "AttributeProto.sparse_tensor"),
    "sparse weight": (_set("graph", sparse_initializer=[_sparse()]), "sparse_initializer"),
    "endless loop": (endless_loop, "the operator Loop"),
    "If": (_operator("If", then_branch=_EMPTY, else_branch=_EMPTY), "the operator If"),
    "Scan": (_operator("Scan", body=_EMPTY), "the operator Scan"),
    "SequenceMap": (_operator("SequenceMap", body=_EMPTY), "the operator SequenceMap"),
    "graph in an attribute": (_attribute(a=_EMPTY), "AttributeProto.g "),
    "graphs in an attribute": (_attribute(a=[_EMPTY]), "AttributeProto.graphs"),
    "reference to one": (_set("graph", "node", 0, "attribute", ref_attr_name="a"), "ref_attr_name"),
    "local function": (_local_function, "ModelProto.functions"),
    "training": (_set("training_info"), "ModelProto.training_info"),
    "another operator": (_operator("Gemm"), "the operator Gemm"),
    "no operator": (_operator(""), "the operator "),
    "custom domain": (_operator("Relu", "com.microsoft"), "NodeProto.domain"),
    "import of a domain": (_set("opset_import", domain="com.microsoft", version=1), "opset_import"),
    "another domain": (_set("opset_import", 0, domain="ai.onnx.ml"), "of the domain 'ai.onnx.ml'"),
    "old opset": (_set("opset_import", 0, version=16), "opset 16"),
    "new opset": (_set("opset_import", 0, version=99), "opset 99"),
    "metadata": (_set("metadata_props", key="ort_config", value="{}"), "metadata called"),
    "metadata of a node": (_set("graph", "node", 0, "metadata_props", key="a"), "metadata_props"),
    "annotation": (_set("graph", "quantization_annotation"), "quantization_annotation"),
    "strings": (_set(*_WEIGHT, data_type=TensorProto.STRING), "a tensor of type 8"),
    "string data": (_set(*_WEIGHT, string_data=[b"a"]), "TensorProto.string_data"),
    "floats": (_set(*_WEIGHT, float_data=[1.0]), "TensorProto.field 4"),
    "huge weight": (_set(*_WEIGHT, dims=[2**31, 2**31]), "float32 2147483648x2147483648 has 4"),
    "overflowing": (_set(*_WEIGHT, dims=[2**62, 4]), "x4 has 4 bytes"),
    "negative": (_set(*_WEIGHT, dims=[-1]), "has 4 bytes"),
    "of no size": (_set(*_WEIGHT, dims=[0], raw_data=b""), "has 0 bytes"),
    "sequence": (
        _set(*_INPUT, "type", "sequence_type", "elem_type", "tensor_type", elem_type=1),
        "TypeProto.field 4",
    ),
    "open side": (
        _set(*_INPUT, "type", "tensor_type", "shape", "dim", 1, dim_param="h"),
        "input is image: uint8 1x?x32x3, the manifest says image: uint8 1x32x32x3",
    ),
    "second input": (_set("graph", "input", name="b"), "input is image: uint8 1x32x32x3, b:"),
    "no input": (lambda model: model.graph.ClearField("input"), "the graph's input is nothing"),
    "no graph": (lambda model: model.ClearField("graph"), "ModelProto has no graph"),
}


# Damage ------------------------------------------------------------------------------------------


def mutated(data: bytes, chance: random.Random) -> bytes:
    """``data`` with a small change: of a byte, or of a field anywhere in its messages."""
    if chance.random() < 0.25:
        return _byte_changed(data, chance)
    return _field_changed(data, chance)


def _byte_changed(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    some = chance.choice([b"", b"\0", b"\1", b"\x7f", b"\x80", b"\xff", chance.randbytes(3)])
    return data[:at] + some + data[at + chance.choice([0, 0, 1, 1, 2, 40]) :]


def _field_changed(data: bytes, chance: random.Random) -> bytes:
    fields = _split(data)
    if not fields:
        return _byte_changed(data, chance)
    at = chance.randrange(len(fields))
    tag, value = fields[at]
    if isinstance(value, bytes) and _split(value) and chance.random() < 0.8:
        fields[at] = (tag, _field_changed(value, chance))
        return _joined(fields)
    change = chance.randrange(6)
    if change == 0:
        del fields[at]
    elif change == 1:
        fields.insert(at, fields[chance.randrange(len(fields))])
    elif change == 2:
        fields.append(fields.pop(at))
    elif change == 3:
        fields[at] = (chance.randrange(0, 26) << 3 | tag & 7, value)
    elif isinstance(value, int):
        fields[at] = (tag, chance.choice([0, 1, 2, 7, 10, 17, 32, 2**31, 2**63, 2**64 - 1]))
    else:
        fields[at] = (tag, _byte_changed(value, chance))
    return _joined(fields)


def _split(data: bytes) -> list[tuple[int, int | bytes]]:
    """Tag and value of each field; none where it is no message of numbers and bytes."""
    fields: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag & 7 == 0:
            fields.append((tag, value))
        elif tag & 7 == 2 and tag >> 3 and at + value <= len(data):
            fields.append((tag, data[at : at + value]))
            at += value
        else:
            return []
    return fields if at == len(data) else []


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at
    return value, len(data) + 1


def _joined(fields: list[tuple[int, int | bytes]]) -> bytes:
    made = b""
    for tag, value in fields:
        made += _number(tag)
        made += _number(value) if isinstance(value, int) else _number(len(value)) + value
    return made


def _number(value: int) -> bytes:
    made = b""
    while value >= 0x80:
        made += bytes([value & 0x7F | 0x80])
        value >>= 7
    return made + bytes([value])
