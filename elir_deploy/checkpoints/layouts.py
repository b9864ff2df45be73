"""The layouts of weights files, and the models built from them.

===============  ================================================  ====================
layout           names of tensors                                  form
===============  ================================================  ====================
``released``     ``enc.``, ``mmse.``, ``fmir.``, ``dec.``          collapsed
``training``     dictionaries ``state_dict_enc``, …, beside        over-parametrised
                 entries of the trainer
``autoencoder``  ``encoder.layers.``, ``decoder.layers.``, as in   the autoencoder alone
                 diffusers' ``AutoencoderTiny``
``elir``         those of :class:`elir_deploy.model.Elir`, with    either
                 the configuration beside them
===============  ================================================  ====================

``released`` and ``training`` use the same names for layers and are read in either form. Every
layout is first translated to this project's names by :mod:`elir_deploy.checkpoints.names`; a name
without a rule is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elir_deploy.checkpoints.containers import Container, LazyTensor, first_line
from elir_deploy.checkpoints.names import our_name, released_name
from elir_deploy.errors import CheckpointError, UsageError
from elir_deploy.model import Elir
from elir_deploy.model.autoencoder import LEVELS, Decoder, Encoder
from elir_deploy.model.convolution import EXPANSION
from elir_deploy.tasks import Architecture

__all__ = [
    "CONFIGURATION_KEY",
    "NamedTensors",
    "build_autoencoder",
    "build_model",
    "named_tensors",
    "read_tensors",
]

#: Metadata entry with the configuration in this project's files.
CONFIGURATION_KEY = "elir"
#: Prefixes that wrappers add to the names of a module's tensors.
_WRAPPERS = ("module.", "_orig_mod.")
#: The parts in ``training`` and, shortened, the prefixes in ``released``.
_PARTS = ("fmir", "mmse", "enc", "dec")
#: Maximum number of tensors in an error message.
_MAX_LISTED = 3


@dataclass(frozen=True)
class NamedTensors:
    """A file's tensors by this project's names.

    Attributes:
        layout: see the table at the top of this module.
        tensors: the tensors by name.
        names: the names in the file, for messages.
        configuration: JSON text in this project's files.
    """

    layout: str
    tensors: dict[str, LazyTensor]
    names: dict[str, str]
    configuration: str | None = None

    @property
    def collapsible(self) -> bool:
        """Whether the tensors are over-parametrised."""
        return any(".project." in name for name in self.tensors)

    def file_name(self, ours: str) -> str:
        """The name that a tensor of the model has, or would have, in the file."""
        if ours in self.names or self.layout not in ("released", "training"):
            return self.names.get(ours, ours)
        return released_name(ours, self.collapsible)


def named_tensors(container: Container) -> NamedTensors:
    """Detect the layout of an open file and translate the names of its tensors.

    Raises:
        CheckpointError: the layout or a name is unknown, or tensors share memory, so that they
            would need more of it than the file has bytes.
    """
    named = _translate_names(container)
    nbytes = sum(tensor.nbytes for tensor in named.tensors.values())
    if nbytes > container.size:
        raise CheckpointError(
            f"its tensors need {nbytes} bytes but the file has {container.size}: "
            "some of them share memory, unlike this model's"
        )
    return named


def _translate_names(container: Container) -> NamedTensors:
    entries = container.entries
    if any(f"state_dict_{part}" in entries for part in _PARTS):
        parts = {}
        for part in _PARTS:
            inner = entries.get(f"state_dict_{part}")
            if not isinstance(inner, dict):
                raise CheckpointError(f"training checkpoint without 'state_dict_{part}'")
            tensors = _without_wrappers(inner)
            parts.update({f"{part}.{name}": tensor for name, tensor in tensors.items()})
        return _from_released_names("training", parts)
    if isinstance(entries.get("state_dict"), dict):
        entries = entries["state_dict"]
    tensors = _without_wrappers(entries)
    if CONFIGURATION_KEY in container.metadata:
        same = {name: name for name in tensors}
        return NamedTensors("elir", tensors, same, container.metadata[CONFIGURATION_KEY])
    starts = {name.partition(".")[0] for name in tensors}
    if starts & set(_PARTS):
        return _from_released_names("released", tensors)
    if "vector_field" in starts:
        raise CheckpointError(
            "has this project's tensor names but no configuration: write it with save_checkpoint"
        )
    if starts & {"encoder", "decoder"}:
        return NamedTensors("autoencoder", tensors, {name: name for name in tensors})
    first = f"the first is {next(iter(tensors))!r}" if tensors else "there are no tensors"
    raise CheckpointError(
        "unknown layout: expected tensor names that start with 'enc.', 'mmse.', 'fmir.' and "
        f"'dec.', but {first}"
    )


def _without_wrappers(entries: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The tensors among ``entries``, without the prefixes of wrapping modules."""
    tensors: dict[str, LazyTensor] = {}
    for key, value in entries.items():
        if not isinstance(value, LazyTensor) or not isinstance(key, str):
            continue
        name = key
        while name.startswith(_WRAPPERS):
            name = name.partition(".")[2]
        if name in tensors:
            raise CheckpointError(f"has tensor {name!r} twice, once as {key!r}")
        tensors[name] = value
    return tensors


