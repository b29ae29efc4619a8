"""all-MiniLM-L6-v2 as three ONNX segments of two layers, built node by node from its safetensors file.

The network is BERT with post-norm layers: 6 layers, width 384, 12 heads, feed-forward 1536, erf GELU. A segment sees
one text at batch 1, so there is neither padding nor a mask. Each exit pools the tokens of its last layer as the sense
backbones do: normalized without weights, then mean and standard deviation over the tokens.

A few channels of BERT's activations are ten times as strong as the rest, and with one scale for all of them int8 would
spend its steps on those few. They are damped before each product, and the rows of its weight that belong to them are
raised by as much (the idea of SmoothQuant, arXiv 2211.10438, applied to the outliers only).
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from .export import IR, OPSET, Graph
from .quantize import quantize

LAYERS, PER_SEGMENT, WIDTH, HEADS = 6, 2, 384, 12
# BERT's; far below f32's resolution of a variance near 1, but a token of equal numbers stays finite.
NORM_EPS = 1e-12
POOL_NORM_EPS, POOL_EPS = 1e-5, 1e-6
MAX_TOKENS = 256
# Channels stronger than this many times the median channel are damped to it.
STRONGEST = 2.0
DAMPED = ("qkv", "up", "down")

Weights = dict[str, NDArray[np.float32]]
Damping = dict[str, NDArray[np.float32]]


class Damped(Graph):
    """A graph whose products take their inputs damped."""

    def __init__(self, damping: Damping):
        super().__init__()
        self.damping = damping

    def linear(self, x: str, weight: NDArray, bias: NDArray, name: str) -> str:
        """x @ weight + bias, with weight as [in, out]."""
        scale = self.damping.get(name)
        if scale is not None:
            x = self.add("Mul", [x, self.constant(f"{name}.damping", 1 / scale)], f"{name}.damped")
            weight = weight * scale[:, None]
        return super().linear(x, weight, bias, name)


def _norm(g: Graph, x: str, w: Weights, p: str, name: str) -> str:
    inputs = [x, g.constant(f"{name}.weight", w[f"{p}.weight"]), g.constant(f"{name}.bias", w[f"{p}.bias"])]
    return g.add("LayerNormalization", inputs, name, axis=-1, epsilon=NORM_EPS)


def _attention(g: Graph, x: str, w: Weights, p: str, name: str) -> str:
    each = WIDTH // HEADS
    parts = [(w[f"{p}.self.{part}.weight"].T, w[f"{p}.self.{part}.bias"]) for part in ("query", "key", "value")]
    weight, bias = (np.concatenate([part[k] for part in parts], -1).copy() for k in (0, 1))
    # The 1/sqrt(d) of the scores is folded into the queries: one node less.
    scale = np.float32(each**-0.5)
    weight[:, :WIDTH] *= scale
    bias[:WIDTH] *= scale
    names = [f"{name}.{n}" for n in "qkv"]
    qkv = g.linear(x, weight, bias, f"{name}.qkv")
    g.add("Split", [qkv, g.constant("split", np.full(3, WIDTH, np.int64))], f"{name}.split", names, axis=-1)
    by_head = g.constant("by_head", np.array([0, 0, HEADS, each], np.int64))
    turned = []
    for part, perm in zip(names, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True):
        turned.append(g.add("Transpose", [g.add("Reshape", [part, by_head], f"{part}.heads")], f"{part}.t", perm=perm))
    q, k, v = turned
    share = g.add("Softmax", [g.add("MatMul", [q, k], f"{name}.scores")], f"{name}.share", axis=-1)
    mixed = g.add("Transpose", [g.add("MatMul", [share, v], f"{name}.mixed")], f"{name}.mixed.t", perm=[0, 2, 1, 3])
    merged = g.add("Reshape", [mixed, g.constant("merge", np.array([0, 0, WIDTH], np.int64))], f"{name}.merged")
    return g.linear(merged, w[f"{p}.output.dense.weight"].T, w[f"{p}.output.dense.bias"], f"{name}.out")


def _gelu(g: Graph, x: str, name: str) -> str:
    """The exact (erf) form, in the shape that ONNX Runtime fuses into one kernel."""
    erf = g.add("Erf", [g.add("Div", [x, g.scalar("sqrt2", 2**0.5)], f"{name}.div")], f"{name}.erf")
    gate = g.add("Add", [erf, g.scalar("one", 1.0)], f"{name}.gate")
    return g.add("Mul", [g.add("Mul", [x, gate], f"{name}.mul"), g.scalar("half", 0.5)], name)


def _layer(g: Graph, x: str, w: Weights, number: int, out: str) -> str:
    p, name = f"encoder.layer.{number}", f"layers.{number}"
    attended = g.add("Add", [_attention(g, x, w, f"{p}.attention", name), x], f"{name}.attended")
    x = _norm(g, attended, w, f"{p}.attention.output.LayerNorm", f"{name}.norm_1")
    up = g.linear(x, w[f"{p}.intermediate.dense.weight"].T, w[f"{p}.intermediate.dense.bias"], f"{name}.up")
    dense = (w[f"{p}.output.dense.weight"].T, w[f"{p}.output.dense.bias"])
    down = g.linear(_gelu(g, up, f"{name}.gelu"), *dense, f"{name}.down")
    return _norm(g, g.add("Add", [down, x], f"{name}.grown"), w, f"{p}.output.LayerNorm", out)


def by_row(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """int8 rows [n, d] and their scales [n, 1]: symmetric, each row by its own largest number."""
    scale = np.maximum(np.abs(table).max(-1, keepdims=True), 1e-12).astype(np.float32) / np.float32(127)
    return np.clip(np.rint(table / scale), -127, 127).astype(np.int8), scale


def _embed(g: Graph, w: Weights, int8: bool) -> str:
    words = w["embeddings.word_embeddings.weight"]
    if int8:
        # Looked up, never multiplied: nothing can saturate, so the rows keep all 8 bits and a scale each.
        rows, scales = by_row(words)
        row = g.add("Gather", [g.constant("words", rows), "token_ids"], "words.row", axis=0)
        scale = g.add("Gather", [g.constant("words.scale", scales), "token_ids"], "words.row.scale", axis=0)
        wide = g.add("Cast", [row], "words.row.wide", to=TensorProto.FLOAT)
        word = g.add("Mul", [wide, scale], "words.found")
    else:
        word = g.add("Gather", [g.constant("words", words), "token_ids"], "words.found", axis=0)
    places = w["embeddings.position_embeddings.weight"][:MAX_TOKENS] + w["embeddings.token_type_embeddings.weight"][0]
    zero = g.constant("zero", np.array([0], np.int64))
    tokens = g.add("Shape", ["token_ids"], "tokens")
    place = g.add("Slice", [g.constant("places", places.astype(np.float32)), zero, tokens, zero], "places.used")
    both = g.add("Unsqueeze", [g.add("Add", [word, place], "embedded"), zero], "embedded.batch")
    return _norm(g, both, w, "embeddings.LayerNorm", "hidden_0")


def _pool(g: Graph, x: str, out: str) -> None:
    flat = [g.constant("pool.ones", np.ones(WIDTH, np.float32)), g.constant("pool.zeros", np.zeros(WIDTH, np.float32))]
    x = g.add("LayerNormalization", [x, *flat], f"{out}.norm", axis=-1, epsilon=POOL_NORM_EPS)
    mean = g.add("ReduceMean", [x], f"{out}.mean", axes=[1], keepdims=1)
    gap = g.add("Sub", [x, mean], f"{out}.gap")
    variance = g.add("ReduceMean", [g.add("Mul", [gap, gap], f"{out}.square")], f"{out}.var", axes=[1], keepdims=0)
    std = g.add("Sqrt", [g.add("Add", [variance, g.scalar("pool.eps", POOL_EPS)], f"{out}.lifted")], f"{out}.std")
    row = g.constant("pool.row", np.array([1, WIDTH], np.int64))
    g.add("Concat", [g.add("Reshape", [mean, row], f"{out}.mean.row"), std], out, axis=-1)


def _model(g: Graph, name: str, inputs: list, outputs: list) -> onnx.ModelProto:
    graph = helper.make_graph(g.nodes, name, inputs, outputs, list(g.constants.values()))
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR, producer_name="loadonce")
    onnx.checker.check_model(model, full_check=True)
    return model


def part(w: Weights, first: int, last: int, int8_words: bool, damping: Damping | None = None) -> onnx.ModelProto:
    """Layers `first` to `last` - 1 with the exit at their end, and the embedding before layer 0."""
    value = helper.make_tensor_value_info
    g = Damped(damping or {})
    number = last // PER_SEGMENT
    if first == 0:
        inputs = [value("token_ids", TensorProto.INT64, ["T"])]
        h = _embed(g, w, int8_words)
    else:
        h = f"hidden_{first // PER_SEGMENT}"
        inputs = [value(h, TensorProto.FLOAT, [1, "T", WIDTH])]
    hidden, pooled = f"hidden_{number}", f"pooled_{number}"
    for layer in range(first, last):
        h = _layer(g, h, w, layer, hidden if layer == last - 1 else f"layers.{layer}.done")
    _pool(g, h, pooled)
    outputs = [value(pooled, TensorProto.FLOAT, [1, 2 * WIDTH])]
    if last < LAYERS:
        outputs.insert(0, value(hidden, TensorProto.FLOAT, [1, "T", WIDTH]))
    return _model(g, f"layers-{first + 1}-{last}", inputs, outputs)


def damping(w: Weights, lines: list[NDArray[np.int64]]) -> Damping:
    """Divisors of the strong channels before each product, measured in fp32 on the token ids of some texts."""
    model = part(w, 0, LAYERS, False)
    names = [f"layers.{layer}.{product}" for layer in range(LAYERS) for product in DAMPED]
    takes = {node.name: node.input[0] for node in model.graph.node}
    inputs = [takes[f"{name}.matmul"] for name in names]
    for name in dict.fromkeys(inputs):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    strongest = [np.zeros(1, np.float32)] * len(inputs)
    for ids in lines:
        found = session.run(inputs, {"token_ids": ids})
        strongest = [np.maximum(s, np.abs(x[0]).max(0)) for s, x in zip(strongest, found, strict=True)]
    scales = [np.maximum(1, s / (STRONGEST * np.median(s))).astype(np.float32) for s in strongest]
    return dict(zip(names, scales, strict=True))


def fp32(w: Weights) -> list[bytes]:
    """The serialized segments in fp32."""
    firsts = range(0, LAYERS, PER_SEGMENT)
    return [part(w, k, k + PER_SEGMENT, False).SerializeToString(deterministic=True) for k in firsts]


def int8(w: Weights, damping: Damping) -> list[bytes]:
    """The serialized segments as they ship."""
    firsts = range(0, LAYERS, PER_SEGMENT)
    models = [quantize(part(w, k, k + PER_SEGMENT, True, damping)) for k in firsts]
    return [model.SerializeToString(deterministic=True) for model in models]


def single(w: Weights) -> bytes:
    """The whole network as one fp32 graph with the last exit only: what would run without this project."""
    return part(w, 0, LAYERS, False).SerializeToString(deterministic=True)
