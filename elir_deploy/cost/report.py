"""The predicted cost of a bundle, as JSON values and as rows of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from elir_deploy.cost.devices import CPU, DEVICES, Device
from elir_deploy.cost.graphs import bundle_layers, graph_precisions
from elir_deploy.cost.roofline import Layer, Prediction, Totals, predict, totals
from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.targets import TARGETS

__all__ = ["ALL_DEVICES", "PREDICTED", "CostReport", "build_cost_report", "devices_named"]

#: Heads every table of predictions.
PREDICTED = (
    "predicted, not measured: a roofline at the vendors' peak rates, element-wise operators fused, "
    "a MAC is 2 FLOPs; expect real engines to be slower"
)
#: Stands for every device in the list.
ALL_DEVICES = "all"
#: Rows in a table of the costliest layers.
_COSTLIEST = 10

Table = tuple[Sequence[str], list[Sequence[str]]]


def devices_named(names: Iterable[str], measure: Callable[[], Device]) -> list[Device]:
    """Devices by name, each once; ``all`` is every one in the list, ``measure`` gives the CPU's.

    Raises:
        UsageError: there is no device of that name; nothing was measured.
    """
    required: dict[str, None] = {}
    for name in names:
        required.update(dict.fromkeys(DEVICES if name == ALL_DEVICES else [name]))
    for name in required:
        if name != CPU and name not in DEVICES:
            raise UsageError(f"unknown device {name!r}: choose from {', '.join(DEVICES)}, {CPU}")
    return [measure() if name == CPU else DEVICES[name] for name in required]


@dataclass(frozen=True)
class CostReport:
    """A bundle's layers and their predicted times.

    Attributes:
        layers: of all stages, by precision.
        predictions: precision and prediction, device by device.
        unavailable: predictions that cannot be made, with the reason.
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
                    "parts": {
                        part: asdict(sums) | {"flops_per_byte": sums.intensity}
                        for part, sums in totals(layers).items()
                    },
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
                    "costliest": [
                        {
                            "name": time.layer.name,
                            "predicted_s": time.seconds,
                            "compute_s": time.compute_seconds,
                            "memory_s": time.memory_seconds,
                            "bound": time.bound,
                        }
                        for time in p.costliest(_COSTLIEST)
                    ],
                }
                for precision, p in self.predictions
            ],
            "unavailable": list(self.unavailable),
            "remarks": self.remarks,
        }

    @property
    def remarks(self) -> list[str]:
        """Limits of single predictions."""
        return [
            f"int8 on {p.device.name} is what TensorRT can reach: TensorRT-RTX computes its "
            "convolutions in float16 there, at the rate of fp16"
            for precision, p in self.predictions
            if precision == "int8"
            and (target := TARGETS.get(p.device.name))
            and target.int8_in_float16
        ]

    def parts_table(self, precision: str) -> Table:
        """A row for each part and one for their sum."""
        layers = self.layers[precision]
        rows: list[Sequence[str]] = [
            (
                *(name, str(sums.kernels), f"{sums.macs / 1e9:.2f}", f"{sums.flops / 1e9:.2f}"),
                *(f"{sums.bytes / 1e6:.1f}", f"{sums.intensity:.1f}"),
            )
            for name, sums in (totals(layers) | {"all": Totals.of(layers)}).items()
        ]
        return (f"{precision} graph", "kernels", "GMAC", "GFLOP", "MB moved", "FLOP/byte"), rows

    def costliest_table(self, precision: str, prediction: Prediction) -> Table:
        """The slowest layers on one device."""
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
            for time in prediction.costliest(_COSTLIEST)
        ]

    def predictions_table(self) -> Table:
        """A row for each device and precision."""
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
    """The cost of a bundle in every precision for which it has ONNX graphs.

    Raises:
        BundleError: it has no ONNX graph, a file is damaged, or an operator or a shape is unknown.
        MissingDependencyError: onnx is not installed.
    """
    precisions = graph_precisions(bundle)
    if not precisions:
        raise BundleError(f"{bundle.path} has no ONNX graphs, to compute costs from")
    layers = {precision: bundle_layers(bundle, precision) for precision in precisions}
    predictions, unavailable = [], []
    for device in devices:
        for precision, members in layers.items():
            try:
                predictions.append((precision, predict(members, device)))
            except UnavailableError as error:  # noqa: PERF203
                unavailable.append(f"{precision} on {error}")
    return CostReport(layers, predictions, unavailable)
