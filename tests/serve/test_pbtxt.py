from __future__ import annotations

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from elir_deploy.serve.pbtxt import Enum, Map, encode


def test_protobuf_reads_what_is_written() -> None:
    name = 'quote " backslash \\ tab \t'
    message = {
        "name": name,
        "max_batch_size": 8,
        "input": [{"name": "a", "data_type": Enum("TYPE_UINT8"), "dims": [-1, -1, 3]}],
        "instance_group": [],
        "dynamic_batching": {"preferred_batch_size": [4, 8]},
        "parameters": Map({"x": {"string_value": "1"}, "y": {"string_value": ""}}),
    }
    config = text_format.Parse(encode(message), model_config_pb2.ModelConfig())
    assert config.name == name
    assert config.max_batch_size == 8
    assert list(config.input[0].dims) == [-1, -1, 3]
    assert config.input[0].data_type == model_config_pb2.TYPE_UINT8
    assert not config.instance_group
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert {k: v.string_value for k, v in config.parameters.items()} == {"x": "1", "y": ""}
