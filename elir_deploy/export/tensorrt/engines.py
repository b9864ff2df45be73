"""Which engines a bundle gets, and how they get into it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from msgspec import structs

from elir_deploy.errors import (
    BundleError,
    ElirError,
    QualityError,
    UnavailableError,
    UsageError,
)
from elir_deploy.export.tensorrt.builder import (
    BuildOptions,
    BuiltEngine,
    build_engine,
    check_capability,
)
from elir_deploy.export.tensorrt.layers import check_layers
from elir_deploy.export.tensorrt.profiles import DetectorEnds, StageEnds
from elir_deploy.progress import ProgressCallback, WarningCallback
from elir_deploy.runtime.detector_graph import onnx_artifact
from elir_deploy.runtime.manifest import Artifact, File, Manifest, Stage
from elir_deploy.runtime.tensorrt_library import Library
from elir_deploy.targets import DEVICE_TENSORRT, RTX, EngineKind, Target

__all__ = [
    "DETECTOR",
    "EngineFailure",
    "EngineSpec",
    "StageEngine",
    "check_engine_specs",
    "engine_file",
    "engine_key",
    "engine_specs",
    "make_engines",
    "onnx_of",
    "with_artifacts",
    "with_engine",
]

#: The face detector, beside the names of stages.
DETECTOR = "detector"
_SUFFIXES: dict[EngineKind, str] = {RTX: "rtx", DEVICE_TENSORRT: "trt"}


@dataclass(frozen=True)
class EngineSpec:
    """One engine file to be built for each stage and precision.

    Attributes:
        kind: of the engines.
        capability: compute capability of the GPUs, such as ``sm75``.
        documented: precisions in NVIDIA's support matrix for these GPUs.
        int8_in_float16: whether INT8 graphs are computed in float16 there.
    """

    kind: EngineKind
    capability: str
    documented: tuple[str, ...]
    int8_in_float16: bool = False


@dataclass(frozen=True)
class StageEngine:
    """An engine built for a bundle.

    Attributes:
        stage: name of the stage, or :data:`DETECTOR`.
        precision: of the engine.
        spec: what it was built for.
        library: that built it.
        options: it was built with.
        built: the engine.
    """

    stage: str
    precision: str
    spec: EngineSpec
    library: Library
    options: BuildOptions
    built: BuiltEngine

    @property
    def file(self) -> str:
        """Its name inside the bundle."""
        return engine_file(self.stage, self.precision, self.spec)

    def entry(self, file: File) -> Artifact:
        """The manifest's entry for the engine that was written as ``file``."""
        return Artifact(
            **structs.asdict(file),
            kind=self.spec.kind,
            precision=self.precision,  # type: ignore[arg-type]  # that of an ONNX file
            target=self.spec.capability,
            tool=self.library.kind,
            tool_version=self.library.version,
            convolutions=self.built.convolutions,
            version_compatible=self.options.version_compatible,
            hardware_compatibility=self.built.hardware_compatibility,
        )


@dataclass(frozen=True)
class EngineFailure:
    """Engines that could not be built.

    Attributes:
        name: which ones, such as ``fp16 engines for sm75``.
        error: why.
    """

    name: str
    error: ElirError


def engine_specs(targets: Iterable[Target]) -> list[EngineSpec]:
    """The engines to build ahead of time for ``targets``; none for those that build their own.

    Args:
        targets: may name a capability more than once.
    """
    ahead = {t.capability: t for t in targets if not t.on_device}
    return [EngineSpec(RTX, c, t.documented, t.int8_in_float16) for c, t in ahead.items()]


def check_engine_specs(library: Library, specs: Sequence[EngineSpec]) -> None:
    """Refuse before the work what the library cannot build for.

    Raises:
        UsageError: a capability that it does not offer.
    """
    for spec in specs:
        if spec.kind == RTX:
            check_capability(library, spec.capability)


def engine_file(stage: str, precision: str, spec: EngineSpec) -> str:
    """The name of an engine inside its bundle."""
    return f"{stage}.{precision}.{spec.capability}.{_SUFFIXES[spec.kind]}.engine"


