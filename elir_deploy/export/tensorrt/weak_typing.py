"""Types of layers for TensorRT before 10, which does not follow those of the ONNX file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["Int8Kernels", "constrain_types", "find_int8_kernels"]


@dataclass
class Int8Kernels:
    """Layers that TensorRT fuses into INT8 kernels, by their number in the network.

    Attributes:
        multiplying: convolutions whose factors are all dequantised.
        fused: layers that move or enlarge dequantised values, and element-wise ones before the
            next quantiser.
        quantized: tensors that a quantiser reads, directly or after element-wise layers.
    """

    multiplying: set[int] = field(default_factory=set)
    fused: set[int] = field(default_factory=set)
    quantized: set[str] = field(default_factory=set)


def constrain_types(
    library: Any, network: trt.INetworkDefinition, config: trt.IBuilderConfig, precision: str
) -> None:
    """Let every layer compute in its type in the ONNX file, as in a strongly typed network.

    Layers of an INT8 kernel get no type but that of an output that no quantiser reads: a layer set
    to float16 may run in nothing else (docs/decisions.md). Layers of other types than floats have
    no choice. A cast has its type, and TensorRT 8.6 fails where one is set.
    """
    if precision == "fp32":
        return
    flags = library.BuilderFlag
    config.set_flag(flags.FP16)
    config.set_flag(flags.OBEY_PRECISION_CONSTRAINTS)
    if precision == "int8":
        config.set_flag(flags.INT8)
    floats = (library.DataType.HALF, library.DataType.FLOAT)
    kinds = library.LayerType
    untyped = {kinds.CAST, kinds.CONSTANT, kinds.QUANTIZE, kinds.DEQUANTIZE}
    kernels = find_int8_kernels(library, network)
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        if layer.type in untyped or number in kernels.fused or not outputs:
            continue
        if any(output.dtype not in floats for output in outputs):
            continue
        if number not in kernels.multiplying:
            layer.precision = outputs[0].dtype
        elif outputs[0].name in kernels.quantized:
            continue
        for index, output in enumerate(outputs):
            layer.set_output_type(index, output.dtype)


def find_int8_kernels(library: Any, network: trt.INetworkDefinition) -> Int8Kernels:
    """The layers of a quantised network that are to run in INT8."""
    kinds = library.LayerType
    multiplying = {kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY}
    moving = {kinds.SHUFFLE, kinds.RESIZE}  # their other inputs are shapes
    element_wise = {kinds.ACTIVATION, kinds.ELEMENTWISE, kinds.UNARY, kinds.SCALE}
    layers = [_Layer.of(network.get_layer(number)) for number in range(network.num_layers)]

    kernels = Int8Kernels()
    for layer in reversed(layers):
        if layer.kind == kinds.QUANTIZE:
            kernels.quantized.add(layer.reads[0])  # the others are its scale and zero point
        elif layer.kind in {kinds.CAST, *element_wise} and layer.makes in kernels.quantized:
            kernels.quantized.update(layer.reads)
    dequantized, continued = set[str](), set[str]()
    for number, layer in enumerate(layers):
        values = layer.reads[:1] if layer.kind in moving else layer.reads
        from_int8 = bool(values) and dequantized.issuperset(values)
        beside_int8 = not (dequantized | continued).isdisjoint(layer.reads)
        if layer.kind == kinds.DEQUANTIZE or (layer.kind == kinds.CAST and from_int8):
            dequantized.add(layer.makes)
        elif layer.kind in {kinds.CONCATENATION, *moving} and from_int8:
            dequantized.add(layer.makes)
            kernels.fused.add(number)
        elif layer.kind in multiplying and from_int8:
            continued.add(layer.makes)
            kernels.multiplying.add(number)
        elif layer.kind in element_wise and beside_int8 and layer.makes in kernels.quantized:
            continued.add(layer.makes)
            kernels.fused.add(number)
    return kernels


@dataclass(frozen=True)
class _Layer:
    """Kind and tensor names of a layer; of several outputs, the first."""

    kind: Any
    reads: tuple[str, ...]
    makes: str

    @classmethod
    def of(cls, layer: trt.ILayer) -> _Layer:
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        output = layer.get_output(0).name if layer.num_outputs else ""
        # An optional input may be None, which the stubs do not know.
        return cls(layer.type, tuple(t.name for t in inputs if t is not None), output)
