"""Our bundles on a GPU beside PyTorch, eager, in a CUDA graph and compiled.

    python benchmarks/gpu.py docs/results/gpu.md build/bench/bfr build/bench/bsr tiny [--rounds 12]

A run takes 8-bit pixels in page-locked memory to 8-bit pixels there; all runners take turns, a
block of runs each, with one image and with the largest batch of the bundle's first shape. PyTorch
runs the same weights with the same noise, its convolutions chosen by cuDNN's benchmark. float16 is
measured in both memory formats, and the faster one is its row. PSNR is the worst of the bundle's
reference pictures, against float32 PyTorch on the CPU that exported it. ``--device cpu`` runs what
a CPU can: a rehearsal.

The page is replaced from the line ``<!-- measured -->`` on, if it has one.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from elir_deploy.bench.peers.subject import Subject, load_checkpoint_of, subject_of
from elir_deploy.bench.statistics import Summary, paired_speedup
from elir_deploy.checkpoints import load_checkpoint
from elir_deploy.errors import ElirError
from elir_deploy.output_files import write_text
from elir_deploy.pixels import psnr_db
from elir_deploy.runtime import Bundle, Restorer
from elir_deploy.text import pipes

#: Runs of a runner before the next one's turn.
BLOCK = 5
MEASURED = "<!-- measured -->"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class Runner(ABC):
    """One way to run a bundle's model.

    Attributes:
        name: of its row.
        precision: of its row.
        input: (N, H, W, 3) uint8, page-locked on a GPU; written before a run.
        output: the same, read after it.
        notes: what else there is to say.
    """

    name: str
    precision: str
    input: np.ndarray
    output: np.ndarray
    notes: str = ""

    @abstractmethod
    def run(self) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """Free its memory."""

    def psnr_db(self, bundle: Bundle) -> float:
        """Of the worst reference picture."""
        worst = float("inf")
        for _, image, expected in bundle.reference_images():
            self.input[...] = image
            self.run()
            worst = min(worst, *(psnr_db(one, expected) for one in self.output))
        return worst

    def milliseconds(self, runs: int) -> list[float]:
        samples = []
        for _ in range(runs):
            begin = time.perf_counter()
            self.run()
            samples.append(1e3 * (time.perf_counter() - begin))
        return samples


class BundleRunner(Runner):
    """This project's runtime."""

    def __init__(self, bundle: Bundle, backend: str, precision: str, batch: int = 1) -> None:
        begin = time.perf_counter()
        self._restorer = Restorer(bundle, backend, precision=precision)
        self.name, self.precision = f"this project, {backend}", precision
        session = self._restorer.session
        session.select(bundle.manifest.shapes[0], batch)
        self.input, self.output = session.input, session.output
        self.run = session.run  # type: ignore[method-assign]
        for _ in range(3):
            self.run()
        self.notes = f"ready in {time.perf_counter() - begin:.1f} s"

    def run(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._restorer.close()


class TorchRunner(Runner):
    """PyTorch, call by call."""

    def __init__(
        self, subject: Subject, batch: int, device: str, precision: str, layout: torch.memory_format
    ) -> None:
        self.name, self.precision = "PyTorch eager", precision
        self._dtype, self._layout = DTYPES[precision], layout
        self._steps = subject.manifest.model.steps
        model: Any = copy.deepcopy(subject.collapsed)
        self._model: Any = model.to(device, self._dtype, memory_format=layout)
        self._noise = subject.noise.to(device, self._dtype)
        shape = (batch, *subject.manifest.shapes[0].graph_size, 3)
        on_gpu = device != "cpu"
        self._source, self._sink = (
            torch.zeros(shape, dtype=torch.uint8, pin_memory=on_gpu) for _ in range(2)
        )
        self.input, self.output = self._source.numpy(), self._sink.numpy()
        self._image = torch.zeros(shape, dtype=torch.uint8, device=device)
        self._on_gpu = on_gpu
        if layout == torch.channels_last:
            self.notes = "channels last"

    def run(self) -> None:
        with torch.inference_mode():
            self._queue()
        if self._on_gpu:
            torch.cuda.current_stream().synchronize()

    def close(self) -> None:
        self._model = None

    def _queue(self) -> None:
        self._image.copy_(self._source, non_blocking=True)
        self._sink.copy_(self._compute(self._image), non_blocking=True)

    def _compute(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).to(self._dtype).div(255)
        restored = self._model(x.contiguous(memory_format=self._layout), self._steps, self._noise)
        levels = restored.float().nan_to_num(0).mul(255).round().to(torch.uint8)
        return levels.permute(0, 2, 3, 1).contiguous()


class GraphRunner(TorchRunner):
    """PyTorch in one CUDA graph, both copies included; ``compiled`` by torch.compile."""

    def __init__(self, *options: Any, compiled: bool = False) -> None:
        super().__init__(*options)
        self.name = "torch.compile in a CUDA graph" if compiled else "PyTorch in a CUDA graph"
        begin = time.perf_counter()
        if compiled:
            self._model = torch.compile(self._model)
        stream = torch.cuda.Stream()
        with torch.inference_mode(), torch.cuda.stream(stream):
            for _ in range(3):
                self._queue()
            stream.synchronize()
            self._graph: Any = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=stream):
                self._queue()
        if compiled:
            self.notes += f"{', ' * bool(self.notes)}ready in {time.perf_counter() - begin:.0f} s"

    def run(self) -> None:
        self._graph.replay()
        torch.cuda.current_stream().synchronize()

    def close(self) -> None:
        self._graph = None
        super().close()


