"""Small bundles for tests: a graph that changes every pixel by itself, ``gain * x + bias``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from elir_deploy.runtime.manifest import FORMAT_NAME, FORMAT_VERSION, SPLIT_STAGES
from elir_deploy.runtime.manifest_file import MANIFEST_NAME

TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def image_spec(name: str, size: int, io: str) -> dict[str, Any]:
    layout = "NHWC" if io == "uint8" else "NCHW"
    shape = [1, size, size, 3] if io == "uint8" else [1, 3, size, size]
    return {"name": name, "dtype": io, "shape": shape, "layout": layout}


def stage_graph(source: dict, sink: dict, gain: float, bias: float) -> bytes:
    """ONNX bytes of ``clip(gain * x + bias)``, with the conversions that the two ends ask for."""
    constants = {"gain": gain, "bias": bias, "zero": 0.0, "one": 1.0, "levels": 255.0}
    nodes, last = [], source["name"]

    def then(op: str, *more: str, **attributes: Any) -> None:
        nonlocal last
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(op, [last, *more], [name], **attributes))
        last = name

    if source["dtype"] == "uint8":
        then("Cast", to=TensorProto.FLOAT)
        then("Transpose", perm=[0, 3, 1, 2])
        then("Div", "levels")
    then("Mul", "gain")
    then("Add", "bias")
    then("Clip", "zero", "one")
    if sink["dtype"] == "uint8":
        then("Mul", "levels")
        then("Round")
        then("Transpose", perm=[0, 2, 3, 1])
        then("Cast", to=TensorProto.UINT8)
    nodes[-1].output[0] = sink["name"]
    graph = helper.make_graph(
        nodes,
        "stage",
        [helper.make_tensor_value_info(source["name"], TYPES[source["dtype"]], source["shape"])],
        [helper.make_tensor_value_info(sink["name"], TYPES[sink["dtype"]], sink["shape"])],
        [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def make_bundle(
    folder: Path,
    *,
    size: int = 32,
    io: str = "uint8",
    stages: str = "fused",
    precisions: tuple[str, ...] = ("fp32",),
    upscale: int = 1,
    kernel: str = "none",
    faces: bool = False,
    random: bool = False,
    gain: float = 1.0,
    bias: float = 0.0,
    references: bool = True,
    exact: bool = True,
    task: str = "tiny",
) -> Path:
    """A valid bundle in ``folder``; ``gain`` and ``bias`` are those of its last stage.

    Reference outputs are what it makes of the inputs, or, where it is not ``exact``, the inputs.
    """
    folder.mkdir(parents=True)
    names = SPLIT_STAGES if stages == "split" else ("fused",)
    ends = [image_spec("image", size, io)]
    ends += [image_spec(f"latent{index}", size, "float32") for index in range(len(names) - 1)]
    ends.append(image_spec("restored", size, io))
    described = []
    for index, name in enumerate(names):
        last = index == len(names) - 1
        artifacts = []
        for precision in precisions:
            file = f"{name}.{precision}.onnx"
            data = stage_graph(
                ends[index], ends[index + 1], gain if last else 1.0, bias if last else 0.0
            )
            (folder / file).write_bytes(data)
            artifacts.append(
                {
                    "file": file,
                    "kind": "onnx",
                    "precision": precision,
                    "target": None,
                    "tool": "test",
                    "tool_version": "1",
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "bytes": len(data),
                    "graph_convolutions": {"int8": 0, "fp16": 0, "fp32": 0},
                }
            )
        described.append(
            {
                "name": name,
                "inputs": [ends[index]["name"]],
                "output": ends[index + 1]["name"],
                "artifacts": artifacts,
            }
        )
    manifest = {
        "format": FORMAT_NAME,
        "format_version": FORMAT_VERSION,
        "model": {
            "task": task,
            "steps": 3,
            "sigma_s": 0.025,
            "upscale": upscale,
            "upscale_kernel": kernel,
            "faces": faces,
            "parameters": 2,
            "architecture": {},
        },
        "source": {"name": "random" if random else "test", "sha256": None, "random": random},
        "noise": {"kind": "baked", "generator": "test", "seed": 0, "sha256": "0" * 64},
        "shapes": [{"batch": 1, "height": size, "width": size}],
        "tensors": {end["name"]: tensor_entry(end) for end in ends},
        "stages": described,
        "resize": {"kernel": "bicubic", "a": -0.5, "antialias": True, "rounding": "as Pillow"},
        "precisions": list(precisions),
        "export": {
            "opset": 17,
            "float16_normalization": "measured",
            "int8_fallback": "float32",
            "rewrites": {},
        },
        "verification": {p: verification() for p in precisions},
        "references": [],
        "versions": {"elir-deploy": "0.1.0"},
    }
    if references:
        (folder / "reference").mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)
        entry: dict[str, Any] = {"name": "noise"}
        restored = pixels
        if exact:
            restored = np.rint((gain * (pixels / 255) + bias).clip(0, 1) * 255).astype(np.uint8)
        for end, picture in (("input", pixels), ("output", restored)):
            file = f"reference/noise.{end}.png"
            Image.fromarray(picture).save(folder / file)
            entry[end] = file_entry(folder, file)
        manifest["references"].append(entry)
    write_manifest(folder, manifest)
    return folder


def put_graph(bundle: Path, data: bytes, precision: str = "fp32") -> None:
    """Let the first stage's file of ``precision`` be ``data``, with the hash that this has."""
    manifest = read_manifest(bundle)
    (artifact,) = [a for a in manifest["stages"][0]["artifacts"] if a["precision"] == precision]
    (bundle / artifact["file"]).write_bytes(data)
    artifact |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    write_manifest(bundle, manifest)


