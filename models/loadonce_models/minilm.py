"""all-MiniLM-L6-v2 as three ONNX segments of two layers, built node by node from its safetensors file.

The network is BERT with post-norm layers: 6 layers, width 384, 12 heads, feed-forward 1536, erf GELU. A segment sees
one text at batch 1, so there is neither padding nor a mask. Each exit pools the tokens of its last layer as the sense
backbones do: normalized without weights, then mean and standard deviation over the tokens.

The large products are int8 but for a few input channels (`rounding`): what ships is written here node by node, as it is
in fp32.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from .export import IR, OPSET, Graph
from .quantize import plain
from .rounding import Product, Seen, split

LAYERS, PER_SEGMENT, WIDTH, HEADS = 6, 2, 384, 12
# BERT's; far below f32's resolution of a variance near 1, but a token of equal numbers stays finite.
NORM_EPS = 1e-12
POOL_NORM_EPS, POOL_EPS = 1e-5, 1e-6
MAX_TOKENS = 256
# Texts whose inputs are summed at once.
TOGETHER = 50
# Input channels of each product that stay in fp32 (None: all), and how much stronger than the median one the others may
# be. Both were chosen on the texts of the statistics (`docs/decisions/0008-few-channels-in-fp32.md`).
STRONG: dict[str, int | None] = {"qkv": 32, "out": None, "up": 48, "down": 192}
STRONGEST = {"qkv": 1.0, "up": 1.0, "down": 0.8}
# Products that stay whole besides: those that add most to the error of exit 2.
WHOLE = ("layers.2.down", "layers.3.down")

Weights = dict[str, NDArray[np.float32]]
# A product is split, or it is one matrix [in, out] in half precision.
Products = dict[str, Product | NDArray[np.float16]]


class Mixed(Graph):
    """A graph with the shipped form of its products; one that `products` lacks stays as it is."""

    def __init__(self, products: Products):
        super().__init__()
        self.products = products

    def linear(self, x: str, weight: NDArray, bias: NDArray, name: str) -> str:
        """x @ weight + bias, with weight as [in, out]."""
        product = self.products.get(name)
        if product is None:
            return super().linear(x, weight, bias, name)
        if isinstance(product, np.ndarray):
            most = self._half(x, product, name)
            return self.add("Add", [most, self.constant(f"{name}.bias", bias)], name)
        most = self._whole(x, product, name)
        bias = self.constant(f"{name}.bias", product.bias)
        if not len(product.strong):
            return self.add("Add", [most, bias], name)
        most = self.add("Add", [most, bias], f"{name}.most")
        if product.first:
            ends = [self.constant(str(end), np.array([end], np.int64)) for end in (0, len(product.strong), 2)]
            strong = self.add("Slice", [x, *ends], f"{name}.picked")
        else:
            strong = self.add("Gather", [x, self.constant(f"{name}.strong", product.strong)], f"{name}.picked", axis=2)
        return self.add("Add", [most, self._half(strong, product.rows, f"{name}.few")], name)

    def _half(self, x: str, weight: NDArray[np.float16], name: str) -> str:
        """x @ weight in fp32; engines widen a constant once, when they load it."""
        wide = self.add("Cast", [self.constant(f"{name}.half", weight)], f"{name}.weight", to=TensorProto.FLOAT)
        return self.add("MatMul", [x, wide], f"{name}.matmul")

    def _whole(self, x: str, product: Product, name: str) -> str:
        """The int8 part, in the nodes that ONNX Runtime joins to one kernel."""
        kept = self.add("Mul", [x, self.constant(f"{name}.keep", product.keep)], f"{name}.kept")
        parts = [f"{name}.{part}" for part in ("steps", "step", "zero")]
        self.add("DynamicQuantizeLinear", [kept], f"{name}.quantized", parts)
        whole = self.constant(f"{name}.whole", product.whole)
        total = self.add("MatMulInteger", [parts[0], whole, parts[2]], f"{name}.integer")
        wide = self.add("Cast", [total], f"{name}.wide", to=TensorProto.FLOAT)
        scale = self.add("Mul", [parts[1], self.constant(f"{name}.scale", product.scale)], f"{name}.scales")
        return self.add("Mul", [wide, scale], f"{name}.scaled")


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


def part(w: Weights, first: int, last: int, int8_words: bool, products: Products | None = None) -> onnx.ModelProto:
    """Layers `first` to `last` - 1 with the exit at their end, and the embedding before layer 0."""
    value = helper.make_tensor_value_info
    g = Mixed(products or {})
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


def products(w: Weights, lines: list[NDArray[np.int64]]) -> Products:
    """The mixed form of every large product, made from what it sees in fp32 on the token ids of some texts."""
    model = part(w, 0, LAYERS, False)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    takes = {node.name: node.input[0] for node in model.graph.node}
    names = [f"layers.{layer}.{kind}" for layer in range(LAYERS) for kind in STRONG]
    inputs = [takes[f"{name}.matmul"] for name in names]
    for name in dict.fromkeys(inputs):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    seen = {name: Seen(len(constants[f"{name}.weight"])) for name in names}
    for at in range(0, len(lines), TOGETHER):
        found = [session.run(inputs, {"token_ids": ids}) for ids in lines[at : at + TOGETHER]]
        for name, parts in zip(names, zip(*found, strict=True), strict=True):
            seen[name].add(np.concatenate([x[0] for x in parts]))
    made: Products = {}
    for layer in range(LAYERS):
        # The hidden units of a feed-forward may stand in any order; with the strongest first, a slice finds them.
        order = np.argsort(-seen[f"layers.{layer}.down"].most, kind="stable")
        for kind, strong in STRONG.items():
            name = f"layers.{layer}.{kind}"
            weight, bias, inputs = constants[f"{name}.weight"], constants[f"{name}.bias"], seen[name]
            if kind == "up":
                weight, bias = weight[:, order], bias[order]
            elif kind == "down":
                weight, inputs = weight[order], inputs.ordered(order)
            if strong is None or name in WHOLE:
                made[name] = weight.astype(np.float16)
            else:
                made[name] = split(weight, bias, inputs, strong, STRONGEST[kind])
    return made


def random(w: Weights, seed: int) -> Weights:
    """Weights of the same shapes as BERT starts with: normal of deviation 0.02, no bias, norms that change nothing."""
    rng = np.random.default_rng(seed)
    made: Weights = {}
    for name in sorted(w):
        if name.endswith(".bias"):
            made[name] = np.zeros_like(w[name])
        elif name.endswith("LayerNorm.weight"):
            made[name] = np.ones_like(w[name])
        else:
            made[name] = rng.normal(0, 0.02, w[name].shape).astype(np.float32)
    return made


def fp32(w: Weights) -> list[bytes]:
    """The serialized segments in fp32."""
    firsts = range(0, LAYERS, PER_SEGMENT)
    return [part(w, k, k + PER_SEGMENT, False).SerializeToString(deterministic=True) for k in firsts]


def int8(w: Weights, products: Products) -> list[bytes]:
    """The serialized segments as they ship."""
    firsts = range(0, LAYERS, PER_SEGMENT)
    models = [plain(part(w, k, k + PER_SEGMENT, True, products)) for k in firsts]
    return [model.SerializeToString(deterministic=True) for model in models]
