"""What eager PyTorch launches on a CUDA device, recorded from the model itself."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from elir_deploy.bench.cost_model import Layer
from elir_deploy.bench.eager_cost import eager_layers
from elir_deploy.errors import MissingDependencyError
from elir_deploy.tasks import Architecture

__all__ = ["eager_model_layers"]


def eager_model_layers(arch: Architecture, *, image_size: int, steps: int) -> list[Layer]:
    """Kernels that eager float32 PyTorch launches on a CUDA device for one image.

    The model runs without weights or data (on the ``meta`` device), so none of either is needed.

    Args:
        arch: of the network, in its collapsed form.
        image_size: side of the square image in pixels.
        steps: Euler steps M.

    Raises:
        MissingDependencyError: PyTorch is not installed.
    """
    if find_spec("torch") is None:
        raise MissingDependencyError("torch", "export", "predict what eager PyTorch costs")
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from elir_deploy.model import Elir

    layers: list[Layer] = []
    part = "encoder"

    class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's metaclass
        def __torch_dispatch__(
            self, call: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            made = call(*args, **(kwargs or {}))
            results = made if isinstance(made, tuple) else (made,)
            layers.extend(eager_layers(call.overloadpacket.__name__, args, results, part))
            return made

    def entering(name: str) -> Callable[..., None]:
        def enter(*_: object) -> None:
            nonlocal part
            part = name

        return enter

    with torch.device("meta"):
        model = Elir(arch).eval().requires_grad_(False)
        image = torch.empty(1, 3, image_size, image_size)
        side = image_size // arch.latent_stride
        noise = torch.empty(1, arch.latent_channels, side, side)
    model.estimator.register_forward_pre_hook(entering("estimator"))
    model.estimator.register_forward_hook(entering("flow"))
    model.decoder.register_forward_pre_hook(entering("decoder"))
    # Not inference_mode, under which a convolution arrives as a call that is none of CUDA's yet.
    with torch.no_grad(), torch.device("meta"), Recorder():  # type: ignore[no-untyped-call]
        model(image, steps, noise)
    return layers
