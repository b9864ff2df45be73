"""OpenVINO's library: loading it, its core, and reading graphs with it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError
from elir_deploy.runtime.libraries import import_library
from elir_deploy.text import shortened

__all__ = [
    "REINSTALL",
    "REWRITING",
    "does_not_start",
    "load_openvino",
    "one_line",
    "read_model",
    "shared_core",
]

_EXTRA = "openvino"
REINSTALL = f"pip install --force-reinstall 'elir-deploy[{_EXTRA}]'"


def load_openvino() -> Any:
    library = import_library("openvino", _EXTRA, "run bundles with it", attribute="Core")
    import_library("openvino.frontend", _EXTRA, "read ONNX files", attribute="FrontEndManager")
    return library


def does_not_start(error: RuntimeError) -> str:
    return f"openvino does not start: {one_line(error)}"


def shared_core() -> Any:
    """OpenVINO's core, one per process, which is never deleted.

    A core installs a signal stack in the thread that creates it, and restores the previous one when
    it is deleted. If two are deleted in the order of their creation, the second restores the freed
    stack of the first, and the next signal (Ctrl-C) crashes the process.
    """
    library = load_openvino()
    if not _cores:
        _cores.append(library.Core())
    return _cores[0]


_cores: list[Any] = []


def one_line(error: Exception) -> str:
    # "Exception from src/inference/src/cpp/core.cpp:84:", repeated for every caller.
    text = re.sub(r"Exception from \S+:\d+:|Check '.*' failed at \S+:\d+:", "", str(error))
    return shortened(" ".join(text.split()), 300)


def read_model(path: Path) -> Any:
    """Read an ONNX file into a model that can be compiled.

    ``Core.read_model`` would pass a damaged file to the readers of other formats, which print.

    Raises:
        BundleError: OpenVINO cannot read it.
        UnavailableError: OpenVINO is not installed.
    """
    ov = load_openvino()
    library = importlib.import_module("openvino.frontend")
    kinds = [value for value in vars(library).values() if isinstance(value, type)]
    # ValueError if the message quotes bytes of a damaged file.
    failures: tuple[type[Exception], ...] = (RuntimeError, ValueError)
    failures += tuple(kind for kind in kinds if issubclass(kind, Exception))
    try:
        reader = library.FrontEndManager().load_by_framework("onnx")
        model = reader.convert(reader.load(str(path)))
    except failures as error:
        raise BundleError(
            f"{path} cannot be loaded by openvino {ov.get_version()}: {one_line(error)}"
        ) from None
    _join_quantizers(model)
    return model


#: Version of the rewriting of models before they are compiled.
REWRITING = 1

#: OpenVINO's operators for QuantizeLinear and DequantizeLinear, from the end.
_QUANTIZER = ("Multiply", "Subtract", "Convert", "Convert", "FakeQuantize")


def _join_quantizers(model: Any) -> None:
    """Replace each pair of QuantizeLinear and DequantizeLinear by one FakeQuantize.

    They compute the same, but on processors without AMX, OpenVINO 2026.4 loses the scales of
    pairs before concatenations, which ruins the picture.
    """
    library = importlib.import_module("openvino.opset13")
    for node in model.get_ordered_ops():
        chain = [node]
        while chain[-1].get_type_name() == _QUANTIZER[len(chain) - 1]:
            if len(chain) == len(_QUANTIZER):
                scale = _constant(node, 1)
                if scale.size > 1 or np.any(_constant(chain[1], 1)):
                    break  # per channel, or with a zero point: not from this project
                low, high = (library.constant(_constant(chain[-1], i) * scale) for i in (3, 4))
                source, least, most = (chain[-1].input_value(i) for i in range(3))
                levels = chain[-1].get_attributes()["levels"]
                joined = library.fake_quantize(source, least, most, low, high, levels)
                node.output(0).replace(joined.output(0))
                break
            chain.append(chain[-1].input_value(0).get_node())


def _constant(node: Any, port: int) -> NDArray[Any]:
    source = node.input_value(port).get_node()
    while source.get_type_name() != "Constant":  # a Convert of one
        source = source.input_value(0).get_node()
    value: NDArray[Any] = source.get_data()
    return value
