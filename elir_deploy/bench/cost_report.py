"""What a bundle costs on devices, as JSON values and as the rows of tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from elir_deploy.bench.cost_model import (
    Layer,
    LayerTime,
    Prediction,
    Totals,
    predict,
    totals,
    unknown_rates,
)
from elir_deploy.bench.devices import CPU, DEVICES, Device, device_named
from elir_deploy.bench.graph_cost import bundle_layers, graph_precisions
from elir_deploy.errors import BundleError
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.targets import TARGETS

__all__ = [
    "ALL_DEVICES",
    "COSTLIEST",
    "PREDICTED",
    "CostReport",
    "build_cost_report",
    "chosen_devices",
]

#: What stands above every figure.
PREDICTED = (
    "predicted, not measured: a roofline at the vendors' peak rates, element-wise operators fused, "
    "a MAC is 2 FLOPs; expect real engines to be slower"
)
#: What stands for every device in the list.
ALL_DEVICES = "all"
#: How many layers a table of the costliest has.
COSTLIEST = 10

Table = tuple[Sequence[str], list[Sequence[str]]]


def chosen_devices(names: Iterable[str]) -> list[Device]:
    """Devices by name, ``all`` for every one in the list, each once; the CPU is measured.

    Raises:
        UsageError: there is no device of that name.
    """
    wanted: dict[str, None] = {}
    for name in names:
        wanted.update(dict.fromkeys(DEVICES if name == ALL_DEVICES else [name]))
    for name in wanted:
        if name != CPU:
            device_named(name)  # a name that is none is told before two seconds are spent
    return [device_named(name) for name in wanted]


@dataclass(frozen=True)
class CostReport:
    """A bundle's layers and what they take.

    Attributes:
        layers: by precision, those of all stages.
        predictions: precision and what is predicted, device by device.
        unavailable: what could not be predicted, and why.
    """

    layers: Mapping[str, Sequence[Layer]]
    predictions: Sequence[tuple[str, Prediction]]
    unavailable: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; names end in their unit."""
        return {
            "note": PREDICTED,
            "precisions": {
                precision: {
                    "parts": {part: _sums(own) for part, own in totals(layers).items()},
                    "layers": [asdict(layer) for layer in layers],
                }
                for precision, layers in self.layers.items()
            },
            "predictions": [
                {
                    "device": p.device.name,
                    "title": p.device.title,
                    "peak_flops_per_s": dict(p.device.peaks),
                    "bandwidth_bytes_per_s": p.device.bandwidth,
                    "launch_s": p.device.launch_seconds,
                    "source": p.device.source,
                    "precision": precision,
                    "predicted_s": p.seconds,
                    "predicted_fps": p.fps,
                    "compute_bound_s": p.bound_seconds("compute"),
                    "memory_bound_s": p.bound_seconds("memory"),
                    "waiting_for_launches_s": p.waiting_seconds,
                    "costliest": [_layer_seconds(time) for time in p.costliest(COSTLIEST)],
                }
                for precision, p in self.predictions
            ],
            "unavailable": list(self.unavailable),
            "remarks": self.remarks,
        }

    @property
    def remarks(self) -> list[str]:
        """What has to be known of a prediction."""
        return [
            f"int8 on {p.device.name} is what TensorRT can reach: TensorRT-RTX computes its "
            "convolutions in float16 there, at the rate of fp16"
            for precision, p in self.predictions
            if precision == "int8" and _int8_in_float16(p.device)
        ]

    def parts_table(self, precision: str) -> Table:
        """A line for each part and one for their sum."""
        layers = self.layers[precision]
        parts = totals(layers) | {"all": Totals.of(layers)}
        rows = [_part_row(name, own) for name, own in parts.items()]
        return (f"{precision} graph", "kernels", "GMAC", "GFLOP", "MB moved", "FLOP/byte"), rows

    def costliest_table(self, precision: str, prediction: Prediction) -> Table:
        """The layers that take longest on one device."""
        heading = (
            *(f"costliest on {prediction.device.name}, {precision}", "operators", "in"),
            *("ms", "%", "FLOP/byte", "bound by"),
        )
        return heading, [
            (
                *(time.layer.name, time.layer.operators, time.layer.precision),
                f"{time.seconds * 1e3:.3f}",
                f"{100 * time.seconds / prediction.seconds:.1f}",
                f"{time.layer.flops / max(1, time.layer.bytes):.1f}",
                time.bound,
            )
            for time in prediction.costliest(COSTLIEST)
        ]

    def predictions_table(self) -> Table:
        """A line for each device and precision."""
        heading = (
            *("device", "precision", "predicted ms", "predicted FPS", "compute bound ms"),
            *("memory bound ms", "waiting for launches ms"),
        )
        return heading, [
            (
                *(p.device.name, precision, f"{p.seconds * 1e3:.2f}", f"{p.fps:.1f}"),
                f"{p.bound_seconds('compute') * 1e3:.2f}",
                f"{p.bound_seconds('memory') * 1e3:.2f}",
                f"{p.waiting_seconds * 1e3:.2f}",
            )
            for precision, p in self.predictions
        ]


def build_cost_report(bundle: Bundle, devices: Sequence[Device]) -> CostReport:
    """The cost of a bundle in every precision that it has a graph for.

    Raises:
        BundleError: it has no ONNX graph, a file is damaged, or an operator or a shape is unknown.
        MissingDependencyError: onnx is not installed.
    """
    precisions = graph_precisions(bundle)
    if not precisions:
        raise BundleError(f"{bundle.path} holds no ONNX graphs, which a cost is read from")
    layers = {precision: bundle_layers(bundle, precision) for precision in precisions}
    predictions, unavailable = [], []
    for device in devices:
        for precision, own in layers.items():
            if missing := unknown_rates(own, device):
                unavailable.append(f"{precision} on {device.name}: no {missing[0]} rate is known")
            else:
                predictions.append((precision, predict(own, device)))
    return CostReport(layers, predictions, unavailable)


def _int8_in_float16(device: Device) -> bool:
    target = TARGETS.get(device.name)
    return target is not None and target.int8_in_float16


def _sums(own: Totals) -> dict[str, Any]:
    return {
        "kernels": own.layers,
        "macs": own.macs,
        "flops": own.flops,
        "bytes": own.bytes,
        "flops_per_byte": own.intensity,
    }


def _part_row(name: str, own: Totals) -> Sequence[str]:
    return (
        *(name, str(own.layers), f"{own.macs / 1e9:.2f}", f"{own.flops / 1e9:.2f}"),
        *(f"{own.bytes / 1e6:.1f}", f"{own.intensity:.1f}"),
    )


def _layer_seconds(time: LayerTime) -> dict[str, Any]:
    return {
        "name": time.layer.name,
        "predicted_s": time.seconds,
        "compute_s": time.compute_seconds,
        "memory_s": time.memory_seconds,
        "bound": time.bound,
    }
