"""Entries of the manifest about quality: verification and quantization."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from elir_deploy.runtime.manifest_fields import Count, File, Name, Record, Side, Text

__all__ = [
    "BlockSensitivity",
    "ImageFidelity",
    "Quantization",
    "QuantizationQuality",
    "Verification",
]


class ImageFidelity(Record, frozen=True):
    """Agreement with float32 PyTorch on one image.

    Attributes:
        name: name of the picture.
        width, height: size in pixels.
        synthetic: whether it was drawn, unlike a photograph.
        psnr_db: peak signal-to-noise ratio of 8-bit pixels; None: identical.
        max_error, mean_error: errors in units of [0, 1]; None: not finite.
    """

    name: Name
    width: Side
    height: Side
    synthetic: bool
    psnr_db: float | None
    max_error: float | None
    mean_error: float | None


class Verification(Record, frozen=True):
    """Agreement of one precision with float32 PyTorch.

    Attributes:
        psnr_db: PSNR of the worst photograph in dB; None: all are identical.
        max_error, mean_error: errors of the photographs in units of [0, 1]; None: not finite.
        floor_db: minimum of ``psnr_db`` to pass.
        passed: whether it was reached.
        automatic: whether it may run if the user names no precision: it passed, and loses little
            on synthetic pictures too.
        backend: the backend that ran it.
        images: results for each picture.
        boundaries: signal-to-error ratio in dB after each part of the network, in order; None: no
            error.
        parts: the same for each part alone, with exact input.
        worst_part: the part that loses most, if one stands out.
        kept_float32: layers that stay in floating point, with the reason.
    """

    psnr_db: float | None
    max_error: float | None
    mean_error: float | None
    floor_db: float
    passed: bool
    automatic: bool
    backend: Text
    images: Annotated[list[ImageFidelity], Meta(max_length=1000)]
    boundaries: dict[Text, float | None]
    parts: dict[Text, float | None]
    worst_part: Text | None
    kept_float32: Annotated[list[Text], Meta(max_length=10000)]

    @property
    def finite(self) -> bool:
        """Whether the network's outputs for the photographs were finite."""
        return self.max_error is not None


class QuantizationQuality(Record, frozen=True):
    """Loss of quality by quantisation on the calibration images.

    Attributes:
        psnr_drop_db: mean loss of PSNR to the ground truth; None: there is no ground truth.
        fidelity_db: PSNR to float32 of the worst image; None: identical.
    """

    psnr_drop_db: float | None
    fidelity_db: float | None


class BlockSensitivity(Record, frozen=True):
    """Sensitivity of one block of the network to INT8.

    Attributes:
        block: name of the block.
        macs: its number of multiplications.
        psnr_db: PSNR of the output to float32 with only this block in INT8; None: identical.
        kept: whether it stays in floating point.
    """

    block: Text
    macs: Count
    psnr_db: float | None
    kept: bool


class Quantization(File, frozen=True):
    """The calibration recipe, a file that reproduces the INT8 graph, and its measured quality.

    Attributes:
        images: number of calibration images.
        max_psnr_drop_db: the budget; None: not measured, as for random weights.
        measured: quality with the blocks chosen.
        everything_int8: quality with all blocks in INT8.
        blocks: sensitivity of each block.
    """

    images: Count
    max_psnr_drop_db: float | None
    measured: QuantizationQuality | None
    everything_int8: QuantizationQuality | None
    blocks: Annotated[list[BlockSensitivity], Meta(max_length=1000)]
