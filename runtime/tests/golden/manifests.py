"""Manifests with every possible entry, and small changes of them."""

from __future__ import annotations

import json
from typing import Any

from elir_deploy.errors import BundleError
from elir_deploy.runtime.manifest_file import decode_manifest
from elir_deploy.runtime.noise import FIELD_GENERATOR


def file(name: str) -> dict[str, Any]:
    return {"file": name, "sha256": "0" * 64, "bytes": 10}


def manifest(split: bool) -> dict[str, Any]:
    """A manifest with every possible entry."""
    names = ["encoder", "estimator", "flow", "decoder"] if split else ["fused"]
    ends = ["image", *(f"z{i}" for i in range(len(names) - 1)), "restored"]
    image = {
        "dtype": "uint8",
        "layout": "NHWC",
        "channels": 3,
        "stride": 1,
        "range": [0, 255],
    }
    latent = {"dtype": "float32", "layout": "NCHW", "channels": 16, "stride": 8}
    stages = [
        {
            "name": name,
            "inputs": [ends[index]],
            "output": ends[index + 1],
            "artifacts": [
                file(f"{name}.{precision}.onnx")
                | {
                    "kind": "onnx",
                    "precision": precision,
                    "target": None,
                    "tool": "test",
                    "tool_version": "1",
                }
                for precision in ("fp32", "int8")
            ],
        }
        for index, name in enumerate(names)
    ]
    fidelity = {"psnr_db": 70.5, "max_error": 0.004, "mean_error": 0.001}
    drawn = {"name": "noise", "width": 32, "height": 32, "synthetic": True}
    verification = fidelity | {
        "floor_db": 60.0,
        "passed": True,
        "automatic": True,
        "backend": "test",
        "images": [drawn | {"psnr_db": None, "max_error": 0.0, "mean_error": 0}],
        "boundaries": {"encoder": 60.5},
        "parts": {"encoder": None},
        "worst_part": None,
        "kept_float32": ["a"],
    }
    point = [10.5, 12]
    return {
        "format": "elir-bundle",
        "format_version": 2,
        "model": {
            "task": "tiny",
            "steps": 3,
            "sigma_s": 0.025,
            "upscale": 1,
            "upscale_kernel": "none",
            "faces": False,
            "parameters": 2,
            "architecture": {"widths": [1, 2]},
        },
        "source": {"name": "test", "sha256": None, "random": False},
        "noise": {"kind": "baked", "generator": "test", "seed": 0, "sha256": "0" * 64},
        "shapes": [{"batch": 1, "height": 32, "width": 32}],
        "tensors": {end: latent if end.startswith("z") else image for end in ends},
        "stages": stages,
        "resize": {"kernel": "bicubic", "a": -0.5, "antialias": True, "rounding": "as Pillow"},
        "precisions": ["fp32", "int8"],
        "export": {
            "opset": 17,
            "float16_normalization": "measured",
            "int8_fallback": "float32",
            "rewrites": {"folded": True},
        },
        "verification": {"fp32": verification, "bf16": verification},
        "references": [
            {
                "name": "noise",
                "input": file("reference/noise.input.png"),
                "output": file("reference/noise.output.png"),
            }
        ],
        "versions": {"elir-deploy": "0.1.0"},
        "quantization": file("calibration.json")
        | {
            "images": 40,
            "max_psnr_drop_db": None,
            "measured": {"psnr_drop_db": 0.1, "fidelity_db": 40},
            "everything_int8": None,
            "blocks": [{"block": "encoder", "macs": 0, "psnr_db": 40.5, "kept": False}],
        },
        "detector": {
            "name": "centerface",
            "decoder": "centerface",
            "licence": "MIT",
            "licence_file": file("detector/LICENSE"),
            "input": "input.1",
            "outputs": {"537": "heat"},
            "color": "RGB",
            "multiple": 32,
            "long_side": 640,
            "score_threshold": 0.5,
            "overlap_threshold": 0.3,
            "template": [point, [20.25, 12], [15, 18], [11, 24], [19.5, 24]],
            "template_size": 32,
            "artifacts": [stages[0]["artifacts"][0] | file("detector/centerface.onnx")],
        },
    }


