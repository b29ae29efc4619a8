"""Builds the ONNX segments from the fp32 weights, node by node.

Written by hand rather than traced, so that the graph holds nothing but what is
listed here: opset 17, IR 8, batch 1, a free number of tokens.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET, IR = 17, 8
HEAD_WIDTH, SEGMENT, NORM_EPS, POOL_EPS = 32, 2, 1e-5, 1e-6
# The patch embedding stays in fp32: it is tiny, and one spike in a window would
# cost all its other points their int8 resolution.
EMBED_NODE = "embed.matmul"

Weights = dict[str, NDArray[np.float32]]


class Graph:
    """Nodes and constants of one segment under construction."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: NDArray) -> str:
        """Registers a constant once and returns its name."""
        self.constants.setdefault(name, numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        """An f32 scalar constant."""
        return self.constant(name, np.array(value, np.float32))

    def add(self, op: str, inputs: list[str], name: str, outputs: list[str] | None = None, **attributes) -> str:
        """Appends a node called `name`; returns its first output."""
        outputs = outputs or [name]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def linear(self, x: str, weight: NDArray, bias: NDArray, name: str) -> str:
        """x @ weight + bias, with weight as [in, out]."""
        product = self.add("MatMul", [x, self.constant(f"{name}.weight", weight)], f"{name}.matmul")
        return self.add("Add", [product, self.constant(f"{name}.bias", bias)], name)

    def norm(self, x: str, weight: NDArray, bias: NDArray, name: str) -> str:
        """Layer normalization over the last axis."""
        inputs = [x, self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        return self.add("LayerNormalization", inputs, name, axis=-1, epsilon=NORM_EPS)


def _attention(g: Graph, x: str, w: Weights, p: str, width: int) -> str:
    qkv_w, qkv_b = w[f"{p}.qkv.weight"].T.copy(), w[f"{p}.qkv.bias"].copy()
    # The 1/sqrt(d) of the scores is folded into the queries: one node less.
    scale = np.float32(HEAD_WIDTH**-0.5)
    qkv_w[:, :width] *= scale
    qkv_b[:width] *= scale
    qkv = g.linear(x, qkv_w, qkv_b, f"{p}.qkv")
    parts = [f"{p}.{n}" for n in "qkv"]
    g.add("Split", [qkv, g.constant("split", np.full(3, width, np.int64))], f"{p}.split", parts, axis=-1)
    by_head = g.constant("by_head", np.array([0, 0, width // HEAD_WIDTH, HEAD_WIDTH], np.int64))
    turned = []
    for part, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
        split = g.add("Reshape", [part, by_head], f"{part}.heads")
        turned.append(g.add("Transpose", [split], f"{part}.turned", perm=perm))
    q, k, v = turned
    share = g.add("Softmax", [g.add("MatMul", [q, k], f"{p}.scores")], f"{p}.share", axis=-1)
    mixed = g.add("Transpose", [g.add("MatMul", [share, v], f"{p}.mixed")], f"{p}.mixed.turned", perm=[0, 2, 1, 3])
    merged = g.add("Reshape", [mixed, g.constant("merge", np.array([0, 0, width], np.int64))], f"{p}.merged")
    return g.linear(merged, w[f"{p}.out.weight"].T, w[f"{p}.out.bias"], f"{p}.out")


def _gelu(g: Graph, x: str, p: str) -> str:
    """The exact (erf) form, in the shape that ONNX Runtime fuses into one kernel."""
    erf = g.add("Erf", [g.add("Div", [x, g.scalar("sqrt2", 2**0.5)], f"{p}.gelu.div")], f"{p}.gelu.erf")
    gate = g.add("Add", [erf, g.scalar("one", 1.0)], f"{p}.gelu.gate")
    return g.add("Mul", [g.add("Mul", [x, gate], f"{p}.gelu.mul"), g.scalar("half", 0.5)], f"{p}.gelu")


def _layer(g: Graph, h: str, w: Weights, number: int, out: str) -> str:
    p, width = f"layers.{number}", w["table"].shape[1]
    x = g.norm(h, w[f"{p}.norm_1.weight"], w[f"{p}.norm_1.bias"], f"{p}.norm_1")
    h = g.add("Add", [h, _attention(g, x, w, p, width)], f"{p}.attended")
    x = g.norm(h, w[f"{p}.norm_2.weight"], w[f"{p}.norm_2.bias"], f"{p}.norm_2")
    x = _gelu(g, g.linear(x, w[f"{p}.up.weight"].T, w[f"{p}.up.bias"], f"{p}.up"), p)
    x = g.linear(x, w[f"{p}.down.weight"].T, w[f"{p}.down.bias"], f"{p}.down")
    return g.add("Add", [h, x], out)


def _pool(g: Graph, h: str, width: int, out: str) -> None:
    x = g.norm(h, np.ones(width, np.float32), np.zeros(width, np.float32), "pool.norm")
    mean = g.add("ReduceMean", [x], "pool.mean", axes=[1], keepdims=1)
    gap = g.add("Sub", [x, mean], "pool.gap")
    square = g.add("Mul", [gap, gap], "pool.square")
    variance = g.add("ReduceMean", [square], "pool.variance", axes=[1], keepdims=0)
    std = g.add("Sqrt", [g.add("Add", [variance, g.scalar("pool.eps", POOL_EPS)], "pool.lifted")], "pool.std")
    flat = g.add("Reshape", [mean, g.constant("pool.row", np.array([1, width], np.int64))], "pool.mean.row")
    g.add("Concat", [flat, std], out, axis=-1)


def segment(w: Weights, number: int) -> onnx.ModelProto:
    """Segment `number` (from 1) of the network, in fp32."""
    width, patch = w["table"].shape[1], w["embed.weight"].shape[1]
    last = not any(name.startswith(f"layers.{number * SEGMENT}.") for name in w)
    value = helper.make_tensor_value_info
    g = Graph()
    if number == 1:
        inputs = [
            value("patches", TensorProto.FLOAT, [1, "T", patch]),
            value("token_ids", TensorProto.INT64, ["T"]),
        ]
        h = g.linear("patches", w["embed.weight"].T, w["embed.bias"], "embed")
        row = g.add("Gather", [g.constant("table", w["table"]), "token_ids"], "rows", axis=0)
        h = g.add("Add", [h, row], "hidden_0")
    else:
        h = f"hidden_{number - 1}"
        inputs = [value(h, TensorProto.FLOAT, [1, "T", width])]
    first = (number - 1) * SEGMENT
    hidden, pooled = f"hidden_{number}", f"pooled_{number}"
    for layer in range(first, first + SEGMENT):
        h = _layer(g, h, w, layer, hidden if layer == first + SEGMENT - 1 else f"layers.{layer}.done")
    _pool(g, h, width, pooled)
    outputs = [value(pooled, TensorProto.FLOAT, [1, 2 * width])]
    if not last:
        outputs.insert(0, value(hidden, TensorProto.FLOAT, [1, "T", width]))
    graph = helper.make_graph(g.nodes, f"segment-{number}", inputs, outputs, list(g.constants.values()))
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR, producer_name="loadonce")
    onnx.checker.check_model(model, full_check=True)
    return model
