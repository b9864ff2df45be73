"""The layouts of weights files: what each tensor is called in them.

===============  ================================================  ====================
layout           names                                             form
===============  ================================================  ====================
``released``     ``enc.``, ``mmse.``, ``fmir.``, ``dec.``          collapsed
``training``     dictionaries ``state_dict_enc``, …, beside        over-parametrised
                 entries of the trainer
``autoencoder``  ``encoder.layers.``, ``decoder.layers.``, as in   the autoencoder alone
                 diffusers' ``AutoencoderTiny``
``elir``         those of :class:`elir_deploy.model.Elir`, with    either
                 the configuration beside them
===============  ================================================  ====================

``released`` and ``training`` name the layers alike and are read in either form. Every layout is
translated to our names first, by the rules of :data:`_RULES`; a name without a rule is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elir_deploy.checkpoints.containers import Container, LazyTensor, first_line
from elir_deploy.errors import CheckpointError, UsageError
from elir_deploy.model import Elir
from elir_deploy.model.autoencoder import LEVELS, Decoder, Encoder
from elir_deploy.model.convolution import EXPANSION
from elir_deploy.model.estimator import DENSE_BLOCKS, DENSE_CONVOLUTIONS
from elir_deploy.tasks import Architecture

__all__ = [
    "CONFIGURATION_KEY",
    "NamedTensors",
    "build_autoencoder",
    "build_model",
    "named_tensors",
    "read_tensors",
]

#: Metadata entry of our own files that holds their configuration.
CONFIGURATION_KEY = "elir"
#: What wrappers around a module put before its names.
_WRAPPERS = ("module.", "_orig_mod.")
#: The parts in ``training`` and, shortened, the prefixes in ``released``.
_PARTS = ("fmir", "mmse", "enc", "dec")
#: How many tensors an error names.
_NAMED = 3

# The rules: a pattern of a released name, and our name. All are matched as a whole, followed by
# ".weight" or ".bias". A collapsible convolution is `expand` and `project` here; collapsed ones
# lose the `expand` afterwards.

_RESIDUAL_BLOCK = (
    (r"mlp\.1", r"time_bias"),
    (r"block1\.block\.0", r"block1.norm"),
    (r"block1\.block\.2", r"block1.conv.expand"),
    (r"block1\.block\.3", r"block1.conv.project"),
    (r"block2\.block\.0", r"block2.norm"),
    (r"block2\.block\.2", r"block2.conv.expand"),
    (r"block2\.block\.3", r"block2.conv.project"),
    (r"conv2d", r"skip"),
)
_RESIDUAL_BLOCKS = (
    (r"fmir\.down_blocks\.(\d+)\.0", r"vector_field.down.\1.residual"),
    (r"fmir\.mid_blocks\.(\d+)", r"vector_field.middle.\1"),
    (r"fmir\.up_blocks\.(\d+)\.1", r"vector_field.up.\1.residual"),
)
_DENSE_LAYERS = tuple(
    (
        rf"mmse\.lrm\.(\d+)\.RDB{block + 1}\.conv{conv + 1}\.block",
        rf"estimator.cascade.\1.dense_blocks.{block}.convs.{conv}",
    )
    for block in range(DENSE_BLOCKS)
    for conv in range(DENSE_CONVOLUTIONS)
)
_RULES = (
    (r"enc\.layers\.(\d+|\d+\.conv\.\d+)", r"encoder.layers.\1"),
    (r"dec\.layers\.(\d+|\d+\.conv\.\d+)", r"decoder.layers.\1"),
    (r"fmir\.time_mlp\.linear([12])", r"vector_field.time_embedding.linear\1"),
    (r"fmir\.first_proj", r"vector_field.first_proj"),
    (r"fmir\.down_blocks\.(\d+)\.1\.conv", r"vector_field.down.\1.downsample"),
    (r"fmir\.up_blocks\.(\d+)\.0\.convtr", r"vector_field.up.\1.upsample"),
    (r"fmir\.final_block\.block\.0", r"vector_field.final_block.norm"),
    (r"fmir\.final_block\.block\.2", r"vector_field.final_block.conv.expand"),
    (r"fmir\.final_block\.block\.3", r"vector_field.final_block.conv.project"),
    (r"fmir\.final_proj", r"vector_field.final_proj"),
    *(
        (rf"{block}\.{layer}", rf"{our_block}.{our_layer}")
        for block, our_block in _RESIDUAL_BLOCKS
        for layer, our_layer in _RESIDUAL_BLOCK
    ),
    *((rf"{layer}\.0", rf"{our_layer}.expand") for layer, our_layer in _DENSE_LAYERS),
    *((rf"{layer}\.1", rf"{our_layer}.project") for layer, our_layer in _DENSE_LAYERS),
)
_COMPILED_RULES = tuple(
    (re.compile(rf"{pattern}\.(weight|bias)"), rf"{ours}.\g<{re.compile(pattern).groups + 1}>")
    for pattern, ours in _RULES
)


def _inverse(pattern: str, ours: str) -> tuple[re.Pattern[str], str]:
    """A rule read backwards; no rule has more than one group."""
    group = re.search(r"\([^)]*\)", pattern)
    if group is None:
        return re.compile(re.escape(ours)), pattern.replace(r"\.", ".")
    return (
        re.compile(re.escape(ours).replace(r"\\1", group[0])),
        pattern.replace(group[0], r"\1").replace(r"\.", "."),
    )


_INVERSE_RULES = tuple(_inverse(pattern, ours) for pattern, ours in _RULES)


@dataclass(frozen=True)
class NamedTensors:
    """A file's tensors under our names.

    Attributes:
        layout: one of the table at the top of this module.
        tensors: our names to tensors.
        names: our names to the file's, for messages.
        configuration: the JSON text of our own files.
    """

    layout: str
    tensors: dict[str, LazyTensor]
    names: dict[str, str]
    configuration: str | None = None

    @property
    def collapsible(self) -> bool:
        """Whether they are of the over-parametrised form."""
        return any(".project." in name for name in self.tensors)

    def file_name(self, ours: str) -> str:
        """What the file calls, or would call, a tensor of the model."""
        if ours in self.names or self.layout not in ("released", "training"):
            return self.names.get(ours, ours)
        layer, _, kind = ours.rpartition(".")
        spellings = (layer,) if self.collapsible else (f"{layer}.expand", layer)
        for spelling in spellings:
            for pattern, name in _INVERSE_RULES:
                match = pattern.fullmatch(spelling)
                if match:
                    return f"{match.expand(name)}.{kind}"
        return ours


def named_tensors(container: Container) -> NamedTensors:
    """Find out the layout of an open file and name its tensors as the model does.

    Raises:
        CheckpointError: no known layout, a tensor whose name has no place in it, or tensors that
            share their numbers and so need more memory than the file has bytes.
    """
    named = _named(container)
    needed = sum(tensor.nbytes for tensor in named.tensors.values())
    if needed > container.size:
        raise CheckpointError(
            f"its tensors take {needed} bytes and the file has {container.size}: "
            "some of them share their numbers, and this model's never do"
        )
    return named


def _named(container: Container) -> NamedTensors:
    entries = container.entries
    if any(f"state_dict_{part}" in entries for part in _PARTS):
        parts = {}
        for part in _PARTS:
            inner = entries.get(f"state_dict_{part}")
            if not isinstance(inner, dict):
                raise CheckpointError(f"a training checkpoint without 'state_dict_{part}'")
            tensors = _unwrapped(inner)
            parts.update({f"{part}.{name}": tensor for name, tensor in tensors.items()})
        return _translated("training", parts)
    if isinstance(entries.get("state_dict"), dict):
        entries = entries["state_dict"]
    tensors = _unwrapped(entries)
    if CONFIGURATION_KEY in container.metadata:
        same = {name: name for name in tensors}
        return NamedTensors("elir", tensors, same, container.metadata[CONFIGURATION_KEY])
    starts = {name.partition(".")[0] for name in tensors}
    if starts & set(_PARTS):
        return _translated("released", tensors)
    if "vector_field" in starts:
        raise CheckpointError(
            "has this project's names but not the configuration that save_checkpoint writes: "
            "write it with save_checkpoint"
        )
    if starts & {"encoder", "decoder"}:
        return NamedTensors("autoencoder", tensors, {name: name for name in tensors})
    found = f"its first is {next(iter(tensors))!r}" if tensors else "there are none"
    raise CheckpointError(
        "its tensors are of no known layout: wanted names starting with 'enc.', 'mmse.', 'fmir.' "
        f"and 'dec.', {found}"
    )


def _unwrapped(entries: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The tensors among ``entries``, without the prefixes of wrapping modules."""
    tensors: dict[str, LazyTensor] = {}
    for key, value in entries.items():
        if not isinstance(value, LazyTensor) or not isinstance(key, str):
            continue
        name = key
        while name.startswith(_WRAPPERS):
            name = name.partition(".")[2]
        if name in tensors:
            raise CheckpointError(f"holds tensor {name!r} twice, once as {key!r}")
        tensors[name] = value
    return tensors


