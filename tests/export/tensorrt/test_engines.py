"""Which engines are built for which targets, and what they are called."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from elir_deploy.errors import BundleError, QualityError, UsageError
from elir_deploy.export.tensorrt import engines
from elir_deploy.export.tensorrt.builder import BuildOptions, BuiltEngine
from elir_deploy.export.tensorrt.engines import (
    EngineSpec,
    check_engine_specs,
    engine_file,
    engine_specs,
    make_engines,
    onnx_of,
)
from elir_deploy.progress import no_progress
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Artifact, File, Manifest
from elir_deploy.runtime.tensorrt_engine import Library
from elir_deploy.targets import DEVICE_TENSORRT, RTX, targets_named
from elir_deploy.targets import PRECISIONS_DOCUMENTED_BY_RTX as DOCUMENTED


class _Module:
    class ComputeCapability:
        __members__ = {"NONE": 0, "SM75": 1, "SM86": 2}  # noqa: RUF012


FILE = File("fused.fp16.sm86.rtx.engine", "0" * 64, 6)
NO_COUNTS = {"int8": 0, "fp16": 0, "fp32": 0}
LIBRARY = Library(RTX, _Module, "1.7.1.116")


def test_one_engine_for_each_kind_of_gpu() -> None:
    targets = targets_named(["rtx3090", "rtx2080ti", "rtx3060", "jetpack6.2"])
    orders = engine_specs(targets)
    assert [order.capability for order in orders] == ["sm86", "sm75"]
    assert all(order.kind == RTX and order.documented == DOCUMENTED for order in orders)
    assert [engine_file("fused", "fp16", order) for order in orders] == [
        *("fused.fp16.sm86.rtx.engine", "fused.fp16.sm75.rtx.engine")
    ]


def test_what_builds_its_own_is_not_built_for() -> None:
    assert engine_specs(targets_named(["jetpack6.0", "jetpack7"])) == []
    assert engine_file("fused", "int8", EngineSpec("tensorrt", "sm87", ())) == (
        "fused.int8.sm87.trt.engine"
    )


def test_a_capability_that_the_library_lacks() -> None:
    check_engine_specs(LIBRARY, engine_specs(targets_named(["sm75", "sm86"])))
    with pytest.raises(UsageError, match=r"1\.7\.1\.116 does not build for sm121: it offers sm75"):
        check_engine_specs(LIBRARY, engine_specs(targets_named(["sm121"])))


def test_the_graph_of_an_engine() -> None:
    (stage,) = Bundle.open("tiny").stages
    assert onnx_of(stage, "int8").file == "fused.int8.onnx"
    with pytest.raises(UsageError, match="holds no fp8 ONNX file of fused: it has fp32, fp16"):
        onnx_of(stage, "fp8")


def with_counts(counts: dict[str, int] | None) -> Manifest:
    """The packaged bundle's manifest, with graphs that ask for this."""
    manifest = Bundle.open("tiny").manifest
    (stage,) = manifest.stages
    artifacts = [replace(a, graph_convolutions=counts) for a in stage.artifacts]
    return replace(manifest, stages=[replace(stage, artifacts=artifacts)])


def asking(**counts: int) -> Manifest:
    return with_counts(NO_COUNTS | counts)


def make(monkeypatch: pytest.MonkeyPatch, found: dict[str, int] | None, precision: str) -> Any:
    """What comes out and what is warned of, of an engine with these kernels."""
    built = BuiltEngine(b"engine", found, 9, 1.0, ("tactics  were\nskipped",))
    monkeypatch.setattr(engines, "build_engine", lambda *arguments: built)
    warned: list[str] = []
    order = EngineSpec(RTX, "sm86", ("fp32", "fp16"))
    made = make_engines(
        LIBRARY,
        asking(int8=2, fp16=1),
        [precision],
        [order],
        lambda artifact: b"",
        BuildOptions(workspace_mib=64),
        no_progress,
        warned.append,
    )
    return list(made), warned


