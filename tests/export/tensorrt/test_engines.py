"""Which engines are built for which targets, and what they are called."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from elir_deploy.errors import BundleError, UnavailableError, UsageError
from elir_deploy.export.tensorrt import engines
from elir_deploy.export.tensorrt.builder import BuildOptions, BuiltEngine
from elir_deploy.export.tensorrt.engines import (
    EngineFailure,
    EngineSpec,
    StageEngine,
    _compare_sizes,
    check_engine_specs,
    engine_file,
    engine_specs,
    make_engines,
    onnx_of,
)
from elir_deploy.export.tensorrt.profiles import Ends
from elir_deploy.progress import no_progress, no_warning
from elir_deploy.runtime.bundle import Bundle
from elir_deploy.runtime.manifest import Artifact, File, Manifest, Stage
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
    specs = engine_specs(targets)
    assert [spec.capability for spec in specs] == ["sm86", "sm75"]
    assert all(spec.kind == RTX and spec.documented == DOCUMENTED for spec in specs)
    assert [engine_file("fused", "fp16", spec) for spec in specs] == [
        *("fused.fp16.sm86.rtx.engine", "fused.fp16.sm75.rtx.engine")
    ]


def test_devices_that_build_their_own_engines_get_none() -> None:
    assert engine_specs(targets_named(["jetpack6.0", "jetpack7"])) == []
    assert engine_file("fused", "int8", EngineSpec("tensorrt", "sm87", ())) == (
        "fused.int8.sm87.trt.engine"
    )


def test_a_capability_that_the_library_does_not_offer() -> None:
    check_engine_specs(LIBRARY, engine_specs(targets_named(["sm75", "sm86"])))
    with pytest.raises(UsageError, match=r"1\.7\.1\.116 does not build for sm121: it offers sm75"):
        check_engine_specs(LIBRARY, engine_specs(targets_named(["sm121"])))


def test_the_graph_of_an_engine() -> None:
    (stage,) = Bundle.open("tiny").stages
    assert onnx_of(stage, "int8").file == "fused.int8.onnx"
    with pytest.raises(
        UsageError, match="has no fp8 ONNX file of fused, expected one of fp32, fp16"
    ):
        onnx_of(stage, "fp8")


def with_counts(counts: dict[str, int] | None) -> Manifest:
    """The packaged bundle's manifest, with graphs that ask for this."""
    manifest = Bundle.open("tiny").manifest
    (stage,) = manifest.stages
    artifacts = [replace(a, graph_convolutions=counts) for a in stage.artifacts]
    return replace(manifest, stages=[replace(stage, artifacts=artifacts)])


def asking(**counts: int) -> Manifest:
    return with_counts(NO_COUNTS | counts)


def make(
    monkeypatch: pytest.MonkeyPatch, convolutions: dict[str, int] | None, precision: str
) -> tuple[list[StageEngine], list[str], list[str]]:
    """Engines, warnings and failures where engines have these kernels."""
    built = BuiltEngine(b"engine", convolutions, 9, 1.0, ("tactics  were\nskipped",))
    monkeypatch.setattr(engines, "build_engine", lambda *arguments: built)
    warnings: list[str] = []
    spec = EngineSpec(RTX, "sm86", ("fp32", "fp16"))
    made = make_engines(
        LIBRARY,
        asking(int8=2, fp16=1),
        [precision],
        [spec],
        lambda artifact: b"",
        BuildOptions(workspace_mib=64),
        no_progress,
        warnings.append,
    )
    results = list(made)
    failures = [str(r.error) for r in results if isinstance(r, EngineFailure)]
    return [r for r in results if isinstance(r, StageEngine)], warnings, failures


def test_the_entry_of_an_engine_records_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    (engine,), warnings, _ = make(monkeypatch, {"int8": 0, "fp16": 3, "fp32": 0}, "fp16")
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
    assert warnings == ["fused.fp16.sm86.rtx.engine: tensorrt-rtx: tactics were skipped"]


def test_a_documented_precision_must_be_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _, failures = make(monkeypatch, {"int8": 0, "fp16": 1, "fp32": 2}, "fp16")
    assert made == []
    (reason,) = failures
    assert reason.startswith("fused.fp16.sm86.rtx.engine is not fp16")


def test_a_warning_about_an_undocumented_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    (engine,), warnings, _ = make(monkeypatch, {"int8": 0, "fp16": 3, "fp32": 0}, "int8")
    assert engine.entry(FILE).convolutions == {"int8": 0, "fp16": 3, "fp32": 0}
    assert "int8 for sm86 is not in NVIDIA's support matrix" in warnings[1]
    assert warnings[2].endswith("run as 3 fp16, expected 2 int8")


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"fp16": 2_000_000, "int8": 2_100_000}, ["int8 for sm86 takes 2.1 MB, fp16 2.0 MB"]),
        ({"int8": 2_100_000, "fp16": 2_000_000}, ["int8 for sm86 takes 2.1 MB, fp16 2.0 MB"]),
        ({"fp16": 2_000_000, "int8": 2_000_000}, []),
        ({"int8": 2_100_000}, []),
        ({"fp32": 1, "int8": 2_100_000}, []),
    ],
)
def test_a_warning_about_int8_larger_than_fp16(
    monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], told: list[str]
) -> None:
    def build(library: object, content: bytes, stage: object, precision: str, *_: object) -> Any:
        return BuiltEngine(b"e" * sizes[precision], dict(NO_COUNTS), 9, 1.0, ())

    monkeypatch.setattr(engines, "build_engine", build)
    warned: list[str] = []
    spec = EngineSpec(RTX, "sm86", ("fp32", "fp16", "int8"))
    arguments = (LIBRARY, asking(), list(sizes), [spec], lambda artifact: b"")
    list(make_engines(*arguments, BuildOptions(), no_progress, warned.append))
    assert [text.partition(": ")[0] for text in warned] == told


