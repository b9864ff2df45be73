"""The restoration tasks as data: the architecture of each network and how it is run.

The numbers are those of the released checkpoints (paper: Section 5.1, Tables 1, 2 and 6, and
Section 7.3 for the architecture). Needs only the standard library.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from elir_deploy.errors import UsageError

__all__ = ["TASKS", "Architecture", "TaskSpec", "task_named"]

#: Side of one latent pixel in image pixels: the encoder halves the resolution three times.
_LATENT_STRIDE = 8
#: Numbers that may be 0: no middle block in the U-Net, and two of the paper's ablations.
_MAY_BE_ZERO = ("middle_blocks", "estimator_blocks", "autoencoder_width")
#: Channels per GroupNorm group are ``width / GROUPS``; every vector-field width is a multiple.
GROUPS = 32


@dataclass(frozen=True)
class Architecture:
    """Numbers that determine all shapes of tensors, except image sizes (paper, Section 7.3).

    Attributes:
        autoencoder_width: channels inside encoder and decoder; 0: there are none and the flow runs
            over pixels (Table 5), which can be trained and evaluated but not exported.
        autoencoder_blocks: residual blocks at each of the three resolutions.
        latent_channels: channels of the latent.
        estimator_blocks: residual-in-residual dense blocks (RRDB) of the coarse estimator; 0: the
            latent is unchanged (Table 7).
        estimator_growth: channels that each dense convolution adds.
        vector_field_width: channels C of the U-Net's first level; a multiple of 32.
        vector_field_multipliers: factor on the width after each level; a factor other than 1
            also halves the resolution.
        middle_blocks: residual blocks at the U-Net's lowest resolution.
        time_frequencies: width of the sinusoidal time features, half cosine and half sine.
        time_width: width of the time embedding.
    """

    autoencoder_width: int = 64
    autoencoder_blocks: int = 3
    latent_channels: int = 16
    estimator_blocks: int = 3
    estimator_growth: int = 96
    vector_field_width: int = 128
    vector_field_multipliers: tuple[int, ...] = (1, 2, 1, 2)
    middle_blocks: int = 1
    time_frequencies: int = 160
    time_width: int = 640

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            values = value if isinstance(value, tuple) else (value,)
            least = 0 if name in _MAY_BE_ZERO else 1
            if not values or any(type(v) is not int or v < least for v in values):
                raise UsageError(f"architecture: {name} is {value!r}, expected integers >= {least}")
        if self.vector_field_width % GROUPS:
            raise UsageError(
                f"architecture: vector_field_width is {self.vector_field_width}, "
                f"expected a multiple of {GROUPS} (GroupNorm has {GROUPS} groups)"
            )
        if not self.autoencoder_width and self.latent_channels != 3:
            raise UsageError(
                f"architecture: latent_channels is {self.latent_channels}, expected 3 where there "
                "is no autoencoder"
            )
        if self.time_frequencies % 2 or self.time_frequencies < 4:
            raise UsageError(
                f"architecture: time_frequencies is {self.time_frequencies}, "
                "expected an even number >= 4"
            )

    @property
    def latent_stride(self) -> int:
        """Side of one latent pixel in image pixels."""
        return _LATENT_STRIDE if self.autoencoder_width else 1

    @property
    def image_multiple(self) -> int:
        """Divisor of image sides: 8 for the encoder times 2 for each U-Net downsampling."""
        halvings = sum(multiplier != 1 for multiplier in self.vector_field_multipliers)
        return self.latent_stride << halvings

    def to_dict(self) -> dict[str, Any]:
        """Convert to JSON values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Architecture:
        """Convert from JSON values, which are checked.

        Raises:
            UsageError: a name is unknown, or a value is not a positive integer.
        """
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise UsageError(f"architecture: unknown entry {unknown[0]!r}")
        typed: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**typed)


@dataclass(frozen=True)
class TaskSpec:
    """One restoration task.

    Attributes:
        name: value of ``--task``.
        title: a line of description.
        architecture: architecture of the released checkpoint.
        image_size: side in pixels of the square images the model was trained on.
        steps: Euler steps M, equal to the training segments K.
        sigma_s: standard deviation of the noise added to the coarse latent (Algorithm 1).
        faces: whether it was trained on aligned face crops only.
        detectable: whether a detector can find faces in what it restores, so that whole photographs
            can be restored.
        upscale: factor by which an input is enlarged before the network, which keeps the size.
        upscale_kernel: interpolation of the enlargement.
        released_name: name of the authors' released weights, if any.
        paper_fps: images a second on an RTX 2080 Ti in the paper (Tables 1 and 9).
    """

    name: str
    title: str
    architecture: Architecture = field(default_factory=Architecture)
    image_size: int = 256
    steps: int = 3
    sigma_s: float = 0.1
    faces: bool = False
    detectable: bool = False
    upscale: int = 1
    upscale_kernel: Literal["none", "nearest", "bicubic"] = "none"
    released_name: str | None = None
    paper_fps: float | None = None

    @property
    def noise(self) -> Literal["baked", "field"]:
        """Default of ``--noise``: models that see one square have theirs in the graph."""
        return "baked" if self.faces else "field"


_TABLE = (
    TaskSpec(
        name="bfr",
        title="blind face restoration, aligned faces",
        architecture=Architecture(middle_blocks=3),
        image_size=512,
        steps=5,
        faces=True,
        detectable=True,
        released_name="elir_bfr",
        paper_fps=19.51,
    ),
    TaskSpec(
        name="sr",
        title="face super-resolution x8, aligned faces",
        faces=True,
        upscale=8,
        upscale_kernel="nearest",
        released_name="elir_sr",
        paper_fps=49.26,
    ),
    TaskSpec(
        name="denoise",
        title="face denoising, aligned faces",
        sigma_s=0.025,
        faces=True,
        released_name="elir_denoising",
        paper_fps=49.26,
    ),
    TaskSpec(
        name="inpaint",
        title="face inpainting, 90 % of the pixels missing, aligned faces",
        faces=True,
        released_name="elir_inpainting",
        paper_fps=49.26,
    ),
    TaskSpec(
        name="bsr",
        title="blind super-resolution x4, any picture",
        architecture=Architecture(vector_field_width=96),
        sigma_s=0.04,
        upscale=4,
        upscale_kernel="bicubic",
        released_name="elir_bsr",
        paper_fps=52.20,
    ),
    TaskSpec(
        name="tiny",
        title="noise of unknown strength, with JPEG or slight blur, any picture",
        architecture=Architecture(
            autoencoder_width=32,
            latent_channels=32,
            estimator_growth=32,
            vector_field_width=32,
            time_width=160,
        ),
        sigma_s=0.02,
    ),
)

#: All tasks by name.
TASKS: dict[str, TaskSpec] = {spec.name: spec for spec in _TABLE}


def task_named(name: str) -> TaskSpec:
    """The task called ``name``.

    Raises:
        UsageError: there is no such task; the message lists all names.
    """
    try:
        return TASKS[name]
    except KeyError:
        raise UsageError(f"unknown task {name!r}: choose from {', '.join(TASKS)}") from None