def with_field(base: dict[str, Any]) -> dict[str, Any]:
    """The same for several shapes, with noise as an input."""
    manifest = changed(base, ("noise",), {"kind": "field", "generator": FIELD_GENERATOR, "seed": 0})
    manifest["shapes"] = [
        {"batch": 4, "height": 64, "width": 32},
        {"batch": 1, "height": 30, "width": 60, "padded_height": 32, "padded_width": 64},
    ]
    manifest["tensors"]["noise"] = {
        "dtype": "float32",
        "layout": "NCHW",
        "channels": 16,
        "stride": 8,
    }
    manifest["stages"][0]["inputs"] = ["image", "noise"]
    return manifest


Path_ = tuple[Any, ...]


def places(value: Any, at: Path_ = ()) -> list[Path_]:
    """The paths of all values inside."""
    paths: list[Path_] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        paths.append((*at, key))
        if isinstance(inner, dict | list):
            paths += places(inner, (*at, key))
    return paths


def changed(base: dict[str, Any], path: Path_, *value: Any) -> dict[str, Any]:
    """A copy with the value at ``path``, or without the entry."""
    manifest = json.loads(json.dumps(base))  # unlike copy.deepcopy, without shared values
    place: Any = manifest
    for key in path[:-1]:
        place = place[key]
    if value:
        place[path[-1]] = value[0]
    else:
        del place[path[-1]]
    return manifest


def with_engines(base: dict[str, Any]) -> dict[str, Any]:
    """The same with engines and their targets."""
    manifest = changed(base, ("versions", "tensorrt-rtx"), "1.5.0")
    artifacts = manifest["stages"][0]["artifacts"]
    engine = artifacts[0] | {"kind": "tensorrt-rtx", "tool": "tensorrt-rtx", "tool_version": "1.5"}
    artifacts += [
        engine
        | {
            "file": "fused.fp32.sm75.rtx",
            "target": "sm75",
            "convolutions": {"int8": 0, "fp16": 12, "fp32": 3},
            "version_compatible": True,
            "hardware_compatibility": "ampere_plus",
        },
        engine | {"file": "fused.fp32.sm89.rtx", "target": "sm89"},
        engine | {"file": "fused.fp32.engine", "kind": "tensorrt", "target": "sm87"},
    ]
    artifacts[0]["graph_convolutions"] = {"int8": 0, "fp16": 0, "fp32": 15}
    manifest["targets"] = [
        {"name": "rtx2080ti", "kind": "tensorrt-rtx", "capability": "sm75"},
        {"name": "jetpack6.2", "kind": "tensorrt", "capability": "sm87"},
    ]
    return manifest


