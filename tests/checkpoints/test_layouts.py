from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elir_deploy.checkpoints import load_autoencoder, load_checkpoint
from elir_deploy.errors import CheckpointError
from elir_deploy.tasks import TaskSpec
from tests import official

State = dict[str, Any]


@pytest.fixture
def load(tmp_path: Path, small_task: TaskSpec) -> Callable[[Any], Any]:
    """Save a state dict to a file and load it."""

    def save_and_load(state: Any) -> Any:
        path = tmp_path / "model.pth"
        torch.save(state, path)
        return load_checkpoint(path)

    return save_and_load


def test_released(load: Callable[[Any], Any], small_flat: State) -> None:
    checkpoint = load(small_flat)
    assert checkpoint.layout == "released"
    assert checkpoint.task.name == "small"
    assert checkpoint.model.arch == official.SMALL
    assert not checkpoint.model.training
    assert not any(parameter.requires_grad for parameter in checkpoint.model.parameters())
    ours = checkpoint.model.state_dict()
    assert len(ours) == len(small_flat)
    pairs = {
        "enc.layers.14.bias": "encoder.layers.14.bias",
        "dec.layers.12.conv.4.weight": "decoder.layers.12.conv.4.weight",
        "mmse.lrm.2.RDB3.conv5.block.0.bias": "estimator.cascade.2.dense_blocks.2.convs.4.bias",
        "fmir.time_mlp.linear2.bias": "vector_field.time_embedding.linear2.bias",
        "fmir.down_blocks.3.1.conv.bias": "vector_field.down.3.downsample.bias",
        "fmir.up_blocks.0.0.convtr.bias": "vector_field.up.0.upsample.bias",
        "fmir.up_blocks.3.1.mlp.1.bias": "vector_field.up.3.residual.time_bias.bias",
        "fmir.mid_blocks.0.block2.block.2.weight": "vector_field.middle.0.block2.conv.weight",
        "fmir.final_block.block.0.weight": "vector_field.final_block.norm.weight",
    }
    for theirs, mine in pairs.items():
        torch.testing.assert_close(ours[mine], small_flat[theirs], rtol=0, atol=0)


def test_training(load: Callable[[Any], Any], small_parts: State) -> None:
    checkpoint = load(small_parts)
    assert checkpoint.layout == "training"
    assert checkpoint.model.collapsible
    assert checkpoint.model.arch == official.SMALL
    project = "vector_field.middle.0.block1.conv.project.bias"
    torch.testing.assert_close(
        checkpoint.model.state_dict()[project],
        small_parts["state_dict_fmir"]["mid_blocks.0.block1.block.3.bias"],
    )


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_wrappers_are_unwrapped(load: Callable[[Any], Any], small_flat: State, prefix: str) -> None:
    state = {"state_dict": {prefix + name: value for name, value in small_flat.items()}}
    assert load(state).layout == "released"


def test_half_precision_is_widened(load: Callable[[Any], Any], small_flat: State) -> None:
    dtypes = [torch.float16, torch.bfloat16, torch.float64, torch.float32]
    state = {
        name: value.to(dtypes[i % len(dtypes)])
        for i, (name, value) in enumerate(small_flat.items())
    }
    model = load(state).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(
        model.encoder.layers[0].weight, state["enc.layers.0.weight"].float(), rtol=0, atol=0
    )


def test_views_transposed_tensors_and_parameters(
    load: Callable[[Any], Any], small_flat: State
) -> None:
    name = "fmir.time_mlp.linear2.weight"
    storage = torch.zeros(1000)
    view = storage[100:356].view(16, 16).t()
    view.copy_(small_flat[name])
    state = small_flat | {
        name: view,
        "enc.layers.0.weight": torch.nn.Parameter(small_flat["enc.layers.0.weight"]),
    }
    ours = load(state).model.state_dict()
    torch.testing.assert_close(
        ours["vector_field.time_embedding.linear2.weight"], small_flat[name], rtol=0, atol=0
    )
    assert ours["vector_field.time_embedding.linear2.weight"].is_contiguous()


def without(name: str) -> Callable[[State], None]:
    return lambda state: state.pop(name)


