"""Golden vectors: what the Python runtime makes of given inputs, for the C++ runtime to repeat.

    python runtime/tests/golden/make.py

writes ``geometry.json``, ``pictures.json`` and ``manifests.json`` beside this file. Inputs are made
by formulas and random generators of fixed seeds, so the files change only when the Python runtime
does; ``tests/runtime_cpp`` checks that they are up to date.

Results are kept as SHA-256 of their bytes: the files stay small, and any difference shows. Where a
result is a message, it is kept whole.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from elir_deploy.errors import BundleError
from elir_deploy.runtime.manifest import _strict_json
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


def tensor(name: str, dtype: str, shape: list[int], layout: str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape, "layout": layout}


def manifest(split: bool) -> dict[str, Any]:
    """A manifest in which everything that can be there is."""
    image = tensor("image", "uint8", [1, 32, 32, 3], "NHWC")
    restored = tensor("restored", "uint8", [1, 32, 32, 3], "NHWC")
    names = ["encoder", "estimator", "flow", "decoder"] if split else ["fused"]
    between = [tensor(f"z{i}", "float32", [1, 16, 4, 4], "NCHW") for i in range(len(names) - 1)]
    ends = [image, *between, restored]
    stages = [
        {
            "name": name,
            "input": ends[index],
            "output": ends[index + 1],
            "artifacts": [
                {
                    "file": f"{name}.{precision}.onnx",
                    "kind": "onnx",
                    "precision": precision,
                    "target": None,
                    "tool": "test",
                    "tool_version": "1",
                    "sha256": "0" * 64,
                    "bytes": 10,
                }
                for precision in ("fp32", "int8")
            ],
        }
        for index, name in enumerate(names)
    ]
    verification = {
        "psnr_db": 70.5,
        "max_error": 0.004,
        "mean_error": 0.001,
        "floor_db": 60.0,
        "passed": True,
        "backend": "test",
        "images": {"noise": {"psnr_db": None, "max_error": 0.0, "mean_error": 0}},
        "boundaries": {"encoder": 60.5},
        "worst_part": None,
        "kept_float32": ["a"],
    }
    return {
        "format": "elir-bundle",
        "format_version": 1,
        "model": {
            "task": "tiny",
            "image_size": 32,
            "steps": 3,
            "sigma_s": 0.025,
            "upscale": 1,
            "upscale_kernel": "none",
            "faces": False,
            "parameters": 2,
            "architecture": {"widths": [1, 2]},
            "noise": {"seed": 0, "generator": "test", "sha256": "0" * 64},
        },
        "source": {"name": "test", "sha256": None, "random": False},
        "input": image | {"range": [0, 255], "color": "RGB"},
        "output": restored | {"range": [0, 255], "color": "RGB"},
        "resize": {"kernel": "bicubic", "a": -0.5, "antialias": True, "rounding": "as Pillow"},
        "stages": stages,
        "precisions": ["fp32", "int8"],
        "verification": {"fp32": verification, "bf16": verification},
        "quantization": {
            "file": "calibration.json",
            "sha256": "0" * 64,
            "images": 40,
            "smallest_layer": 147456,
            "max_psnr_drop_db": None,
            "measured": {"psnr_drop_db": 0.1, "fidelity_db": 40},
            "everything_int8": None,
            "parts": [{"part": "encoder", "macs": 0, "psnr_db": 40.5, "kept": False}],
        },
        "references": [
            {
                "name": "noise",
                "input": "reference/noise.input.png",
                "input_sha256": "0" * 64,
                "output": "reference/noise.output.png",
                "output_sha256": "0" * 64,
            }
        ],
        "versions": {"elir-deploy": "0.1.0"},
    }


#: What a value is replaced by.
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    1.0,
    1.5,
    -0.0,
    1e-7,
    1e22,
    10**30,
    -(10**40),
    2**63,
    "",
    "x",
    "fp32",
    "../../etc/passwd",
    "a/b/c",
    "a\n",
    "it's",
    '"it\'s" \\ \t\x07 é \u2028 \U0001f600',
    "a" * 1000,
    [],
    [1, 2.0, None, {"a": "b"}],
    {},
    {"a": [1]},
]

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
#: What came into the schema with engines.
OF_ENGINES: list[Path_] = [
    ("targets",),
    *(
        (*ENGINE, name)
        for name in (
            *("kind", "target", "convolutions"),
            *("version_compatible", "hardware_compatibility"),
        )
    ),
    (*ARTIFACT, "graph_convolutions"),
]
#: More of them: (path, value).
ENGINES: list[tuple[Path_, Any]] = [
    (("targets", 0, "capability"), "sm9"),
    (("targets", 0, "capability"), "sm120"),
    (("targets", 0, "capability"), "sm1200"),
    (("targets", 0, "capability"), "sm75\n"),
    (("targets", 0, "capability"), "SM75"),
    (("targets", 0, "kind"), "onnx"),
    (("targets", 0, "engines"), "build"),
    (("targets", 0, "engines"), "build on the device"),
    (("targets", 0, "extra"), 1),
    (("targets", 0), {"name": "rtx2080ti", "kind": "tensorrt-rtx"}),
    ((*ENGINE, "kind"), "tensorrt"),
    ((*ENGINE, "target"), "sm89"),
    ((*ENGINE, "target"), None),
    ((*ENGINE, "precision"), "fp16"),
    ((*ENGINE, "file"), "fused.fp32.sm89.rtx"),
    ((*ENGINE, "convolutions", "extra"), 1),
    ((*ENGINE, "convolutions", "fp16"), 12.0),
    ((*ENGINE, "convolutions", "fp16"), 12.5),
    ((*ENGINE, "convolutions"), {"fp16": 1}),
    (("stages", 0, "artifacts", 4, "kind"), "tensorrt-rtx"),
    (("stages", 0, "artifacts", 3, "target"), "sm86"),
]
#: Of a bundle of a later format, who made it: its "versions".
MAKERS: list[Any] = [
    {},
    {"elir-deploy": "0.2.0"},
    {"elir-deploy": ""},
    {"elir-deploy": 0},
    {"elir-deploy": 1.5},
    {"elir-deploy": [1]},
    {"elir-deploy": "{by} " * 20},
    [],
    None,
]
#: What no schema can say: (split, path, value).
INCONSISTENT: list[tuple[bool, Path_, Any]] = [
    (False, ("format_version",), 2),
    (False, ("format_version",), 1.0),
    (False, (*ARTIFACT, "bytes"), 334.0),
    (False, ("input", "shape"), [1, 32.0, 32, 3]),
    (False, ("stages", 0, "output", "shape"), [1, 32.0, 32, 3]),
    (False, ("model", "image_size"), 64),
    (False, ("model", "image_size"), 32.0),
    (False, ("model", "parameters"), 2.0),
    (False, ("quantization", "images"), 40.0),
    (False, ("quantization", "smallest_layer"), 147456.0),
    (False, ("input", "shape"), [2, 32, 32, 3]),
    (False, ("output", "shape"), [1, 32, 32, 4]),
    (False, ("input", "layout"), "NCHW"),
    (False, ("input", "range"), [0, 1]),
    (False, ("input", "range"), [0.0, 255.0]),
    (False, ("output", "dtype"), "float32"),
    (False, ("model", "upscale_kernel"), "bicubic"),
    (False, ("model", "upscale"), 4),
    (False, ("precisions",), ["fp16"]),
    (False, ("precisions",), ["fp32", "fp32"]),
    (False, ("precisions",), [1, 1.0]),
    (False, ("stages", 0, "name"), "encoder"),
    (False, ("stages", 0, "input", "dtype"), "float32"),
    (False, ("stages", 0, "output", "name"), "other"),
    (False, (*ARTIFACT, "file"), "bundle.json"),
    (False, (*ARTIFACT, "file"), "fused.int8.onnx"),
    (False, (*ARTIFACT, "file"), "a.onnx\n"),
    (False, (*ARTIFACT, "precision"), "int8"),
    (False, (*ARTIFACT, "kind"), "tensorrt"),
    (True, ("stages", 2, "input", "shape"), [1, 16, 4, 5]),
    (True, ("stages", 1, "name"), "flow"),
    (True, ("model", "steps"), 1001),
]


def messages() -> dict[str, Any]:
    fused = manifest(False)
    bases = {
        "fused": fused,
        "split": manifest(True),
        "engines": with_engines(fused),
        "newer": fused | {"format_version": 2},
    }
    chance = random.Random(0)
    cases: list[dict[str, Any]] = []

    def add(base: str, made: dict[str, Any], patch: dict[str, Any]) -> None:
        # As the reader sees it: through text.
        try:
            validate_manifest(_strict_json(json.dumps(made).encode()))
            message = None
        except BundleError as error:
            message = str(error)
        cases.append({"base": base, **patch, "message": message})

    for path in places(bases["fused"]):
        add("fused", changed(bases["fused"], path), {"delete": list(path)})
        for value in chance.sample(VALUES, 5):
            made = changed(bases["fused"], path, value)
            add("fused", made, {"set": list(path), "text": json.dumps(value)})
    for split, path, value in INCONSISTENT:
        base = "split" if split else "fused"
        made = changed(bases[base], path, value)
        add(base, made, {"set": list(path), "text": json.dumps(value)})
    for holder in ((), ("model",), ("stages", 0), ("versions",), ("verification",), ("export",)):
        path = (*holder, "extra")
        if holder == ("export",):
            base = bases["fused"] | {"export": {}}
            made = changed(base, path, 1)
            add("fused", made, {"set": ["export"], "text": '{"extra": 1}'})
            continue
        made = changed(bases["fused"], path, 1)
        add("fused", made, {"set": list(path), "text": "1"})

    def put(base: str, path: Path_, value: Any) -> None:
        made = changed(bases[base], path, value)
        add(base, made, {"set": list(path), "text": json.dumps(value)})

    for path in OF_ENGINES:
        inside = bases["engines"]
        for key in path:
            inside = inside[key]
        below = places(inside) if isinstance(inside, dict | list) else []
        for place in (path, *((*path, *inner) for inner in below)):
            add("engines", changed(bases["engines"], place), {"delete": list(place)})
            for value in VALUES:
                put("engines", place, value)
    for path, value in ENGINES:
        put("engines", path, value)
    for versions in MAKERS:
        put("newer", ("versions",), versions)
    return {"bases": bases, "cases": cases}


def damaged() -> list[dict[str, Any]]:
    """Bytes that are no strict JSON. Of a message only what does not depend on the parser."""
    texts = [
        (b"", "damaged: "),
        (b"\xff\xfe", None),
        (b"[]", None),
        (b"null", None),
        (b'{"format": "other"}', None),
        (b'{"format": "elir-bundle", "a": NaN}', "damaged: "),
        (b'{"format": "elir-bundle", "a": -Infinity}', "damaged: "),
        (b'{"format": "elir-bundle", "a": 1e999}', None),
        (b'{"format": "elir-bundle", "format": "elir-bundle"}', None),
        (b'{"format": "elir-bundle", "a": {"b": 1, "b": 2}}', None),
        (b'{"format": "elir-bundle", "a": "\xed\xa0\x80"}', None),
        (b'{"format": "elir-bundle", "a": "\xc0\x80"}', None),
        (b'{"format": "elir-bundle",}', "damaged: "),
        (b'{"format": "elir-bundle"} x', "damaged: "),
        (b'{"format": "elir-bundle"}\0', "damaged: "),
        (b'{"format": "elir-bundle"}\0{', "damaged: "),
        (b'{"format": "elir-bundle", "a": 1, "a": 1}\0', None),
        (b'\xef\xbb\xbf{"format": "elir-bundle"}', "damaged: "),
    ]
    made = []
    for data, prefix in texts:
        try:
            validate_manifest(_strict_json(data))
            raise AssertionError(data)
        except BundleError as error:
            message = str(error)
        assert prefix is None or message.startswith(prefix)
        made.append({"hex": data.hex(), "message": prefix or message, "whole": prefix is None})
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--into", type=Path, default=HERE, help="folder to write to")
    into: Path = parser.parse_args().into
    made = {
        "geometry.json": geometry(),
        "pictures.json": pictures(),
        "manifests.json": messages() | {"damaged": damaged()},
    }
    for name, content in made.items():
        text = json.dumps(content, separators=(",", ":")).replace('},{"', '},\n{"')
        (into / name).write_text(text + "\n")


if __name__ == "__main__":
    main()
