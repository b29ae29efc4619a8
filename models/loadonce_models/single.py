"""A bundle's network as one fp32 ONNX graph: what the latency of the int8 segments is compared with.

    python -m loadonce_models.single --bundle bundles/sense-tiny --out build/sense-tiny/single

The graph is made from the bundle itself, by turning every int8 matrix product
back into one of fp32 and joining the segments, so that it can be timed where
the fp32 weights are not. Every exit's pooled features stay outputs. It is
written as a bundle of one segment, which the same engine runs.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tomllib
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import compose, helper, numpy_helper
from safetensors.numpy import load_file, save_file

MANIFEST, FILE, FEATURES = "backbone.toml", "single.onnx", "features.safetensors"


class _Index:
    """Nodes of a graph by what they give and take."""

    def __init__(self, model: onnx.ModelProto):
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.giver = {name: node for node in model.graph.node for name in node.output}
        self.takers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self.takers.setdefault(name, []).append(node)

    def only(self, name: str, kind: str) -> onnx.NodeProto:
        """The one node that takes `name`."""
        takers = self.takers.get(name, [])
        if len(takers) != 1 or takers[0].op_type != kind:
            raise ValueError(f"{name} feeds {[node.op_type for node in takers]}, expected one {kind}")
        return takers[0]


def _merge_strong(index: _Index, taken: str, given: str, weight: NDArray[np.float32]) -> list[str]:
    """Adds the rows of the strong channels to `weight`, if a product has any; returns the nodes that fall away."""
    biased = index.only(given, "Add")
    takers = index.takers.get(biased.output[0], [])
    if len(takers) != 1 or takers[0].op_type != "Add":
        return []
    both = takers[0]
    few = index.giver.get(next(name for name in both.input if name != biased.output[0]))
    if few is None or few.op_type != "MatMul":
        return []
    picked, cast = index.giver[few.input[0]], index.giver[few.input[1]]
    if picked.input[0] != taken or picked.op_type not in ("Gather", "Slice"):
        return []
    bounds = [index.constants[name] for name in picked.input[1:]]
    strong = bounds[0] if picked.op_type == "Gather" else np.arange(int(bounds[0][0]), int(bounds[1][0]))
    weight[strong] = index.constants[cast.input[0]].astype(np.float32)
    biased.output[0] = both.output[0]
    return [picked.name, cast.name, few.name, both.name]


def dequantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every DynamicQuantizeLinear, MatMulInteger, Cast, Mul chain as one MatMul in fp32."""
    index, gone, made = _Index(model), [], {}
    for node in model.graph.node:
        if node.op_type != "MatMulInteger":
            continue
        source = index.giver[node.input[0]]
        if source.op_type != "DynamicQuantizeLinear":
            raise ValueError(f"{node.name}: its input comes from {source.op_type}")
        cast = index.only(node.output[0], "Cast")
        last = index.only(cast.output[0], "Mul")
        scale_name = next(name for name in last.input if name != cast.output[0])
        scales = index.giver[scale_name]
        scale = next(index.constants[name] for name in scales.input if name in index.constants)
        weight = index.constants[node.input[1]].astype(np.float32) * scale
        taken = source.input[0]
        damped = index.giver.get(taken)
        if damped is not None and damped.op_type == "Mul" and index.constants.get(damped.input[1], weight).ndim == 1:
            # A split product: damped int8 channels, and a few strong ones in a product of their own.
            taken, keep = damped.input[0], index.constants[damped.input[1]]
            weight *= keep[:, None]
            gone.append(damped.name)
            gone += _merge_strong(index, taken, last.output[0], weight)
        name = f"{node.name}.fp32"
        model.graph.initializer.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight"))
        made[node.name] = helper.make_node("MatMul", [taken, f"{name}.weight"], [last.output[0]], name=name)
        gone += [source.name, cast.name, last.name, scales.name]
    nodes = [made.get(node.name, node) for node in model.graph.node if node.name in made or node.name not in gone]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def _prefixed(model: onnx.ModelProto, number: int) -> onnx.ModelProto:
    """Inner names made the segment's own; inputs and outputs keep theirs, for they join the segments."""
    open_names = {value.name for value in [*model.graph.input, *model.graph.output]}
    rename = lambda name: name if name in open_names or not name else f"s{number}.{name}"  # noqa: E731
    for node in model.graph.node:
        node.name = f"s{number}.{node.name}"
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = rename(tensor.name)
    return model


def join(models: list[onnx.ModelProto], hidden: list[str]) -> onnx.ModelProto:
    """One graph of all segments; `hidden` joins each to the next."""
    whole = _prefixed(models[0], 1)
    for number, (model, name) in enumerate(zip(models[1:], hidden, strict=True), 2):
        outputs = [value.name for value in [*whole.graph.output, *model.graph.output] if value.name != name]
        whole = compose.merge_models(whole, _prefixed(model, number), io_map=[(name, name)], outputs=outputs)
    onnx.checker.check_model(whole, full_check=True)
    return whole


def write(bundle: Path, folder: Path) -> Path:
    """The bundle of one fp32 segment."""
    text = (bundle / MANIFEST).read_text()
    parts = tomllib.loads(text)
    segments = parts["segments"]
    models = [dequantize(onnx.load(bundle / segment["file"])) for segment in segments]
    whole = join(models, [segment["hidden"] for segment in segments[:-1]])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    onnx.save(whole, folder / FILE)
    statistics = load_file(bundle / parts["features"]["file"])
    last = len(segments)
    save_file({f"exit_1.{key}": statistics[f"exit_{last}.{key}"] for key in ("mean", "projection")}, folder / FEATURES)
    names = [FILE, FEATURES]
    if "text" in parts["input"]:
        names.append(parts["input"]["text"]["tokenizer"])
        shutil.copy(bundle / names[-1], folder)
    head = text.split("\n[[segments]]")[0].replace(f'quantization = "{parts["quantization"]}"', 'quantization = "none"')
    layers = sum(segment["layers"] for segment in segments)
    inputs = ", ".join(f'"{name}"' for name in segments[0]["inputs"])
    tail = f'[[segments]]\nfile = "{FILE}"\nlayers = {layers}\nexit = 1\ninputs = [{inputs}]\n'
    tail += f'pooled = "{segments[-1]["pooled"]}"\n\n[files]\n'
    for name in sorted(names):
        tail += f'"{name}" = "{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"\n'
    (folder / MANIFEST).write_text(f"{head}\n{tail}")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    print(write(args.bundle, args.out))


if __name__ == "__main__":
    main()
