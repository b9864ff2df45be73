"""What ``elir-restore`` and ``elir-video`` restore with, by their options."""

from __future__ import annotations

import enum
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from elir_deploy.cli.choices import device_of
from elir_deploy.cli.shell import tell
from elir_deploy.errors import UsageError
from elir_deploy.photo import Faces, PhotoRestorer
from elir_deploy.photo.detection import check_detector
from elir_deploy.photo.files import PhotoFileRestorer
from elir_deploy.runtime import BACKENDS, Bundle, Fit, Mode, Restorer
from elir_deploy.runtime.detector_graph import detector_of
from elir_deploy.runtime.file_restorer import FileRestorer, ImageRestorer
from elir_deploy.runtime.manifest import BakedNoise, FieldNoise

__all__ = ["Choices", "open_pictures", "open_restorer"]


@dataclass(frozen=True)
class Choices:
    """The options that decide what runs; None: not given."""

    bundle: Bundle
    background: Bundle | None
    backend: str
    precision: str | None
    faces: Faces | None
    scale: int | None
    long_side: int | None
    fit: Fit | None
    force: bool
    threads: int | None
    device: int | str
    mode: Mode
    sigma_s: float | None
    seed: int | None
    tile_overlap: int | None

    @classmethod
    def of(cls, bundle: str, background: str | None, **options: Any) -> Choices:
        """From the values of :mod:`elir_deploy.cli.options`.

        Raises:
            BundleError: a bundle cannot be opened.
            UsageError: ``device`` is neither a number nor a name.
        """
        values = {k: v.value if isinstance(v, enum.Enum) else v for k, v in options.items()}
        values["device"] = device_of(values["device"])
        if values["scale"] is not None:
            values["scale"] = int(values["scale"])
        opened = None if background is None else Bundle.open(background)
        return cls(Bundle.open(bundle), opened, **values)

    @property
    def whole_photographs(self) -> bool:
        """Whether the pictures are photographs, in which faces may have to be found."""
        if any(value is not None for value in (self.background, self.scale, self.long_side)):
            return True
        if self.faces is None:
            return self.bundle.manifest.detector is not None
        return self.faces != "aligned"

    def check(self) -> None:
        """Warn of random weights, and refuse what does not fit together.

        Raises:
            UsageError: options of photographs for a bundle of any picture, or of no effect.
            BundleError: options of photographs for a bundle without a face detector.
        """
        for bundle in filter(None, (self.bundle, self.background)):
            if bundle.manifest.source.random:
                tell(
                    f"warning: {bundle.path} has random weights, which are for measuring speed: "
                    "its results are meaningless"
                )
        photographs = {
            "--faces": self.faces,
            "--background": self.background,
            "--scale": self.scale,
            "--long-side": self.long_side,
        }
        model = self.bundle.manifest.model
        for option, value in photographs.items():
            if value is not None and not model.faces:
                raise UsageError(
                    f"{option} is for bundles of faces, such as bfr, and {self.bundle.path} is of "
                    f"{model.task}, which restores the whole picture: leave it out"
                )
        if not self.whole_photographs:
            return
        try:
            check_detector(detector_of(self.bundle), self.long_side)
        except UsageError as error:
            raise UsageError(str(error).replace("long_side", "--long-side")) from None
        if self.faces == "aligned" and self.long_side is not None:
            raise UsageError(
                "with --faces aligned no faces are searched for, which --long-side is for: leave "
                "one of them out"
            )
        if self.faces == "aligned" and self.background is not None:
            raise UsageError(
                "with --faces aligned the picture is one face, which has no --background: leave "
                "one of them out"
            )
        if self.fit is not None or self.force:
            raise UsageError(
                f"{'--force' if self.fit is None else '--fit'} is for pictures that the model sees "
                "as a whole, not for faces in photographs: add --faces aligned"
            )
        if self.tile_overlap is not None and self.background is None:
            raise UsageError("--tile-overlap is for the tiles of a --background: leave it out")

    @property
    def bits(self) -> tuple[int, str]:
        """Bits of the results at most, and what has 16, where that is 8."""
        if self.whole_photographs:
            return PhotoFileRestorer.bits, PhotoFileRestorer.instead_of_8_bits
        return self.bundle.bits, ImageRestorer.instead_of_8_bits

    @property
    def running(self) -> dict[str, Any]:
        """Arguments of every restorer."""
        return {"threads": self.threads, "device": self.device, "mode": self.mode}

    def noise_of(self, bundle: Bundle) -> dict[str, Any]:
        """Arguments for the noise of a bundle: of two, it is chosen where it can be."""
        noise = {"sigma_s": self.sigma_s, "seed": self.seed}
        other = self.background if bundle is self.bundle else self.bundle
        elsewhere = other is not None and isinstance(other.manifest.noise, FieldNoise)
        return {} if elsewhere and isinstance(bundle.manifest.noise, BakedNoise) else noise


def open_restorer(choices: Choices, stack: ExitStack) -> tuple[Restorer | FileRestorer, Restorer]:
    """What restores files, and the restorer of it that runs the bundle, open until the stack ends.

    What runs, and warnings, are told.
    """
    opened = open_pictures(choices, stack)
    if isinstance(opened, Restorer):
        return opened, opened
    return PhotoFileRestorer(opened, choices.faces or "auto", choices.scale or 1), opened.restorer


def open_pictures(choices: Choices, stack: ExitStack) -> Restorer | PhotoRestorer:
    """What restores pictures, open until the stack ends; what runs, and warnings, are told."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuntimeWarning)
        opened = _photographs(choices, stack) if choices.whole_photographs else _whole(choices)
        stack.enter_context(opened)
    for warning in caught:
        tell(f"warning: {warning.message}")
    tell(str(opened))
    backend = (opened if isinstance(opened, Restorer) else opened.restorer).backend
    numbered = isinstance(choices.device, int) and choices.device
    if numbered and not BACKENDS[backend].on_gpu:
        tell(f"warning: --device {choices.device} has no effect: {backend} uses no GPU")
    return opened


def _whole(choices: Choices) -> Restorer:
    return Restorer(
        choices.bundle,
        choices.backend,
        precision=choices.precision,
        fit=choices.fit,
        force=choices.force,
        tile_overlap=choices.tile_overlap,
        sigma_s=choices.sigma_s,
        seed=choices.seed,
        **choices.running,
    )


def _photographs(choices: Choices, stack: ExitStack) -> PhotoRestorer:
    background = None
    if choices.background is not None:
        noise = choices.noise_of(choices.background)
        background = Restorer(
            choices.background,
            choices.backend,
            fit="tile",
            tile_overlap=choices.tile_overlap,
            **noise,
            **choices.running,
        )
        stack.enter_context(background)
    return PhotoRestorer(
        choices.bundle,
        background,
        backend=choices.backend,
        precision=choices.precision,
        long_side=choices.long_side,
        **choices.noise_of(choices.bundle),
        **choices.running,
    )
