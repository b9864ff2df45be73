"""Predicted time of a network on a device: a roofline with a launch queue.

A layer is one kernel. It takes the longer of two times: its operations at the device's peak rate,
or its bytes at the memory's bandwidth (Williams, Waterman and Patterson, "Roofline", 2009). Kernels
run one after another, and the host launches them ahead of the device, no faster than one every
``launch_seconds``: where kernels are short, the device waits for the host.

These are predictions, not measurements: most real kernels do not reach the peak, and what stays in
a cache is not read from memory.

Conventions: a multiply-accumulate (MAC) is 2 FLOPs; every other operation on an element is 1;
bytes are those that a kernel reads and writes, weights once per use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from elir_deploy.cost.devices import Device
from elir_deploy.errors import UnavailableError, UsageError

__all__ = ["Layer", "LayerTime", "Prediction", "Totals", "predict", "totals"]


@dataclass(frozen=True)
class Layer:
    """One kernel of a network.

    Attributes:
        name: of its first operation.
        operators: of the graph that it computes, such as ``Conv+Sigmoid+Mul``.
        part: ``encoder``, ``estimator``, ``flow`` or ``decoder``.
        precision: of its matrix product: ``fp32``, ``fp16``, ``int8``.
        macs: multiply-accumulates of its matrix product.
        other_flops: operations outside the matrix product.
        bytes_read: activations and weights.
        bytes_written: activations.
    """

    name: str
    operators: str
    part: str
    precision: str
    macs: int
    other_flops: int
    bytes_read: int
    bytes_written: int

    @property
    def flops(self) -> int:
        """Floating-point (or integer) operations, a MAC being 2."""
        return 2 * self.macs + self.other_flops

    @property
    def bytes(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True)
class Totals:
    """Sums over layers, a kernel each; the other attributes are as in :class:`Layer`."""

    kernels: int
    macs: int
    flops: int
    bytes: int

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Totals:
        return cls(
            len(layers),
            sum(layer.macs for layer in layers),
            sum(layer.flops for layer in layers),
            sum(layer.bytes for layer in layers),
        )

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOPs per byte; 0 without bytes."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class LayerTime:
    """Times of a layer: its operations at the peak rates, and its bytes at the bandwidth."""

    layer: Layer
    compute_seconds: float
    memory_seconds: float

    @property
    def seconds(self) -> float:
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def bound(self) -> str:
        """``compute`` or ``memory``, whichever takes longer."""
        return "compute" if self.compute_seconds > self.memory_seconds else "memory"


@dataclass(frozen=True)
class Prediction:
    """Times of layers in the order of execution; ``seconds`` from first launch to last result."""

    device: Device
    layers: tuple[LayerTime, ...]
    seconds: float

    @property
    def fps(self) -> float:
        """Images per second at batch 1."""
        return 1 / self.seconds

    @property
    def waiting_seconds(self) -> float:
        """Part of :attr:`seconds` in which the device waits for the host to launch."""
        return max(0.0, self.seconds - sum(time.seconds for time in self.layers))

    def bound_seconds(self, bound: str) -> float:
        """Seconds in layers bound by ``compute`` or by ``memory``."""
        return sum(time.seconds for time in self.layers if time.bound == bound)

    def costliest(self, count: int) -> list[LayerTime]:
        """The ``count`` slowest layers, slowest first."""
        return sorted(self.layers, key=lambda time: time.seconds, reverse=True)[:count]


def totals(layers: Iterable[Layer]) -> dict[str, Totals]:
    """Sums by part, in the order in which the parts appear."""
    parts: dict[str, list[Layer]] = {}
    for layer in layers:
        parts.setdefault(layer.part, []).append(layer)
    return {part: Totals.of(members) for part, members in parts.items()}


def predict(layers: Sequence[Layer], device: Device) -> Prediction:
    """Time of ``layers``, in the order of execution, on ``device`` at batch 1.

    Raises:
        UsageError: there are no layers.
        UnavailableError: the device's rate for the precision of a layer is unknown.
    """
    if not layers:
        raise UsageError("a network without layers: nothing to predict")
    times = []
    launched = done = 0.0
    for layer in layers:
        compute = layer.other_flops / device.peaks["fp32"]
        if layer.macs:
            if layer.precision not in device.peaks:
                raise UnavailableError(f"{device.name}: the {layer.precision} rate is unknown")
            compute += 2 * layer.macs / device.peaks[layer.precision]
        times.append(LayerTime(layer, compute, layer.bytes / device.bandwidth))
        launched += device.launch_seconds
        done = max(done, launched) + times[-1].seconds
    return Prediction(device, tuple(times), done)
