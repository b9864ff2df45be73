"""Graphs that no export makes are refused before a library sees them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from elir_deploy.errors import BundleError, ElirError
from elir_deploy.runtime import Restorer, onnx_check
from elir_deploy.runtime.backends import BACKENDS, openvino
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.graph_ends import End, GraphEnds
from elir_deploy.runtime.onnx_check import check_onnx, check_onnx_file
from elir_deploy.runtime.onnx_rules import ATTRIBUTE_TYPES, OPERATORS
from tests.bundles import image_spec, make_bundle, put_graph, stage_graph
from tests.forged import FORGED, endless_loop, memory_tag, mutated

INPUT = End("image", "uint8", (1, 32, 32, 3))
OUTPUT = End("restored", "uint8", (1, 32, 32, 3))
ENDS = GraphEnds([INPUT], [OUTPUT])


def good_model() -> ModelProto:
    ends = image_spec("image", 32, "uint8"), image_spec("restored", 32, "uint8")
    return onnx.load_from_string(stage_graph(*ends, 0.5, 0.1))


GOOD = good_model().SerializeToString()


def refusal(content: bytes, inputs: tuple[End, ...] = (INPUT,)) -> str | None:
    try:
        check_onnx(content, GraphEnds([*inputs], [OUTPUT]))
    except BundleError as error:
        return str(error)
    return None


# Good ones ---------------------------------------------------------------------------------------


def test_a_small_graph() -> None:
    assert refusal(GOOD) is None


@pytest.mark.parametrize("io", ["uint8", "float32"])
@pytest.mark.parametrize("stages", ["fused", "split"])
def test_small_bundles(tmp_path: Path, io: str, stages: str) -> None:
    assert Bundle.open(make_bundle(tmp_path / "b", io=io, stages=stages)).damaged_files() == {}


def test_only_new_nodes_are_looked_at_more_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else Python would take many times as long for a large graph as it does."""
    looked_at = []
    node = onnx_check._Scanner._node
    monkeypatch.setattr(onnx_check._Scanner, "_node", lambda *a: (looked_at.append(1), node(*a))[0])
    bundle = Bundle.open("tiny")
    model = onnx.load(bundle.checked_file("fused.fp32.onnx"))
    assert 10 * len(looked_at) < len(model.graph.node)


# Hostile ones ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", FORGED)
def test_what_no_export_writes(case: str) -> None:
    forge, said = FORGED[case]
    model = good_model()
    forge(model)
    seen = refusal(model.SerializeToString())
    assert seen is not None
    assert said in seen
    assert len(seen.splitlines()) == 1
    assert len(seen) < 400


@pytest.mark.parametrize("forge", [memory_tag, endless_loop])
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_no_library_sees_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    forge: Callable[[ModelProto], None],
    backend: str,
) -> None:
    """The one crashes a process (with OpenVINO), the other never comes back."""
    pytest.importorskip(backend)
    monkeypatch.setenv("ELIR_CACHE", str(tmp_path / "cache"))  # what is compiled is not read again
    bundle = make_bundle(tmp_path / "b")
    seen: list[object] = []

    def see(*arguments: Any, **options: Any) -> None:
        seen.append(arguments)
        raise RuntimeError("seen")

    monkeypatch.setattr("onnxruntime.InferenceSession", see)
    monkeypatch.setattr(openvino, "read_model", see)
    with pytest.raises(ElirError, match="seen"):
        BACKENDS[backend].open(Bundle.open(bundle), "fp32")
    assert seen, "of a good one"
    seen.clear()
    model = good_model()
    forge(model)
    put_graph(bundle, model.SerializeToString())
    for wish in (backend, "auto"):
        with pytest.raises(BundleError, match="which elir-export never writes") as refused:
            Restorer(bundle, wish)
        assert refused.value.exit_code == 2
        assert str(bundle / "fused.fp32.onnx") in str(refused.value)
    assert seen == []


def test_a_library_would_read_elsewhere() -> None:
    """The case is real: ONNX Runtime takes weights from the file that a graph names."""
    onnxruntime = pytest.importorskip("onnxruntime")
    model = good_model()
    memory_tag(model, "no-such-file")
    with pytest.raises(Exception, match="no-such-file"):
        onnxruntime.InferenceSession(model.SerializeToString())
    assert "external_data" in str(refusal(model.SerializeToString()))


