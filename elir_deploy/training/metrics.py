"""Metrics of restored images, and the libraries that compute them.

SSIM and a measure of blur come from scikit-image. The paper's other metrics are neural networks and
come from pyiqa, which the paper used too. pyiqa is optional, downloads the weights it needs, and
its licence allows non-commercial use only.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import MissingDependencyError, UnavailableError
from elir_deploy.pixels import psnr_db
from elir_deploy.training.paper import paper_row

__all__ = [
    "ALWAYS",
    "METRICS",
    "Mean",
    "Metric",
    "MetricInfo",
    "MetricSet",
    "PyiqaMetric",
    "SkimageMetric",
    "default_metrics",
]

T = TypeVar("T")


@dataclass(frozen=True)
class MetricInfo:
    """A metric.

    Attributes:
        name: value of ``--metric``.
        title: heading in tables, with the unit.
        lower_better: whether lower values are better.
        digits: decimals in tables.
        summary: one-line description.
        compares_sets: whether it compares two sets of images; single images have no value.
    """

    name: str
    title: str
    lower_better: bool
    digits: int
    summary: str
    compares_sets: bool = False


_INFOS = (
    MetricInfo("psnr", "PSNR dB", False, 2, "error of 8-bit RGB values"),
    MetricInfo("ssim", "SSIM", False, 4, "structural similarity, mean over RGB"),
    MetricInfo("lpips", "LPIPS", True, 4, "distance in the features of AlexNet"),
    MetricInfo("ids", "IDS deg", True, 2, "angle between ArcFace's embeddings of the two faces"),
    MetricInfo("fid", "FID", True, 2, "distance of two sets of images", compares_sets=True),
    MetricInfo("niqe", "NIQE", True, 2, "distance from the statistics of natural images"),
    MetricInfo("musiq", "MUSIQ", False, 2, "quality by a transformer trained on human ratings"),
    MetricInfo("clipqa", "CLIPQA", False, 4, "quality by CLIP's prompts"),
    MetricInfo("blur", "blur", True, 4, "0 sharp to 1 blurred; noise counts as sharp"),
)
#: Metrics by name, in the order of the table's columns.
METRICS: dict[str, MetricInfo] = {info.name: info for info in _INFOS}

#: Measured in every run.
ALWAYS = ("psnr", "ssim", "blur")
#: Also measured for tasks that are not in the paper: metrics for any picture.
_FOR_ANY_PICTURE = ("lpips", "niqe", "clipqa")
_PYIQA_NAMES = {
    "lpips": "lpips",
    "fid": "fid",
    "niqe": "niqe",
    "musiq": "musiq",
    "clipqa": "clipiqa",
}
_NO_IDS = (
    "pyiqa has no ArcFace: compute IDS with a face recognition library from elir-restore's output"
)
#: Sides in pixels for which statistics of FFHQ are published (clean-fid, pyiqa).
_FFHQ_SIDES = (256, 512, 1024)


def default_metrics(task_name: str) -> list[str]:
    """The metrics in the paper's table for a task, and those that are always measured."""
    row = paper_row(task_name)
    names = {*ALWAYS, *(row.values if row is not None else _FOR_ANY_PICTURE)}
    return [name for name in METRICS if name in names]


