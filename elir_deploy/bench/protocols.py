"""How samples are taken: which images, how many, in which order."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from elir_deploy.bench.clocks import Clock, wall_clock
from elir_deploy.bench.contenders import Contender
from elir_deploy.errors import ElirError, UnavailableError

__all__ = ["PROTOCOLS", "BenchProtocol", "Measurement", "Samples", "random_image"]


@dataclass(frozen=True)
class BenchProtocol:
    """What one run consists of; batch 1 throughout.

    Attributes:
        name: what ``--protocol`` takes.
        title: one line for people.
        warmup: images restored before the first that counts.
        images: images that count.
    """

    name: str
    title: str
    warmup: int
    images: int


_TABLE = (
    BenchProtocol(
        name="paper",
        title="the paper's: batch 1, random images, 10 to warm up, mean of 200",
        warmup=10,
        images=200,
    ),
)
#: All protocols by name.
PROTOCOLS: dict[str, BenchProtocol] = {protocol.name: protocol for protocol in _TABLE}


@dataclass
class Samples:
    """The series of one contender; entry i of each list belongs to image i.

    Attributes:
        image_ns: from the 8-bit image to the restored 8-bit image.
        device_ns: of that, inside the backend's run; None where it cannot be told apart.
        started_ns: when the sample began, since the first began.
    """

    image_ns: list[int] = field(default_factory=list)
    device_ns: list[int | None] = field(default_factory=list)
    started_ns: list[int] = field(default_factory=list)


class Measurement:
    """Contenders measured side by side.

    Every image is restored by every contender, in an order shuffled anew for each image, before
    the next image's turn: clock changes, heat and other programs hit all of them alike, and
    none always follows the same neighbour.

    Args:
        contenders: with distinct labels.
        protocol: how many images.
        image_shape: (H, W, 3) of the images handed to the contenders.
        seed: of images and order.
        clock: to time with.

    Attributes:
        samples: by label; all series have the same length, also after an interruption.
        failures: label to reason, of contenders that gave up and were left out.
        complete: whether every image was measured.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        protocol: BenchProtocol,
        image_shape: tuple[int, int, int],
        *,
        seed: int = 0,
        clock: Clock = wall_clock,
    ) -> None:
        self.protocol = protocol
        self.samples = {contender.label: Samples() for contender in contenders}
        self.failures: dict[str, str] = {}
        self.complete = False
        self._running = list(contenders)
        self._image_shape = image_shape
        self._seed = seed
        self._clock = clock
        self._order = np.random.default_rng(seed)
        self._began: int | None = None

    def run(self, progress: Callable[[str, int, int], None] | None = None) -> None:
        """Warm up, then measure. Interrupted, it keeps the images that all contenders finished.

        Raises:
            UnavailableError: no contender was left.
        """
        with _no_garbage_collection_of_the_past():
            for index in range(self.protocol.warmup):
                if progress is not None:
                    progress("warming up", index, self.protocol.warmup)
                self._round(random_image(self._image_shape, self._seed, index, warmup=True))
            for index in range(self.protocol.images):
                if progress is not None:
                    progress("measuring", index, self.protocol.images)
                taken = self._round(random_image(self._image_shape, self._seed, index))
                for label, (started, image_ns, device_ns) in taken.items():
                    series = self.samples[label]
                    series.started_ns.append(started)
                    series.image_ns.append(image_ns)
                    series.device_ns.append(device_ns)
        self.complete = True

    def _round(self, image: NDArray[np.uint8]) -> dict[str, tuple[int, int, int | None]]:
        """One image through every contender: start, image and device time by label."""
        taken = {}
        for index in self._order.permutation(len(self._running)):
            contender = self._running[index]
            start = self._clock()
            try:
                contender.restore(image)
            except ElirError as error:
                self.failures[contender.label] = str(error)
                continue
            end = self._clock()
            if self._began is None:
                self._began = start
            taken[contender.label] = (start - self._began, end - start, contender.device_ns)
        if len(taken) < len(self._running):
            self._drop_failed()
        return taken

    def _drop_failed(self) -> None:
        self._running = [c for c in self._running if c.label not in self.failures]
        for label in self.failures:
            self.samples.pop(label, None)
        if not self._running:
            reasons = "; ".join(f"{label}: {why}" for label, why in self.failures.items())
            raise UnavailableError(f"every contender failed: {reasons}")


def random_image(
    shape: tuple[int, int, int], seed: int, index: int, *, warmup: bool = False
) -> NDArray[np.uint8]:
    """Uniformly random bytes, the same for the same seed and index; never the same twice."""
    rng = np.random.default_rng([seed, index, int(warmup)])
    return rng.integers(0, 256, shape, np.uint8)


@contextmanager
def _no_garbage_collection_of_the_past() -> Iterator[None]:
    """Keep Python from walking all that was made before, at a moment of its choice."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
