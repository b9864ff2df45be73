"""The packaged bundle as ``elir-export --stages split`` gives it, without exporting anything."""

from __future__ import annotations

import copy
import hashlib
import shutil
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, helper, shape_inference, utils

from elir_deploy.export.graphs import cut
from elir_deploy.runtime import Bundle
from elir_deploy.runtime.manifest import SPLIT_STAGES
from tests.bundles import read_manifest, write_manifest

#: Tensors between the stages in the packaged graphs.
_ENDS = ("image", "encoded", "coarse", "flowed", "restored")


def split_tiny(folder: Path, precisions: tuple[str, ...]) -> Path:
    """A split bundle in ``folder``, of the packaged model's own graphs cut where a stage ends."""
    fused = Bundle.open("tiny").path
    folder.mkdir(parents=True)
    shutil.copytree(fused / "reference", folder / "reference")
    manifest = read_manifest(fused)
    (whole,) = manifest["stages"]
    latent = {"dtype": "float32", "layout": "NCHW", "channels": 32, "stride": 8}
    manifest["tensors"] |= dict.fromkeys(_ENDS[1:-1], latent)
    manifest["stages"] = [
        {"name": name, "inputs": [_ENDS[k]], "output": _ENDS[k + 1], "artifacts": []}
        for k, name in enumerate(SPLIT_STAGES)
    ]
    manifest["stages"][SPLIT_STAGES.index("flow")]["inputs"] += whole["inputs"][1:]
    artifacts = {a["precision"]: a for a in whole["artifacts"] if a["kind"] == "onnx"}
    for precision in precisions:
        model = shape_inference.infer_shapes(onnx.load(fused / f"fused.{precision}.onnx"))
        extract = utils.Extractor(model)
        for stage, source, sink in zip(manifest["stages"], _ENDS, _ENDS[1:], strict=False):
            part = cut(extract, source, sink)
            _float32_ends(part)
            data = part.SerializeToString()
            file = f"{stage['name']}.{precision}.onnx"
            (folder / file).write_bytes(data)
            stage["artifacts"].append(
                artifacts[precision]
                | {
                    "file": file,
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "bytes": len(data),
                }
            )
    manifest["precisions"] = list(precisions)
    manifest["verification"] = {p: manifest["verification"][p] for p in precisions}
    manifest.pop("quantization", None)
    write_manifest(folder, manifest)
    return folder


def _float32_ends(part: ModelProto) -> None:
    """Latents of float16 are handed over as float32, as the exporter lets them."""
    for end in (*part.graph.input, *part.graph.output):
        kind = end.type.tensor_type
        if kind.elem_type != TensorProto.FLOAT16:
            continue
        inner = f"{end.name}.half"
        nodes = copy.deepcopy(list(part.graph.node))
        for node in nodes:
            for names in (node.input, node.output):
                for k, name in enumerate(names):
                    if name == end.name:
                        names[k] = inner
        if end in part.graph.input:
            cast = helper.make_node("Cast", [end.name], [inner], to=TensorProto.FLOAT16)
            nodes.insert(0, cast)
        else:
            nodes.append(helper.make_node("Cast", [inner], [end.name], to=TensorProto.FLOAT))
        del part.graph.node[:]
        part.graph.node.extend(nodes)
        kind.elem_type = TensorProto.FLOAT
    del part.graph.value_info[:]
