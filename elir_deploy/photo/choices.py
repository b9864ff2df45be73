"""What restores pictures, by the options that commands and services share."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from elir_deploy.errors import UsageError
from elir_deploy.photo.detection import check_detector
from elir_deploy.photo.faces import Faces
from elir_deploy.photo.files import PhotoFileRestorer
from elir_deploy.photo.opening import noise_of_both
from elir_deploy.photo.restorer import PhotoRestorer
from elir_deploy.runtime import Bundle, Fit, Mode, Restorer
from elir_deploy.runtime.detector_graph import detector_of
from elir_deploy.runtime.file_restorer import FileRestorer, ImageRestorer
from elir_deploy.runtime.manifest import FieldNoise

__all__ = ["Choices", "file_restorer", "open_pictures"]


@dataclass(frozen=True)
class Choices:
    """The options that decide what runs; None: not given."""

    bundle: Bundle
    background: Bundle | None = None
    backend: str = "auto"
    precision: str | None = None
    faces: Faces | None = None
    scale: int | None = None
    long_side: int | None = None
    fit: Fit | None = None
    force: bool = False
    threads: int | None = None
    device: int | str = 0
    mode: Mode = "latency"
    sigma_s: float | None = None
    seed: int | None = None
    tile_overlap: int | None = None

    @classmethod
    def opened(
        cls, bundle: str | Path | Bundle, background: str | Path | Bundle | None, **options: Any
    ) -> Choices:
        """Choices of bundles that may have to be opened.

        Raises:
            BundleError: one cannot be opened.
        """
        if not isinstance(bundle, Bundle):
            bundle = Bundle.open(bundle)
        if background is not None and not isinstance(background, Bundle):
            background = Bundle.open(background)
        return cls(bundle, background, **options)

    @property
    def options(self) -> dict[str, Any]:
        """All but the bundles, which another machine opens itself."""
        names = {field.name for field in fields(self)} - {"bundle", "background"}
        return {name: getattr(self, name) for name in names}

    @property
    def whole_photographs(self) -> bool:
        """Whether the pictures are photographs, in which faces may have to be found."""
        if any(value is not None for value in (self.background, self.scale, self.long_side)):
            return True
        if self.faces is None:
            return self.bundle.manifest.detector is not None
        return self.faces != "aligned"

    def check(self) -> None:
        """Refuse what does not fit together.

        Raises:
            UsageError: options of photographs for a bundle of any picture, or of no effect.
            BundleError: options of photographs for a bundle without a face detector.
        """
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
    def unfit(self) -> set[str]:
        """Names of the given options that are not for this bundle, if it is one of several."""
        with_faces = self.bundle.manifest.detector is not None
        names = {"fit", "force"} if with_faces else {"background", "long_side"}
        if with_faces and self.background is None:
            names.add("tile_overlap")
        bundles = filter(None, (self.bundle, self.background if with_faces else None))
        if not any(isinstance(bundle.manifest.noise, FieldNoise) for bundle in bundles):
            names |= {"sigma_s", "seed"}
        return {name for name in names if getattr(self, name) not in (None, False)}

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
        """Arguments for the noise of a bundle, of the two."""
        noise = {"sigma_s": self.sigma_s, "seed": self.seed}
        return noise_of_both(noise, self.bundle, self.background)[bundle is not self.bundle]


def open_pictures(choices: Choices, stack: ExitStack) -> Restorer | PhotoRestorer:
    """What restores pictures, open until the stack ends.

    Raises, Warns: as :class:`~elir_deploy.runtime.Restorer` and :class:`PhotoRestorer`.
    """
    opened = _photographs(choices, stack) if choices.whole_photographs else _whole(choices)
    stack.enter_context(opened)
    return opened


def file_restorer(choices: Choices, opened: Restorer | PhotoRestorer) -> FileRestorer:
    """What restores files, of what :func:`open_pictures` has opened."""
    if isinstance(opened, Restorer):
        return ImageRestorer(opened)
    return PhotoFileRestorer(opened, choices.faces or "auto", choices.scale or 1)


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
