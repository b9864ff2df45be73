"""Calibration images, and the statistics of a graph's activations on them.

One float32 run of each image gives all that INT8 needs: per channel the largest magnitude and the
mean, and a sample of the values, spread over the feature map. Ranges,
equalisation and bias correction are computed from these without running the graph again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from elir_deploy.degradations import degrade, enlarge
from elir_deploy.errors import ImageError, UsageError
from elir_deploy.export.precision import open_session, shapes_of
from elir_deploy.paired_images import Sample, SampleFolder
from elir_deploy.progress import ProgressCallback, WarningCallback, no_progress, no_warning
from elir_deploy.runtime.folders import images_of
from elir_deploy.runtime.images import read_image
from elir_deploy.runtime.photos import sample_photos
from elir_deploy.runtime.resampling import EnlargedPicture, resize_to
from elir_deploy.tasks import TaskSpec

__all__ = [
    "CalibrationImage",
    "TensorStatistics",
    "calibration_images",
    "collect_statistics",
    "packaged_images",
]

#: Values sampled from one tensor over all images, for the mean error of rounding.
SAMPLES_PER_TENSOR = 2**17
#: Fewer images than this give a warning.
FEW_IMAGES = 8


@dataclass(frozen=True)
class CalibrationImage:
    """One image to calibrate with.

    Attributes:
        name: of its file.
        image: (H, W, 3) uint8 RGB, degraded and at the network's size.
        truth: the clean image, likewise; None where the images are already degraded.
    """

    name: str
    image: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None

    def extended(self, size: tuple[int, int]) -> CalibrationImage:
        """The image extended to (height, width) by mirroring."""
        truth = None if self.truth is None else _extended(self.truth, size)
        return CalibrationImage(self.name, _extended(self.image, size), truth)


def _extended(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    missing = [(0, side - had) for side, had in zip(size, pixels.shape, strict=False)]
    return np.pad(pixels, [*missing, (0, 0)], "symmetric")


def packaged_images(task: TaskSpec, side: int) -> list[CalibrationImage]:
    """The package's photographs, for users without calibration images."""
    photos = sample_photos(side, faces=task.faces)
    return [
        CalibrationImage(name, enlarge(task.name, degrade(task.name, photo, _rng(k))), photo)
        for k, (name, photo) in enumerate(photos.items())
    ]


def calibration_images(
    folder: Path,
    task: TaskSpec,
    side: int,
    *,
    count: int,
    degraded: bool = False,
    warn: WarningCallback = no_warning,
) -> list[CalibrationImage]:
    """Images spread evenly over a folder, as network inputs.

    Args:
        folder: of images, with its subfolders.
        task: whose degradation is applied to clean images.
        side: of the network's square image in pixels.
        count: number of images.
        degraded: the images are already degraded.
        warn: called with images that are left out, and with warnings about the others.

    Raises:
        UsageError: no folder, no images in it, or none that can be used.
    """
    candidates: Iterator[CalibrationImage | str] = (
        _degraded_images(folder, task, side, count, warn)
        if degraded
        else _clean_images(folder, task, side, count, warn)
    )
    images: list[CalibrationImage] = []
    left_out: list[str] = []
    for item in candidates:
        if isinstance(item, CalibrationImage) and not _is_flat(item):
            images.append(item)
        else:
            left_out.append(item if isinstance(item, str) else f"{item.name}: of one colour")
    for reason in left_out[:3]:
        warn(f"left out of the calibration: {reason}")
    if len(left_out) > 3:
        warn(f"left out of the calibration: {len(left_out) - 3} more")
    if not images:
        raise UsageError(
            f"{folder}: none of {len(left_out)} images can be used for calibration, the first "
            f"because {left_out[0]}; expected photographs of at least {side}x{side} pixels"
        )
    if len(images) < FEW_IMAGES:
        warn(
            f"calibrating with {len(images)} image{'s' * (len(images) > 1)}: "
            f"use {FEW_IMAGES} or more, as varied as those that the model will restore"
        )
    return images


def _is_flat(item: CalibrationImage) -> bool:
    shown = item.image if item.truth is None else item.truth
    return bool((shown == shown[0, 0]).all())


def _rng(number: int) -> np.random.Generator:
    return np.random.default_rng([0, number])