def subject(bundle: Bundle) -> Subject:
    """The bundle's own weights in PyTorch, random ones included, which a seed gives."""
    source = bundle.manifest.source
    if source.random:
        checkpoint = load_checkpoint("random", bundle.manifest.model.task)
    else:
        checkpoint = load_checkpoint_of(bundle, source.name.removesuffix(".safetensors"))
    return subject_of(bundle, checkpoint)


def torch_runners(model: Subject, batch: int, device: str, *, compiled: bool) -> list[Runner]:
    """PyTorch in its rows, float16 in the faster memory format."""
    formats = {"fp32": [torch.contiguous_format]}
    formats["fp16"] = [torch.contiguous_format, torch.channels_last]
    kinds: list[Any] = [TorchRunner] if device == "cpu" else [TorchRunner, GraphRunner]
    runners: list[Runner] = []
    for precision in ("fp32", "fp16") if device != "cpu" else ("fp32",):
        for kind in kinds:
            tried = [kind(model, batch, device, precision, layout) for layout in formats[precision]]
            runners.append(fastest(tried))
    if compiled and device != "cpu":
        for precision in ("fp32", "fp16"):
            layout = formats[precision][-1]
            runners.append(GraphRunner(model, batch, device, precision, layout, compiled=True))
    return runners


def fastest(runners: Sequence[Runner]) -> Runner:
    """The others are closed."""
    times = []
    for runner in runners:
        runner.milliseconds(3)
        times.append(float(np.median(runner.milliseconds(10))) if len(runners) > 1 else 0.0)
    best = runners[int(np.argmin(times))]
    for runner in runners:
        if runner is not best:
            runner.close()
    return best


def in_turns(runners: Sequence[Runner], rounds: int) -> list[list[float]]:
    """Milliseconds of each runner's runs."""
    samples: list[list[float]] = [[] for _ in runners]
    for number in range(rounds + 1):
        for own, runner in zip(samples, runners, strict=True):
            own += runner.milliseconds(BLOCK) if number else []
            if not number:  # to warm up
                runner.milliseconds(BLOCK)
    return samples


def row(
    runner: Runner, own: list[float], eager: list[float], graph: list[float] | None, psnr: float
) -> list[str]:
    summary = Summary.of(own)
    cells = [runner.name, runner.precision, f"{summary.p50:.2f}", f"{summary.p90:.2f}"]
    cells.append(f"{paired_speedup(eager, own, run=BLOCK).value:.2f}")
    if graph is None:
        cells.append("")
    else:
        ratio = paired_speedup(graph, own, run=BLOCK)
        interval = "" if ratio.low is None else f" ({ratio.low:.2f} to {ratio.high:.2f})"
        cells.append(f"{ratio.value:.2f}{interval}")
    return [*cells, f"{psnr:.1f}", runner.notes]


