"""``elir-build --device`` in an environment of TensorRT and NumPy alone, up to the driver.

    python -m tests.export.tensorrt.bare_device BUNDLE -o FOLDER

TensorRT and the GPU are stand-ins, which need nothing either; arguments are those of the command.
Nothing runs the engine, since cuda-python is not there.
"""

from __future__ import annotations

import sys

from elir_deploy.cli import build as command
from elir_deploy.runtime.backends import tensorrt as backend
from elir_deploy.runtime.bundle import Bundle
from tests.export.tensorrt.stand_in import DataType, StandIn


def main() -> None:
    (stage,) = Bundle.open(sys.argv[1]).stages
    inputs = [{"Format/Datatype": "Row major linear FP16 format"}]
    layers = [{"Name": "c", "LayerType": "CaskConvolution", "Inputs": inputs}]
    ends = {spec.name: spec for spec in (stage.input, stage.noise, stage.output) if spec}
    stand_in = StandIn("10.3.0.30", layers, ends=DataType.UINT8, shapes=ends)
    sys.modules["tensorrt"] = stand_in  # type: ignore[assignment]
    for module in (command, backend):
        module.missing_cuda_device = lambda: None
        module.device_capabilities = lambda: ("sm87",)
    sys.argv[2:2] = ["--device", "--precision", "fp16"]
    command.main()


if __name__ == "__main__":
    main()