def put(name: str, value: Any) -> Callable[[State], None]:
    return lambda state: state.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("enc.layers.3.conv.2.bias"), "missing tensors: 'enc.layers.3.conv.2.bias'"),
        (without("fmir.first_proj.weight"), "missing tensors: 'fmir.first_proj.weight'"),
        (without("fmir.time_mlp.linear1.weight"), "missing tensors: .*time_mlp"),
        (put("fmir.extra.weight", torch.zeros(1)), "unknown tensors: 'fmir.extra.weight'"),
        (put("ema.decay", torch.zeros(1)), "unknown tensors: 'ema.decay'"),
        (
            put("fmir.up_blocks.0.7.weight", torch.zeros(1)),
            "unknown tensors: 'fmir.up_blocks.0.7.weight'",
        ),
        (
            put("enc.layers.3.conv.2.bias", torch.zeros(9)),
            r"'enc.layers.3.conv.2.bias' has shape \[9\], expected \[8\]",
        ),
        (
            put("fmir.first_proj.weight", torch.zeros(32)),
            r"'fmir.first_proj.weight' has shape \[32\], expected 4 dimensions",
        ),
        (
            put("fmir.first_proj.weight", torch.zeros(33, 4, 1, 1)),
            "vector_field_width is 33",
        ),
        (
            put("enc.layers.3.conv.2.bias", torch.tensor([1.0, float("nan")] * 4)),
            "'enc.layers.3.conv.2.bias' has 4 infinities or NaNs among 8 numbers",
        ),
        (
            put("enc.layers.3.conv.2.bias", torch.full((8,), 1e300, dtype=torch.float64)),
            "8 infinities or NaNs among 8 numbers",
        ),
        (
            put("enc.layers.3.conv.2.bias", torch.zeros(8, dtype=torch.int64)),
            "'enc.layers.3.conv.2.bias' has dtype int64, expected floating point",
        ),
        (
            put("enc.layers.3.conv.2.bias", torch.zeros(8, dtype=torch.complex64)),
            "enc.layers.3.conv.2.bias",
        ),
        (
            put("enc.layers.3.conv.2.bias", torch.zeros(1).expand(8)),
            "'enc.layers.3.conv.2.bias': is not inside its storage",
        ),
        (put("enc.layers.99.weight", torch.zeros(1)), "the encoder has 16 layers"),
    ],
)
def test_wrong_tensors_are_named(
    load: Callable[[Any], Any],
    small_flat: State,
    change: Callable[[State], None],
    message: str,
) -> None:
    state = dict(small_flat)
    change(state)
    with pytest.raises(CheckpointError, match=message):
        load(state)


def test_many_missing_tensors_are_counted(load: Callable[[Any], Any], small_flat: State) -> None:
    state = {name: value for name, value in small_flat.items() if ".block2." not in name}
    with pytest.raises(CheckpointError, match=r"missing tensors: '\S+', '\S+', '\S+' and \d+ more"):
        load(state)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({}, "unknown layout.*there are no tensors"),
        ({"weight": torch.zeros(1)}, "unknown layout.*the first is 'weight'"),
        ([torch.zeros(1)], "not a dictionary of tensors"),
        (torch.zeros(1), "not a dictionary of tensors"),
        ({"state_dict_fmir": {}}, "without 'state_dict_mmse'"),
        ({"vector_field.first_proj.weight": torch.zeros(1)}, "no configuration"),
        ({"encoder.layers.0.weight": torch.zeros(1)}, "only an autoencoder"),
    ],
)
def test_other_content(load: Callable[[Any], Any], state: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(state)


def test_same_tensor_under_two_names(load: Callable[[Any], Any], small_flat: State) -> None:
    state = small_flat | {"module.enc.layers.0.bias": small_flat["enc.layers.0.bias"]}
    with pytest.raises(CheckpointError, match="twice"):
        load(state)


def test_partly_collapsed_file_is_refused(load: Callable[[Any], Any], small_parts: State) -> None:
    fmir = dict(small_parts["state_dict_fmir"])
    del fmir["final_block.block.3.weight"], fmir["final_block.block.3.bias"]
    with pytest.raises(CheckpointError, match=re.escape("fmir.final_block.block.3.weight")):
        load(small_parts | {"state_dict_fmir": fmir})


def test_autoencoder_of_a_whole_checkpoint(tmp_path: Path, small_flat: State) -> None:
    torch.save(small_flat, tmp_path / "model.pth")
    encoder, decoder = load_autoencoder(tmp_path / "model.pth")
    torch.testing.assert_close(encoder.layers[0].weight, small_flat["enc.layers.0.weight"])
    torch.testing.assert_close(decoder.layers[0].weight, small_flat["dec.layers.0.weight"])


def test_autoencoder_saved_by_diffusers(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    theirs = diffusers.AutoencoderTiny(latent_channels=16).eval()
    theirs.save_pretrained(tmp_path)
    (file,) = (path for path in tmp_path.iterdir() if path.suffix != ".json")
    encoder, decoder = load_autoencoder(file)
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        latent = theirs.encoder(image * 2 - 1)
        torch.testing.assert_close(encoder(image), latent, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            decoder(latent), (theirs.decoder(latent) + 1) / 2, rtol=0, atol=1e-5
        )
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_damaged_autoencoder(tmp_path: Path, small_flat: State) -> None:
    state = {
        name.replace("enc.", "encoder.").replace("dec.", "decoder."): value
        for name, value in small_flat.items()
        if name.startswith(("enc.", "dec."))
    }
    del state["decoder.layers.18.bias"]
    torch.save(state, tmp_path / "ae.bin")
    with pytest.raises(CheckpointError, match=r"missing tensors: 'decoder\.layers\.18\.bias'"):
        load_autoencoder(tmp_path / "ae.bin")