def test_an_engine_tells_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    (engine,), warned = make(monkeypatch, {"int8": 0, "fp16": 3, "fp32": 0}, "fp16")
    assert engine.options == BuildOptions("sm86", workspace_mib=64)
    assert engine.entry(FILE) == Artifact(
        file=FILE.file,
        sha256=FILE.sha256,
        bytes=FILE.bytes,
        kind="tensorrt-rtx",
        precision="fp16",
        target="sm86",
        tool="tensorrt-rtx",
        tool_version="1.7.1.116",
        convolutions={"int8": 0, "fp16": 3, "fp32": 0},
    )
    assert warned == ["fused.fp16.sm86.rtx.engine: tensorrt-rtx says: tactics were skipped"]


def test_a_documented_precision_must_be_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QualityError, match=r"fused\.fp16\.sm86\.rtx\.engine is not fp16"):
        make(monkeypatch, {"int8": 0, "fp16": 1, "fp32": 2}, "fp16")


def test_an_undocumented_one_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    (engine,), warned = make(monkeypatch, {"int8": 0, "fp16": 3, "fp32": 0}, "int8")
    assert engine.entry(FILE).convolutions == {"int8": 0, "fp16": 3, "fp32": 0}
    assert "NVIDIA does not list int8 for sm86" in warned[1]
    assert warned[2].endswith("run as 3 fp16, wanted 2 int8")


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"fp16": 2_000_000, "int8": 2_100_000}, ["int8 for sm86 has 2.1 MB and fp16 2.0 MB"]),
        ({"int8": 2_100_000, "fp16": 2_000_000}, ["int8 for sm86 has 2.1 MB and fp16 2.0 MB"]),
        ({"fp16": 2_000_000, "int8": 2_000_000}, []),
        ({"int8": 2_100_000}, []),
        ({"fp32": 1, "int8": 2_100_000}, []),
    ],
)
def test_int8_that_is_larger_than_fp16_is_told_of(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], told: list[str]
) -> None:
    def build(library: object, content: bytes, stage: object, precision: str, *_: object) -> Any:
        return BuiltEngine(b"e" * sizes[precision], dict(NO_COUNTS), 9, 1.0, ())

    monkeypatch.setattr(engines, "build_engine", build)
    warned: list[str] = []
    order = EngineSpec(RTX, "sm86", ("fp32", "fp16", "int8"))
    arguments = (LIBRARY, asking(), list(sizes), [order], lambda artifact: b"")
    list(make_engines(*arguments, BuildOptions(), no_progress, warned.append))
    assert [text.partition(": ")[0] for text in warned] == told


def test_how_far_an_engine_reaches_is_what_its_builder_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = BuiltEngine(b"engine", dict(NO_COUNTS), 9, 1.0, (), "ampere_plus")
    monkeypatch.setattr(engines, "build_engine", lambda *arguments: built)
    order = EngineSpec(DEVICE_TENSORRT, "sm86", ("fp32", "fp16"))
    arguments = (LIBRARY, asking(), ["fp16"], [order], lambda artifact: b"")
    options = BuildOptions(version_compatible=True, hardware_compatible=True)
    quiet = no_progress, (lambda text: None)
    (engine,) = make_engines(*arguments, options, *quiet)
    entry = engine.entry(FILE)
    assert (entry.version_compatible, entry.hardware_compatibility) == (True, "ampere_plus")


def test_a_graph_of_which_the_manifest_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "build_engine", lambda *arguments: pytest.fail("built"))
    order = EngineSpec(RTX, "sm86", ("fp32", "fp16"))
    arguments = (
        LIBRARY,
        with_counts(None),
        ["fp16"],
        [order],
        lambda artifact: b"",
        BuildOptions(),
    )
    quiet = no_progress, (lambda text: None)
    with pytest.raises(BundleError, match=r"fused\.fp16\.onnx: the manifest does not say what its"):
        list(make_engines(*arguments, *quiet))


def test_a_library_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    (engine,), warned = make(monkeypatch, None, "fp16")
    assert engine.entry(FILE).convolutions is None
    assert "does not tell what its layers compute in" in warned[-1]