GRAPH = manifest(False)["detector"]["artifacts"][0]
ENGINE_OF_IT = GRAPH | file("a.engine") | {"kind": "tensorrt", "target": "sm75"}
ARTIFACT: Path_ = ("stages", 0, "artifacts", 0)
ENGINE: Path_ = ("stages", 0, "artifacts", 2)
#: Changes, some of them valid: (base, path, value).
CHANGES: list[tuple[Any, ...]] = [
    ("engines", ("targets", 0, "capability"), "sm9"),
    ("engines", ("targets", 0, "capability"), "sm120"),
    ("engines", ("targets", 0, "capability"), "sm1200"),
    ("engines", ("targets", 0, "capability"), "sm75\n"),
    ("engines", ("targets", 0, "capability"), "SM75"),
    ("engines", ("targets", 0, "engines"), "built"),
    ("engines", ("targets", 0), {"name": "rtx2080ti", "kind": "tensorrt-rtx"}),
    ("engines", (*ENGINE, "kind"), "tensorrt"),
    ("engines", (*ENGINE, "kind"), "openvino"),
    ("engines", (*ENGINE, "target"), "sm89"),
    ("engines", (*ENGINE, "target"), None),
    ("engines", (*ENGINE, "precision"), "fp16"),
    ("engines", (*ENGINE, "file"), "fused.fp32.sm89.rtx"),
    ("engines", (*ENGINE, "convolutions", "fp16"), 12.0),
    ("engines", (*ENGINE, "convolutions"), {"fp16": 1}),
    ("engines", ("stages", 0, "artifacts", 4, "kind"), "tensorrt-rtx"),
    ("fused", ("format_version",), 3),
    ("fused", ("format_version",), 2.0),
    ("fused", ("format_version",), 1),
    ("fused", (*ARTIFACT, "bytes"), 334.0),
    ("fused", (*ARTIFACT, "bytes"), 2**53),
    ("fused", (*ARTIFACT, "bytes"), 2**53 + 1),
    ("fused", ("model", "parameters"), 2.0),
    ("fused", ("shapes", 0, "width"), 32.0),
    ("fused", ("shapes", 0, "width"), 36),
    ("fused", ("shapes", 0, "batch"), 2),
    ("fused", ("shapes", 0, "padded_width"), 64),
    ("fused", ("shapes", 0), {"batch": 1024, "height": 65536, "width": 65536}),
    ("fused", ("tensors", "image", "layout"), "NCHW"),
    ("fused", ("tensors", "image", "channels"), 4),
    ("fused", ("tensors", "image", "stride"), 2),
    ("fused", ("tensors", "image", "range"), [0, 1]),
    ("fused", ("tensors", "image", "range"), [0.0, 255.0]),
    ("fused", ("tensors", "restored", "dtype"), "float32"),
    (
        "fused",
        ("tensors", "restored"),
        {"dtype": "float32", "layout": "NCHW", "channels": 3, "stride": 1, "range": [0, 1]},
    ),
    (
        "fused",
        ("tensors", "more"),
        {"dtype": "float32", "layout": "NCHW", "channels": 3, "stride": 5},
    ),
    ("fused", ("model", "upscale_kernel"), "bicubic"),
    ("fused", ("model", "upscale"), 4),
    ("fused", ("precisions",), ["fp16"]),
    ("fused", ("precisions",), ["fp32", "fp32"]),
    ("fused", ("resize", "a"), -0.75),
    ("fused", ("noise", "kind"), "field"),
    ("field", ("noise", "generator"), "philox4x64-10"),
    ("field", ("noise", "seed"), 2**32 - 1),
    ("field", ("noise", "seed"), 2**32),
    ("field", ("model", "sigma_s"), 1e39),
    ("fused", ("model", "sigma_s"), 1e39),
    ("field", ("tensors", "noise", "dtype"), "uint8"),
    ("field", ("tensors", "noise", "layout"), "NHWC"),
    ("field", ("tensors", "noise", "range"), [0, 1]),
    ("field", ("tensors", "noise", "stride"), 16),
    ("field", ("tensors", "noise", "stride"), 32),
    ("field", ("tensors", "noise", "channels"), 1),
    ("field", ("tensors", "noise")),
    ("field", ("stages", 0, "inputs"), ["noise", "image"]),
    ("field", ("shapes", 0, "batch"), 1024),
    ("field", ("shapes", 0, "batch"), 1025),
    ("field", ("shapes", 0, "batch"), 0),
    ("field", ("shapes", 1, "padded_height"), 24),
    ("field", ("shapes", 1, "padded_height"), 36),
    ("field", ("shapes", 1), {"batch": 2, "height": 64, "width": 32}),
    ("fused", ("noise", "seed"), -0.0),
    ("fused", ("stages", 0, "name"), "encoder"),
    ("fused", ("stages", 0, "inputs"), ["image", "noise"]),
    ("fused", ("stages", 0, "output"), "other"),
    ("fused", (*ARTIFACT, "file"), "bundle.json"),
    ("fused", (*ARTIFACT, "file"), "fused.int8.onnx"),
    ("fused", (*ARTIFACT, "file"), "a.onnx\n"),
    ("fused", (*ARTIFACT, "file"), "../a.onnx"),
    ("fused", (*ARTIFACT, "precision"), "int8"),
    ("fused", ("quantization",), None),
    ("fused", ("detector",), None),
    ("fused", ("detector", "licence_file", "file"), "fused.fp32.onnx"),
    ("fused", ("detector", "template"), [[1, 2]] * 4),
    ("fused", ("detector", "template", 0), [1, "2"]),
    ("fused", ("detector", "template"), [[1, 2]] * 5),
    ("fused", ("detector", "template"), [[1, 2]] * 4 + [[3, 3.5]]),
    ("fused", ("detector", "template"), [[1, 2]] * 4 + [[2, 4]]),
    ("fused", ("detector", "template", 0), [1, -1e200]),
    ("fused", ("detector", "template", 0), [512, -512]),
    ("fused", ("detector", "template", 0), [512.5, 0]),
    ("fused", ("detector", "multiple"), 640),
    ("fused", ("detector", "multiple"), 641),
    ("fused", ("detector", "artifacts", 0, "target"), "sm75"),
    ("fused", ("detector", "artifacts", 0, "kind"), "tensorrt"),
    ("fused", ("detector", "artifacts"), [GRAPH, ENGINE_OF_IT]),
    ("fused", ("detector", "artifacts"), [ENGINE_OF_IT]),
    ("fused", ("detector", "artifacts"), [GRAPH, ENGINE_OF_IT, ENGINE_OF_IT | file("b.engine")]),
    ("fused", ("detector", "artifacts"), [GRAPH, GRAPH | file("b.onnx") | {"precision": "fp16"}]),
    ("fused", ("verification", "w8"), None),
    ("fused", ("versions", "python"), "3.13"),
    ("fused", ("versions", "python"), "x" * 1001),
    ("fused", ("source", "name"), "\u00e9" * 255),
    ("fused", ("source", "name"), "\u00e9" * 256),
    ("split", ("stages", 2, "inputs"), ["z2"]),
    ("split", ("stages", 1, "name"), "flow"),
    ("split", ("tensors", "z1", "stride"), 64),
    ("split", ("model", "steps"), 1001),
    ("field", ("noise",), {"kind": "baked", "generator": "test", "seed": 0, "sha256": "0" * 64}),
    ("field", ("stages", 0, "inputs"), ["image"]),
    ("field", ("stages", 0, "inputs"), ["noise", "image"]),
    ("field", ("shapes", 1, "padded_height"), 24),
    ("field", ("shapes", 1, "padded_height"), None),
    ("field", ("shapes", 1), {"batch": 1, "height": 64, "width": 32}),
]
#: Bytes that are not strict JSON or not a manifest.
DAMAGED = [
    b"",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'{"format": "other"}',
    b'{"format": "elir-bundle", "a": NaN}',
    b'{"format": "elir-bundle", "a": -Infinity}',
    b'{"format": "elir-bundle", "a": 1e999}',
    b'{"format": "elir-bundle", "format": "elir-bundle"}',
    b'{"format": "elir-bundle", "a": {"b": 1, "b": 2}}',
    b'{"format": "elir-bundle", "a": "\xed\xa0\x80"}',
    b'{"format": "elir-bundle", "a": "\xc0\x80"}',
    b'{"format": "elir-bundle",}',
    b'{"format": "elir-bundle"} x',
    b'{"format": "elir-bundle"}\0',
    b'{"format": "elir-bundle"}\0{',
    b'\xef\xbb\xbf{"format": "elir-bundle"}',
]


BASES = {
    "fused": manifest(False),
    "split": manifest(True),
    "engines": with_engines(manifest(False)),
    "field": with_field(manifest(False)),
}


def refused(data: bytes) -> bool:
    try:
        decode_manifest(data)
    except BundleError:
        return True
    return False


def manifests() -> dict[str, Any]:
    """Manifests, small changes of them, and which of these are rejected."""
    changes = [*(("fused", path) for path in places(BASES["fused"])), *CHANGES]
    cases = []
    for base, path, *value in changes:
        manifest = json.dumps(changed(BASES[base], path, *value)).encode()
        patch = {"op": "remove", "path": "".join(f"/{key}" for key in path)}
        if value:
            is_there = path in places(BASES[base])
            patch |= {"op": "replace" if is_there else "add", "value": value[0]}
        cases.append({"base": base, "patch": [patch], "refused": refused(manifest)})
    assert not any(refused(json.dumps(base).encode()) for base in BASES.values())
    assert all(refused(data) for data in DAMAGED)
    return {"bases": BASES, "cases": cases, "damaged": [data.hex() for data in DAMAGED]}