def test_hardware_compatibility_is_what_the_builder_chose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built = BuiltEngine(b"engine", dict(NO_COUNTS), 9, 1.0, (), "ampere_plus")
    monkeypatch.setattr(engines, "build_engine", lambda *arguments: built)
    spec = EngineSpec(DEVICE_TENSORRT, "sm86", ("fp32", "fp16"))
    arguments = (LIBRARY, asking(), ["fp16"], [spec], lambda artifact: b"")
    options = BuildOptions(version_compatible=True, hardware_compatible=True)
    quiet = no_progress, no_warning
    (engine,) = make_engines(*arguments, options, *quiet)
    entry = engine.entry(FILE)
    assert (entry.version_compatible, entry.hardware_compatibility) == (True, "ampere_plus")


def test_a_graph_without_convolution_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "build_engine", lambda *arguments: pytest.fail("built"))
    spec = EngineSpec(RTX, "sm86", ("fp32", "fp16"))
    arguments = (
        LIBRARY,
        with_counts(None),
        ["fp16"],
        [spec],
        lambda artifact: b"",
        BuildOptions(),
    )
    quiet = no_progress, no_warning
    with pytest.raises(BundleError, match=r"fused\.fp16\.onnx: the manifest does not say what its"):
        list(make_engines(*arguments, *quiet))


def test_a_library_that_does_not_report_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    (engine,), warnings, _ = make(monkeypatch, None, "fp16")
    assert engine.entry(FILE).convolutions is None
    assert "does not report what its layers compute in" in warnings[-1]


def test_one_failure_does_not_stop_other_precisions_and_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a split bundle, the stages of the failed one are left out together."""
    manifest = asking(fp16=1)
    (fused,) = manifest.stages
    stages = [replace(fused, name=name) for name in ("encoder", "decoder")]
    built: list[tuple[str, str, str | None]] = []

    def build(
        library: object,
        model: object,
        ends: Ends,
        precision: str,
        options: BuildOptions,
        *_: Any,
    ) -> BuiltEngine:
        built.append((ends.name, precision, options.capability))
        if built[-1] == ("decoder", "fp32", "sm86"):
            raise UnavailableError("fused.fp32: no kernel for a node")
        wrong = built[-1] == ("decoder", "fp16", "sm75")
        counts = NO_COUNTS | ({"fp32": 1} if wrong else {"fp16": 1})
        return BuiltEngine(b"engine", counts, 9, 1.0, ())

    monkeypatch.setattr(engines, "build_engine", build)
    specs = [EngineSpec(RTX, sm, ("fp32", "fp16")) for sm in ("sm75", "sm86")]
    manifest = replace(manifest, stages=stages)
    arguments = (LIBRARY, manifest, ["fp16", "fp32"], specs, lambda artifact: b"")
    results = list(make_engines(*arguments, BuildOptions(), no_progress, no_warning))
    made = [result for result in results if isinstance(result, StageEngine)]
    failures = {r.name: r.error for r in results if isinstance(r, EngineFailure)}
    assert len(built) == 8
    assert [(e.stage, e.precision, e.spec.capability) for e in made] == [
        (stage, precision, sm)
        for precision, sm in (("fp16", "sm86"), ("fp32", "sm75"))
        for stage in ("encoder", "decoder")
    ]
    wrong, unbuilt = failures["fp16 engines for sm75"], failures["fp32 engines for sm86"]
    assert "decoder.fp16.sm75.rtx.engine is not fp16" in str(wrong)
    assert isinstance(unbuilt, UnavailableError)
    assert len(failures) == 2


@pytest.mark.parametrize(
    ("sizes", "warned"),
    [
        ({"fp16": 8e6, "int8": 7e6, "w8": 5e6}, []),
        ({"fp16": 8e6, "int8": 9e6, "w8": 8.5e6}, ["int8 for sm75", "w8 for sm75"]),
        ({"int8": 9e6, "w8": 8.5e6}, []),
    ],
)
def test_engines_that_are_larger_than_fp16(sizes: dict[str, float], warned: list[str]) -> None:
    spec = EngineSpec(RTX, "sm75", ("fp16",))
    one = Stage("fused", *[None] * 2, artifacts=())  # type: ignore[arg-type]  # its name is used
    bytes_of = {engine_file("fused", name, spec): int(size) for name, size in sizes.items()}
    warnings: list[str] = []
    _compare_sizes([one], spec, bytes_of, warnings.append)
    assert [text.partition(" takes")[0] for text in warnings] == warned