def _translated(layout: str, tensors: dict[str, LazyTensor]) -> NamedTensors:
    """Tensors under released names (``part.name``) to ours."""
    names: dict[str, str] = {}
    unknown = []
    for name in tensors:
        ours = _our_name(name)
        if ours is None:
            unknown.append(name)
        else:
            names[ours] = name
    if unknown:
        raise CheckpointError(f"holds tensors this model does not have: {_listed(unknown)}")
    if not any(".project." in ours for ours in names):
        names = {ours.replace(".expand.", "."): name for ours, name in names.items()}
    return NamedTensors(layout, {ours: tensors[name] for ours, name in names.items()}, names)


def _our_name(name: str) -> str | None:
    for pattern, ours in _COMPILED_RULES:
        match = pattern.fullmatch(name)
        if match:
            return match.expand(ours)
    return None


def _listed(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more


def build_model(named: NamedTensors, recorded: Architecture | None = None) -> Elir:
    """The model with the file's weights, its architecture read off their shapes.

    Args:
        named: the file's tensors.
        recorded: the architecture the file says it has, which tells what the shapes of a model
            without an autoencoder or without a coarse estimator do not.

    Returns:
        In evaluation mode, float32, not requiring gradients; collapsed or over-parametrised as
        the tensors are.

    Raises:
        CheckpointError: a tensor is missing, left over, misshapen, not finite or no float.
    """
    if named.layout == "autoencoder":
        raise CheckpointError("holds only the autoencoder, not a whole model")
    arch = _Shapes(named).architecture(recorded)
    model: Elir = _on_meta(lambda: Elir(arch, named.collapsible))
    _fill(model, named)
    return model


def build_autoencoder(named: NamedTensors) -> tuple[Encoder, Decoder]:
    """Encoder and decoder alone, from an ``autoencoder`` file; otherwise as :func:`build_model`."""
    architecture = _Shapes(named).autoencoder()
    parts = torch.nn.ModuleDict(
        _on_meta(lambda: {"encoder": Encoder(architecture), "decoder": Decoder(architecture)})
    )
    _fill(parts, named)
    encoder, decoder = parts["encoder"], parts["decoder"]
    assert isinstance(encoder, Encoder)
    assert isinstance(decoder, Decoder)
    return encoder, decoder


def _on_meta(build: Callable[[], Any]) -> Any:
    """What ``build`` makes, without memory for its weights."""
    try:
        with torch.device("meta"):
            return build()
    except (RuntimeError, ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"its tensors' shapes do not fit together ({first_line(error)})"
        ) from error


def _fill(module: torch.nn.Module, named: NamedTensors) -> None:
    """Give a module on the meta device the file's tensors, each checked."""
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing = [name for name in wanted if name not in named.tensors]
    if missing:
        names = [named.file_name(name) for name in missing]
        raise CheckpointError(f"tensors are missing: {_listed(names)}")
    extra = [named.names[name] for name in named.tensors if name not in wanted]
    if extra:
        raise CheckpointError(f"holds tensors this model does not have: {_listed(extra)}")
    for name, shape in wanted.items():
        seen = named.tensors[name].shape
        if seen != shape:
            raise CheckpointError(
                f"tensor {named.names[name]!r} has shape {list(seen)}, wanted {list(shape)}"
            )
    tensors = read_tensors(named)
    module.load_state_dict(
        {name: _as_float32(named.names[name], tensor) for name, tensor in tensors.items()},
        assign=True,
    )
    module.requires_grad_(False).eval()


def read_tensors(named: NamedTensors) -> dict[str, Tensor]:
    """All tensors by our names, in the file's dtypes.

    Raises:
        CheckpointError: one is damaged; the message names it.
    """
    return {name: _read(named.names[name], lazy) for name, lazy in named.tensors.items()}


def _read(name: str, lazy: LazyTensor) -> Tensor:
    try:
        return lazy.read()
    except CheckpointError as error:
        raise CheckpointError(f"tensor {name!r}: {error}") from error


def _as_float32(name: str, tensor: Tensor) -> Tensor:
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        seen = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(f"tensor {name!r} holds {seen}, wanted floating-point numbers")
    tensor = tensor.float()
    finite = torch.isfinite(tensor)
    if not finite.all():
        bad = int((~finite).sum())
        raise CheckpointError(
            f"tensor {name!r} has {bad} of {tensor.numel()} numbers that are not finite"
        )
    return tensor


class _Shapes:
    """Reads an architecture off the shapes of named tensors."""

    def __init__(self, named: NamedTensors) -> None:
        self.named = named

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        """Shape of a tensor whose number of dimensions is known.

        Raises:
            CheckpointError: it is missing or has another number of dimensions.
        """
        lazy = self.named.tensors.get(name)
        if lazy is None:
            raise CheckpointError(f"tensors are missing: {self.named.file_name(name)!r}")
        if len(lazy.shape) != dimensions or 0 in lazy.shape:
            raise CheckpointError(
                f"tensor {self.named.names[name]!r} has shape {list(lazy.shape)}, "
                f"wanted {dimensions} dimensions, none of them empty"
            )
        return lazy.shape

    def count(self, prefix: str) -> int:
        """How many different numbers follow ``prefix`` in the names."""
        rests = (name[len(prefix) :] for name in self.named.tensors if name.startswith(prefix))
        return len({rest.partition(".")[0] for rest in rests})

    def autoencoder(self) -> Architecture:
        """The autoencoder's numbers; the rest as by default."""
        width = self.shape("encoder.layers.0.weight", 4)[0]
        latent_channels = self.shape("decoder.layers.0.weight", 4)[1]
        # A convolution and a block, then a convolution and the blocks for each level, then one.
        blocks, rest = divmod(self.count("encoder.layers.") - 3, LEVELS)
        if rest or blocks < 2:
            raise CheckpointError(
                f"the encoder has {self.count('encoder.layers.')} layers with weights, "
                f"wanted {LEVELS} times the same number of blocks and 6 more"
            )
        return self.checked(
            autoencoder_width=width, autoencoder_blocks=blocks - 1, latent_channels=latent_channels
        )

    def architecture(self, recorded: Architecture | None = None) -> Architecture:
        """All numbers of a whole model; a part may be left out only where ``recorded`` says so."""
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
            raise CheckpointError(f"read off its shapes, {error}") from error