def _from_released_names(layout: str, tensors: dict[str, LazyTensor]) -> NamedTensors:
    """Translate released names (``part.name``)."""
    names: dict[str, str] = {}
    unknown = []
    for name in tensors:
        ours = our_name(name)
        if ours is None:
            unknown.append(name)
        else:
            names[ours] = name
    if unknown:
        raise CheckpointError(f"has unknown tensors: {_listed(unknown)}")
    if not any(".project." in ours for ours in names):
        names = {ours.replace(".expand.", "."): name for ours, name in names.items()}
    return NamedTensors(layout, {ours: tensors[name] for ours, name in names.items()}, names)


def _listed(names: list[str]) -> str:
    """The first names of a list and the number of the others."""
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(repr(name) for name in names[:_MAX_LISTED]) + more


def build_model(named: NamedTensors, recorded: Architecture | None = None) -> Elir:
    """Build the model with the file's weights, its architecture derived from their shapes.

    Args:
        named: the file's tensors.
        recorded: the architecture recorded in the file. Shapes do not determine it for models
            without an autoencoder or a coarse estimator.

    Returns:
        The model in evaluation mode, float32, without gradients; collapsed or over-parametrised
        like the file.

    Raises:
        CheckpointError: a tensor is missing, unknown, of a wrong shape or dtype, or not finite.
    """
    if named.layout == "autoencoder":
        raise CheckpointError("has only an autoencoder, not a whole model")
    arch = _Shapes(named).architecture(recorded)
    model: Elir = _build_on_meta(lambda: Elir(arch, named.collapsible))
    _load_tensors(model, named)
    return model


def build_autoencoder(named: NamedTensors) -> tuple[Encoder, Decoder]:
    """Like :func:`build_model`, for the encoder and decoder of an ``autoencoder`` file."""
    architecture = _Shapes(named).autoencoder()
    parts = torch.nn.ModuleDict(
        _build_on_meta(lambda: {"encoder": Encoder(architecture), "decoder": Decoder(architecture)})
    )
    _load_tensors(parts, named)
    encoder, decoder = parts["encoder"], parts["decoder"]
    assert isinstance(encoder, Encoder)
    assert isinstance(decoder, Decoder)
    return encoder, decoder


def _build_on_meta(build: Callable[[], Any]) -> Any:
    """Call ``build`` without allocating memory for weights."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"the shapes of its tensors do not fit together ({first_line(error)})"
        ) from error


def _load_tensors(module: torch.nn.Module, named: NamedTensors) -> None:
    """Check the file's tensors and load them into a module on the meta device."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = [name for name in expected if name not in named.tensors]
    if missing:
        names = [named.file_name(name) for name in missing]
        raise CheckpointError(f"missing tensors: {_listed(names)}")
    extra = [named.names[name] for name in named.tensors if name not in expected]
    if extra:
        raise CheckpointError(f"has unknown tensors: {_listed(extra)}")
    for name, shape in expected.items():
        actual = named.tensors[name].shape
        if actual != shape:
            raise CheckpointError(
                f"tensor {named.names[name]!r} has shape {list(actual)}, expected {list(shape)}"
            )
    tensors = read_tensors(named)
    module.load_state_dict(
        {name: _as_float32(named.names[name], tensor) for name, tensor in tensors.items()},
        assign=True,
    )
    module.requires_grad_(False).eval()


