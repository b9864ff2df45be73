"""``elir-triton``: bundles as a model repository for Triton Inference Server."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from elir_deploy.cli.choices import Precision
from elir_deploy.cli.options import Faces
from elir_deploy.cli.shell import DebugOption, VersionOption, progress, run_command
from elir_deploy.serve.models import named_bundles
from elir_deploy.serve.triton import BACKEND_NAMES, TritonOptions, write_model

Backend = enum.Enum("Backend", {name: name for name in BACKEND_NAMES}, type=str)  # type: ignore[misc]


BundlesArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="BUNDLE...",
        help="Folders written by elir-export, or 'tiny' (included). A model has the name of its "
        "folder.",
    ),
]
RepositoryOption = Annotated[
    Path,
    typer.Option("-o", "--output", metavar="REPOSITORY", help="Folder of the repository."),
]
BackendOption = Annotated[
    Backend | None,
    typer.Option(
        help="Triton's backend. 'python' restores pictures of any size with elir-deploy; the "
        "others run the graph or engine alone. [default: tensorrt or onnxruntime where one graph "
        "is the whole model, else python]"
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Precision that runs. [default: the fastest automatic one]"),
]
FacesOption = Annotated[
    Faces | None,
    typer.Option(
        help="Restore faces in photographs, for bundles with a face detector: which ones, as for "
        "elir-restore. [default: the picture as a whole]"
    ),
]
InstancesOption = Annotated[
    int,
    typer.Option(
        min=1, max=64, help="Copies of the model on each device, which run at the same time."
    ),
]
OverwriteOption = Annotated[bool, typer.Option(help="Replace models of the same names.")]


def triton(
    bundles: BundlesArgument,
    output: RepositoryOption,
    backend: BackendOption = None,
    precision: PrecisionOption = None,
    faces: FacesOption = None,
    instances: InstancesOption = 1,
    overwrite: OverwriteOption = False,
    debug: DebugOption = False,
    version: VersionOption = False,
) -> None:
    """Write bundles as a model repository for Triton Inference Server.

    Each model has its configuration, one version with its files, and the bundle's reference picture
    as a request that runs while it loads. Models of other names stay in the repository.

    Examples:

    * `elir-triton bfr -o models` and `tritonserver --model-repository models`
    * `elir-triton tiny bsr -o models --instances 2`
    * `elir-triton bfr -o models --faces all`, where clients send photographs
    """
    opened = named_bundles(bundles)
    options = TritonOptions(
        backend.value if backend else None,
        precision.value if precision else None,
        instances,
        faces.value if faces else None,
    )
    with progress() as say:
        for index, (name, bundle) in enumerate(opened.items()):
            say("models", index, len(opened))
            model = write_model(bundle, output, name, options, overwrite=overwrite)
            runs = model.precision or "automatic precision"
            print(f"{output / name}: {model.backend} backend, {runs}")


def main() -> None:
    run_command(triton)


if __name__ == "__main__":
    main()
