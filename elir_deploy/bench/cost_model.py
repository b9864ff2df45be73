"""What a network costs, layer by layer, and how fast a device could run it: a roofline.

A layer is one kernel. It takes the longer of two times: its operations at the device's peak rate,
or its bytes at the memory's bandwidth (Williams, Waterman and Patterson, "Roofline", 2009). Kernels
run one after another on the device, and the host launches them ahead of it, no faster than one
every ``launch_seconds``: where kernels are short, the device waits for the host.

These are predictions, not measurements. A roofline assumes that every kernel reaches the peak, so
most real ones are slower; and that every activation travels to memory and back, so what stays in a
cache may be faster.

Conventions: a multiply-accumulate (MAC) is 2 FLOPs; every other operation on an element is 1,
whatever it is; bytes are those that a kernel reads and writes, weights once per use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from elir_deploy.bench.devices import Device
from elir_deploy.errors import UnavailableError, UsageError

__all__ = [
    "Layer",
    "LayerTime",
    "Prediction",
    "Totals",
    "fit_launch_seconds",
    "predict",
    "totals",
    "unknown_rates",
]


@dataclass(frozen=True)
class Layer:
    """One kernel of a network, whatever runs it.

    Attributes:
        name: of the operation it is made for.
        operators: of the graph that it computes, such as ``Conv+Sigmoid+Mul``.
        part: of the network it belongs to: ``encoder``, ``estimator``, ``flow``, ``decoder``.
        precision: its matrix product is in (``fp32``, ``fp16``, ``int8``).
        macs: multiply-accumulates of its matrix product.
        other_flops: operations that are not part of a matrix product.
        bytes_read: of activations and weights.
        bytes_written: of activations.
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
        """Read and written."""
        return self.bytes_read + self.bytes_written


@dataclass(frozen=True)
class Totals:
    """Sums over layers.

    Attributes:
        layers: how many.
        macs: multiply-accumulates.
        flops: operations, a MAC being 2.
        bytes: read and written.
    """

    layers: int
    macs: int
    flops: int
    bytes: int

    @classmethod
    def of(cls, layers: Sequence[Layer]) -> Totals:
        """Of ``layers``, whatever part they belong to."""
        return cls(
            len(layers),
            sum(layer.macs for layer in layers),
            sum(layer.flops for layer in layers),
            sum(layer.bytes for layer in layers),
        )

    @property
    def intensity(self) -> float:
        """Arithmetic intensity in FLOPs a byte; 0 where nothing moves."""
        return self.flops / self.bytes if self.bytes else 0.0


@dataclass(frozen=True)
class LayerTime:
    """What one layer takes on one device.

    Attributes:
        layer: which.
        compute_seconds: its operations at the peak rates.
        memory_seconds: its bytes at the bandwidth.
    """

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
    """What a network takes on one device; predicted, not measured.

    Attributes:
        device: which.
        layers: in the order they run.
        seconds: from the first launch to the last result.
    """

    device: Device
    layers: tuple[LayerTime, ...]
    seconds: float

    @property
    def fps(self) -> float:
        """Images a second at batch 1."""
        return 1 / self.seconds

    @property
    def busy_seconds(self) -> float:
        """Of :attr:`seconds`, those in which a kernel runs."""
        return sum(time.seconds for time in self.layers)

    @property
    def waiting_seconds(self) -> float:
        """Of :attr:`seconds`, those in which the device waits for the host to launch."""
        return max(0.0, self.seconds - self.busy_seconds)

    def bound_seconds(self, bound: str) -> float:
        """Seconds in layers bound by ``compute`` or by ``memory``."""
        return sum(time.seconds for time in self.layers if time.bound == bound)

    @property
    def bound(self) -> str:
        """What takes the most: ``compute``, ``memory`` or ``launches``."""
        shares = {bound: self.bound_seconds(bound) for bound in ("compute", "memory")}
        shares["launches"] = self.waiting_seconds
        return max(shares, key=lambda bound: shares[bound])

    def costliest(self, count: int) -> list[LayerTime]:
        """Layers that take longest, the longest first."""
        return sorted(self.layers, key=lambda time: time.seconds, reverse=True)[:count]


def totals(layers: Iterable[Layer]) -> dict[str, Totals]:
    """Sums by part, in the order the parts appear."""
    parts: dict[str, list[Layer]] = {}
    for layer in layers:
        parts.setdefault(layer.part, []).append(layer)
    return {part: Totals.of(own) for part, own in parts.items()}


def predict(
    layers: Sequence[Layer], device: Device, *, launch_seconds: float | None = None
) -> Prediction:
    """Time of ``layers`` on ``device``, batch 1.

    Args:
        layers: in the order they run.
        device: whose peaks and bandwidth count.
        launch_seconds: in place of the device's: what a host takes that does more than launch,
            such as eager PyTorch.

    Raises:
        UsageError: there are no layers, or the time is negative.
        UnavailableError: nothing is known of the device in a precision that a layer has.
    """
    if not layers:
        raise UsageError("a network without layers: nothing to predict")
    launch = device.launch_seconds if launch_seconds is None else launch_seconds
    if launch < 0:
        raise UsageError(f"launch time is {launch} s, wanted at least 0")
    if missing := unknown_rates(layers, device):
        raise UnavailableError(
            f"{device.name}: no {missing[0]} rate is known, only {', '.join(device.peaks)}"
        )
    times = tuple(_layer_time(layer, device) for layer in layers)
    launched = done = 0.0
    for time in times:
        launched += launch
        done = max(done, launched) + time.seconds
    return Prediction(device, times, done)


def unknown_rates(layers: Iterable[Layer], device: Device) -> list[str]:
    """Precisions of matrix products in ``layers`` that nothing is known of on ``device``."""
    used = dict.fromkeys(layer.precision for layer in layers if layer.macs)
    return [precision for precision in used if precision not in device.peaks]


def _layer_time(layer: Layer, device: Device) -> LayerTime:
    compute = layer.other_flops / device.peaks["fp32"]
    if layer.macs:
        compute += 2 * layer.macs / device.peaks[layer.precision]
    return LayerTime(layer, compute, layer.bytes / device.bandwidth)


def fit_launch_seconds(layers: Sequence[Layer], device: Device, seconds: float) -> float:
    """The launch time with which :func:`predict` gives ``seconds``.

    Args:
        layers: of a network whose time is known.
        device: it was measured on.
        seconds: that it took.

    Raises:
        UsageError: it took less than without any launch time, so no launch time explains it.
    """
    least = predict(layers, device, launch_seconds=0).seconds
    if seconds < least:
        raise UsageError(
            f"{seconds * 1e3:.3g} ms is less than the {least * 1e3:.3g} ms that {device.name} "
            "takes at its peak: no launch time explains it"
        )
    low, high = 0.0, seconds
    for _ in range(60):  # the time grows with the launch time: bisect down to rounding
        middle = (low + high) / 2
        if predict(layers, device, launch_seconds=middle).seconds < seconds:
            low = middle
        else:
            high = middle
    return high