class Metric(ABC):
    """A metric, ready to measure. Images are (H, W, 3) uint8 RGB, both of the same size.

    Attributes:
        info: description of the metric.
    """

    info: MetricInfo

    @abstractmethod
    def of_image(self, restored: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
        """The value for one image; NaN where it is undefined.

        Raises:
            UnavailableError: it cannot be computed.
        """

    def of_folders(self, restored: Path, truths: Path) -> float:
        """The value for all images of a folder, where ``info.compares_sets``.

        Raises:
            UnavailableError: it cannot be computed.
        """
        raise UnavailableError(f"{self.info.title} is measured image by image")


class SkimageMetric(Metric):
    """PSNR, SSIM or blur.

    SSIM is Wang et al.'s: Gaussian window of standard deviation 1.5, population covariance.

    Raises:
        MissingDependencyError: scikit-image is not installed.
    """

    def __init__(self, name: str) -> None:
        if find_spec("skimage") is None:
            raise MissingDependencyError("skimage", "eval", "measure quality")
        self.info = METRICS[name]
        self._measure = {"psnr": psnr_db, "ssim": _ssim, "blur": _blur}[name]

    def of_image(self, restored: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
        return self._measure(restored, truth)


def _ssim(restored: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    similarity = _skimage("metrics").structural_similarity(
        truth,
        restored,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
    )
    return float(similarity)


def _blur(restored: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    return float(_skimage("measure").blur_effect(restored, channel_axis=-1))


def _skimage(part: str) -> Any:
    return importlib.import_module(f"skimage.{part}")


class PyiqaMetric(Metric):
    """LPIPS, FID, NIQE, MUSIQ or CLIPQA, by the networks that pyiqa downloads.

    LPIPS uses AlexNet's features, pyiqa's default; the paper does not name its features. FID of
    faces compares with FFHQ's 70,000 images of the same size, like the paper ("vs FFHQ"); other FID
    compares with the truths.

    Args:
        name: a key of :data:`METRICS`.
        faces: whether the images are aligned faces.
        side: side of the square images in pixels.

    Raises:
        MissingDependencyError: pyiqa is not installed.
        UnavailableError: pyiqa lacks the metric or cannot create it.
    """

    def __init__(self, name: str, *, faces: bool = False, side: int = 256) -> None:
        self.info = METRICS[name]
        if name not in _PYIQA_NAMES:
            raise UnavailableError(_NO_IDS)
        if find_spec("pyiqa") is None:
            raise MissingDependencyError("pyiqa", "metrics", f"measure {self.info.title}")
        self._ffhq_side = side if faces and side in _FFHQ_SIDES else None
        self._network = self._call(self._create)
        if bool(self._network.lower_better) != self.info.lower_better:
            raise UnavailableError(
                f"pyiqa's {_PYIQA_NAMES[name]} and {self.info.title} disagree whether lower is "
                "better: install another version of pyiqa"
            )

    @property
    def compared_with(self) -> str | None:
        """The images that FID compares with; None for the other metrics."""
        if not self.info.compares_sets:
            return None
        if self._ffhq_side is None:
            return "the truths"
        return f"FFHQ (70,000 faces of {self._ffhq_side}x{self._ffhq_side})"

    def of_image(self, restored: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
        return self._call(lambda: float(self._network(_batch(restored), _batch(truth))))

    def of_folders(self, restored: Path, truths: Path) -> float:
        return self._call(lambda: float(self._frechet(restored, truths)))

    def _create(self) -> Any:
        pyiqa = importlib.import_module("pyiqa")
        return pyiqa.create_metric(_PYIQA_NAMES[self.info.name])

    def _frechet(self, restored: Path, truths: Path) -> Any:
        # Worker processes gain nothing beside the network.
        options: dict[str, Any] = {"num_workers": 0, "verbose": False}
        if self._ffhq_side is None:
            return self._network(str(restored), str(truths), **options)
        return self._network(
            str(restored),
            dataset_name="FFHQ",
            dataset_res=self._ffhq_side,
            dataset_split="trainval70k",
            **options,
        )

    def _call(self, function: Callable[[], T]) -> T:
        """Call ``function``; any error of pyiqa (no network, no weights) is unavailability."""
        try:
            return function()
        except Exception as error:  # forty metrics raise all kinds of errors
            text = next(iter(str(error).splitlines()), "") or type(error).__name__
            name = _PYIQA_NAMES[self.info.name]
            raise UnavailableError(f"pyiqa's {name} failed: {text}") from error


def _batch(image: NDArray[np.uint8]) -> Any:
    """(H, W, 3) uint8 to pyiqa's format: a tensor (1, 3, H, W), RGB in [0, 1]."""
    import torch

    planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    return torch.from_numpy(planes).float().div(255)


class MetricSet:
    """The metrics of a run.

    Args:
        requested: names; those in :data:`ALWAYS` are added.
        required: whether a metric that cannot run is an error.
        faces: whether the images are aligned faces.
        side: side of the images in pixels.

    Attributes:
        working: the metrics that run, in the order of the table's columns.
        not_run: names of the others, with the reasons.

    Raises:
        MissingDependencyError: scikit-image is not installed.
        UnavailableError: a required metric cannot run.
    """

    def __init__(
        self, requested: Iterable[str], *, required: bool, faces: bool = False, side: int = 256
    ) -> None:
        names = {*ALWAYS, *requested}
        self.working: list[Metric] = []
        self.not_run: dict[str, str] = {}
        self._required = required
        for name in (name for name in METRICS if name in names):
            if name in ALWAYS:
                self.working.append(SkimageMetric(name))
                continue
            try:
                self.working.append(PyiqaMetric(name, faces=faces, side=side))
            except UnavailableError as error:
                if required:
                    raise
                self.not_run[name] = str(error)

    @property
    def names(self) -> list[str]:
        """The names of all metrics, working or not, in the order of the table's columns."""
        working = {metric.info.name for metric in self.working}
        return [name for name in METRICS if name in working or name in self.not_run]

    @property
    def fid_reference(self) -> str | None:
        """The images that FID compares with; None if it does not run."""
        for metric in self.working:
            if isinstance(metric, PyiqaMetric) and metric.compared_with is not None:
                return metric.compared_with
        return None

    @contextmanager
    def drop_on_failure(self, metric: Metric) -> Iterator[None]:
        """Continue without a metric that fails in the block.

        Raises:
            UnavailableError: a required metric failed.
        """
        try:
            yield
        except UnavailableError as error:
            if self._required and metric.info.name not in ALWAYS:
                raise
            self.working.remove(metric)
            self.not_run[metric.info.name] = str(error)


@dataclass(frozen=True)
class Mean:
    """Mean of values without NaNs.

    Attributes:
        value: the mean; None without values.
        standard_error: of the mean; None for less than two values or an infinite mean.
        count: number of values.
    """

    value: float | None
    standard_error: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        numbers = np.asarray([v for v in values if not math.isnan(v)], dtype=np.float64)
        if not numbers.size:
            return cls(None, None, 0)
        value = float(numbers.mean())
        error = None
        if numbers.size > 1 and math.isfinite(value):
            error = float(numbers.std(ddof=1) / math.sqrt(numbers.size))
        return cls(value, error, int(numbers.size))
