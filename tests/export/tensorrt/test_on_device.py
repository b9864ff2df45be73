"""TensorRT itself, release by release, against a stand-in: it is on the device alone."""

from __future__ import annotations

import ast
import enum
import inspect
import re
import signal
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elir_deploy.errors import OutputError, UnavailableError
from elir_deploy.export.tensorrt import builder
from elir_deploy.export.tensorrt.builder import BuildOptions, BuiltEngine, build_engine
from elir_deploy.export.tensorrt.profiles import StageEnds
from elir_deploy.runtime.manifest import Stage
from elir_deploy.runtime.tensorrt_library import Library
from elir_deploy.runtime.tensors import TensorSpec
from elir_deploy.targets import DEVICE_TENSORRT
from tests.export.tensorrt import stand_in
from tests.export.tensorrt.graphs import convolutions, stage
from tests.export.tensorrt.stand_in import DataType, StandIn

RELEASES = ("8.6.2.3", "10.3.0.30", "11.4.0.106")
HALF_LAYERS = [
    {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [{"Format/Datatype": "Row major linear FP16 format"}],
        "Metadata": f"[ONNX Layer: {name}][ONNX Layer: {name} bias]",
    }
    for name in ("first", "second")
]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "elir-deploy" / "tensorrt"


def build(library: StandIn, precision: str = "fp16", **options: Any) -> BuiltEngine:
    found = Library(DEVICE_TENSORRT, library, library.__version__)
    model = convolutions(precision).SerializeToString()
    ends = StageEnds([stage("float32")])
    return build_engine(found, model, ends, precision, BuildOptions(**options), lambda *step: None)


@pytest.mark.parametrize(
    ("version", "flags", "preview"),
    [
        (
            "8.6.2.3",
            1 << stand_in.NetworkDefinitionCreationFlag.EXPLICIT_BATCH,
            {stand_in.PreviewFeature.PROFILE_SHARING_0806},
        ),
        ("10.3.0.30", 1 << stand_in.NetworkDefinitionCreationFlag.STRONGLY_TYPED, set()),
        ("11.4.0.106", 0, set()),
    ],
)
def test_types_come_from_the_graph_and_contexts_share_profiles(
    version: str, flags: int, preview: set[Any]
) -> None:
    library = StandIn(version)
    build(library)
    assert library.network_flags == [flags]
    assert library.configs[0].preview == preview


@pytest.mark.parametrize("version", RELEASES)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_float32_is_not_computed_in_tf32(version: str, precision: str) -> None:
    library = StandIn(version)
    build(library, precision)
    assert stand_in.BuilderFlag.TF32 not in library.configs[0].flags


@pytest.mark.parametrize("version", RELEASES[1:])
def test_new_releases_need_no_flags(version: str) -> None:
    library = StandIn(version)
    build(library, "int8")
    assert library.configs[0].flags == set()
    assert all(layer.precision is None for layer in library.networks[0].layers)


@pytest.mark.parametrize("version", RELEASES)
def test_options_reach_the_builder(version: str) -> None:
    library = StandIn(version)
    options: dict[str, Any] = {"version_compatible": True, "hardware_compatible": True}
    engine = build(library, "fp32", workspace_mib=256, **options)
    (config,) = library.configs
    assert config.pools == {stand_in.MemoryPoolType.WORKSPACE: 256 * 2**20}
    assert config.flags == {stand_in.BuilderFlag.VERSION_COMPATIBLE}
    levels = stand_in.HardwareCompatibilityLevel
    level = levels.AMPERE_PLUS if version.startswith("8") else levels.SAME_COMPUTE_CAPABILITY
    assert config.hardware_compatibility_level == level
    assert engine.hardware_compatibility == level.name.lower()
    assert config.profiling_verbosity == stand_in.ProfilingVerbosity.DETAILED


def sized(batch: int, height: int, width: int) -> Stage:
    ends = [
        TensorSpec(n, "float32", (batch, 3, height, width), "NCHW") for n in ("image", "restored")
    ]
    return Stage("fused", *ends, artifacts=())