def verification(
    psnr: float | None = 70.0, passed: bool = True, automatic: bool | None = None
) -> dict[str, Any]:
    """``automatic`` is by default what ``passed`` is; where not, a synthetic picture tells why."""
    automatic = passed if automatic is None else automatic
    figures = {"psnr_db": psnr, "max_error": 0.004, "mean_error": 0.0001}
    size = {"width": 32, "height": 32}
    images = [{"name": "noise", **size, "synthetic": False, **figures}]
    if passed and not automatic:
        worse = {"psnr_db": 18.4, "max_error": 0.5, "mean_error": 0.1}
        images.append({"name": "text", **size, "synthetic": True, **worse})
    return {
        **figures,
        "floor_db": 45.0,
        "passed": passed,
        "automatic": automatic,
        "backend": "onnxruntime",
        "images": images,
        "boundaries": {"encoder": 80.0, "decoder": 70.0},
        "parts": {"encoder": 80.0, "decoder": 75.0},
        "worst_part": "decoder",
        "kept_float32": ["norm1"],
    }


def tensor_entry(spec: dict[str, Any]) -> dict[str, Any]:
    """A test's latents are as large as its images."""
    value_range = [0, 255] if spec["dtype"] == "uint8" else [0, 1]
    image = {"range": value_range} if spec["name"] in ("image", "restored") else {}
    return {"dtype": spec["dtype"], "layout": spec["layout"], "channels": 3, "stride": 1} | image


def stage_ends(manifest: dict[str, Any], stage: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Input and output of a stage as :func:`stage_graph` takes them."""
    entry, shape = manifest["stages"][stage], manifest["shapes"][0]
    ends = []
    for name in (entry["inputs"][0], entry["output"]):
        tensor = manifest["tensors"][name]
        sides = [shape[side] // tensor["stride"] for side in ("height", "width")]
        channels = tensor["channels"]
        dims = [*sides, channels] if tensor["layout"] == "NHWC" else [channels, *sides]
        described = {key: tensor[key] for key in ("dtype", "layout")}
        ends.append({"name": name, "shape": [shape["batch"], *dims], **described})
    return ends[0], ends[1]


def file_entry(folder: Path, file: str) -> dict[str, Any]:
    return {
        "file": file,
        "sha256": sha256(folder / file),
        "bytes": (folder / file).stat().st_size,
    }


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST_NAME).read_text("utf-8"))


def write_manifest(folder: Path, manifest: Any) -> None:
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1), "utf-8")
