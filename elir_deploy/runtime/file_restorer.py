"""What ``restore_files`` restores the images of files with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime.images import LoadedImage
from elir_deploy.runtime.resampling import EnlargedPicture
from elir_deploy.runtime.restorer import Restorer
from elir_deploy.runtime.strength import mix_into

__all__ = ["FileRestorer", "ImageRestorer", "RestoredImage", "image_warnings", "load_for"]


@dataclass(frozen=True)
class RestoredImage:
    """A restored image.

    Attributes:
        pixels: (H * scale, W * scale, 3) RGB of the image's type.
        faces: as events have them; None: none were looked for.
        warning: what the user may not expect; None: nothing.
    """

    pixels: NDArray[Any]
    faces: Sequence[Mapping[str, Any]] | None = None
    warning: str | None = None


class FileRestorer(Protocol):
    """What restores the images of files.

    Attributes:
        scale: sides of a result over those of its image.
        bits: of images, 8 or 16.
        instead_of_8_bits: what has more, where ``bits`` is 8.
        concurrency: threads that may call :meth:`restore`.
        ahead: images that may wait for others to be run with.
        has_preparation: whether :meth:`prepare` takes time, and is called in a thread of its own.
    """

    scale: int
    bits: int
    instead_of_8_bits: str
    concurrency: int
    ahead: int
    has_preparation: bool

    def input_warning(self, height: int, width: int) -> str | None:
        """Why an image of this size is not what is expected; None: it is."""

    def prepare(self, image: LoadedImage, strength: float) -> Any:
        """What can be done before it is the image's turn; the result is for :meth:`restore`.

        Args:
            strength: as of :meth:`restore`.
        """

    def joins(self, group: list[Any], prepared: Any) -> bool:
        """Whether an image may be restored together with others."""

    def restore(
        self, group: list[Any], strength: float, on_progress: ProgressCallback
    ) -> list[RestoredImage]:
        """Restore images that were prepared.

        Args:
            strength: as of :meth:`Restorer.restore`; colours hidden by transparency are mixed, too.
        """


def load_for(
    restorer: FileRestorer, bits: int | None, load: Callable[[bool], LoadedImage]
) -> LoadedImage:
    """An image in samples of which ``restorer`` gives results of so many bits.

    Args:
        restorer: of the image.
        bits: that the user asked for; None: as many as image and restorer have.
        load: loads the image, with 16 bits if it has them and is given True.
    """
    image = load(restorer.bits == 16 and bits != 8)
    return image.widened() if bits == 16 else image


def image_warnings(
    restorer: FileRestorer, image: LoadedImage, bits: int | None = None
) -> list[str]:
    """What the user may not expect of an image's result: it has fewer bits, or an unusual size.

    Args:
        restorer: of the image.
        image: as read for it.
        bits: that the user asked for; None: as many as there are.
    """
    warnings = [restorer.input_warning(*image.pixels.shape[:2])]
    if image.reduced and bits != 8:
        reason = "which are all that is read of this kind of file"
        whole = restorer.bits == 8 and not image.only_8_bits
        warnings.append(
            f"reduced to 8 bits: {restorer.instead_of_8_bits}"
            if whole
            else f"reduced to 8 bits, {reason}"
        )
    return list(filter(None, warnings))


class ImageRestorer:
    """A restorer of images as they are."""

    instead_of_8_bits = "a bundle exported with --io float32 keeps them"
    has_preparation = False

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        self.scale = restorer.bundle.manifest.model.upscale
        self.bits = restorer.bits
        self.concurrency = restorer.concurrency
        self.ahead = max(map(restorer.batch_of, restorer.bundle.manifest.shapes))
        self.input_warning = restorer.input_warning

    def prepare(self, image: LoadedImage, strength: float) -> LoadedImage:
        return image

    def joins(self, group: list[LoadedImage], image: LoadedImage) -> bool:
        return self._restorer.joins([each.pixels for each in group], image.pixels)

    def restore(
        self, group: list[LoadedImage], strength: float, on_progress: ProgressCallback
    ) -> list[RestoredImage]:
        if len(group) == 1 or strength == 0:
            return [RestoredImage(self._restored(image, strength, on_progress)) for image in group]
        several = self._restorer.restore_together([image.opaque() for image in group], 1.0)
        for image, pixels in zip(group, several, strict=True):
            self._mix(image, pixels, strength)
        return list(map(RestoredImage, several))

    def _restored(
        self, image: LoadedImage, strength: float, on_progress: ProgressCallback
    ) -> NDArray[Any]:
        if image.alpha is None or strength == 0:
            return self._restorer.restore(image.pixels, strength=strength, on_progress=on_progress)
        pixels = self._restorer.restore(image.opaque(), on_progress=on_progress)
        self._mix(image, pixels, strength)
        return pixels

    def _mix(self, image: LoadedImage, pixels: NDArray[Any], strength: float) -> None:
        model = self._restorer.bundle.manifest.model
        picture = EnlargedPicture(image.pixels, model.upscale, model.upscale_kernel)
        mix_into(picture, pixels, strength)