def test_nothing_that_steers_a_terminal_is_said() -> None:
    model = good_model()
    model.graph.node[0].op_type = "\x1b[31m\n" + "x" * 1000
    seen = str(refusal(model.SerializeToString()))
    assert r"the operator \x1b[31m\nxx" in seen
    assert len(seen) < 250


# Damaged ones ------------------------------------------------------------------------------------


def fields_of(*given: tuple[int, int | bytes]) -> bytes:
    """A message: numbers of fields, each with a number or bytes below 128."""
    made = b""
    for field, value in given:
        if isinstance(value, int):
            made += bytes([field << 3, value])
        else:
            made += bytes([field << 3 | 2, len(value)]) + value
    return made


#: A side of an input that is both a number and a name.
TWO_SIDES = fields_of((1, 1), (2, b"h"))
TYPE_OF_TWO = fields_of((1, fields_of((1, 2), (2, fields_of((1, TWO_SIDES))))))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "ModelProto has no graph and no opset_import"),
        (b"x", "ModelProto.field 15"),
        (b"\0" * 100, "ModelProto.field 0"),
        (b"\x08", "invalid number at byte 1"),
        (b"\x08\x88\x00", "invalid number at byte 1"),  # 8, in two bytes
        (b"\x88\x00\x08", "invalid number at byte 0"),
        (b"\x08" + b"\x80" * 9 + b"\x02", "invalid number at byte 1"),  # 2**64
        (b"\x08" + b"\x80" * 10 + b"\x01", "invalid number at byte 1"),
        (b"\x08" + b"\xff" * 9 + b"\x01", "ModelProto has no graph"),  # 2**64 - 1
        (b"\x0d\0\0\0\0", "ModelProto.ir_version has wire type 5"),
        (b"\x0b\x0c", "ModelProto.ir_version has wire type 3"),
        (b"\x12\x7fa", "127 bytes at byte 2, where 1 are left"),
        (b"\x12" + b"\xff" * 9 + b"\x01", "18446744073709551615 bytes at byte 11"),
        (fields_of((7, b"\x0a\x05\x22\x0fAdd")), "15 bytes at byte 6, where 3 are left"),
        (
            fields_of((7, fields_of((11, fields_of((2, TYPE_OF_TWO)))))),
            "Dimension at byte 14 has two values",
        ),
        (fields_of((7, b"\x0a\x02\x2d\x00")), "NodeProto.attribute has wire type 5"),
        (fields_of((7, b"\x0a\x0a\x22\x03Add\x2a\x03\x15\0\0")), "4 bytes at byte"),
    ],
)
def test_invalid_protocol_buffers(content: bytes, said: str) -> None:
    assert said in str(refusal(content))


def test_cut_off_anywhere() -> None:
    for size in range(len(GOOD)):
        assert refusal(GOOD[:size]) is not None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD + GOOD, "ModelProto.ir_version"),
        (GOOD + fields_of((7, b"")), "ModelProto.graph"),
        (GOOD + fields_of((8, b"\x10\x11")), "ModelProto.opset_import"),
        (fields_of((7, b"\x0a\x0a\x22\x03Add\x22\x03Add")), "NodeProto.op_type"),
        (fields_of((7, b"\x0a\x0b\x1a\x01a\x1a\x01b\x22\x03Add")), "NodeProto.name"),
        (fields_of((7, b"\x0a\x08\x22\x03Add\x1a\x01b")), "NodeProto.name"),
        (fields_of((7, b"\x2a\x06\x10\x01\x4a\x00\x4a\x00")), "TensorProto.raw_data"),
    ],
)
def test_duplicate_fields(content: bytes, said: str) -> None:
    """Libraries take the last one, or a mixture of both."""
    seen = str(refusal(content))
    assert f"{said} at byte" in seen
    assert "duplicated or out of order" in seen