def read_tensors(named: NamedTensors) -> dict[str, Tensor]:
    """All tensors by this project's names, in the file's dtypes.

    Raises:
        CheckpointError: a tensor is damaged; the message names it.
    """
    return {name: _read(named.names[name], lazy) for name, lazy in named.tensors.items()}


def _read(name: str, lazy: LazyTensor) -> Tensor:
    try:
        return lazy.read()
    except CheckpointError as error:
        raise CheckpointError(f"tensor {name!r}: {error}") from error


def _as_float32(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"tensor {name!r} has dtype {dtype}, expected floating point")
    tensor = tensor.float()
    finite = torch.isfinite(tensor)
    if not finite.all():
        bad = int((~finite).sum())
        raise CheckpointError(
            f"tensor {name!r} has {bad} infinities or NaNs among {tensor.numel()} numbers"
        )
    return tensor


class _Shapes:
    """Derives an architecture from the shapes of tensors."""

    def __init__(self, named: NamedTensors) -> None:
        self.named = named

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Shape of a tensor with a given number of dimensions.

        Raises:
            CheckpointError: it is missing or has another number of dimensions.
        """
        lazy = self.named.tensors.get(name)
        if lazy is None:
            raise CheckpointError(f"missing tensors: {self.named.file_name(name)!r}")
        if len(lazy.shape) != dimensions or 0 in lazy.shape:
            raise CheckpointError(
                f"tensor {self.named.names[name]!r} has shape {list(lazy.shape)}, "
                f"expected {dimensions} dimensions, none of size 0"
            )
        return lazy.shape

    def count(self, prefix: str) -> int:
        """Number of different names that follow ``prefix``."""
        names = (name[len(prefix) :] for name in self.named.tensors if name.startswith(prefix))
        return len({name.partition(".")[0] for name in names})

    def autoencoder(self) -> Architecture:
        """An architecture with the autoencoder's numbers, and defaults otherwise."""
        width = self.shape("encoder.layers.0.weight", 4)[0]
        latent_channels = self.shape("decoder.layers.0.weight", 4)[1]
        # A convolution and a block; for each level a convolution and its blocks; a convolution.
        blocks, rest = divmod(self.count("encoder.layers.") - 3, LEVELS)
        if rest or blocks < 2:
            raise CheckpointError(
                f"the encoder has {self.count('encoder.layers.')} layers with weights, "
                f"expected 6 and {LEVELS} times the same number of blocks"
            )
        return self.checked(
            autoencoder_width=width, autoencoder_blocks=blocks - 1, latent_channels=latent_channels
        )

    def architecture(self, recorded: Architecture | None = None) -> Architecture:
        """The architecture of a whole model; only ``recorded`` allows parts to be missing."""
        if recorded and not recorded.autoencoder_width and not self.count("encoder."):
            autoencoder = recorded
        else:
            autoencoder = self.autoencoder()
        dense = "estimator.cascade.0.dense_blocks.0.convs.0"
        if recorded and not recorded.estimator_blocks and not self.count("estimator."):
            growth = recorded.estimator_growth
        elif self.named.collapsible:
            growth = self.shape(f"{dense}.expand.weight", 4)[0] // EXPANSION
        else:
            growth = self.shape(f"{dense}.weight", 4)[0]
        multipliers = []
        for level in range(self.count("vector_field.down.")):
            down = f"vector_field.down.{level}.downsample.weight"
            if down in self.named.tensors:
                wide, narrow = self.shape(down, 4)[:2]
                multipliers.append(wide // narrow)
            else:
                multipliers.append(1)
        time_width, time_frequencies = self.shape("vector_field.time_embedding.linear1.weight", 2)
        return self.checked(
            autoencoder_width=autoencoder.autoencoder_width,
            autoencoder_blocks=autoencoder.autoencoder_blocks,
            latent_channels=autoencoder.latent_channels,
            estimator_blocks=self.count("estimator.cascade."),
            estimator_growth=growth,
            vector_field_width=self.shape("vector_field.first_proj.weight", 4)[0],
            vector_field_multipliers=tuple(multipliers),
            middle_blocks=self.count("vector_field.middle."),
            time_frequencies=time_frequencies,
            time_width=time_width,
        )

    @staticmethod
    def checked(**numbers: Any) -> Architecture:
        try:
            return Architecture(**numbers)
        except UsageError as error:
            raise CheckpointError(f"unsupported architecture: {error}") from error