@pytest.mark.parametrize(
    ("stages", "free", "profiles"),
    [
        ([sized(1, 32, 32)], (1, 3, 32, 32), []),
        ([sized(4, 32, 32)], (-1, 3, 32, 32), [(4, 32, 32)]),
        ([sized(1, 32, 32), sized(1, 64, 32)], (1, 3, -1, -1), [(1, 32, 32), (1, 64, 32)]),
        ([sized(2, 32, 32), sized(1, 64, 32)], (-1, 3, -1, -1), [(2, 32, 32), (1, 64, 32)]),
    ],
)
def test_a_profile_for_each_shape(
    stages: list[Stage], free: tuple[int, ...], profiles: list[tuple[int, int, int]]
) -> None:
    parsed = {name: SimpleNamespace(shape=free) for name in ("image", "restored")}
    library = StandIn("10.3.0.30", shapes=parsed)
    found = Library(DEVICE_TENSORRT, library, library.__version__)
    arguments = (found, b"", StageEnds(stages), "fp32", BuildOptions(), lambda *step: None)
    build_engine(*arguments)
    assert [profile.shapes for profile in library.configs[0].profiles] == [
        {"image": ((1, 3, height, width), *2 * ((batch, 3, height, width),))}
        for batch, height, width in profiles
    ]
    for name in parsed:
        parsed[name].shape = (1, 3, 32, 64)
    with pytest.raises(UnavailableError, match=r"reads the input of fused as image: .* expected"):
        build_engine(*arguments)


@pytest.mark.parametrize("version", RELEASES)
def test_hardware_compatibility_is_off_by_default(version: str) -> None:
    library = StandIn(version)
    assert build(library).hardware_compatibility == "none"
    (config,) = library.configs
    assert config.hardware_compatibility_level == stand_in.HardwareCompatibilityLevel.NONE


@pytest.mark.parametrize("version", RELEASES)
def test_precisions_of_an_engine_come_from_the_inspector(version: str) -> None:
    engine = build(StandIn(version, HALF_LAYERS))
    assert engine.convolutions == {"int8": 0, "fp16": 2, "fp32": 0}
    assert engine.layers == 2


@pytest.mark.parametrize("version", RELEASES)
def test_an_engine_for_later_releases_is_inspected_too(version: str) -> None:
    engine = build(StandIn(version, HALF_LAYERS), version_compatible=True)
    assert engine.content == b"a runtime, and an engine"
    assert engine.convolutions == {"int8": 0, "fp16": 2, "fp32": 0}


def test_the_early_access_release_is_refused() -> None:
    """Its parser has no ``set_flag`` and looks for a plugin that needs cuDNN."""
    with pytest.raises(UnavailableError, match=r"8\.6\.0 .*expected 8\.6\.1 or newer"):
        build(StandIn("8.6.0"))


def test_an_engine_that_cannot_be_opened_where_it_was_built() -> None:
    with pytest.raises(UnavailableError, match=r"cannot open the engine it built: .*out of memory"):
        build(StandIn("10.3.0.30", opens=False))


def test_a_builder_without_a_device() -> None:
    with pytest.raises(UnavailableError) as caught:
        build(StandIn("10.3.0.30", starts=False))
    assert str(caught.value) == (
        "tensorrt 10.3.0.30 does not start: CUDA initialization failure with error: 35"
    )


