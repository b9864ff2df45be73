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
from elir_deploy.runtime.noise import FIELD_GENERATOR, NoiseField

TYPES = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}


def image_spec(name: str, size: int, io: str) -> dict[str, Any]:
    return _spec(name, io, [1, size, size])


def _spec(name: str, io: str, sides: list[int | str]) -> dict[str, Any]:
    batch, height, width = sides
    layout = "NHWC" if io == "uint8" else "NCHW"
    shape = [batch, height, width, 3] if io == "uint8" else [batch, 3, height, width]
    return {"name": name, "dtype": io, "shape": shape, "layout": layout}


def _graph_sides(shapes: list[dict[str, int]], stride: int = 1) -> list[int | str | None]:
    """Batch, height and width in the graphs; free where shapes differ."""
    height, width = (graph_side(shapes[0], side) // stride for side in ("height", "width"))
    free = len(shapes) > 1
    batch: int | str = "batch" if any(shape["batch"] > 1 for shape in shapes) else 1
    if not free:
        return [batch, height, width]
    return [batch, None, None] if stride > 1 else [batch, "height", "width"]


def graph_side(shape: dict[str, int], side: str) -> int:
    return shape.get(f"padded_{side}", shape[side])


def stage_graph(
    source: dict,
    sink: dict,
    gain: float,
    bias: float,
    noise: dict | None = None,
    slope: float = 0.0,
) -> bytes:
    """ONNX bytes of ``clip(gain * x + bias)``, with the conversions that the two ends ask for.

    ``noise``, enlarged to the image's size, is added before it is clipped, and so is a ``slope``
    from the left to the right of the graph's input, which shows where tiles lie.
    """
    constants: dict[str, Any] = {"gain": gain, "zero": 0.0, "one": 1.0, "levels": 255.0}
    constants["bias"] = bias
    if slope:
        width = source["shape"][2 if source["layout"] == "NHWC" else 3]
        constants["bias"] = bias + np.linspace(0, slope, width)
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
    inputs = [source] if noise is None else [source, noise]
    if noise is not None:
        factor = float(noise["stride"])
        scales = numpy_helper.from_array(np.float32([1, 1, factor, factor]), "scales")
        nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        nodes.append(
            helper.make_node(
                "Resize", ["noise", "", "scales"], ["large"], mode="nearest", **nearest
            )
        )
        then("Add", "large")
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
        [helper.make_tensor_value_info(e["name"], TYPES[e["dtype"]], e["shape"]) for e in inputs],
        [helper.make_tensor_value_info(sink["name"], TYPES[sink["dtype"]], sink["shape"])],
        [numpy_helper.from_array(np.float32(v), k) for k, v in constants.items()]
        + ([] if noise is None else [scales]),
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
    stride: int | None = None,
    shapes: list[dict[str, int]] | None = None,
    slope: float = 0.0,
) -> Path:
    """A valid bundle in ``folder``; ``gain``, ``bias`` and ``slope`` are those of its last stage.

    Reference outputs are what it makes of the inputs, or, where it is not ``exact``, the inputs.
    Noise of ``stride`` is an input, and without a stride baked. ``shapes`` default to a square.
    """
    folder.mkdir(parents=True)
    shapes = shapes or [{"batch": 1, "height": size, "width": size}]
    sides = _graph_sides(shapes)
    names = SPLIT_STAGES if stages == "split" else ("fused",)
    ends = [_spec("image", io, sides)]
    ends += [_spec(f"latent{index}", "float32", sides) for index in range(len(names) - 1)]
    ends.append(_spec("restored", io, sides))
    noise = None
    if stride is not None:
        noise = _spec("noise", "float32", _graph_sides(shapes, stride)) | {"stride": stride}
    described = []
    for index, name in enumerate(names):
        last = index == len(names) - 1
        its_noise = noise if name in ("fused", "flow") else None
        artifacts = []
        for precision in precisions:
            file = f"{name}.{precision}.onnx"
            amounts = (gain, bias) if last else (1.0, 0.0)
            data = stage_graph(
                *(ends[index], ends[index + 1], *amounts, its_noise), slope if last else 0.0
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
                "inputs": [ends[index]["name"], *["noise"] * (its_noise is not None)],
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
        "noise": {"kind": "baked", "generator": "test", "seed": 0, "sha256": "0" * 64}
        if stride is None
        else {"kind": "field", "generator": FIELD_GENERATOR, "seed": 7},
        "shapes": shapes,
        "tensors": {end["name"]: tensor_entry(end) for end in [*ends, *[noise] * bool(noise)]},
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
        height, width = (graph_side(shapes[0], side) for side in ("height", "width"))
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        entry: dict[str, Any] = {"name": "noise"}
        restored = pixels
        if exact:
            added = 0 if stride is None else noise_pixels(height, width, stride)
            tilt = np.linspace(0, slope, width)[:, None]
            restored = np.rint((gain * (pixels / 255) + bias + tilt + added).clip(0, 1) * 255)
            restored = restored.astype(np.uint8)
        for end, picture in (("input", pixels), ("output", restored)):
            file = f"reference/noise.{end}.png"
            Image.fromarray(picture).save(folder / file)
            entry[end] = file_entry(folder, file)
        manifest["references"].append(entry)
    write_manifest(folder, manifest)
    return folder


def noise_pixels(
    height: int, width: int, stride: int, *, seed: int = 7, sigma_s: float = 0.025
) -> np.ndarray:
    """(height, width, 3) float32 that a bundle with noise adds to a picture."""
    field = np.empty((3, -(-height // stride), -(-width // stride)), np.float32)
    NoiseField(seed, sigma_s).fill(field, 0, 0)
    large = field.repeat(stride, axis=1).repeat(stride, axis=2)
    return large.transpose(1, 2, 0)[:height, :width]


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
    """A test's latents have three channels; those that are no noise are as large as its images."""
    value_range = [0, 255] if spec["dtype"] == "uint8" else [0, 1]
    image = {"range": value_range} if spec["name"] in ("image", "restored") else {}
    return (
        {"dtype": spec["dtype"], "layout": spec["layout"], "channels": 3}
        | {"stride": spec.get("stride", 1)}
        | image
    )


def stage_ends(manifest: dict[str, Any], stage: int = 0) -> list[dict[str, Any]]:
    """Inputs and output of a stage, for its first shape."""
    entry, shape = manifest["stages"][stage], manifest["shapes"][0]
    ends = []
    for name in (*entry["inputs"], entry["output"]):
        tensor = manifest["tensors"][name]
        sides = [graph_side(shape, side) // tensor["stride"] for side in ("height", "width")]
        channels = tensor["channels"]
        dims = [*sides, channels] if tensor["layout"] == "NHWC" else [channels, *sides]
        described = {key: tensor[key] for key in ("dtype", "layout")}
        ends.append({"name": name, "shape": [shape["batch"], *dims], **described})
    return ends


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
