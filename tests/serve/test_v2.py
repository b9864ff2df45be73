from __future__ import annotations

import json
from unittest.mock import Mock

import numpy as np
import pytest

from elir_deploy.errors import UsageError
from elir_deploy.serve import v2


def test_a_binary_tensor_is_not_copied() -> None:
    size = {"binary_data_size": 3 * 8 * 8}
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 8, 8, 3], "parameters": size}
    header = json.dumps({"inputs": [tensor]}).encode()
    body = header + bytes(range(192))
    images = v2.parse_request(body, str(len(header)), 64, 1).images
    assert images.tobytes() == bytes(range(192))
    assert np.shares_memory(images, np.frombuffer(body, np.uint8))


@pytest.mark.parametrize("header_length", [None, str(2**22 + 2)])
def test_much_json_is_not_parsed(
    monkeypatch: pytest.MonkeyPatch, header_length: str | None
) -> None:
    monkeypatch.setattr(v2.json, "loads", parser := Mock())
    with pytest.raises(UsageError, match="4194306 bytes of JSON, expected at most 4194304"):
        v2.parse_request(b"{}" + bytes(2**22), header_length, 64, 1)
    parser.assert_not_called()


def test_a_result_too_large_for_json_is_refused_first() -> None:
    tensor = {"name": "image", "datatype": "UINT8", "shape": [1, 300, 300, 3]}
    body = json.dumps({"inputs": [tensor | {"data": [7] * 270_000}]}).encode()
    assert v2.parse_request(body, None, 10**8, 2).images.shape == (1, 300, 300, 3)
    with pytest.raises(UsageError, match="4320000 values are too many for JSON"):
        v2.parse_request(body, None, 10**8, 4)