def test_more_fields_than_any_graph_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every field counts, in whatever message, and whether or not one like it was seen before."""
    model = good_model()
    model.graph.node.extend([model.graph.node[2]] * 50)
    content = model.SerializeToString()
    scanner = onnx_check._Scanner(content)
    scanner.model()
    assert scanner._fields_read == _number_of_fields(model)
    assert refusal(content) is None
    monkeypatch.setattr(onnx_check, "MOST_FIELDS", scanner._fields_read - 1)
    assert f"more than {scanner._fields_read - 1} fields" in str(refusal(content))


def _number_of_fields(message: Any) -> int:
    count = 0
    for field, value in message.ListFields():
        for one in value if field.is_repeated else [value]:
            count += 1 + (_number_of_fields(one) if hasattr(one, "ListFields") else 0)
    return count


def test_a_file_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(b"x")
    for content, said in ((b"", "the file is empty"), (b"\x08", "damaged: ")):
        path.write_bytes(content)
        with pytest.raises(BundleError, match=said) as caught:
            check_onnx_file(path, ENDS)
        assert str(caught.value).startswith(f"{path}: ")
    path.write_bytes(GOOD)
    check_onnx_file(path, ENDS)


def test_a_file_that_is_called_otherwise(tmp_path: Path) -> None:
    """By its name ONNX Runtime would take it for one of its own format."""
    (tmp_path / "a.ort").write_bytes(GOOD)
    with pytest.raises(BundleError, match=r"name must end in \.onnx"):
        check_onnx_file(tmp_path / "a.ort", ENDS)


# The two ends ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "said"),
    [
        ([End("image", "uint8", (1, 1, 1, 3))], "the manifest says image: uint8 1x1x1x3"),
        ([End("image", "uint8", (1, 65, 65, 3))], "the manifest says image: uint8 1x65x65x3"),
        ([End("image", "uint8", (1, 32, None, 3))], "the manifest says image: uint8 1x32x?x3"),
        ([End("image", "float32", (1, 32, 32, 3))], "the manifest says image: float32 1x32x32x3"),
        ([End("other", "uint8", (1, 32, 32, 3))], "the manifest says other: uint8"),
        ([], "the manifest says nothing"),
        ([INPUT, INPUT], "the manifest says image: uint8 1x32x32x3, image: uint8 1x32x32x3"),
    ],
)
def test_other_ends_than_the_manifests(expected: list[End], said: str) -> None:
    seen = str(refusal(GOOD, tuple(expected)))
    assert seen.startswith("the graph's input is image: uint8 1x32x32x3, ")
    assert said in seen


def test_a_side_left_open_and_a_second_input() -> None:
    """What a graph for several sizes, or one that is given its noise, would have."""
    model = good_model()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    model.graph.input.append(helper.make_tensor_value_info("noise", 1, [1, 16, 4, 4]))
    ends = (End("image", "uint8", (1, None, None, 3)), End("noise", "float32", (1, 16, 4, 4)))
    assert refusal(model.SerializeToString(), ends) is None
    assert refusal(model.SerializeToString(), ends[::-1]) is not None


# Anything ----------------------------------------------------------------------------------------


def test_what_is_taken_is_what_a_library_would_read() -> None:
    """However a file is changed: it is refused, or ``onnx`` reads what was checked, and no more."""
    chance = random.Random(1)
    taken = refused = 0
    for _ in range(6000):
        content = mutated(GOOD, chance)
        if chance.random() < 0.3:
            content = mutated(content, chance)
        seen = refusal(content)
        if seen is not None:
            refused += 1
            assert len(seen.splitlines()) == 1
            assert len(seen) < 400
            continue
        taken += 1
        model = onnx.load_from_string(content)
        # Read alike by all: written again, it is the same, without a field that nobody knows.
        assert model.SerializeToString(deterministic=True) == content
        _check_model(model)
    assert taken > 500
    assert refused > 2000


def _check_model(model: ModelProto) -> None:
    graph = model.graph
    assert not model.functions
    assert not model.training_info
    for seen, expected in zip((graph.input, graph.output), (INPUT, OUTPUT), strict=True):
        (end,) = seen
        kind = end.type.tensor_type
        assert end.name == expected.name
        assert kind.elem_type == onnx.TensorProto.UINT8
        assert tuple(dim.dim_value for dim in kind.shape.dim) == expected.dims
    for node in graph.node:
        assert node.op_type.encode() in OPERATORS
        assert not node.domain
        for attribute in node.attribute:
            assert attribute.type in ATTRIBUTE_TYPES
            assert not attribute.HasField("g")
            assert not attribute.HasField("t")
    for tensor in graph.initializer:
        assert not tensor.external_data
        assert numpy_helper.to_array(tensor).nbytes == len(tensor.raw_data) > 0