def _spread_indices(length: int, count: int) -> list[int]:
    """``count`` indices spread evenly over ``length``, all of them where there are fewer."""
    return (
        sorted({k * length // count for k in range(count)}) if count < length else [*range(length)]
    )


def _clean_images(
    folder: Path, task: TaskSpec, side: int, count: int, warn: WarningCallback
) -> Iterator[CalibrationImage | str]:
    samples = SampleFolder(folder, task.name, side=side, upscale=task.upscale, faces=task.faces)
    if samples.unread:
        warn(f"not read: {samples.unread}")
    for number in _spread_indices(len(samples), count):
        sample = samples[number]
        if isinstance(sample, Sample):
            image = enlarge(task.name, sample.low)
            yield CalibrationImage(sample.name, image, sample.truth)
        else:
            yield sample.reason


def _degraded_images(
    folder: Path, task: TaskSpec, side: int, count: int, warn: WarningCallback
) -> Iterator[CalibrationImage | str]:
    listed = images_of(folder)
    if listed.unread:
        warn(f"not read: {listed.unread}")
    for number in _spread_indices(len(listed.places), count):
        name = listed.places[number].as_posix()
        try:
            picture = EnlargedPicture(
                read_image(folder / name).opaque(), task.upscale, task.upscale_kernel
            )
        except ImageError as error:
            yield str(error)
            continue
        if task.faces:
            yield CalibrationImage(name, resize_to(picture, side, side), None)
        elif min(picture.height, picture.width) < side:
            yield f"{folder / name} is smaller than the model's {side}x{side}"
        else:
            top, left = (picture.height - side) // 2, (picture.width - side) // 2
            block = np.ascontiguousarray(picture.block(top, left, side, side))
            yield CalibrationImage(name, block, None)


@dataclass(frozen=True)
class TensorStatistics:
    """One activation tensor (1, C, H, W) over all calibration images.

    Attributes:
        peak: (C,) float32, the largest magnitude of each channel.
        mean: (C,) float64.
        samples: (C, n) float32, values at random places, the same for all images.
    """

    peak: NDArray[np.float32]
    mean: NDArray[np.float64]
    samples: NDArray[np.float32]

    def scaled(self, factors: NDArray[np.float32]) -> TensorStatistics:
        """Statistics of the tensor with each channel multiplied by its positive factor, (C,)."""
        return TensorStatistics(
            self.peak * factors, self.mean * factors, self.samples * factors[:, None]
        )


def collect_statistics(
    model: ModelProto,
    tensors: Sequence[str],
    feeds: Iterable[Mapping[str, NDArray[np.generic]]],
    *,
    images: int,
    progress: ProgressCallback = no_progress,
) -> dict[str, TensorStatistics]:
    """Run a float32 graph on each image and keep the statistics of ``tensors``.

    Extremes, means and samples are computed inside the graph, so that no feature map leaves it.

    Args:
        model: a float32 graph with inferred types and shapes.
        tensors: names of float32 activations (1, C, H, W).
        feeds: input name to array, for each image.
        images: number of feeds.
        progress: called before each.
    """
    probe = ModelProto()
    probe.CopyFrom(model)
    per_image = max(1, SAMPLES_PER_TENSOR // images)
    _add_probes(probe, tensors, per_image)
    session = open_session(probe, in_graph_order=True)
    amax: list[NDArray[np.float32]] = []
    means: list[NDArray[np.float64]] = []
    samples: list[list[NDArray[np.float32]]] = [[] for _ in tensors]
    for done, feed in enumerate(feeds):
        progress("calibrating", done, images)
        outputs = iter(session.run(None, dict(feed)))
        for k in range(len(tensors)):
            peak, mean, sampled = (next(outputs) for _ in range(3))
            if done == 0:
                amax.append(peak.reshape(-1))
                means.append(mean.reshape(-1).astype(np.float64) / images)
            else:
                np.maximum(amax[k], peak.reshape(-1), out=amax[k])
                means[k] += mean.reshape(-1).astype(np.float64) / images
            samples[k].append(sampled)
    progress("calibrating", images, images)
    return {
        name: TensorStatistics(amax[k], means[k], np.concatenate(samples[k], axis=1))
        for k, name in enumerate(tensors)
    }


def _add_probes(probe: ModelProto, tensors: Sequence[str], samples: int) -> None:
    """Add three outputs for each tensor; by pooling, which is the same in every opset."""
    graph = probe.graph
    shapes = shapes_of(probe)
    nodes = {name: k for k, node in enumerate(graph.node) for name in node.output}
    added: dict[int, list[NodeProto]] = {}
    del graph.output[:]
    rng = np.random.default_rng(0)
    constants: dict[str, NDArray[np.int64]] = {}
    for name in tensors:
        _, channels, height, width = shapes[name]
        pixels = height * width
        places, flat = f"places.{channels}x{pixels}", f"flat.{channels}x{pixels}"
        if places not in constants:
            count = min(pixels, max(1, samples // channels))
            constants[places] = np.sort(rng.choice(pixels, count, replace=False))
            constants[flat] = np.array([channels, pixels])
        ends = [f"{name}.{what}" for what in ("abs", "peak", "mean", "flat", "samples")]
        magnitude, peak, mean, flattened, sampled = ends
        added.setdefault(nodes.get(name, -1), []).extend(
            [
                helper.make_node("Abs", [name], [magnitude]),
                helper.make_node("GlobalMaxPool", [magnitude], [peak]),
                helper.make_node("GlobalAveragePool", [name], [mean]),
                helper.make_node("Reshape", [name, flat], [flattened]),
                helper.make_node("Gather", [flattened, places], [sampled], axis=1),
            ]
        )
        graph.output.extend(
            helper.make_tensor_value_info(end, TensorProto.FLOAT, None)
            for end in (peak, mean, sampled)
        )
    # Each directly after its tensor, so that a feature map can be freed early.
    before = list(graph.node)
    del graph.node[:]
    graph.node.extend(added.get(-1, []))
    for k, node in enumerate(before):
        graph.node.append(node)
        graph.node.extend(added.get(k, []))
    graph.initializer.extend(
        numpy_helper.from_array(array, name) for name, array in constants.items()
    )