def onnx_of(stage: Stage, precision: str) -> Artifact:
    """The graph that an engine of ``precision`` is built from.

    Raises:
        UsageError: the bundle holds none.
    """
    for artifact in stage.artifacts:
        if artifact.kind == "onnx" and artifact.precision == precision and not artifact.target:
            return artifact
    present = ", ".join(dict.fromkeys(a.precision for a in stage.artifacts if a.kind == "onnx"))
    raise UsageError(
        f"the bundle has no {precision} ONNX file of {stage.name}, expected one of {present}"
    )


def with_engine(manifest: Manifest, engine: StageEngine, file: File) -> Manifest:
    """The manifest with an engine that was written as ``file``, in place of one like it."""
    entry = engine.entry(file)

    def add(name: str, artifacts: list[Artifact]) -> list[Artifact]:
        if name != engine.stage:
            return artifacts
        return [*(a for a in artifacts if engine_key(a) != engine_key(entry)), entry]

    return with_artifacts(manifest, add)


def with_artifacts(
    manifest: Manifest, change: Callable[[str, list[Artifact]], list[Artifact]]
) -> Manifest:
    """The manifest with other artifacts.

    Args:
        manifest: of a bundle.
        change: from the name of a stage, or :data:`DETECTOR`, and its artifacts to the new ones.
    """
    stages = [structs.replace(s, artifacts=change(s.name, s.artifacts)) for s in manifest.stages]
    detector = manifest.detector
    if detector is not None:
        detector = structs.replace(detector, artifacts=change(DETECTOR, detector.artifacts))
    return structs.replace(manifest, stages=stages, detector=detector)


def engine_key(artifact: Artifact) -> tuple[str, str, str | None]:
    """Kind, precision and target: a stage has one artifact of each."""
    return artifact.kind, artifact.precision, artifact.target


def make_engines(
    library: Library,
    manifest: Manifest,
    precisions: Sequence[str],
    specs: Sequence[EngineSpec],
    read: Callable[[Artifact], bytes],
    options: BuildOptions,
    progress: ProgressCallback,
    warn: WarningCallback,
) -> Iterator[StageEngine | EngineFailure]:
    """Build the engines of every precision and spec, and check what they compute in.

    The engines of all stages come together or, where one fails, not at all, since a backend needs
    every one of them; a failure does not stop the next precision and spec. Where there are any, the
    face detector's follows, of which a failure is a warning: it also runs on other backends.

    Args:
        library: that builds.
        manifest: of the bundle.
        precisions, specs: to build in, and for.
        read: gives the contents of an ONNX file.
        options: of the build; ``capability`` comes from the specs.
        progress, warn: called with the state of the build, and with warnings about an engine.

    Raises:
        BundleError: the manifest does not say what a graph computes in.
        UsageError: as :func:`~.builder.build_engine`.
    """
    stages = manifest.stages_in()
    jobs = [(s, p, spec) for p in precisions for spec in specs for s in stages]
    sizes = {artifact.file: artifact.bytes for artifact in manifest.artifacts}

    def build(stage: Stage, precision: str, spec: EngineSpec) -> StageEngine:
        file = engine_file(stage.name, precision, spec)
        number = jobs.index((stage, precision, spec)) + 1
        where = f"{file} ({number} of {len(jobs)})" if len(jobs) > 1 else file
        say = partial(_say, progress, where)
        ends = _stage_ends(manifest, stage.name)
        for_spec = replace(options, capability=spec.capability)
        return _stage_engine(library, stage, ends, precision, spec, read, for_spec, say, warn)

    built_for: dict[EngineSpec, None] = {}
    for precision, spec in itertools.product(precisions, specs):
        try:
            engines = [build(stage, precision, spec) for stage in stages]
        except (QualityError, UnavailableError) as error:
            yield EngineFailure(f"{precision} engines for {spec.capability}", error)
            continue
        sizes |= {engine.file: len(engine.built.content) for engine in engines}
        built_for[spec] = None
        yield from engines
    for spec in built_for:
        for_spec = replace(options, capability=spec.capability)
        yield from _detector_engine(library, manifest, spec, read, for_spec, progress, warn)
    for spec in specs:
        _compare_sizes(stages, spec, sizes, warn)


