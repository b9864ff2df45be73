"""Reads the pickle in a torch file with a stack machine that calls nothing.

``pickle.Unpickler`` calls the functions that a file names. Here opcodes only move values: a global
becomes its name, a call becomes :data:`FOREIGN` unless it is one of the three in a state dict, and
the state of objects is dropped. So a file can neither run code nor import anything, other objects
in it (``argparse.Namespace``, ``defaultdict``, classes that are not installed) are skipped, and the
work is linear in the length of the pickle: foreign objects are not hashed, and no more memory is
allocated than the file has bytes.
"""

from __future__ import annotations

import pickletools
from typing import Any, NamedTuple

from elir_deploy.errors import CheckpointError

__all__ = ["FOREIGN", "Foreign", "StorageReference", "TensorReference", "read_pickle"]


class Foreign:
    """Stands for every object that is not a tensor or a plain value."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<foreign object>"


#: The only instance: nothing of a foreign object is kept.
FOREIGN = Foreign()


class Global(NamedTuple):
    """A class or function by name, never imported."""

    module: str
    name: str


class StorageReference(NamedTuple):
    """The storage of a tensor: ``kind`` such as ``FloatStorage``, ``key`` in the archive."""

    kind: str
    key: str
    numel: int


class TensorReference(NamedTuple):
    """A strided view of a storage; ``offset`` and ``stride`` count elements. Not checked yet."""

    storage: StorageReference
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


_ORDERED_DICT = Global("collections", "OrderedDict")
_REBUILD_TENSOR = Global("torch._utils", "_rebuild_tensor_v2")
_REBUILD_PARAMETERS = (
    Global("torch._utils", "_rebuild_parameter"),
    Global("torch._utils", "_rebuild_parameter_with_state"),
)

_MAX_DIMENSIONS = 8
#: Opcodes whose argument is the value.
# fmt: off
_VALUES = frozenset({
    "INT", "LONG", "LONG1", "LONG4", "BININT", "BININT1", "BININT2",
    "FLOAT", "BINFLOAT", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
})
# fmt: on
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
#: Pickle's older and rarer opcodes that create objects, and the number of values they take.
_CONSTRUCTORS = {"NEWOBJ": 2, "NEWOBJ_EX": 3, "EXT1": 0, "EXT2": 0, "EXT4": 0, "PERSID": 0}


def read_pickle(data: bytes) -> Any:
    """The object pickled in ``data``, without anything but plain data and tensors.

    Dictionaries keep only string keys, sets become :data:`FOREIGN` and tensors become
    :class:`TensorReference`.

    Raises:
        CheckpointError: the pickle is malformed.
    """
    try:
        return _Machine().run(data)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        raise CheckpointError(f"its pickle is damaged ({error})") from error


class _Machine:
    """Pickle's stack machine: a stack of values, a stack of marks, a memo."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "STOP":
                return self.stack.pop()
            self.step(opcode.name, argument)
        raise ValueError("no STOP")

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            stack.append(tuple(self.take(_TUPLES[name])))
        elif name in _CONSTRUCTORS:
            self.take(_CONSTRUCTORS[name])
            stack.append(FOREIGN)
        else:
            getattr(self, f"op_{name.lower()}", self.unknown)(argument)

    def take(self, count: int) -> list[Any]:
        """Pop the topmost ``count`` values."""
        if count > len(self.stack):
            raise ValueError("stack underflow")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def take_marked(self) -> list[Any]:
        """Pop all values above the last mark."""
        return self.take(len(self.stack) - self.marks.pop())

    def unknown(self, argument: Any) -> None:
        raise ValueError("an opcode that torch does not write")

    def ignore(self, argument: Any) -> None:
        pass

    op_proto = op_frame = ignore

    # The stack and the memo.

    def op_mark(self, argument: Any) -> None:
        self.marks.append(len(self.stack))

    def op_pop(self, argument: Any) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.take(1)

    def op_pop_mark(self, argument: Any) -> None:
        self.take_marked()

    def op_dup(self, argument: Any) -> None:
        self.stack.append(self.stack[-1])

    def op_memoize(self, argument: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_put(self, argument: Any) -> None:
        self.memo[argument] = self.stack[-1]

    op_binput = op_long_binput = op_put

    def op_get(self, argument: Any) -> None:
        self.stack.append(self.memo[argument])

    op_binget = op_long_binget = op_get

    # Containers.

    def op_empty_dict(self, argument: Any) -> None:
        self.stack.append({})

    def op_empty_list(self, argument: Any) -> None:
        self.stack.append([])

    def op_empty_tuple(self, argument: Any) -> None:
        self.stack.append(())

    def op_empty_set(self, argument: Any) -> None:
        self.stack.append(FOREIGN)

    def op_tuple(self, argument: Any) -> None:
        self.stack.append(tuple(self.take_marked()))

    def op_list(self, argument: Any) -> None:
        self.stack.append(self.take_marked())

    def op_dict(self, argument: Any) -> None:
        items = self.take_marked()
        self.stack.append({})
        self.set_items(items)

    def op_append(self, argument: Any) -> None:
        self.extend(self.take(1))

    def op_appends(self, argument: Any) -> None:
        self.extend(self.take_marked())

    def extend(self, values: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(values)

    def op_setitem(self, argument: Any) -> None:
        self.set_items(self.take(2))

    def op_setitems(self, argument: Any) -> None:
        self.set_items(self.take_marked())

    def set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("a key without a value")
        target = self.stack[-1]
        if isinstance(target, dict):
            target.update(
                (key, value)
                for key, value in zip(items[::2], items[1::2], strict=True)
                if type(key) is str
            )

    def op_additems(self, argument: Any) -> None:
        self.take_marked()

    def op_frozenset(self, argument: Any) -> None:
        self.take_marked()
        self.stack.append(FOREIGN)

    # Names and calls.

    def op_global(self, argument: Any) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(Global(module, name))

    def op_stack_global(self, argument: Any) -> None:
        module, name = self.take(2)
        known = isinstance(module, str) and isinstance(name, str)
        self.stack.append(Global(module, name) if known else FOREIGN)

    def op_reduce(self, argument: Any) -> None:
        function, arguments = self.take(2)
        self.stack.append(_rebuild(function, arguments))

    def op_build(self, argument: Any) -> None:
        self.take(1)  # the state, as a state dict's _metadata

    def op_obj(self, argument: Any) -> None:
        self.take_marked()
        self.stack.append(FOREIGN)

    op_inst = op_obj

    def op_binpersid(self, argument: Any) -> None:
        self.stack.append(_storage(self.take(1)[0]))


def _storage(identifier: Any) -> StorageReference | Foreign:
    """From torch's ``("storage", type, key, device, numel)``; the device is ignored."""
    match identifier:
        case ("storage", Global(module="torch", name=kind), str(key), _, int(numel)):
            return StorageReference(kind, key, numel)
    return FOREIGN


def _rebuild(function: Any, arguments: Any) -> Any:
    """The result of one of the three known calls in a state dict."""
    if not isinstance(function, Global) or not isinstance(arguments, tuple):
        return FOREIGN
    if function == _ORDERED_DICT and not arguments:
        return {}
    if function in _REBUILD_PARAMETERS and arguments:
        return arguments[0]
    if function == _REBUILD_TENSOR:
        match arguments:
            case (StorageReference() as storage, offset, tuple(shape), tuple(stride), *_):
                if _are_sizes((offset,)) and _are_sizes(shape) and _are_sizes(stride):
                    return TensorReference(storage, offset, shape, stride)
    return FOREIGN


def _are_sizes(numbers: tuple[Any, ...]) -> bool:
    """Whether these can be sizes of a tensor: a few non-negative 64-bit integers."""
    return len(numbers) <= _MAX_DIMENSIONS and all(
        type(number) is int and 0 <= number < 2**63 for number in numbers
    )
