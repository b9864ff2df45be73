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

#: What a random image is for; no two images are the same.
_WARMUP, _COUNTED, _SETTLING = range(3)


@dataclass(frozen=True)
class BenchProtocol:
    """What one run consists of; batch 1 throughout.

    Attributes:
        name: what ``--protocol`` takes.
        title: one line for people.
        warmup: images restored before the first that counts.
        images: images that count.
        block: images a contender restores in a row before the next one's turn.
    """

    name: str
    title: str
    warmup: int
    images: int
    block: int = 5


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

    They take turns of a few images each, every round of the same images, in an order that is
    shuffled for one round and reversed for the next: clock changes, heat and other programs hit
    all of them alike, and none always follows the same neighbour. A turn begins with one image
    that does not count, since the neighbour has emptied the caches: right after another library,
    eager PyTorch took a fifth longer than in a row of its own (4.9 M parameters at 128 x 128).

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
        self._contenders = list(contenders)
        self._image_shape = image_shape
        self._seed = seed
        self._clock = clock
        self._shuffle = np.random.default_rng(seed)
        self._reversed: list[Contender] = []
        self._began: int | None = None

    @property
    def begun(self) -> bool:
        """Whether there is a sample at all."""
        return any(series.image_ns for series in self.samples.values())

    def run(self, progress: Callable[[str, int, int], None] | None = None) -> None:
        """Warm up, then measure. Interrupted, it keeps the images that all contenders finished.

        Raises:
            UnavailableError: no contender was left.
        """
        tell = progress or (lambda what, done, total: None)
        protocol = self.protocol
        with _no_garbage_collection_of_the_past():
            for contender in self._contenders:
                tell(f"warming up {contender.label}", 0, 0)
                self._turn(contender, [self._image(_WARMUP, k) for k in range(protocol.warmup)])
            for first in range(0, protocol.images, protocol.block):
                tell("measuring", first, protocol.images)
                self._round(range(first, min(first + protocol.block, protocol.images)))
        self.complete = True

    def _round(self, indices: range) -> None:
        """The same images through every contender."""
        images = [self._image(_COUNTED, index) for index in indices]
        running = [c for c in self._contenders if c.label in self.samples]
        settling = [self._image(_SETTLING, indices.start)] if len(running) > 1 else []
        taken = {contender.label: Samples() for contender in running}
        try:
            for contender in self._next_order(running):
                self._turn(contender, settling)
                self._turn(contender, images, taken[contender.label])
        finally:
            self._keep({label: taken[label] for label in taken if label in self.samples})

    def _next_order(self, running: list[Contender]) -> list[Contender]:
        """Shuffled, and the next time the same reversed: a steady drift cancels in two rounds."""
        if set(self._reversed) == set(running):
            order, self._reversed = self._reversed, []
        else:
            order = [running[turn] for turn in self._shuffle.permutation(len(running))]
            self._reversed = order[::-1]
        return order

    def _turn(
        self,
        contender: Contender,
        images: Sequence[NDArray[np.uint8]],
        series: Samples | None = None,
    ) -> None:
        """Images in a row through one contender; timed into ``series`` where there is one."""
        for image in images:
            if contender.label in self.failures:
                return
            start = self._clock()
            try:
                contender.restore(image)
            except ElirError as error:
                self._drop(contender, str(error))
                return
            end = self._clock()
            if series is not None:
                if self._began is None:
                    self._began = start
                series.started_ns.append(start - self._began)
                series.image_ns.append(end - start)
                series.device_ns.append(contender.device_ns)

    def _keep(self, taken: dict[str, Samples]) -> None:
        """Add a round's samples, cut to the images that every contender finished."""
        # An interruption may fall between two lists; device_ns is the last to grow.
        whole = min((len(series.device_ns) for series in taken.values()), default=0)
        for label, series in taken.items():
            self.samples[label].started_ns += series.started_ns[:whole]
            self.samples[label].image_ns += series.image_ns[:whole]
            self.samples[label].device_ns += series.device_ns[:whole]

    def _image(self, purpose: int, index: int) -> NDArray[np.uint8]:
        return random_image(self._image_shape, self._seed, purpose, index)

    def _drop(self, contender: Contender, reason: str) -> None:
        self.failures[contender.label] = reason
        del self.samples[contender.label]
        if not self.samples:
            reasons = "; ".join(f"{label}: {why}" for label, why in self.failures.items())
            raise UnavailableError(f"every contender failed: {reasons}")


def random_image(
    shape: tuple[int, int, int], seed: int, purpose: int, index: int
) -> NDArray[np.uint8]:
    """Uniformly random bytes; the same for the same numbers, another for any other."""
    rng = np.random.default_rng([seed, purpose, index])
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
