"""TensorRT itself, release by release, against a stand-in: it is on the device alone."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from elir_deploy.errors import OutputError, UnavailableError
from elir_deploy.export.tensorrt import builder
from elir_deploy.export.tensorrt.builder import BuildOptions, BuiltEngine, build_engine
from elir_deploy.runtime.tensorrt_engine import Library
from elir_deploy.targets import DEVICE_TENSORRT
from tests.export.tensorrt import stand_in
from tests.export.tensorrt.graphs import stage
from tests.export.tensorrt.stand_in import DataType, LayerType, StandIn

RELEASES = ("8.6.2.3", "10.3.0.30", "11.4.0.106")
HALF_LAYERS = [
    {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}],
    }
    for name in ("first", "second")
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "elir-deploy" / "tensorrt"


def build(library: StandIn, precision: str = "fp16", **options: Any) -> BuiltEngine:
    found = Library(DEVICE_TENSORRT, library, library.__version__)
    return build_engine(
        found, b"onnx", stage("float32"), precision, BuildOptions(**options), lambda *step: None
    )


@pytest.mark.parametrize(
    ("version", "flags"),
    [
        ("8.6.2.3", 1 << stand_in.NetworkDefinitionCreationFlag.EXPLICIT_BATCH),
        ("10.3.0.30", 1 << stand_in.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        ("11.4.0.106", 0),
    ],
)
def test_types_come_from_the_graph(version: str, flags: int) -> None:
    library = StandIn(version)
    build(library)
    assert library.network_flags == [flags]


def test_old_releases_need_flags_and_types_on_every_layer() -> None:
    library = StandIn("8.6.2.3")
    build(library, "int8")
    flags = stand_in.BuilderFlag
    assert library.configs[0].flags == {flags.FP16, flags.INT8, flags.OBEY_PRECISION_CONSTRAINTS}
    layers = library.networks[0].layers
    held = {layer.outputs[0].name: layer.precision for layer in layers if layer.precision}
    assert held == {
        "half": DataType.HALF,
        "first": DataType.HALF,
        "sum": DataType.FLOAT,
        "restored": DataType.FLOAT,
    }
    for layer in layers:
        free = layer.type in (LayerType.QUANTIZE, LayerType.DEQUANTIZE)
        assert layer.output_types == ({} if free else {0: layer.outputs[0].dtype})


def test_old_releases_leave_float32_alone() -> None:
    library = StandIn("8.6.2.3")
    build(library, "fp32")
    assert library.configs[0].flags == set()
    assert all(layer.precision is None for layer in library.networks[0].layers)


@pytest.mark.parametrize("version", RELEASES[1:])
def test_new_releases_need_no_flags(version: str) -> None:
    library = StandIn(version)
    build(library, "int8")
    assert library.configs[0].flags == set()
    assert all(layer.precision is None for layer in library.networks[0].layers)


@pytest.mark.parametrize("version", RELEASES)
def test_options_reach_the_builder(version: str) -> None:
    library = StandIn(version)
    build(library, "fp32", workspace_mib=256, version_compatible=True, hardware_compatible=True)
    (config,) = library.configs
    assert config.pools == {stand_in.MemoryPoolType.WORKSPACE: 256 * 2**20}
    assert config.flags == {stand_in.BuilderFlag.VERSION_COMPATIBLE}
    levels = stand_in.HardwareCompatibilityLevel
    old = version.startswith("8")
    wanted = levels.AMPERE_PLUS if old else levels.SAME_COMPUTE_CAPABILITY
    assert config.hardware_compatibility_level == wanted
    assert config.profiling_verbosity == stand_in.ProfilingVerbosity.DETAILED


def test_what_the_engine_is_comes_from_the_inspector() -> None:
    engine = build(StandIn("10.3.0.30", HALF_LAYERS))
    assert engine.asked == {"int8": 1, "fp16": 1, "fp32": 0}
    assert engine.found == {"int8": 0, "fp16": 2, "fp32": 0}
    assert engine.layers == 2
    assert build(StandIn("10.3.0.30")).found is None, "an engine that cannot be opened here"


def test_what_was_measured_is_used_again(cache: Path) -> None:
    first, second = StandIn("10.3.0.30"), StandIn("10.3.0.30")
    build(first)
    build(second)
    assert first.configs[0].cache.content == b""
    assert second.configs[0].cache.content == b"measured;"
    other = StandIn("11.4.0.106")
    build(other)
    assert other.configs[0].cache.content == b"", "every release has its own"
    (file,) = (cache / "10.3.0.30").iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    damaged = StandIn("10.3.0.30")
    build(damaged)
    assert damaged.configs[0].cache.content == b""


def test_a_release_without_progress() -> None:
    library = StandIn("8.6.2.3")
    build(library)
    assert library.configs[0].progress_monitor is None
    library = StandIn("10.3.0.30")
    build(library)
    assert library.configs[0].progress_monitor is not None


def test_what_another_device_measured_is_not_used() -> None:
    build(StandIn("10.3.0.30"))
    library = StandIn("10.3.0.30", accepts_cache=False)
    build(library)
    assert library.configs[0].cache.content == b""


def test_a_cache_folder_that_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert build(StandIn("10.3.0.30")).content == b"an engine"


def test_a_full_disk_costs_the_cache_and_not_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise OutputError(f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(builder, "write_sealed", full)
    assert build(StandIn("10.3.0.30")).content == b"an engine"


def test_the_librarys_words_reach_the_user() -> None:
    with pytest.raises(UnavailableError) as caught:
        build(StandIn("10.3.0.30", fails=True))
    assert str(caught.value) == (
        "tensorrt 10.3.0.30 cannot build fused.fp16: Error Code 10: no implementation for node c"
    )
    assert caught.value.exit_code == 4
    assert build(StandIn("10.3.0.30")).warnings == ("tactics were skipped",)


def test_the_stand_in_has_the_names_of_the_real_one() -> None:
    """Against the published stubs, read as text: they do not parse in all places."""
    try:
        published = distribution("tensorrt-stubs")
    except PackageNotFoundError:
        pytest.skip("tensorrt-stubs is not installed")
    text = Path(str(published.locate_file("tensorrt_bindings/tensorrt.pyi"))).read_text()

    def members(name: str) -> str:
        found = re.search(rf"^class {name}\b.*?(?=^class |\Z)", text, re.MULTILINE | re.DOTALL)
        assert found, name
        return found[0]

    for kind in (
        stand_in.DataType,
        stand_in.LayerType,
        stand_in.NetworkDefinitionCreationFlag,
        stand_in.BuilderFlag,
        stand_in.HardwareCompatibilityLevel,
        stand_in.MemoryPoolType,
        stand_in.ProfilingVerbosity,
        stand_in.LayerInformationFormat,
    ):
        body = members(kind.__name__)
        missing = [name for name in kind.__members__ if not re.search(rf"\b{name}\b", body)]
        assert not missing, kind
    for name, wanted in {
        "IBuilderConfig": (stand_in.Config, ()),
        "INetworkDefinition": (stand_in.Network, ("layers", "ends")),
        "ILayer": (stand_in.Layer, ("inputs", "outputs", "output_types")),
        "ITimingCache": (stand_in.TimingCache, ("content",)),
    }.items():
        kind, own = wanted
        body = members(name)
        public = [n for n in vars(kind) if not n.startswith("_") and n not in own]
        missing = [n for n in public if not re.search(rf"\b{n}\b", body)]
        assert not missing, name
    for name, methods in {
        "Builder": ("create_network", "create_builder_config", "build_serialized_network"),
        "OnnxParser": ("parse", "num_errors", "get_error"),
        "Runtime": ("deserialize_cuda_engine",),
        "ICudaEngine": ("create_engine_inspector",),
        "EngineInspector": ("get_engine_information",),
        "IProgressMonitor": ("phase_start", "phase_finish", "step_complete"),
    }.items():
        body = members(name)
        assert all(re.search(rf"\b{method}\b", body) for method in methods), name
