"""Golden vectors: what the Python runtime makes of given inputs, for the C++ runtime to repeat.

    python runtime/tests/golden/make.py

writes ``geometry.json``, ``pictures.json`` and ``manifests.json`` beside this file. Inputs are made
by formulas and random generators of fixed seeds, so the files change only when the Python runtime
does; ``tests/runtime_cpp`` checks that they are up to date.

Results are kept as SHA-256 of their bytes: the files stay small, and any difference shows. Of a
manifest it is kept whether it is refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError
from elir_deploy.runtime.manifest_file import decode_manifest
from elir_deploy.runtime.resampling import EnlargedPicture, resize_into, resize_to_square
from elir_deploy.runtime.tiling import mirrored, run_tiled, spans

HERE = Path(__file__).parent
Pixels = NDArray[np.uint8]


def pattern(height: int, width: int, seed: int) -> Pixels:
    """The pictures of the tests; ``pattern`` in C++ makes the same."""
    y, x, c = np.ogrid[:height, :width, :3]
    value = (y * 2654435761 + x * 40503 + c * 97 + seed * 7919 + (x * y) * 31).astype(np.uint64)
    mixed = (value ^ (value >> np.uint64(7))) * np.uint64(0x9E3779B1)
    return ((mixed >> np.uint64(16)) & np.uint64(255)).astype(np.uint8)


def reference_model(source: Pixels, result: Pixels) -> None:
    """What the reference backend computes."""
    y, x, c = np.ogrid[: source.shape[0], : source.shape[1], :3]
    result[...] = (source + 7 * y + 13 * x + 31 * c).astype(np.uint8)


def digest(pixels: Pixels) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def geometry() -> dict[str, Any]:
    lengths = [1, 2, 7, 8, 9, 31, 32, 33, 57, 60, 61, 88, 89, 100, 255, 256, 257, 1000, 4097]
    return {
        "spans": [
            {
                "length": length,
                "tile": tile,
                "spans": [[s.start, s.begin, s.end, s.ramp] for s in spans(length, tile)],
            }
            for tile in (1, 7, 8, 32, 64)
            for length in lengths
            if length // tile < 200
        ],
        "mirrored": [
            {"length": length, "wanted": wanted, "indices": mirrored(length, wanted).tolist()}
            for length, wanted in ((1, 5), (3, 20), (5, 5), (31, 32))
        ],
    }


#: Width, height, factor, kernel, side.
SQUARES = [
    (64, 64, 1, "none", 64),
    (100, 37, 1, "none", 64),
    (37, 100, 1, "none", 64),
    (64, 31, 1, "none", 64),
    (31, 64, 1, "none", 64),
    (1, 1, 1, "none", 16),
    (3, 500, 1, "none", 32),
    (500, 3, 1, "none", 32),
    (333, 222, 1, "none", 32),
    (1023, 777, 1, "none", 64),
    (9, 13, 8, "nearest", 64),
    (9, 13, 3, "nearest", 64),
    (21, 17, 4, "bicubic", 64),
    (16, 16, 4, "bicubic", 64),
    (5, 70, 2, "bicubic", 32),
    (1, 1, 16, "bicubic", 8),
]
#: Width, height, factor, kernel, tile.
TILED = [
    (100, 37, 1, "none", 32),
    (32, 32, 1, "none", 32),
    (33, 32, 1, "none", 32),
    (20, 9, 1, "none", 32),
    (20, 90, 1, "none", 32),
    (200, 150, 1, "none", 64),
    (61, 60, 1, "none", 8),
    (13, 11, 1, "none", 7),
    (19, 23, 8, "nearest", 64),
    (10, 70, 2, "nearest", 64),
    (40, 30, 4, "bicubic", 64),
    (7, 33, 4, "bicubic", 32),
    (2, 3, 16, "bicubic", 16),
    (16, 8, 2, "bicubic", 32),
]


def pictures() -> dict[str, Any]:
    made: dict[str, list[dict[str, Any]]] = {"squares": [], "tiled": []}
    for index, (width, height, factor, kernel, side) in enumerate(SQUARES):
        picture = EnlargedPicture(pattern(height, width, index), factor, kernel)
        square = resize_to_square(picture, side)
        back = np.empty((picture.height, picture.width, 3), np.uint8)
        resize_into(square, back)
        case = {"width": width, "height": height, "factor": factor, "kernel": kernel, "side": side}
        made["squares"].append(case | {"square": digest(square), "back": digest(back)})
    for index, (width, height, factor, kernel, tile) in enumerate(TILED):
        picture = EnlargedPicture(pattern(height, width, index), factor, kernel)
        output = np.empty((picture.height, picture.width, 3), np.uint8)
        run_tiled(picture, output, tile, reference_model)
        case = {"width": width, "height": height, "factor": factor, "kernel": kernel, "tile": tile}
        made["tiled"].append(case | {"output": digest(output)})
    return made


def file(name: str) -> dict[str, Any]:
    return {"file": name, "sha256": "0" * 64, "bytes": 10}


def manifest(split: bool) -> dict[str, Any]:
    """A manifest in which everything that can be there is."""
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
            "int8_rest": "float32",
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
            "smallest_layer": 147456,
            "max_psnr_drop_db": None,
            "measured": {"psnr_drop_db": 0.1, "fidelity_db": 40},
            "everything_int8": None,
            "parts": [{"part": "encoder", "macs": 0, "psnr_db": 40.5, "kept": False}],
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
            "template": [point] * 5,
            "template_size": 512,
            "artifacts": [stages[0]["artifacts"][0] | file("detector/centerface.onnx")],
        },
    }


def with_field(base: dict[str, Any]) -> dict[str, Any]:
    """The same for several shapes, with noise as an input."""
    made = changed(base, ("noise",), {"kind": "field", "generator": "test", "seed": 0})
    made["shapes"] = [
        {"batch": 4, "height": 64, "width": 32},
        {"batch": 1, "height": 30, "width": 60, "padded_height": 32, "padded_width": 64},
    ]
    made["tensors"]["noise"] = {"dtype": "float32", "layout": "NCHW", "channels": 16, "stride": 8}
    made["stages"][0]["inputs"] = ["image", "noise"]
    return made


Path_ = tuple[Any, ...]


def places(value: Any, at: Path_ = ()) -> list[Path_]:
    """The path of everything inside."""
    found: list[Path_] = []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        found.append((*at, key))
        if isinstance(inner, dict | list):
            found += places(inner, (*at, key))
    return found


def changed(base: dict[str, Any], path: Path_, *value: Any) -> dict[str, Any]:
    """A copy with the value at ``path``, or without the entry."""
    made = json.loads(json.dumps(base))  # nothing shared, as copy.deepcopy would keep it
    place: Any = made
    for key in path[:-1]:
        place = place[key]
    if value:
        place[path[-1]] = value[0]
    else:
        del place[path[-1]]
    return made


def with_engines(base: dict[str, Any]) -> dict[str, Any]:
    """The same with engines beside its graphs, and the devices they are for."""
    made = changed(base, ("versions", "tensorrt-rtx"), "1.5.0")
    artifacts = made["stages"][0]["artifacts"]
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
    made["targets"] = [
        {"name": "rtx2080ti", "kind": "tensorrt-rtx", "capability": "sm75", "engines": "built"},
        {
            "name": "jetpack6.2",
            "kind": "tensorrt",
            "capability": "sm87",
            "engines": "build on the device",
        },
    ]
    return made


ARTIFACT: Path_ = ("stages", 0, "artifacts", 0)
ENGINE: Path_ = ("stages", 0, "artifacts", 2)
#: Changes of which some are right: (base, path, value).
CHANGES: list[tuple[str, Path_, Any]] = [
    ("engines", ("targets", 0, "capability"), "sm9"),
    ("engines", ("targets", 0, "capability"), "sm120"),
    ("engines", ("targets", 0, "capability"), "sm1200"),
    ("engines", ("targets", 0, "capability"), "sm75\n"),
    ("engines", ("targets", 0, "capability"), "SM75"),
    ("engines", ("targets", 0, "engines"), "build on the device"),
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
#: Bytes that are no strict JSON, or none of a manifest.
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


def refused(data: bytes) -> bool:
    try:
        decode_manifest(data)
    except BundleError:
        return True
    return False


def manifests() -> dict[str, Any]:
    """Manifests, small changes of them, and which of those are refused."""
    fused = manifest(False)
    bases = {
        "fused": fused,
        "split": manifest(True),
        "engines": with_engines(fused),
        "field": with_field(fused),
    }
    changes = [*(("fused", path) for path in places(fused)), *CHANGES]
    cases = []
    for base, path, *value in changes:
        made = json.dumps(changed(bases[base], path, *value)).encode()
        patch = {"op": "remove", "path": "".join(f"/{key}" for key in path)}
        if value:
            is_there = path in places(bases[base])
            patch |= {"op": "replace" if is_there else "add", "value": value[0]}
        cases.append({"base": base, "patch": [patch], "refused": refused(made)})
    assert not any(refused(json.dumps(base).encode()) for base in bases.values())
    assert all(refused(data) for data in DAMAGED)
    return {"bases": bases, "cases": cases, "damaged": [data.hex() for data in DAMAGED]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=HERE, help="folder to write to")
    into: Path = parser.parse_args().into
    made = {
        "geometry.json": geometry(),
        "pictures.json": pictures(),
        "manifests.json": manifests(),
    }
    for name, content in made.items():
        text = json.dumps(content, separators=(",", ":")).replace('},{"', '},\n{"')
        (into / name).write_text(text + "\n")


if __name__ == "__main__":
    main()