def kernel_table(runners: Sequence[Runner]) -> str:
    """Where a run's time on the GPU goes: the longest kernels of each runner."""
    rows = []
    for runner in runners:
        runs = 5
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            runner.milliseconds(runs)
        spent: Counter[str] = Counter()
        count: Counter[str] = Counter()
        for event in profiler.events():
            if event.device_type == torch.autograd.DeviceType.CUDA:
                spent[event.name] += event.device_time / runs
                count[event.name] += 1
        total = f"{sum(count.values()) // runs}", f"{sum(spent.values()):.0f}"
        rows.append([runner.name, runner.precision, "all", *total])
        for name, microseconds in spent.most_common(8):
            shown = " ".join(name.replace("|", "/").split())[:90]
            each = str(count[name] // runs)
            rows.append(["", "", f"`{shown}`", each, f"{microseconds:.0f}"])
    return pipes(["", "precision", "kernel", "launches", "us"], rows)


def measure(
    bundle: Bundle,
    model: Subject,
    batch: int,
    device: str,
    rounds: int,
    *,
    compiled: bool,
    kernels: bool,
) -> str:
    """A section of the page: one batch of the bundle's first shape."""
    info = bundle.manifest
    backend = "onnxruntime" if device == "cpu" else "onnxruntime-cuda"
    runners = torch_runners(model, batch, device, compiled=compiled)
    missing = []
    for precision in ("fp32", "fp16", "int8"):
        if precision in info.precisions:
            try:
                runners.append(BundleRunner(bundle, backend, precision, batch))
            except ElirError as error:
                missing.append(f"{precision}: {error}")
    psnrs = [runner.psnr_db(bundle) for runner in runners]
    samples = in_turns(runners, rounds)
    graphs = {
        r.precision: own
        for r, own in zip(runners, samples, strict=True)
        if r.name == "PyTorch in a CUDA graph"
    }
    rows = []
    for runner, own, psnr in zip(runners, samples, psnrs, strict=True):
        rival = graphs.get(runner.precision) or graphs.get("fp16")
        rows.append(row(runner, own, samples[0], rival, psnr))
    verified = ", ".join(
        f"{precision} {result.psnr_db:.1f} dB"
        for precision, result in info.verification.items()
        if result.psnr_db is not None
    )
    weights = "random weights" if info.source.random else "the packaged weights"
    header = ["", "precision", "ms", "p90", "times eager fp32", "times PyTorch's CUDA graph"]
    parts = [
        f"## {info.model.task}, {info.shapes[0].width}x{info.shapes[0].height}, "
        f"M = {info.model.steps}, batch {batch}",
        f"{weights}, {rounds * BLOCK} runs each; verified on a CPU at export: {verified}.",
        pipes([*header, "PSNR, dB", "notes"], rows),
        *(f"- not measured: {reason}" for reason in missing),
    ]
    if kernels and device != "cpu":
        chosen = [r for r in runners if r.precision == "fp16" and not isinstance(r, TorchRunner)]
        chosen += [r for r in runners if r.precision == "fp16" and type(r) is GraphRunner]
        parts += ["Where the time on the GPU goes in float16:", kernel_table(chosen)]
    for runner in runners:
        runner.close()
    return "\n\n".join(parts)


def place(device: str) -> str:
    import onnxruntime

    libraries = f"PyTorch {torch.__version__}, ONNX Runtime {onnxruntime.__version__}"
    if device == "cpu":
        return f"The CPU alone, {len(os.sched_getaffinity(0))} cores, {libraries}."
    from elir_deploy.runtime.cuda import open_device

    here = open_device(0, "gpu")
    return (
        f"{here.name} ({here.capability}), driver {here.driver}, cuDNN "
        f"{torch.backends.cudnn.version()}, {libraries}, {len(os.sched_getaffinity(0))} cores."
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="the Markdown page")
    parser.add_argument("bundle", nargs="+", help="folders of bundles, or tiny")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--compile", action="append", default=[], help="tasks to compile, too")
    parser.add_argument("--kernels", action="append", default=[], help="tasks to profile")
    options = parser.parse_args()
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    text = options.output.read_text("utf-8") if options.output.is_file() else ""
    parts = [text.partition(MEASURED)[0].strip() or "# On a GPU", MEASURED, place(options.device)]
    for name in options.bundle:
        bundle = Bundle.open(name)
        task = bundle.manifest.model.task
        model = subject(bundle)
        for batch in sorted({1, bundle.manifest.shapes[0].batch}):
            parts.append(
                measure(
                    bundle,
                    model,
                    batch,
                    options.device,
                    options.rounds,
                    compiled=task in options.compile and batch == 1,  # it takes minutes
                    kernels=task in options.kernels,
                )
            )
            print(parts[-1], flush=True)
            write_text(options.output, "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
