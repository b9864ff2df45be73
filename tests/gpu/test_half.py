"""The exported graphs in the arithmetic of a GPU, without TensorRT."""

from __future__ import annotations

import numpy as np
import pytest

from elir_deploy.pixels import psnr_db
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.noise import NoiseField

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from tests.gpu.onnx_on_torch import OnnxOnTorch  # noqa: E402  # it needs both

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(autouse=True)
def exact_float32() -> None:
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def worst_psnr(precision: str, device: str, images: int | None = None) -> float:
    """Of the packaged bundle's pictures, against what float32 PyTorch made of them."""
    bundle = Bundle.open("tiny")
    graph = OnnxOnTorch(onnx.load(bundle.path / f"fused.{precision}.onnx"), device)
    (stage,) = bundle.stages
    assert stage.noise is not None
    noise = np.empty(stage.noise.shape, np.float32)
    NoiseField(bundle.manifest.noise.seed, bundle.manifest.model.sigma_s).fill(noise[0], 0, 0)
    pictures = list(bundle.reference_images())[:images]
    return min(psnr_db(graph(image[None], noise)[0], expected) for _, image, expected in pictures)


def test_the_graph_is_computed_as_it_says() -> None:
    """On the CPU in float32, where it is known what has to come out."""
    assert worst_psnr("fp32", "cpu", 1) > 80


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_graph_on_a_gpu(precision: str) -> None:
    """Half arithmetic of real hardware keeps the quality that emulation promised."""
    verified = Bundle.open("tiny").manifest.verification[precision]
    assert verified.psnr_db is not None
    reached = worst_psnr(precision, "cuda")
    print(f"{precision}: {reached:.2f} dB, verified with {verified.psnr_db:.2f} dB")
    # As where a bundle is opened: what is enough is enough, and kernels differ by a little.
    assert reached >= max(verified.floor_db, min(verified.psnr_db, 50) - 3)
