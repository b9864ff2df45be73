"""TensorRT before 10, which has to be told to compute in the types of the ONNX file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import tensorrt as trt

__all__ = ["Int8Kernels", "constrain_types", "find_int8_kernels"]


@dataclass
class Int8Kernels:
    """What TensorRT makes INT8 kernels of. Layers are given by their number in the network.

    Attributes:
        multiplying: convolutions whose factors are all dequantised.
        fused: what such a kernel takes along: layers that move or enlarge dequantised values,
            and element-wise ones on the way to the next quantiser.
        quantized: tensors that a quantiser reads, by itself or behind element-wise layers.
    """

    multiplying: set[int] = field(default_factory=set)
    fused: set[int] = field(default_factory=set)
    quantized: set[str] = field(default_factory=set)


def constrain_types(
    library: Any, network: trt.INetworkDefinition, config: trt.IBuilderConfig, precision: str
) -> None:
    """Let every layer compute in the types that the ONNX file gives it, as in a typed network.

    What is to become an INT8 kernel is told no type but that of its output, where no quantiser
    reads it: a layer that is told float16 may run in nothing else (docs/decisions.md). Layers of
    other types than floats have no choice. A cast has its type already, and TensorRT 8.6 refuses
    to be told one.
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
    untold = {kinds.CAST, kinds.CONSTANT, kinds.QUANTIZE, kinds.DEQUANTIZE}
    kernels = find_int8_kernels(library, network)
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
        if layer.type in untold or number in kernels.fused or not outputs:
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
    """What of a network with quantisers and dequantisers is to run in INT8."""
    kinds = library.LayerType
    multiplying = {kinds.CONVOLUTION, kinds.DECONVOLUTION, kinds.MATRIX_MULTIPLY}
    moving = {kinds.SHUFFLE, kinds.RESIZE}  # their other inputs are shapes
    element_wise = {kinds.ACTIVATION, kinds.ELEMENTWISE, kinds.UNARY, kinds.SCALE}
    layers = [_Layer.of(network.get_layer(number)) for number in range(network.num_layers)]

    found = Int8Kernels()
    for layer in reversed(layers):
        if layer.kind == kinds.QUANTIZE:
            found.quantized.add(layer.reads[0])  # the others are its scale and zero point
        elif layer.kind in {kinds.CAST, *element_wise} and layer.makes in found.quantized:
            found.quantized.update(layer.reads)
    dequantized, continued = set[str](), set[str]()
    for number, layer in enumerate(layers):
        values = layer.reads[:1] if layer.kind in moving else layer.reads
        from_int8 = bool(values) and dequantized.issuperset(values)
        beside_int8 = not (dequantized | continued).isdisjoint(layer.reads)
        if layer.kind == kinds.DEQUANTIZE or (layer.kind == kinds.CAST and from_int8):
            dequantized.add(layer.makes)
        elif layer.kind in {kinds.CONCATENATION, *moving} and from_int8:
            dequantized.add(layer.makes)
            found.fused.add(number)
        elif layer.kind in multiplying and from_int8:
            continued.add(layer.makes)
            found.multiplying.add(number)
        elif layer.kind in element_wise and beside_int8 and layer.makes in found.quantized:
            continued.add(layer.makes)
            found.fused.add(number)
    return found


@dataclass(frozen=True)
class _Layer:
    """A layer's kind, and names of its tensors; of several outputs the first."""

    kind: Any
    reads: tuple[str, ...]
    makes: str

    @classmethod
    def of(cls, layer: trt.ILayer) -> _Layer:
        inputs = [layer.get_input(index) for index in range(layer.num_inputs)]
        made = layer.get_output(0).name if layer.num_outputs else ""
        # An input that may be left out is None, which the stubs do not know.
        return cls(layer.type, tuple(t.name for t in inputs if t is not None), made)
