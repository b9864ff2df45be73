"""Which engines a bundle gets, and how they get into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from msgspec import structs

from elir_deploy.errors import BundleError, QualityError, UsageError
from elir_deploy.export.tensorrt.builder import (
    BuildOptions,
    BuiltEngine,
    build_engine,
    check_capability,
)
from elir_deploy.export.tensorrt.layers import check_layers
from elir_deploy.progress import ProgressCallback
from elir_deploy.runtime.manifest import Artifact, File, Manifest, Stage, StageEntry
from elir_deploy.runtime.tensorrt_engine import Library
from elir_deploy.targets import DEVICE_TENSORRT, RTX, EngineKind, Target

__all__ = [
    "EngineSpec",
    "StageEngine",
    "check_engine_specs",
    "engine_file",
    "engine_key",
    "engine_specs",
    "make_engines",
    "onnx_of",
    "with_engine",
]

_SUFFIXES: dict[EngineKind, str] = {RTX: "rtx", DEVICE_TENSORRT: "trt"}


@dataclass(frozen=True)
class EngineSpec:
    """One engine file to be made of each stage and precision.

    Attributes:
        kind: of the engines.
        capability: of the GPUs that it is for, such as ``sm75``.
        documented: precisions that the vendor lists for them.
    """

    kind: EngineKind
    capability: str
    documented: tuple[str, ...]


@dataclass(frozen=True)
class StageEngine:
    """An engine made for a bundle.

    Attributes:
        stage: name of the stage.
        precision: of the engine.
        order: what for.
        library: that made it.
        options: how.
        built: the engine.
    """

    stage: str
    precision: str
    order: EngineSpec
    library: Library
    options: BuildOptions
    built: BuiltEngine

    @property
    def file(self) -> str:
        """Its name inside the bundle."""
        return engine_file(self.stage, self.precision, self.order)

    def entry(self, file: File) -> Artifact:
        """What the manifest says of the engine that was written as ``file``."""
        return Artifact(
            file=file.file,
            sha256=file.sha256,
            bytes=file.bytes,
            kind=self.order.kind,
            precision=self.precision,  # type: ignore[arg-type]  # that of an ONNX file
            target=self.order.capability,
            tool=self.library.kind,
            tool_version=self.library.version,
            convolutions=self.built.found,
            version_compatible=self.options.version_compatible,
            hardware_compatibility=self.built.hardware_compatibility,
        )


def engine_specs(targets: Iterable[Target]) -> list[EngineSpec]:
    """What is to be built ahead of time for ``targets``; nothing for those built on the device.

    Args:
        targets: may name a capability more than once.
    """
    ahead = {t.capability: t.documented for t in targets if not t.on_device}
    return [EngineSpec(RTX, capability, documented) for capability, documented in ahead.items()]


def check_engine_specs(library: Library, orders: Sequence[EngineSpec]) -> None:
    """Refuse before the work what the library cannot build for.

    Raises:
        UsageError: a capability that it does not offer.
    """
    for order in orders:
        if order.kind == RTX:
            check_capability(library, order.capability)


def engine_file(stage: str, precision: str, order: EngineSpec) -> str:
    """The name of an engine inside its bundle."""
    return f"{stage}.{precision}.{order.capability}.{_SUFFIXES[order.kind]}.engine"


def onnx_of(stage: Stage, precision: str) -> Artifact:
    """The graph that an engine of ``precision`` is made from.

    Raises:
        UsageError: the bundle holds none.
    """
    for artifact in stage.artifacts:
        if artifact.kind == "onnx" and artifact.precision == precision and not artifact.target:
            return artifact
    held = ", ".join(dict.fromkeys(a.precision for a in stage.artifacts if a.kind == "onnx"))
    raise UsageError(f"the bundle holds no {precision} ONNX file of {stage.name}: it has {held}")


def with_engine(manifest: Manifest, engine: StageEngine, file: File) -> Manifest:
    """The manifest with an engine that was written as ``file``, instead of one like it."""
    entry = engine.entry(file)

    def added(stage: StageEntry) -> StageEntry:
        others = [a for a in stage.artifacts if engine_key(a) != engine_key(entry)]
        return structs.replace(stage, artifacts=[*others, entry])

    stages = [added(s) if s.name == engine.stage else s for s in manifest.stages]
    return structs.replace(manifest, stages=stages)


def engine_key(artifact: Artifact) -> tuple[str, str, str | None]:
    """What a stage has one artifact of: kind, precision and target."""
    return artifact.kind, artifact.precision, artifact.target


def _asked(graph: Artifact) -> Mapping[str, int]:
    if graph.graph_convolutions is None:
        raise BundleError(
            f"{graph.file}: the manifest does not say what its convolutions compute in: make the "
            "bundle anew with elir-export"
        )
    return graph.graph_convolutions


def make_engines(
    library: Library,
    info: Manifest,
    precisions: Sequence[str],
    orders: Sequence[EngineSpec],
    read: Callable[[Artifact], bytes],
    options: BuildOptions,
    progress: ProgressCallback,
    warn: Callable[[str], None],
) -> Iterator[StageEngine]:
    """Build one engine after the other; each is checked to be what its precision says.

    Args:
        library: that builds.
        info: the bundle's manifest.
        precisions: to build in.
        orders: what for.
        read: gives the contents of an ONNX file.
        options: how; the orders say for which GPUs.
        progress: called with what is being done.
        warn: called with what the user should know of an engine.

    Raises:
        BundleError: the manifest does not say what a graph computes in.
        QualityError: an engine is of another precision than was asked for.
        UnavailableError, UsageError: as :func:`~.builder.build_engine`.
    """
    stages = info.stages_in()
    jobs = [(s, p, order) for s in stages for p in precisions for order in orders]
    sizes = {artifact.file: artifact.bytes for artifact in info.artifacts}
    for number, (stage, precision, order) in enumerate(jobs, start=1):
        file = engine_file(stage.name, precision, order)
        where = f"{file} ({number} of {len(jobs)})" if len(jobs) > 1 else file

        def say(what: str, done: int, total: int, where: str = where) -> None:
            progress(f"{where}: {what}", done, total)

        say("parsing", 0, 0)
        own = replace(options, capability=order.capability)
        graph = onnx_of(stage, precision)
        asked = _asked(graph)
        built = build_engine(library, read(graph), stage, precision, own, say)
        for text in built.warnings:
            warn(f"{file}: {library.kind} says: {' '.join(text.split())}")
        _judge(file, precision, order, library, asked, built.found, warn)
        sizes[file] = len(built.content)
        yield StageEngine(stage.name, precision, order, library, own, built)
    if "int8" in precisions:
        for order in orders:
            _compare_sizes(stages, order, sizes, warn)


def _compare_sizes(
    stages: Sequence[Stage],
    order: EngineSpec,
    sizes: Mapping[str, int],
    warn: Callable[[str], None],
) -> None:
    """Tell where INT8 engines are larger than the FP16 ones that stand beside them."""
    bytes_of: dict[str, int] = {}
    for precision in ("int8", "fp16"):
        files = [engine_file(stage.name, precision, order) for stage in stages]
        if not all(file in sizes for file in files):
            return
        bytes_of[precision] = sum(sizes[file] for file in files)
    if bytes_of["int8"] > bytes_of["fp16"]:
        int8, fp16 = (f"{bytes_of[precision] / 1e6:.1f} MB" for precision in ("int8", "fp16"))
        warn(
            f"int8 for {order.capability} has {int8} and fp16 {fp16}: scales and "
            "kernels of small layers take more than their weights give; elir-export "
            "--int8-smallest-layer keeps those in floating point"
        )


def _judge(
    file: str,
    precision: str,
    order: EngineSpec,
    library: Library,
    asked: Mapping[str, int],
    found: Mapping[str, int] | None,
    warn: Callable[[str], None],
) -> None:
    documented = precision in order.documented
    if not documented:
        warn(
            f"{file}: NVIDIA does not list {precision} for {order.capability} under "
            f"{library.kind}; it builds, and was run by nobody here"
        )
    if found is None:
        warn(f"{file}: {library.kind} does not tell what its layers compute in")
        return
    try:
        check_layers(file, precision, asked, found)
    except QualityError as error:
        if documented:
            raise
        warn(str(error))
