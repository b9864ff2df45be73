"""``elir-serve``: restoration as a service, with a page."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Annotated, Any

import typer

from elir_deploy.cli.options import (
    BackendOption,
    BackgroundOption,
    DeviceOption,
    FitOption,
    ForceOption,
    LongSideOption,
    Mode,
    ModeOption,
    PrecisionOption,
    SeedOption,
    SigmaOption,
    ThreadsOption,
    TileOverlapOption,
)
from elir_deploy.cli.restorers import choices_of
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command, tell
from elir_deploy.errors import MissingDependencyError, OutputError, UsageError
from elir_deploy.photo.choices import Choices
from elir_deploy.serve.models import Model, named_bundles

#: Where the token comes from: not from the command line, which other users can see.
TOKEN = "ELIR_TOKEN"
#: Seconds that accepted requests have after the first signal.
_END_S = 600
#: Seconds that an idle connection stays: longer than proxies keep theirs (60 s or less), so that
#: they close it. A request that meets a closing service is lost.
_IDLE_S = 75
_MIB = 2**20


# Its length is that of the options, which Typer reads from the signature.
def serve(
    bundles: Annotated[
        list[str],
        typer.Argument(
            metavar="BUNDLE...",
            help="Folders written by elir-export, or 'tiny' (included). A model has the name of "
            "its folder; the first is the default.",
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            help=f"Address to listen on. Any but loopback needs a token in the variable {TOKEN}."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: a free one.")] = 8000,
    queue: Annotated[
        int,
        typer.Option(
            min=1, max=10000, help="Images that may wait for a model; more are answered 503."
        ),
    ] = 16,
    max_megabytes: Annotated[
        int, typer.Option(min=1, max=4096, help="Largest request, in MiB.")
    ] = 64,
    max_megapixels: Annotated[
        int, typer.Option(min=1, max=256, help="Largest image and result, in megapixels.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option(min=1, help="Seconds from the last byte of a request to its answer.")
    ] = 600,
    backend: BackendOption = "auto",
    precision: PrecisionOption = None,
    fit: FitOption = None,
    force: ForceOption = False,
    tile_overlap: TileOverlapOption = None,
    background: BackgroundOption = None,
    long_side: LongSideOption = None,
    sigma_s: SigmaOption = None,
    seed: SeedOption = None,
    mode: ModeOption = Mode.latency,
    threads: ThreadsOption = None,
    device: DeviceOption = None,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Serve models over HTTP, with a page on which one can try them.

    `POST /restore` takes an image and answers with its restoration; parameters are model, faces,
    scale, strength, fit, sigma_s, seed, tile_overlap, format, quality and bits. Beside it: KServe's
    inference protocol V2 with its binary extension, `/health`, and `/metrics` for Prometheus.
    SIGTERM and Ctrl-C end the service when all accepted requests are answered.

    Examples:

    * `elir-serve tiny`, then open http://127.0.0.1:8000
    * `curl --data-binary @noisy.jpg 'localhost:8000/restore?strength=0.8' -o restored.jpg`
    """
    token = os.environ.get(TOKEN, "").strip() or None
    try:
        import uvicorn

        from elir_deploy.serve.app import Service
        from elir_deploy.serve.connection import Connection
        from elir_deploy.serve.limits import Limits, is_loopback
    except ModuleNotFoundError as error:
        name = error.name or "uvicorn"
        raise MissingDependencyError(name.partition(".")[0], "serve", "serve models") from None
    if token is None and not is_loopback(host):
        raise UsageError(
            f"--host {host} can be reached from other machines: set {TOKEN} to a secret that "
            "requests must carry, or listen on 127.0.0.1"
        )
    limits = Limits(
        body_bytes=max_megabytes * _MIB,
        pixels=max_megapixels * 1_000_000,
        request_s=timeout,
        uploads_bytes=max(1024, 2 * max_megabytes) * _MIB,
    )
    chosen = _chosen(
        bundles,
        background,
        backend=backend,
        precision=precision,
        fit=fit,
        force=force,
        tile_overlap=tile_overlap,
        long_side=long_side,
        sigma_s=sigma_s,
        seed=seed,
        mode=mode,
        threads=threads,
        device=device,
    )
    with ExitStack() as stack:
        sock = stack.enter_context(_bound(host, port))  # models take longer to open
        models: dict[str, Model] = {}
        with progress() as say:
            for name, choices in chosen.items():
                say("opening", len(models), len(chosen))
                models[name] = Model(name, choices, stack)
        for model in models.values():
            tell(model.introduction)
        service = Service(models, queue, limits, token)
        stack.callback(service.close)
        config = uvicorn.Config(
            service.app,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_END_S,
            timeout_keep_alive=_IDLE_S,
            limit_concurrency=1024,
            http=Connection,
            ws="none",
            h11_max_incomplete_event_size=2**16,
        )
        _run(uvicorn, config, sock)


def _chosen(bundles: list[str], background: str | None, **options: Any) -> dict[str, Choices]:
    """What each model runs with: of several, each takes the options that are for it.

    Raises:
        UsageError: an option is for none of them.
        BundleError: a bundle cannot be opened.
    """
    chosen = {
        name: choices_of(bundle, background, **options)
        for name, bundle in named_bundles(bundles).items()
    }
    useless = set.intersection(*(choices.unfit for choices in chosen.values()))
    for name, choices in chosen.items():
        left_out = choices.unfit - useless
        defaults: dict[str, Any] = {
            f.name: f.default for f in fields(choices) if f.name in left_out
        }
        chosen[name] = replace(choices, **defaults)
        chosen[name].check()
    return chosen


def _bound(host: str, port: int) -> socket.socket:
    """A socket at the address, on which nothing listens yet."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except OSError as error:
        raise _cannot_listen(host, port, error) from None
    return sock


def _cannot_listen(host: str, port: int, error: OSError) -> OutputError:
    return OutputError(f"cannot listen on {host}, port {port}: {error.strerror}")


def _run(uvicorn: Any, config: Any, sock: socket.socket) -> None:
    """Serve until a signal; a second one ends at once."""

    class Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn is imported when it is used
        should_exit: bool

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # uvicorn would raise them again at the end; this is an end as intended.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self.handle_exit)
            yield

        def handle_exit(self, number: int, frame: Any) -> None:
            if self.should_exit:  # the second one
                os._exit(128 + number)
            self.should_exit = True

    address, port = sock.getsockname()[:2]
    try:
        sock.listen(config.backlog)  # before the address is told
    except OSError as error:  # two may bind to one port, if neither listens yet
        raise _cannot_listen(address, port, error) from None
    shown = f"[{address}]" if ":" in address else address
    print(f"http://{shown}:{port}", flush=True)
    Server(config).run(sockets=[sock])


def main() -> None:
    run_command(serve)


if __name__ == "__main__":
    main()
