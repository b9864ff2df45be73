"""The paper's speeds of ELIR, as data: float32 PyTorch at batch 1 on a GeForce RTX 2080 Ti."""

from __future__ import annotations

from dataclasses import dataclass, replace

from elir_deploy.tasks import TASKS, Architecture

#: Time that eager PyTorch's host takes to launch one kernel on the paper's machine: the one fitted
#: number of the cost model, from :data:`FITTED`. Published figures are 5 to 25 us per call.
EAGER_LAUNCH_SECONDS = 17.75e-6


@dataclass(frozen=True)
class PaperSpeed:
    """One FPS figure of the paper.

    Attributes:
        source: numbers of its tables.
        title: of the row.
        architecture: of the network; ``assumed`` says where the paper does not state it.
        image_size: side in pixels.
        steps: Euler steps M.
        fps: images per second, as the paper states.
        assumed: choices that the paper does not state.
    """

    source: str
    title: str
    architecture: Architecture
    image_size: int
    steps: int
    fps: float
    assumed: str = ""

    @property
    def seconds(self) -> float:
        return 1 / self.fps


def _of_task(source: str, title: str, task: str) -> PaperSpeed:
    spec = TASKS[task]
    assert spec.paper_fps is not None
    return PaperSpeed(source, title, spec.architecture, spec.image_size, spec.steps, spec.paper_fps)


_FACE = TASKS["sr"].architecture
_SIZES = "width and middle blocks, chosen to give the row's number of parameters"

#: The figure that :data:`EAGER_LAUNCH_SECONDS` is fitted on; all others test it.
FITTED = _of_task("5, 9, 10", "face tasks, 27 M, K = 3", "sr")

#: Every FPS figure of the paper for ELIR and its ablations.
PAPER_SPEEDS: tuple[PaperSpeed, ...] = (
    _of_task("1(a)", "BFR at 512x512, 37 M, K = 5", "bfr"),
    _of_task("1(b)", "BSR, 18 M, K = 3", "bsr"),
    replace(
        FITTED,
        source="5",
        title="Pixel CFM, K = 3",
        architecture=replace(_FACE, autoencoder_width=0, latent_channels=3),
        fps=7.32,
        assumed="the same estimator and U-Net, over pixels",
    ),
    replace(FITTED, source="5", title="Latent FM, 25 steps", steps=25, fps=11.20),
    FITTED,
    replace(
        FITTED,
        source="9",
        title="13 M, K = 3",
        architecture=replace(_FACE, vector_field_width=64),
        fps=50.55,
        assumed=_SIZES,
    ),
    replace(
        FITTED,
        source="9",
        title="19 M, K = 3",
        architecture=replace(_FACE, vector_field_width=96),
        fps=50.05,
        assumed=_SIZES,
    ),
    replace(
        FITTED,
        source="9",
        title="37 M, K = 3",
        architecture=replace(_FACE, middle_blocks=3),
        fps=42.94,
        assumed=_SIZES,
    ),
    replace(FITTED, source="10", title="27 M, K = 1", steps=1, fps=70.30),
    replace(FITTED, source="10", title="27 M, K = 5", steps=5, fps=36.35),
)