def _stage_engine(
    library: Library,
    stage: Stage,
    ends: StageEnds,
    precision: str,
    spec: EngineSpec,
    read: Callable[[Artifact], bytes],
    options: BuildOptions,
    progress: ProgressCallback,
    warn: WarningCallback,
) -> StageEngine:
    progress("parsing", 0, 0)
    graph = onnx_of(stage, precision)
    required = _graph_convolutions(graph)
    built = build_engine(library, read(graph), ends, precision, options, progress)
    file = engine_file(stage.name, precision, spec)
    _check_engine(file, precision, spec, library.kind, required, built, warn)
    return StageEngine(stage.name, precision, spec, library, options, built)


def _stage_ends(manifest: Manifest, name: str) -> StageEnds:
    """The stage called ``name`` for every shape."""
    chains = [manifest.stages_in(shape) for shape in manifest.shapes]
    return StageEnds([stage for chain in chains for stage in chain if stage.name == name])


def _detector_engine(
    library: Library,
    manifest: Manifest,
    spec: EngineSpec,
    read: Callable[[Artifact], bytes],
    options: BuildOptions,
    progress: ProgressCallback,
    warn: WarningCallback,
) -> Iterator[StageEngine]:
    """The face detector's engine, in float32; none, with a warning, where it cannot be built."""
    detector, file = manifest.detector, engine_file(DETECTOR, "fp32", spec)
    if detector is None:
        return
    ends = DetectorEnds(detector)
    try:
        built = build_engine(
            library,
            read(onnx_artifact(detector)),
            ends,
            "fp32",
            options,
            partial(_say, progress, file),
        )
    except UnavailableError as error:
        warn(f"{file} is left out, the detector then runs on another backend: {error}")
        return
    for text in built.warnings:
        warn(f"{file}: {library.kind}: {' '.join(text.split())}")
    yield StageEngine(DETECTOR, "fp32", spec, library, options, built)


def _say(progress: ProgressCallback, where: str, what: str, done: int, total: int) -> None:
    progress(f"{where}: {what}", done, total)


def _graph_convolutions(graph: Artifact) -> Mapping[str, int]:
    if graph.graph_convolutions is None:
        raise BundleError(
            f"{graph.file}: the manifest does not say what its convolutions compute in: export "
            "the bundle again with elir-export"
        )
    return graph.graph_convolutions


def _compare_sizes(
    stages: Sequence[Stage], spec: EngineSpec, sizes: Mapping[str, int], warn: WarningCallback
) -> None:
    """Warn where engines of 8-bit weights are larger than the FP16 ones beside them."""
    bytes_of: dict[str, int] = {}
    for precision in ("fp16", "int8", "w8"):
        files = [engine_file(stage.name, precision, spec) for stage in stages]
        if all(file in sizes for file in files):
            bytes_of[precision] = sum(sizes[file] for file in files)
    fp16 = bytes_of.pop("fp16", None)
    for precision, size in bytes_of.items():
        if fp16 is not None and size > fp16:
            hint = "; --precision w8 takes less than int8" if precision == "int8" else ""
            warn(
                f"{precision} for {spec.capability} takes {size / 1e6:.1f} MB, fp16 "
                f"{fp16 / 1e6:.1f} MB: its scales and kernels take more than its weights save{hint}"
            )


def _check_engine(
    file: str,
    precision: str,
    spec: EngineSpec,
    library: str,
    required: Mapping[str, int],
    built: BuiltEngine,
    warn: WarningCallback,
) -> None:
    for text in built.warnings:
        warn(f"{file}: {library}: {' '.join(text.split())}")
    documented = precision in spec.documented
    if not documented:
        warn(
            f"{file}: {precision} for {spec.capability} is not in NVIDIA's support matrix of "
            f"{library}; untested by this project"
        )
    if precision == "int8" and spec.int8_in_float16:
        warn(
            f"{file}: {library} computes INT8 convolutions in float16 for {spec.capability}, so "
            "INT8 only saves size; real INT8 there is TensorRT's: elir-build BUNDLE --device on it"
        )
    if built.convolutions is None:
        warn(f"{file}: {library} does not report what its layers compute in")
        return
    try:
        check_layers(file, precision, required, built.convolutions)
    except QualityError as error:
        if documented:
            raise
        warn(str(error))