def test_timings_are_used_again(cache: Path) -> None:
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_build_without_progress(number: signal.Signals, code: int) -> None:
    """At once, and the library may go on until the process has ended."""
    program = """
import time
from tests.export.tensorrt import test_on_device as here
library = here.StandIn("8.6.2.3")
def build(self, network, config):
    print("building", flush=True)
    time.sleep(60)
library.Builder.build_serialized_network = build
try:
    here.build(library)
except KeyboardInterrupt:
    raise SystemExit(130)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"building\n"
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(30) == code
    assert time.monotonic() - began < 30


def test_an_error_of_a_build_without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> bytes:
        raise RuntimeError("no memory")

    library = StandIn("8.6.2.3")
    monkeypatch.setattr(library.Builder, "build_serialized_network", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        build(library)


def test_timings_of_another_device_are_not_used() -> None:
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


def test_the_librarys_message_reaches_the_user() -> None:
    with pytest.raises(UnavailableError) as caught:
        build(StandIn("10.3.0.30", fails=True))
    assert str(caught.value) == (
        "tensorrt 10.3.0.30 cannot build fused.fp16: Error Code 10: no implementation for node c"
    )
    assert caught.value.exit_code == 4
    assert build(StandIn("10.3.0.30")).warnings == ("tactics were skipped",)


# The stand-in against the published types ---------------------------------------------------------


@pytest.fixture(scope="module")
def published() -> dict[str, ast.ClassDef]:
    """The classes of the stubs, made into valid Python as the Makefile does it."""
    try:
        stubs = distribution("tensorrt-stubs")
    except PackageNotFoundError:
        pytest.skip("tensorrt-stubs is not installed")
    text = Path(str(stubs.locate_file("tensorrt_bindings/tensorrt.pyi"))).read_text()
    text = re.sub(r"\bin: ", "in_: ", text).replace("channel_axis: int)", "channel_axis: int = 0)")
    return {node.name: node for node in ast.parse(text).body if isinstance(node, ast.ClassDef)}


def values(kind: ast.ClassDef) -> set[str]:
    """Names of a class's attributes and properties."""
    plain = {n.target.id for n in kind.body if isinstance(n, ast.AnnAssign)}
    return plain | {
        n.name
        for n in kind.body
        if isinstance(n, ast.FunctionDef)
        and any(ast.unparse(decorator) == "property" for decorator in n.decorator_list)
    }


def takes(method: ast.FunctionDef, names: list[str]) -> bool:
    """Whether a method has these parameters, and needs no others."""
    parameters = [parameter.arg for parameter in method.args.args]
    needed = len(parameters) - len(method.args.defaults)
    return parameters[: len(names)] == names and len(names) >= needed


@pytest.mark.parametrize(
    "kind",
    [
        *(stand_in.DataType, stand_in.LayerType, stand_in.NetworkDefinitionCreationFlag),
        *(stand_in.BuilderFlag, stand_in.HardwareCompatibilityLevel, stand_in.MemoryPoolType),
        stand_in.PreviewFeature,
        *(stand_in.ProfilingVerbosity, stand_in.LayerInformationFormat, stand_in.OnnxParserFlag),
    ],
)
def test_the_stand_ins_constants_are_real(
    published: dict[str, ast.ClassDef], kind: type[enum.Enum]
) -> None:
    assert set(kind.__members__) <= values(published[kind.__name__])


def test_the_stand_in_has_the_signatures_and_attributes_of_the_real_one(
    published: dict[str, ast.ClassDef],
) -> None:
    library = StandIn("10.3.0.30")
    logger = library.ILogger()
    network = stand_in.Network(DataType.FLOAT)
    for name, thing, own in (
        ("ILogger", logger, ""),
        ("Builder", library.Builder(logger), ""),
        ("IBuilderConfig", stand_in.Config(True), "__init__ pools cache profiles preview"),
        ("IOptimizationProfile", stand_in.Profile(), "__init__ shapes"),
        ("INetworkDefinition", network, "__init__ layers inputs output"),
        ("ILayer", network.layers[0], "__init__ inputs outputs output_types"),
        ("ITensor", network.inputs[0], "__init__"),
        ("ITimingCache", stand_in.TimingCache(b""), "__init__ content"),
        ("OnnxParser", library.OnnxParser(network, logger), ""),
        ("Runtime", library.Runtime(logger), ""),
        ("ICudaEngine", library.ICudaEngine(), ""),
        ("EngineInspector", library.EngineInspector(), ""),
    ):
        real = published[name]
        for member in {*vars(thing), *vars(type(thing))} - set(own.split()):
            if member.startswith("_") and member != "__init__":
                continue
            if not inspect.isroutine(getattr(thing, member)):
                assert member in values(real), f"{name}.{member}"
                continue
            methods = [n for n in real.body if getattr(n, "name", None) == member]
            parameters = list(inspect.signature(getattr(type(thing), member)).parameters)
            assert any(takes(method, parameters) for method in methods), f"{name}.{member}"


def test_progress_is_called_as_by_the_library(published: dict[str, ast.ClassDef]) -> None:
    library = StandIn("10.3.0.30")
    build(library)
    monitor = library.configs[0].progress_monitor
    for method in published["IProgressMonitor"].body:
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
            parameters = inspect.signature(getattr(monitor, method.name)).parameters
            assert len(parameters) == len(method.args.args) - 1, method.name
