"""Check, before a library loads an ONNX file, that ``elir-export`` could have written it.

A library does what a graph says: it reads weights from other files or from memory, and runs endless
loops. Graphs of this project contain nothing of the kind. So ``onnx_rules.json`` lists what a file
may contain, and everything else is refused: operators, element types, and fields of the messages
of ``onnx.proto``. The C++ runtime uses the same list, and the exporter checks its own graphs.

Protocol buffers have several encodings of the same message, on which readers may disagree. Only the
one that serializers write is accepted: fields in the order of their numbers, fields that are not
repeated only once, and integers in the fewest bytes.

Weights are not read, only their descriptions, and the package ``onnx`` is not needed.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from elir_deploy.errors import BundleError
from elir_deploy.runtime.graph_ends import End, GraphEnds, check_ends
from elir_deploy.runtime.onnx_rules import (
    ATTRIBUTE_TYPES,
    ELEMENTS,
    FIXED32,
    MESSAGES,
    METADATA,
    MOST_FIELDS,
    OPERATORS,
    OPSETS,
    VARINT,
    field_name,
)
from elir_deploy.text import printable, shortened

__all__ = ["check_onnx", "check_onnx_file"]

_Content: TypeAlias = "bytes | mmap.mmap"
_Check: TypeAlias = "Callable[[int, int, int], object]"


def check_onnx_file(path: Path, ends: GraphEnds | None = None) -> None:
    """:func:`check_onnx` of the file at ``path``, with which errors begin.

    Raises:
        OSError: it cannot be read.
    """
    try:
        if path.suffix != ".onnx":  # by which ONNX Runtime tells other formats
            raise BundleError("the file name must end in .onnx")
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            check_onnx(content, ends)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from None
    except ValueError:  # what is empty cannot be mapped
        raise BundleError(f"{path}: the file is empty: copy the bundle again") from None


def check_onnx(content: _Content, ends: GraphEnds | None = None) -> None:
    """Check that ``content`` is a graph that could have been exported, with these ends.

    The time depends on the number of nodes, not on the size of the weights.

    Args:
        content: content of an ONNX file.
        ends: expected inputs and outputs; None: any.

    Raises:
        BundleError: it is damaged, contains what ``elir-export`` never writes, or has other ends.
    """
    scanner = _Scanner(content)
    scanner.model()
    if ends is not None:
        check_ends("the graph's", GraphEnds(scanner.inputs, scanner.outputs), ends)


# Scanning -------------------------------------------------------------------------------------

#: Tags of names of tensors, in which layers differ and with which these messages begin.
_NAMES = {"NodeProto": (0x0A, 0x12, 0x1A), "ValueInfoProto": (0x0A,)}
#: What many nodes have alike is shorter.
_SHORT_BYTES = 512


class _Scanner:
    """One pass over a file."""

    def __init__(self, content: _Content) -> None:
        self.inputs: list[End] = []
        self.outputs: list[End] = []
        self._content = content
        self._fields_read = 0
        #: By message: bytes after the names that passed, and their number of fields.
        self._good: dict[str, dict[bytes, int]] = {message: {} for message in _NAMES}

    def model(self) -> None:
        missing = {"graph", "opset_import"}
        for name, first, last in self._fields("ModelProto", 0, len(self._content)):
            missing.discard(name)
            if name == "graph":
                self._graph(first, last)
            elif name == "opset_import":
                self._opset(first, last)
            elif name == "metadata_props":
                self._metadata(first, last)
        if missing:
            raise _damaged(f"ModelProto has no {' and no '.join(sorted(missing))}")

    def _graph(self, at: int, end: int) -> None:
        for name, first, last in self._fields("GraphProto", at, end):
            if name == "node":
                self._alike("NodeProto", self._node, first, last)
            elif name == "value_info":
                self._alike("ValueInfoProto", self._end, first, last)
            elif name == "initializer":
                self._tensor(first, last)
            elif name == "input":
                self.inputs.append(self._end(first, last))
            elif name == "output":
                self.outputs.append(self._end(first, last))

    def _opset(self, at: int, end: int) -> None:
        domain, version = "", 0
        for name, first, last in self._fields("OperatorSetIdProto", at, end):
            if name == "domain":
                domain = self._text(first, last)
            else:
                version = first
        if domain or version not in OPSETS:
            raise _foreign(f"opset {version} of the domain '{shortened(domain)}'")

    def _metadata(self, at: int, end: int) -> None:
        key = ""
        for name, first, last in self._fields("StringStringEntryProto", at, end):
            if name == "key":
                key = self._text(first, last)
        if not key.startswith(METADATA):
            raise _foreign(f"metadata called '{shortened(key)}'")

    def _alike(self, message: str, check: _Check, at: int, end: int) -> None:
        """Check what follows the names in a message, unless the same bytes passed before.

        Layers differ only in their names, so this saves most of the time.
        """
        content, names, known = self._content, _NAMES[message], self._good[message]
        before = count = 0
        while at < end and (tag := content[at]) in names:
            self._in_order(message, tag, before, at)
            before, count = tag, count + 1
            _, at = self._bytes(at + 1, end)
        self._count(count)
        rest = self._content[at:end] if end - at <= _SHORT_BYTES else b""
        fields = known.get(rest)
        if fields is not None:
            self._count(fields)
            return
        counted = self._fields_read
        check(at, end, before)
        if rest:
            known[rest] = self._fields_read - counted

    def _node(self, at: int, end: int, before: int) -> None:
        operator = b""
        for name, first, last in self._fields("NodeProto", at, end, before):
            if name == "op_type":
                operator = self._content[first:last]
                if operator not in OPERATORS:
                    raise _foreign(f"the operator {shortened(self._text(first, last))}")
            elif name == "attribute":
                self._attribute(first, last)
        if not operator:
            raise _damaged("NodeProto has no op_type")

    def _attribute(self, at: int, end: int) -> None:
        kind = 0
        for name, first, _ in self._fields("AttributeProto", at, end):
            if name == "type":
                kind = first
        if kind not in ATTRIBUTE_TYPES:
            raise _foreign(f"an attribute of type {kind}")

    def _tensor(self, at: int, end: int) -> None:
        dims: list[int] = []
        kind, tensor_name, size = 0, "", 0
        for name, first, last in self._fields("TensorProto", at, end):
            if name == "dims":
                dims.append(first)
            elif name == "data_type":
                kind = first
            elif name == "name":
                tensor_name = self._text(first, last)
            elif name == "raw_data":
                size = last - first
        dtype, size_by_dims = _element(kind)
        for side in dims:
            size_by_dims *= side
            if size_by_dims > size:  # whatever sides follow
                break
        if size_by_dims != size or not size:
            weight = End(tensor_name, dtype, tuple(dims[:8]))
            raise _damaged(f"the weight {weight} has {size} bytes, which does not match its shape")

    def _end(self, at: int, end: int, before: int = 0) -> End:
        tensor_name, dtype = "", ""
        dims: list[int | None] = []
        for name, first, last in self._fields("ValueInfoProto", at, end, before):
            if name == "name":
                tensor_name = self._text(first, last)
            elif name == "type":
                for _, begin, stop in self._fields("TypeProto", first, last):
                    dtype = self._tensor_type(begin, stop, dims)
        return End(tensor_name, dtype, tuple(dims))

    def _tensor_type(self, at: int, end: int, dims: list[int | None]) -> str:
        """Name of the element type; appends the sides to ``dims``."""
        kind = 0
        for name, first, last in self._fields("TypeProto.Tensor", at, end):
            if name == "elem_type":
                kind = first
                continue
            for _, begin, stop in self._fields("TensorShapeProto", first, last):
                sides: list[int | None] = []
                for entry, value, _ in self._fields("TensorShapeProto.Dimension", begin, stop):
                    sides.append(value if entry == "dim_value" else None)
                if len(sides) > 1:
                    raise _damaged(f"TensorShapeProto.Dimension at byte {begin} has two values")
                dims += sides or [None]
        return _element(kind)[0]

    # Protocol buffers

    def _fields(
        self, message: str, at: int, end: int, before: int = 0
    ) -> Iterator[tuple[str, int, int]]:
        """Name of each field of a message, and where its bytes begin and end.

        Of an integer, its value in place of the beginning.

        Args:
            message: which one.
            at: where it begins, or goes on.
            end: where it ends.
            before: the tag of the field before ``at``.
        """
        known = MESSAGES[message]
        while at < end:
            place = at
            if (tag := self._content[at]) < 0x80:
                at += 1
            else:
                tag, at = self._varint(at, end)
            field = known.get(tag)
            if field is None:
                raise _unknown(message, tag, place)
            self._in_order(message, tag, before, place)
            before = tag
            self._count(1)
            if field.wire == VARINT:
                first, at = self._varint(at, end)
            elif field.wire == FIXED32:
                first, at = self._span(4, at, end)
            else:
                first, at = self._bytes(at, end)
            yield field.name, first, at

    def _in_order(self, message: str, tag: int, before: int, at: int) -> None:
        if tag <= before and (tag < before or MESSAGES[message][tag].once):
            name = MESSAGES[message][tag].name
            raise _damaged(f"{message}.{name} at byte {at} is duplicated or out of order")

    def _bytes(self, at: int, end: int) -> tuple[int, int]:
        """Where the bytes begin and end whose number stands at ``at``."""
        if at < end and (size := self._content[at]) < 0x80:
            at += 1
        else:
            size, at = self._varint(at, end)
        return self._span(size, at, end)

    def _span(self, size: int, at: int, end: int) -> tuple[int, int]:
        if size > end - at:
            raise _damaged(f"{size} bytes at byte {at}, where {end - at} are left")
        return at, at + size

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """The number at ``at``, and where it ends."""
        value = shift = 0
        for place in range(at, min(end, at + 10)):
            byte = self._content[place]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value < 2**64 and (byte or place == at):
                    return value, place + 1
                break
            shift += 7
        raise _damaged(f"invalid number at byte {at}")

    def _text(self, first: int, last: int) -> str:
        return self._content[first:last].decode("utf-8", "replace")

    def _count(self, fields: int) -> None:
        self._fields_read += fields
        if self._fields_read > MOST_FIELDS:
            raise _foreign(f"more than {MOST_FIELDS} fields")


def _element(kind: int) -> tuple[str, int]:
    """Name and bytes of an element."""
    if kind not in ELEMENTS:
        raise _foreign(f"a tensor of type {kind}")
    return ELEMENTS[kind]


# Errors ---------------------------------------------------------------------------------------


def _damaged(what: str) -> BundleError:
    return BundleError(f"damaged: {printable(what)}: copy the bundle again, or export it again")


def _foreign(what: str) -> BundleError:
    return BundleError(
        f"it contains {printable(what)}, which elir-export never writes: copy the bundle again, "
        "and only from people you trust"
    )


def _unknown(message: str, tag: int, at: int) -> BundleError:
    number, wire = tag >> 3, tag & 7
    name = f"{message}.{field_name(message, number)}"
    if any(known >> 3 == number for known in MESSAGES[message]):
        return _damaged(f"{name} has wire type {wire} at byte {at}")
    return _foreign(f"{name} at byte {at}")
