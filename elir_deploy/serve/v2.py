"""KServe's inference protocol V2 with its binary extension, for pictures in and out.

https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import UsageError

__all__ = ["INPUT", "OUTPUT", "InferRequest", "encode_response", "metadata", "parse_request"]

INPUT, OUTPUT = "image", "restored"
#: Bytes of JSON in a request, which may take 20 times as many when they are parsed.
_MOST_JSON = 2**22
#: Values of a result in JSON.
_MOST_VALUES = 2**22
#: Images of a request.
_MOST_IMAGES = 64


@dataclass(frozen=True)
class InferRequest:
    """A request.

    Attributes:
        id: the caller's, if any, which the response repeats.
        images: (N, H, W, 3) uint8 RGB.
        parameters: of the request.
        binary: whether the caller takes the result behind the JSON.
    """

    id: str | None
    images: NDArray[np.uint8]
    parameters: dict[str, Any] = field(default_factory=dict)
    binary: bool = False


def metadata(name: str) -> dict[str, Any]:
    """What ``GET /v2/models/NAME`` answers."""
    picture = {"datatype": "UINT8", "shape": [-1, -1, -1, 3]}
    return {
        "name": name,
        "versions": ["1"],
        "platform": "elir_deploy",
        "inputs": [{"name": INPUT, **picture}],
        "outputs": [{"name": OUTPUT, **picture}],
    }


def parse_request(body: bytes, header_length: str | None, pixels: int, scale: int) -> InferRequest:
    """A request from its body.

    Args:
        body: JSON, and behind it the tensor, if that is binary.
        header_length: the header ``Inference-Header-Content-Length``: bytes of JSON.
        pixels: of all results together at most.
        scale: sides of a result over those of its image.

    Raises:
        UsageError: it is not a request for a picture.
    """
    length = len(body)
    if header_length is not None:
        if not (header_length.isascii() and header_length.isdecimal() and len(header_length) < 16):
            raise UsageError("Inference-Header-Content-Length is not a number")
        length = int(header_length)
        if length > len(body):
            raise UsageError(f"the JSON has {length} bytes, but the body {len(body)}")
    if length > _MOST_JSON:
        raise UsageError(
            f"there are {length} bytes of JSON, expected at most {_MOST_JSON}: "
            "send the pictures as binary data"
        )
    try:
        message = json.loads(body[:length], parse_float=_finite)
    except (ValueError, RecursionError):
        raise UsageError("the body is not JSON") from None
    _expect(message, dict, "the body")
    request_id = message.get("id")
    if request_id is not None:
        _expect(request_id, str, "id")
    inputs = _expect(message.get("inputs"), list, "inputs")
    if len(inputs) != 1:
        raise UsageError(f"there are {len(inputs)} inputs, expected 1: {INPUT}")
    parameters = _expect(message.get("parameters", {}), dict, "parameters")
    images = _tensor(_expect(inputs[0], dict, "an input"), memoryview(body)[length:])
    results = math.prod(images.shape[:3]) * scale**2
    if results > pixels:
        raise UsageError(f"the results have {results} pixels, expected at most {pixels}")
    binary = _wants_binary(message, parameters)
    if not binary and 3 * results > _MOST_VALUES:
        raise UsageError(f"{3 * results} values are too many for JSON: ask for binary data")
    parameters.pop("binary_data_output", None)
    return InferRequest(request_id, images, parameters, binary)


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise UsageError(f"{text[:40]} in the JSON is too large for a number")
    return value


def _expect(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise UsageError(f"{what} is {type(value).__name__}, expected {kind.__name__}")
    return value


def _brief(value: Any) -> str:
    """What the caller sent, at most a line of it."""
    return repr(value)[:80]


def _tensor(entry: dict[str, Any], binary: memoryview) -> NDArray[np.uint8]:
    if entry.get("name") != INPUT:
        raise UsageError(f"the input is {_brief(entry.get('name'))}, expected {INPUT!r}")
    if entry.get("datatype") != "UINT8":
        raise UsageError(f"datatype is {_brief(entry.get('datatype'))}, expected 'UINT8'")
    shape = _expect(entry.get("shape"), list, "shape")
    sides = [n for n in shape if type(n) is int and 0 < n < 2**31]
    if len(sides) != len(shape) or len(shape) != 4 or shape[3] != 3:
        raise UsageError(f"shape is {_brief(shape)}, expected [N, H, W, 3]")
    if sides[0] > _MOST_IMAGES:
        raise UsageError(f"there are {sides[0]} images, expected at most {_MOST_IMAGES} a request")
    size = math.prod(sides)
    parameters = _expect(entry.get("parameters", {}), dict, "parameters of the input")
    if "binary_data_size" in parameters:
        if "data" in entry:
            raise UsageError("the input has data and binary_data_size: send one of them")
        if parameters["binary_data_size"] != len(binary) or len(binary) != size:
            raise UsageError(f"there are {len(binary)} bytes of data, expected {size}")
        return np.frombuffer(binary, np.uint8).reshape(sides)
    if binary:
        raise UsageError(f"{len(binary)} bytes follow the JSON, of no input")
    values = _flat(_expect(entry.get("data"), list, "data"), size)
    return np.array(values, np.uint8).reshape(sides)


def _flat(data: list[Any], size: int) -> list[int]:
    """The values of a list, which may be nested as the tensor is."""
    values: list[Any] = data
    for _ in range(3):
        if any(isinstance(value, list) for value in values):
            values = [v for row in values for v in (row if isinstance(row, list) else [row])]
    if len(values) != size:
        raise UsageError(f"data has {len(values)} values, expected {size}")
    if not all(type(value) is int and 0 <= value <= 255 for value in values):
        raise UsageError("data has values that are not whole numbers from 0 to 255")
    return values


def _wants_binary(message: dict[str, Any], parameters: dict[str, Any]) -> bool:
    outputs = _expect(message.get("outputs", []), list, "outputs")
    wanted = parameters.get("binary_data_output", False)
    for output in outputs:
        _expect(output, dict, "an output")
        if output.get("name") != OUTPUT:
            raise UsageError(f"there is no output {_brief(output.get('name'))}, only {OUTPUT!r}")
        own = _expect(output.get("parameters", {}), dict, "parameters of the output")
        wanted = own.get("binary_data", wanted)
    return bool(wanted)


def encode_response(
    model: str, request: InferRequest, restored: NDArray[np.uint8]
) -> tuple[bytes, dict[str, str]]:
    """The body of the answer, and its headers."""
    output: dict[str, Any] = {
        "name": OUTPUT,
        "datatype": "UINT8",
        "shape": list(restored.shape),
    }
    message: dict[str, Any] = {"model_name": model, "model_version": "1", "outputs": [output]}
    if request.id is not None:
        message["id"] = request.id
    if not request.binary:
        output["data"] = restored.ravel().tolist()
        return json.dumps(message).encode(), {"Content-Type": "application/json"}
    output["parameters"] = {"binary_data_size": restored.nbytes}
    header = json.dumps(message).encode()
    return header + restored.tobytes(), {
        "Content-Type": "application/octet-stream",
        "Inference-Header-Content-Length": str(len(header)),
    }
