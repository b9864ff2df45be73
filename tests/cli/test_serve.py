from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elir_deploy.cli import serve as command
from elir_deploy.cli.serve import _chosen
from elir_deploy.errors import UsageError
from tests.bundles import make_bundle
from tests.photo.pictures import face_bundle


def test_each_model_takes_the_options_that_are_for_it(tmp_path: Path) -> None:
    faces = str(face_bundle(tmp_path / "faces"))
    plain = str(make_bundle(tmp_path / "plain", stride=8))
    options = {"long_side": 640, "fit": "tile", "tile_overlap": 4, "seed": 0, "threads": 1}
    chosen = _chosen([faces, plain], plain, **options)
    for name, unfit in (("faces", {"fit": None}), ("plain", {"long_side": None})):
        background = chosen[name].background
        assert chosen[name].options.items() >= (options | unfit).items()
        assert (background is None) == (name == "plain")
    with pytest.raises(UsageError, match="--long-side is for bundles of faces"):
        _chosen([plain], None, long_side=640)
    with pytest.raises(UsageError, match="--fit is for pictures that the model sees as a whole"):
        _chosen([faces], None, fit="tile")


def test_clients_close_idle_connections_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[Any] = []
    monkeypatch.setattr(command, "_run", lambda uvicorn, config, sock: configs.append(config))
    command.serve([str(make_bundle(tmp_path / "b"))], port=0, backend="onnxruntime")
    [config] = configs
    assert config.timeout_keep_alive > 60  # what proxies keep them for
